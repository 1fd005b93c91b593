# A dataset as a folder that others can load and share: export_dataset.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus and images; results/data/{dataset}/embeddings/{vision} for every vision encoder that
#   the configured runs read.
# OUTPUTS: results/exported/{dataset}: Parquet, a dataset card, checksums.


rule export_dataset:
    """Write a dataset with its images and vectors as a folder that others can load."""
    input:
        unpack(reads("export-dataset")),
        embeddings=embeddings_of,
    output:
        made_by("export-dataset"),
    resources:
        mem_mb=4000,
        runtime=720,
        vision=lambda wildcards: " ".join(f"--vision {name}" for name in encoders_of(wildcards.dataset)),
    params:
        settings=obeys("export-dataset"),
        code=code("export-dataset"),
    message:
        "Export {wildcards.dataset} as a folder for others"
    shell:
        "vixml export-dataset {wildcards.dataset} {resources.vision} 2>&1 | logged {log}"
