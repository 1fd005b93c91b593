# Published weights to a model folder: prepare_model.
#
# REQUIRED INPUTS: results/raw/{filename} (weights and tokenizer in config/models.yaml); for hub models a network,
#   or their files placed by hand in results/raw/hub/{checkpoint, with -- for /}.
# OUTPUTS: results/models/{model}, a folder that AutoModel and AutoTokenizer can read.


rule prepare_model:
    """Make a language model's folder from published files, and check every tensor."""
    input:
        unpack(reads("prepare-model")),
    output:
        made_by("prepare-model"),
    resources:
        mem_mb=4000,
        runtime=240,  # downloads a checkpoint of 15 GB
    params:
        **obeys("prepare-model"),
    message:
        "Prepare the language model {wildcards.model}"
    shell:
        "vixml prepare-model {wildcards.model} 2>&1 | logged {log:q}"
