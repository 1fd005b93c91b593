# Resources of a job: priority, GPU, memory and time.
#
# REQUIRED INPUTS: constants and functions of rules/common.smk (WORLD, DEVICE, WITH_GPU, run_of).
# OUTPUTS: none; functions for the rules that train, encode, search and pool images.
import math

from vixml.plan.cost import request, stage_cost
from vixml.plan.plan import image_cost

# One job at a time uses this machine's GPU, unless a profile or `--resources gpu=N` sets another number.
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)

# Resources of a job that writes pages.
LIGHT = {"mem_mb": 2000, "runtime": 10}


def heavy(stage, processes=1):
    """Return the resources of a job that trains, encodes, searches or pools images; memory and time grow with each attempt."""

    def of(wildcards, attempt):
        if stage == "images":
            cost = image_cost(WORLD, PROJECT.runs, wildcards.dataset, wildcards.vision, gpu=WITH_GPU)
        else:
            cost = stage_cost(WORLD, wildcards.dataset, run_of(wildcards), stage, gpu=WITH_GPU)
        return request(cost, stage, gpu=WITH_GPU, attempt=attempt)

    return {
        "mem_mb": lambda wildcards, attempt: processes * of(wildcards, attempt).mem_mb,
        "runtime": lambda wildcards, attempt: of(wildcards, attempt).minutes,
        "gpu": processes * int(WITH_GPU),
        "device": DEVICE,
    }


def longest_first(wildcards):
    """Return a training's priority: the longer its predicted time, the earlier it starts. It is below that of images."""
    run = run_of(wildcards)
    cost = stage_cost(WORLD, wildcards.dataset, run, "train", gpu=WITH_GPU)
    # Without counts of the dataset there is no prediction: use the epochs, times 1.5 with images.
    seconds = 60 * run.training.epochs * (1.5 if run.uses_images else 1) if cost is None else 3600 * cost.hours
    return min(9999, round(400 * math.log2(1 + seconds)))


def all_cores(wildcards):
    """Return the number of cores of this machine, so that a job runs alone; 1 if a batch system assigns the cores."""
    cores = workflow.global_resources["_cores"].value
    return cores if isinstance(cores, int) else 1
