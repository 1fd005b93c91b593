# The end of each call: check that everything requested exists, is up to date and complete; otherwise fail and say what is not.
#
# REQUIRED INPUTS: constants of rules/common.smk and rules/targets.smk; Snakemake's own graph of jobs.
# OUTPUTS: none; the check is put behind Snakemake's own `execute`, since `onsuccess` is left out where nothing was to be done.
from snakemake.settings.types import RerunTrigger

from vixml.provenance import MANIFEST, not_whole


def verified(execute):
    """Return Snakemake's execute with the check behind it."""

    def execute_and_verify(*arguments, **options):
        with resumable(), running():
            execute(*arguments, **options)  # raises where a job failed
        if workflow.exec_mode == ExecMode.DEFAULT and not workflow.dryrun:
            asked = asked_for()
            if wrong := [*(left_out() or missing(asked)), *altered(asked), *unrecorded()]:
                raise WorkflowError("\n".join(["Not everything that was asked for is there and up to date.", *wrong]))
            if limits := limiting_options():
                print(f"Made as far as {limits} allows; whether it is up to date was not checked.", file=sys.stderr)
            else:
                show_results(asked)

    return execute_and_verify


workflow.execute = verified(workflow.execute)


def asked_for():
    """Return the files that this call asked for: outputs of its target jobs, or inputs where a target has no outputs."""
    return {str(file) for job in workflow.dag.targetjobs for file in (job.output or job.input)}


def left_out():
    """Return the jobs that Snakemake still finds to be necessary, looked at once more behind those that have run."""
    dag = workflow.dag
    workflow.persistence._clear_cache()  # it holds "no record" of the job that ended last (Snakemake 9.27)
    workflow.async_run(dag.update_needrun())
    jobs = [f"{job.rule.name} ({dag.reason(job)})" for job in dag.needrun_jobs() if job.output]
    return several("jobs were left out", jobs, "the same command again")


def limiting_options():
    """Return the options of this call that keep Snakemake from finding all that is out of date."""
    all_triggers = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT, RerunTrigger.CODE}
    given = {
        "--allowed-rules": workflow.dag_settings.allowed_rules,
        "--rerun-triggers": not all_triggers <= set(workflow.rerun_triggers),
        "--touch": workflow.touch,
    }
    return " and ".join(option for option, is_given in given.items() if is_given)


def missing(asked):
    """Return what was asked for and is not there."""
    return several("files are missing", sorted(f for f in asked if not Path(f).exists()), "the same command again")


def altered(asked):
    """Return the files that lie in a folder asked for in another size than its manifest says, or not at all."""
    folders = sorted({Path(file).parent for file in asked if (Path(file).parent / MANIFEST).exists()})
    wrong = {folder: names for folder in folders if (names := not_whole(folder))}
    return several(
        "files were removed or altered since they were made",
        [str(folder / name) for folder, names in wrong.items() for name in names],
        f"rm {' '.join(str(folder / MANIFEST) for folder in wrong)} and the same command again",
    )


def unrecorded():
    """Return results without Snakemake's record of how they were made: whether they are up to date cannot be told."""
    persistence = workflow.persistence
    # What a raw file must be is its hash, which each stage that reads it checks.
    made = [job for job in workflow.dag.jobs if job.output and job.rule.name != "fetch_source"]
    files = [
        str(f) for job in made for f in job.output if Path(f).exists() and persistence.record_format_version(f) is None
    ]
    return several(
        "results have no record of how they were made",
        files,
        "where they come from `dvc pull` or a copy that you trust, the same command with --touch --forceall added (make adopt); else\n"
        "            remove them",
    )


def several(what, names, hint):
    """Return some lines on several things that are wrong; nothing if there are none."""
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{len(names)} {what}", f"  found:    {', '.join(names[:3])}{more}", f"  what now: {hint}"]


def show_results(asked):
    """Print where the results lie that this call made or found up to date."""
    if TUNING in asked:
        print(f"\nTuning:   {Path(TUNING).parent}/tuning.md")
    if REPORT in asked:
        print(f"\nReport:   {REPORT}  (one file, opens in any browser)")
    if TABLES in asked:
        print(f"Tables:   {PAGES}/tables/  (Markdown and CSV)")
    if FIGURES in asked:
        print(f"Figures:  {PAGES}/figures/")
    if {REPORT, TABLES} & asked:
        own = "" if CONFIG_DIR == "config" else f" --config-dir {CONFIG_DIR}"
        shown = "".join(f" --tables {name}" for name in WORKFLOW.tables) if own else ""
        pages = f" --pages {PAGES}" if PAGES != RESULTS else ""
        print(f"Numbers:  vixml summary --results {RESULTS}{pages}{own}{shown}")
