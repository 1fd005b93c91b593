# A dataset as a folder that others can load and share: publish_dataset.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus and images; results/data/{dataset}/bank/{vision} for every vision encoder that
#   the configured runs read.
# OUTPUTS: results/published/{dataset}: Parquet, a dataset card, checksums.


rule publish_dataset:
    """Write a dataset with its images and vectors as a folder that others can load."""
    input:
        unpack(reads("publish-dataset")),
        bank=banks_of,
    output:
        made_by("publish-dataset"),
    resources:
        mem_mb=4000,
        runtime=720,
        vision=lambda wildcards: " ".join(f"--vision {name}" for name in encoders_of(wildcards.dataset)),
    params:
        settings=obeys("publish-dataset"),
        code=code("publish-dataset"),
    message:
        "Publish {wildcards.dataset} as a folder for others"
    shell:
        "vixml publish-dataset {wildcards.dataset} {resources.vision} 2>&1 | logged {log}"
