# Checks before any work: the lock of a killed call, a conda client for --use-conda, SLURM's partitions, what a GPU run needs.
#
# REQUIRED INPUTS: none; Snakemake's own settings.
# OUTPUTS: none; a function for the Snakefile's onstart.
from snakemake.settings.types import DeploymentMethod

from vixml.check.doctor import explain_lock, mend_rwlock, require_array, require_conda, require_slurm, require_tracked

# Explain the lock before Snakemake refuses to run. A job that a batch system starts sees the lock of the process that waits for it.
if not {"--mode", "-n", "--dry-run", "--dryrun"} & set(sys.argv):
    if MENDED := mend_rwlock(Path.cwd()):
        print(MENDED, file=sys.stderr)
if not {"--unlock", "--nolock", "--mode", "-n", "--dry-run", "--dryrun"} & set(sys.argv):
    if LOCKED := explain_lock(Path.cwd()):
        print(LOCKED, file=sys.stderr)

# DVC tracks folders below `results`. Without this check, it would notice only at the end that they are empty.
if "DVC_STAGE" in os.environ:
    with one_message():
        require_tracked(Path(RESULTS), Path(PAGES) if WORKFLOW.pages else None)

# This check must come before Snakemake calls conda, which it does before `onstart`.
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    with one_message():
        require_conda()


def check_site():
    """Refuse what SLURM could never run: a missing SLURM or partition, or arrays that never fill. Jobs skip this check."""
    if workflow.executor_plugin is None or workflow.executor_plugin.name != "slurm":
        return check_machine(here=True)
    settings = workflow.executor_settings
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    # Rules whose jobs are submitted as arrays.
    arrays = set((settings.array_jobs or "").replace(";", ",").replace(" ", "").split(","))
    arrays = {job.rule.name for job in jobs} if "all" in arrays else arrays
    with one_message():
        require_slurm({str(job.resources.get("slurm_partition") or "") for job in jobs} - {""})
        for name in dict.fromkeys(job.rule.name for job in jobs if job.rule.name in arrays):
            alike = [job for job in jobs if job.rule.name == name]
            if len(alike) > 1:
                require_array(name, len(alike), int(settings.array_limit), at_once(alike[0]))
    check_machine(here=False)


def check_machine(here):
    """Before hours of work, refuse what this machine, its network or an account could not do (`vixml preflight`)."""
    needed = {"train_model": [], "predict_labels": []}
    # Of what was asked for, not of the whole configuration.
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in needed:
            names = job.wildcards
            needed[job.rule.name].append((names.dataset, names.run, int(names.seed)))
    if WITH_GPU and needed["train_model"]:
        from vixml.check.preflight import preflight, refuse

        with one_message():
            refuse(preflight(PROJECT, WORKFLOW, needed["train_model"], needed["predict_labels"], gpu=here, here=here))


def at_once(job):
    """Return how many jobs like this one may run at once."""
    gpus, wanted = workflow.global_resources["gpu"], job.resources.get("gpu") or 0
    gpus = getattr(gpus, "value", gpus)
    return min(workflow.resource_settings.nodes, gpus // wanted if wanted else sys.maxsize)
