# Training: train_model.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus and tokens; results/models/{model}; for runs with images
#   results/data/{dataset}/embeddings/{vision}.
# OUTPUTS: results/runs/{dataset}/{run}/seed{seed}/model. A run of 0 epochs has one too: its "trained" model is the
#   published checkpoint. A run that reuses another's model has none of its own.
#   results/runs/{dataset}/{run}/seed{seed}/checkpoint exists while a training is unfinished.

PROCESSES = WORKFLOW.processes_per_training


rule train_model:
    """Train one run with one seed; interrupted, it resumes from its checkpoint."""
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
    params:
        **obeys("train"),
    message:
        "Train {wildcards.run} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        """
        vixml train {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} --processes {resources.processes} \
            --threads {resources.own_threads} --device {resources.device} 2>&1 | logged {log:q}
        """
