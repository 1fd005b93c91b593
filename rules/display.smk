# Display of a call: a few lines on a terminal, and a message on what to do after a failure or an interruption.
#
# REQUIRED INPUTS: constants of rules/common.smk (RESULTS, PAGES); the events that Snakemake logs.
# OUTPUTS: none; context managers around Snakemake's own `execute` (rules/verify.smk), a function for the Snakefile's onerror.
import signal

from snakemake.logging import logger
from snakemake.settings.types import ExecMode

from vixml import display

# The second folder contains the logs of tables and pages.
LOGS = " and ".join(dict.fromkeys([f"{RESULTS}/logs", f"{PAGES}/logs"]))
WHEN_IT_FAILS = f"""
Stopped. The message above says what went wrong; each job's log is below {LOGS}.
Finished results are kept: run the same command again to resume. Training resumes from its last checkpoint.
If the message says that the folder is locked, make sure that no run uses it, also on another machine; then: snakemake --unlock
On a cluster: docs/hpc.md explains SLURM's messages.
"""
WHEN_INTERRUPTED = """
Interrupted. Finished results are kept, and training keeps its last checkpoint.
To resume, run the same command again."""

INTERRUPTION = display.Interruption()
logger.addHandler(INTERRUPTION)


def running():
    """Return the display of this call, or nothing where plain lines are wanted."""
    asked_for_more = workflow.output_settings.verbose or workflow.output_settings.printshellcmds
    if workflow.exec_mode != ExecMode.DEFAULT or workflow.dryrun or asked_for_more or not display.wanted(os.environ):
        return contextlib.nullcontext()
    return display.display_jobs(weights_of_jobs)


def weights_of_jobs():
    """Return the number of each job that will run, and its expected share of the time, which is a training's priority."""
    return {job.jobid: 3 + job.priority * (job.rule.name == "train_model") for job in workflow.dag.needrun_jobs()}


def say_what_failed():
    """Print what to do after a job failed; an interruption has its own message."""
    if not INTERRUPTION.seen:
        print(WHEN_IT_FAILS, file=sys.stderr)


@contextlib.contextmanager
def resumable():
    """After an interruption, finally print what is kept and how to resume."""
    started, interrupt = time.time(), signal.getsignal(signal.SIGINT)

    def noted(number, frame):
        INTERRUPTION.seen = True  # Snakemake may notice the end of a job first, and call it a failure
        return interrupt(number, frame)

    if callable(interrupt):
        signal.signal(signal.SIGINT, noted)
    try:
        yield
    except (WorkflowError, KeyboardInterrupt):
        if not INTERRUPTION.seen or workflow.exec_mode != ExecMode.DEFAULT:
            raise
        record_finished(started)
        print(WHEN_INTERRUPTED, file=sys.stderr)
        raise SystemExit(130) from None


def record_finished(started):
    """Record the results that appeared since `started` without a record: those of jobs that ended during an interruption.

    Snakemake forgets such jobs (9.27), although a stage publishes its result only when it is complete.
    """
    workflow.persistence._clear_cache()
    version_of = workflow.persistence.record_format_version
    for job in workflow.dag.jobs:
        made = [file for file in job.output if os.path.exists(file) and os.stat(file).st_mtime >= started]
        if any(version_of(file) is None for file in made):
            workflow.async_run(workflow.persistence.finished(job))
