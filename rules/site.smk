# Checks of the machine before any work: a conda client for --use-conda, the named partitions for SLURM.
#
# REQUIRED INPUTS: none; Snakemake's own settings.
# OUTPUTS: none; a function for the Snakefile's onstart.
from snakemake.settings.types import DeploymentMethod

from vixml.check.doctor import require_array, require_conda, require_slurm

# Runs before Snakemake calls conda, which it does before `onstart`.
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    try:
        require_conda()
    except VixmlError as error:
        raise WorkflowError(str(error)) from None


def check_site():
    """Refuse what SLURM could never run: none there, no such partition, arrays that never fill. Jobs do not ask again."""
    plugin = workflow.executor_plugin
    if plugin is None or plugin.name != "slurm":
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    try:
        require_slurm({str(job.resources.get("slurm_partition") or "") for job in jobs} - {""})
        for rule, alike in arrays(jobs).items():
            require_array(rule, len(alike), int(workflow.executor_settings.array_limit), places(alike[0]))
    except VixmlError as error:
        raise WorkflowError(str(error)) from None


def arrays(jobs):
    """Return the jobs of each rule that is to be submitted as arrays, if there are several."""
    named = set((workflow.executor_settings.array_jobs or "").replace(";", ",").replace(" ", "").split(","))
    found = {}
    for job in jobs:
        if {job.rule.name, "all"} & named:
            found.setdefault(job.rule.name, []).append(job)
    return {rule: alike for rule, alike in found.items() if len(alike) > 1}


def places(job):
    """Return how many jobs like this one may be under way at once."""
    gpus, wanted = workflow.global_resources["gpu"], job.resources.get("gpu") or 0
    gpus = getattr(gpus, "value", gpus)
    return min(workflow.resource_settings.nodes, gpus // wanted if wanted else sys.maxsize)
