# Resources of a job: priority, GPU, memory and time.
#
# REQUIRED INPUTS: constants and functions of rules/common.smk (WORLD, DEVICE, WITH_GPU, run_of).
# OUTPUTS: none; functions for the rules that train, encode and search.
from vixml.plan.cost import needs

# One job at a time on this machine's GPU, unless a profile or `--resources gpu=N` gives another number.
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)


def longest_first(wildcards):
    """Return a job's priority: the more epochs, the earlier; images make an epoch about half as long again."""
    run = run_of(wildcards)
    share = 0.1 if run.encoder.train == "frozen" else 1.0
    return round(10 * run.training.epochs * share * (1.5 if run.uses_images else 1.0))


def gpus(wildcards):
    """Return how many GPUs a heavy job asks for: one where there is one, or where the configuration insists."""
    return int(WITH_GPU)


def memory(stage):
    """Return the memory that a stage of a run asks for, in MB: more with each attempt."""
    return lambda wildcards, attempt: needs_of(wildcards, stage, attempt).mem_mb


def minutes(stage):
    """Return the time that a stage of a run asks for, in minutes: more with each attempt."""
    return lambda wildcards, attempt: needs_of(wildcards, stage, attempt).minutes


def needs_of(wildcards, stage, attempt):
    """Return what a stage of a run asks for; on a cluster's login node, which has no GPU, that of a GPU job."""
    on_gpu = bool(gpus(wildcards)) or DEVICE == "cuda"
    return needs(WORLD, wildcards.dataset, run_of(wildcards), stage, gpu=on_gpu, attempt=attempt)


def all_cores(wildcards):
    """Return every core of this machine, so that nothing runs beside a job; 1 where a batch system has them."""
    cores = workflow.global_resources["_cores"].value
    return cores if isinstance(cores, int) else 1
