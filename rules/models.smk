# Published weights to a model folder: prepare_model.
#
# REQUIRED INPUTS: results/raw/{filename} (weights and tokenizer in config/models.yaml); for hub models a network,
#   or their files placed by hand in results/raw/hub/{checkpoint, with -- for /}.
# OUTPUTS: results/models/{model}, a folder that AutoModel and AutoTokenizer can read.


rule prepare_model:
    """Make a language model's folder from published files, and check every tensor."""
    input:
        raw_of_text_model,
    output:
        MODEL,
    log:
        f"{LOGS}/prepare_model/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/prepare_model/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,  # downloads a checkpoint of 15 GB
    params:
        settings=text_model_settings,
        code=code("prepare-model"),
    message:
        "Prepare the language model {wildcards.model}"
    shell:
        """
        vixml prepare-model --model {wildcards.model} --raw "$VIXML_RAW_DIR" --out $(dirname {output}) \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """
