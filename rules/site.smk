# What a door needs of the machine, asked before any work: a conda client, a SLURM with the partitions named.
#
# REQUIRED INPUTS: none; Snakemake's own settings.
# OUTPUTS: none; a function for the Snakefile's onstart.
from snakemake.settings.types import DeploymentMethod

from vixml.reproduce.doors import require_conda, require_slurm

# Before Snakemake asks conda itself, which is before `onstart`.
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    try:
        require_conda()
    except VixmlError as error:
        raise WorkflowError(str(error)) from None


def check_site():
    """Refuse to submit to a SLURM that is not there, or to a partition that it does not have. Jobs do not ask again."""
    plugin = workflow.executor_plugin
    if plugin is None or plugin.name != "slurm":
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    try:
        require_slurm({str(job.resources.get("slurm_partition") or "") for job in jobs} - {""})
    except VixmlError as error:
        raise WorkflowError(str(error)) from None
