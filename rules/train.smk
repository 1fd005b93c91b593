# Training: train_model.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus and tokens; results/models/{model}; for runs with images
#   results/data/{dataset}/bank/{vision}.
# OUTPUTS: results/runs/{dataset}/{run}/seed{seed}/model. A run of 0 epochs has one too: its "trained" model is the
#   published checkpoint. A run that reuses another's model has none of its own.
#   results/runs/{dataset}/{run}/seed{seed}/checkpoint exists while a training is unfinished.

PROCESSES = WORKFLOW.processes_per_training
LAUNCH = "" if PROCESSES == 1 else f"torchrun --standalone --nproc-per-node {PROCESSES} -m"


rule train_model:
    """Train one run with one seed; resume from its checkpoint if interrupted."""
    input:
        corpus=CORPUS,
        tokens=tokens_of_run,
        bank=bank_of_training,
        model=model_of_run,
    output:
        TRAINED,
    log:
        f"{LOGS}/train_model/{{dataset}}/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train_model/{{dataset}}/{{run}}/seed{{seed}}.tsv"
    priority: longest_first
    conda:
        ENVIRONMENT
    threads: THREADS.train * PROCESSES
    resources:
        mem_mb=lambda wildcards, attempt: PROCESSES * memory("train")(wildcards, attempt),
        runtime=minutes("train"),
        gpu=lambda wildcards: PROCESSES * gpus(wildcards),
        device=DEVICE,
        launch=LAUNCH,
        own_threads=lambda wildcards, threads: -(-threads // PROCESSES),
    params:
        settings=training_settings,
        code=code("train"),
    message:
        "Train {wildcards.run} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        """
        {resources.launch} \
            vixml train --dataset {wildcards.dataset} --run {wildcards.run} --seed {wildcards.seed} \
            --corpus $(dirname {input.corpus}) --tokens $(dirname {input.tokens}) $(folders --bank {input.bank}) \
            --model-dir $(dirname {input.model}) --out $(dirname {output}) \
            --threads {resources.own_threads} --device {resources.device} --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """
