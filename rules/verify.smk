# The end of each call: check that everything requested exists, is up to date and complete; otherwise fail and list what is not.
#
# REQUIRED INPUTS: constants of rules/common.smk; rules/display.smk; Snakemake's own graph of jobs.
# OUTPUTS: none; the check runs after Snakemake's own `execute`, because Snakemake skips `onsuccess` if there is nothing to do.
from snakemake.settings.types import RerunTrigger

from vixml.provenance import not_whole


def verified(execute):
    """Return Snakemake's `execute`, followed by the check."""

    def execute_and_verify(*arguments, **options):
        with resumable(), running():
            execute(*arguments, **options)  # raises where a job failed
        if workflow.exec_mode != ExecMode.DEFAULT or workflow.dryrun:
            return
        # The outputs of the target jobs, or the inputs of a target without outputs.
        wanted = {str(file) for job in workflow.dag.targetjobs for file in (job.output or job.input)}
        if wrong := [*(left_out() or missing(wanted)), *altered(wanted), *unrecorded()]:
            raise WorkflowError("\n".join(["Not everything that was asked for is there and up to date.", *wrong]))
        if limits := limiting_options():
            print(f"Made as far as {limits} allows; whether it is up to date was not checked.", file=sys.stderr)
        else:
            show_results(wanted)

    return execute_and_verify


workflow.execute = verified(workflow.execute)


def left_out():
    """Check again which jobs Snakemake finds necessary, after those that have run."""
    dag = workflow.dag
    workflow.persistence._clear_cache()  # it still contains "no record" for the job that ended last (Snakemake 9.27)
    workflow.async_run(dag.update_needrun())
    jobs = [f"{job.rule.name} ({dag.reason(job)})" for job in dag.needrun_jobs() if job.output]
    return several("jobs were left out", jobs, "the same command again")


def missing(wanted):
    """Check that the requested files exist."""
    return several("files are missing", sorted(f for f in wanted if not Path(f).exists()), "the same command again")


def altered(wanted):
    """Check that the files of each requested folder exist with the size that its manifest states."""
    folders = sorted({Path(file).parent for file in wanted if (Path(file).parent / MANIFEST).exists()})
    wrong = {folder: names for folder in folders if (names := not_whole(folder))}
    return several(
        "files were removed or altered since they were made",
        [str(folder / name) for folder, names in wrong.items() for name in names],
        f"rm {' '.join(shlex.quote(str(folder / MANIFEST)) for folder in wrong)} and the same command again",
    )


def unrecorded():
    """Check that Snakemake has a record of how each result was made; without it, the result may be out of date."""
    version_of = workflow.persistence.record_format_version
    # A raw file is identified by its hash, which each stage that reads it checks.
    made = [file for job in workflow.dag.jobs if job.rule.name != "fetch_source" for file in job.output]
    return several(
        "results have no record of how they were made",
        [str(file) for file in made if Path(file).exists() and version_of(file) is None],
        "where they come from `dvc pull` or a copy that you trust, the same command with --touch --forceall added (make adopt); else\n"
        "            remove them",
    )


def several(what, names, hint):
    """Return a list with one message about several things that are wrong; an empty list if there are none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    message = VixmlError(f"{len(names)} {what}", found=", ".join(names[:3]) + more, hint=hint)
    return [str(message)] if names else []


def limiting_options():
    """Return the options of this call that keep Snakemake from finding everything that is out of date."""
    all_triggers = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT, RerunTrigger.CODE}
    given = {
        "--allowed-rules": workflow.dag_settings.allowed_rules,
        "--rerun-triggers": not all_triggers <= set(workflow.rerun_triggers),
        "--touch": workflow.touch,
    }
    return " and ".join(option for option, is_given in given.items() if is_given)


def show_results(wanted):
    """Print the paths of the results that this call made or found up to date."""
    own = "" if CONFIG_DIR == "config" else f" --config-dir {shlex.quote(CONFIG_DIR)}"
    if own or WORKFLOW.tables != type(WORKFLOW).model_fields["tables"].default:
        own += "".join(f" --tables {shlex.quote(name)}" for name in WORKFLOW.tables)
    pages = f" --pages {shlex.quote(PAGES)}" if PAGES != RESULTS else ""
    for files, line in (
        ({TUNING}, f"\nTuning:   {Path(TUNING).parent}/tuning.md"),
        ({REPORT}, f"\nReport:   {REPORT}  (one file, opens in any browser)"),
        ({TABLES}, f"Tables:   {PAGES}/tables/  (Markdown and CSV)"),
        ({FIGURES}, f"Figures:  {PAGES}/figures/"),
        ({REPORT, TABLES}, f"Numbers:  vixml summary --results {shlex.quote(RESULTS)}{pages}{own}"),
    ):
        if files & wanted:
            print(line)
