# Vectors of a trained run, and the latency of a query: build_index, measure_latency.
#
# REQUIRED INPUTS: the inputs of train_model, and results/runs/{dataset}/{run}/seed{seed}/model.
# OUTPUTS: results/runs/{dataset}/{run}/seed{seed}/index; .../latency, for the runs of `latencies`.


rule build_index:
    """Encode every query and label of a run into unit vectors."""
    input:
        unpack(reads("build-index")),
    output:
        made_by("build-index"),
    threads: THREADS.train
    resources:
        **heavy("index"),
    params:
        **obeys("build-index"),
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
    params:
        **obeys("measure-latency"),
    message:
        "Time a query of {wildcards.dataset} with {wildcards.run}"
    shell:
        """
        vixml measure-latency {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} \
            --threads 1 --device {resources.device} 2>&1 | logged {log:q}
        """
