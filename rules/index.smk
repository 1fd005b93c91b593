# Vectors of a trained run, and the latency of a query: build_index, measure_latency.
#
# REQUIRED INPUTS: the inputs of train_model, and results/runs/{dataset}/{run}/seed{seed}/model.
# OUTPUTS: results/runs/{dataset}/{run}/seed{seed}/index; .../latency, for the runs of `latencies`.


rule build_index:
    """Encode every query and label of a run into unit vectors."""
    input:
        corpus=CORPUS,
        tokens=tokens_of_run,
        bank=bank_of_training,
        model=model_of_run,
        trained=TRAINED,
    output:
        INDEX,
    log:
        f"{LOGS}/build_index/{{dataset}}/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/build_index/{{dataset}}/{{run}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS.train
    resources:
        mem_mb=memory("index"),
        runtime=minutes("index"),
        gpu=gpus,
        device=DEVICE,
    params:
        # The run's settings that matter here belong to the training's settings, so a change remakes `trained`.
        code=code("build-index"),
    message:
        "Encode queries and labels of {wildcards.dataset} with {wildcards.run}, seed {wildcards.seed}"
    shell:
        """
        vixml build-index --dataset {wildcards.dataset} --run {wildcards.run} --seed {wildcards.seed} \
            --corpus $(dirname {input.corpus}) --tokens $(dirname {input.tokens}) $(folders --bank {input.bank}) \
            --model-dir $(dirname {input.model}) --trained $(dirname {input.trained}) --out $(dirname {output}) \
            --threads {threads} --device {resources.device} --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """


rule measure_latency:
    """Measure the latency of a query of a trained run, with nothing else running."""
    input:
        corpus=CORPUS,
        tokens=tokens_of_run,
        bank=bank_of_training,
        model=model_of_run,
        trained=TRAINED,
        index=INDEX,
    output:
        LATENCY,
    log:
        f"{LOGS}/measure_latency/{{dataset}}/{{run}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/measure_latency/{{dataset}}/{{run}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: all_cores
    resources:
        mem_mb=memory("index"),
        runtime=60,
        gpu=gpus,
        device=DEVICE,
    params:
        code=code("measure-latency"),
    message:
        "Time a query of {wildcards.dataset} with {wildcards.run}"
    shell:
        """
        vixml measure-latency --dataset {wildcards.dataset} --run {wildcards.run} --seed {wildcards.seed} \
            --corpus $(dirname {input.corpus}) --tokens $(dirname {input.tokens}) $(folders --bank {input.bank}) \
            --model-dir $(dirname {input.model}) --trained $(dirname {input.trained}) --index $(dirname {input.index}) \
            --out $(dirname {output}) --threads 1 --device {resources.device} --config-dir "$VIXML_CONFIG_DIR" 2>&1 | tee {log}
        """
