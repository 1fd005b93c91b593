# Vectors to numbers: predict_labels, score_run.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus; results/runs/{dataset}/{run}/seed{seed}/index (not for popularity);
#   results/data/{dataset}/bank/{vision} for runs that vote with image embeddings; .../seed{seed}/model for validation.
#   A run that reuses another's model reads index and model from that run's folder.
# OUTPUTS: results/runs/{dataset}/{run}/seed{seed}/{split}/predictions and .../score.


rule predict_labels:
    """Rank the labels of every query of a split."""
    input:
        corpus=CORPUS,
        index=index_of_run,
        bank=bank_of_prediction,
        trained=model_of_validation,
    output:
        PREDICTIONS,
    log:
        f"{LOGS}/predict_labels/{{dataset}}/{{run}}/seed{{seed}}-{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/predict_labels/{{dataset}}/{{run}}/seed{{seed}}-{{split}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS.search
    resources:
        mem_mb=memory("predict"),
        runtime=minutes("predict"),
        gpu=gpus,
        device=DEVICE,
    params:
        settings=inference_settings,
        code=code("predict"),
    message:
        "Predict labels of {wildcards.dataset}, {wildcards.split}, with {wildcards.run}, seed {wildcards.seed}"
    shell:
        """
        vixml predict --dataset {wildcards.dataset} --run {wildcards.run} --seed {wildcards.seed} \
            --split {wildcards.split} --corpus $(dirname {input.corpus}) $(folders --index {input.index}) $(folders --bank {input.bank}) $(folders --trained {input.trained}) \
            --out $(dirname {output}) --threads {threads} --device {resources.device} \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """


rule score_run:
    """Compute every metric of a split's predictions."""
    input:
        corpus=CORPUS,
        predictions=PREDICTIONS,
    output:
        SCORE,
    log:
        f"{LOGS}/score_run/{{dataset}}/{{run}}/seed{{seed}}-{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/score_run/{{dataset}}/{{run}}/seed{{seed}}-{{split}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS.search
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=scoring_settings,
        code=code("score"),
    message:
        "Score {wildcards.run} on {wildcards.dataset}, {wildcards.split}, seed {wildcards.seed}"
    shell:
        """
        vixml score --dataset {wildcards.dataset} --run {wildcards.run} --seed {wildcards.seed} \
            --split {wildcards.split} --corpus $(dirname {input.corpus}) --predictions $(dirname {input.predictions}) \
            --out $(dirname {output}) --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """
