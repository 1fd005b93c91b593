# Vectors to numbers: choose_inference, install_peers, predict_labels, score_run.
#
# REQUIRED INPUTS: results/data/{dataset}/corpus; results/runs/{dataset}/{run}/seed{seed}/index (not for popularity);
#   results/data/{dataset}/embeddings/{vision} for runs that vote with image embeddings; .../seed{seed}/model for validation;
#   a network for install_peers only.
#   A run that reuses the model of another run reads index and model from that run's folder; choose_inference reads those of the
#   runs in `inference.chosen_on`.
# OUTPUTS: results/peers; results/runs/{dataset}/{run}/seed{seed}/choice; .../{split}/predictions and .../score.


rule choose_inference:
    """Choose how a run predicts, on queries held out of train."""
    input:
        unpack(reads("choose-inference")),
    output:
        made_by("choose-inference"),
    threads: THREADS.search
    resources:
        **heavy("predict"),
    message:
        "Choose the inference of {wildcards.run} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        """
        vixml choose-inference {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} --threads {threads} \
            --device {resources.device} 2>&1 | logged {log:q}
        """


rule install_peers:
    """Install other software, with which runs are compared, into a separate folder."""
    output:
        made_by("install-peers"),
    retries: 1
    resources:
        mem_mb=1000,
        runtime=60,
    message:
        "Install PECOS and napkinXC"
    shell:
        "vixml install-peers 2>&1 | logged {log:q}"


rule predict_labels:
    """Rank the labels of every query of a split."""
    input:
        unpack(reads("predict")),
    output:
        made_by("predict"),
    threads: THREADS.search
    resources:
        **heavy("predict"),
    message:
        "Predict labels of {wildcards.dataset}, {wildcards.split}, with {wildcards.run}, seed {wildcards.seed}"
    shell:
        """
        vixml predict {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} --split {wildcards.split} \
            --threads {threads} --device {resources.device} 2>&1 | logged {log:q}
        """


rule score_run:
    """Compute every metric of a split's predictions."""
    input:
        unpack(reads("score")),
    output:
        made_by("score"),
    threads: THREADS.search
    resources:
        mem_mb=4000,
        runtime=60,
    message:
        "Score {wildcards.run} on {wildcards.dataset}, {wildcards.split}, seed {wildcards.seed}"
    shell:
        """
        vixml score {wildcards.dataset} {wildcards.run} --seed {wildcards.seed} --split {wildcards.split} 2>&1 | logged {log:q}
        """
