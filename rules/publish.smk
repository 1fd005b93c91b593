# A dataset as a folder that others can load and share: publish_dataset.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus and images; results/data/{dataset}/bank/{vision} for every vision encoder that
#   the configured runs read.
# OUTPUTS: results/published/{dataset}: Parquet, a dataset card, checksums.


rule publish_dataset:
    """Export a dataset with its images and embeddings as a folder that others can load."""
    input:
        corpus=CORPUS,
        images=pictures_of,
        bank=banks_of,
    output:
        PUBLISHED,
    log:
        f"{LOGS}/publish_dataset/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/publish_dataset/{{dataset}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        settings=publishing_settings,
        code=code("publish-dataset"),
    message:
        "Publish {wildcards.dataset} as a folder for others"
    shell:
        """
        vixml publish-dataset --dataset {wildcards.dataset} --corpus $(dirname {input.corpus}) $(folders --images {input.images}) \
            $(folders --bank {input.bank}) --out $(dirname {output}) --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """
