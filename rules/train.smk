# Training, the vectors of a trained run, and the latency of a query: train_model, build_index, measure_latency.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus and tokens; results/models/{model}; for runs with images
#   results/data/{dataset}/embeddings/{vision}.
# OUTPUTS: results/runs/{dataset}/{run}/seed{seed}/model. A run of 0 epochs has a model, too: the published checkpoint. A run
#   that reuses the model of another run has none.
#   results/runs/{dataset}/{run}/seed{seed}/checkpoint exists while a training is unfinished.
#   .../seed{seed}/index; .../seed{seed}/latency, for the runs of `latencies`.

PROCESSES = WORKFLOW.processes_per_training


rule train_model:
    """Train one run with one seed; after an interruption, resume from its checkpoint."""
    input:
        unpack(reads("train")),
    output:
        made_by("train"),
    priority: longest_first
    threads: THREADS.train * PROCESSES
    resources:
        **heavy("train", PROCESSES),
        processes=PROCESSES,
        own_threads=lambda wildcards, threads: -(-threads // PROCESSES),
    message:
        "Train {wildcards.run} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        """
        vixml train {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} --processes {resources.processes} \
            --threads {resources.own_threads} --device {resources.device} 2>&1 | logged {log:q}
        """


rule build_index:
    """Encode every query and label of a run into unit vectors."""
    input:
        unpack(reads("build-index")),
    output:
        made_by("build-index"),
    threads: THREADS.train
    resources:
        **heavy("index"),
    message:
        "Encode queries and labels of {wildcards.dataset} with {wildcards.run}, seed {wildcards.seed}"
    shell:
        """
        vixml build-index {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} \
            --threads {threads} --device {resources.device} 2>&1 | logged {log:q}
        """


rule measure_latency:
    """Measure the latency of a query of a trained run, with nothing else running."""
    input:
        unpack(reads("measure-latency")),
    output:
        made_by("measure-latency"),
    threads: all_cores
    resources:
        **heavy("index") | {"runtime": 60},
    message:
        "Time a query of {wildcards.dataset} with {wildcards.run}"
    shell:
        """
        vixml measure-latency {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} \
            --threads 1 --device {resources.device} 2>&1 | logged {log:q}
        """
