# Published weights to a model folder: prepare_model.
#
# REQUIRED INPUTS: results/raw/{filename} (weights and tokenizer of config/models.yaml); for models of the hub a network,
#   or their files placed by hand in results/raw/hub/{checkpoint, with -- for /}.
# OUTPUTS: results/models/{model}, a folder that AutoModel and AutoTokenizer read.


rule prepare_model:
    """Make a language model's folder from published files, checked tensor by tensor."""
    input:
        sources("prepare-model"),
    output:
        made_by("prepare-model"),
    resources:
        mem_mb=4000,
        runtime=240,  # a checkpoint of 15 GB is fetched here
    params:
        settings=obeys("prepare-model"),
        code=code("prepare-model"),
    message:
        "Prepare the language model {wildcards.model}"
    shell:
        "vixml prepare-model {wildcards.model} 2>&1 | logged {log}"
