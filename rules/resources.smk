# Resources of a job: priority, GPU, memory and time.
#
# REQUIRED INPUTS: constants and functions of rules/common.smk (WORLD, DEVICE, WITH_GPU, run_of).
# OUTPUTS: none; functions for the rules that train, encode and search.
from vixml.plan.cost import needs

# One job at a time on this machine's GPU, unless a profile or `--resources gpu=N` gives another number.
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)

# Of a job that writes pages.
LIGHT = {"mem_mb": 2000, "runtime": 10}
# Of a job that computes on a GPU, if there is one.
ON_DEVICE = {"gpu": int(WITH_GPU), "device": DEVICE}


def heavy(stage, processes=1):
    """Return the resources of a job that trains, encodes or searches; memory and time grow with each attempt."""

    def of(wildcards, attempt):
        return needs(WORLD, wildcards.dataset, run_of(wildcards), stage, gpu=WITH_GPU, attempt=attempt)

    return {
        "mem_mb": lambda wildcards, attempt: processes * of(wildcards, attempt).mem_mb,
        "runtime": lambda wildcards, attempt: of(wildcards, attempt).minutes,
        "gpu": processes * int(WITH_GPU),
        "device": DEVICE,
    }


def longest_first(wildcards):
    """Return a job's priority: the more epochs, the earlier; images make an epoch about half as long again."""
    run = run_of(wildcards)
    share = 0.1 if run.encoder.train == "frozen" else 1.0
    return round(10 * run.training.epochs * share * (1.5 if run.uses_images else 1.0))


def all_cores(wildcards):
    """Return every core of this machine, so that nothing runs beside a job; 1 where a batch system has them."""
    cores = workflow.global_resources["_cores"].value
    return cores if isinstance(cores, int) else 1
