"""Commands on the state of results, machine and repository: ``check``, ``check-remote``, ``doctor``, ``document-config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

Results = Annotated[Path, Option(help="Folder of all results.")]
ConfigDir = Annotated[Path, Option(help="Folder of datasets.yaml, models.yaml and runs/.")]
RESULTS, CONFIG_DIR = Path("results"), Path("config")


def check(
    results: Results = RESULTS,
    dataset: Annotated[str | None, Option(help="Check this dataset only.")] = None,
    run: Annotated[str | None, Option(help="Check this run only, with everything that it is made from.")] = None,
    quick: Annotated[bool, Option("--quick", help="Check files above 4 MB by their size, not their hash.")] = False,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    r"""Check finished results in stages: data, tokens, images, model, index, predictions, scores.

    Prints one line per stage: counts and hashes, then tokens, image coverage
    and norms, then recall against exact search, then recomputed scores. Stops
    at the first stage that fails, because later stages are made from it.
    Changes nothing. The exit status is 1 if a stage failed.

    Example:

        vixml check --results results
        vixml check --dataset picto --run vixml-minilm-l3 --quick
    """
    from vixml.check.check import inspect, last_line, line, open_results

    reports = []
    for report in inspect(open_results(results, config_dir, dataset, run, quick=quick)):
        reports.append(report)
        print(line(report), flush=True)
    print(last_line(reports))
    if reports[-1].failed:
        raise typer.Exit(1)


def preflight(
    config: Annotated[
        Path | None, Option(help="Configuration, as for `snakemake --configfile`; by default config/config.yaml.")
    ] = None,
    profile: Annotated[
        Path | None, Option(help="Profile, as for `snakemake --profile`; it gives the device and SLURM's partition.")
    ] = None,
) -> None:
    r"""Check before a run whether this machine has what a configuration needs: packages, GPU, memory, disk, models, network.

    Prints one line per check (ok, fails or not checked) with what to do. Only
    unfinished trainings count. Changes nothing, and fails if a job could not
    work. The workflow runs this check before its first job if it computes on a
    GPU.

    Example:

        vixml preflight --config config/paper.yaml --profile profiles/gpu
    """
    from vixml.check.preflight import before, refuse
    from vixml.plan.plan import read_workflow

    refuse(before(read_workflow(config), profile))


def check_remote(
    remote: Annotated[str | None, Option(help="Name of the remote; by default DVC's default remote.")] = None,
    filled: Annotated[
        bool, Option("--filled", help="Require that its folder exists, as for a pull; a push creates it.")
    ] = False,
    repository: Annotated[Path, Option(help="Folder of the repository.")] = Path("."),
) -> None:
    r"""Check that DVC's remote exists, before anything is pushed or pulled.

    Checks that it is configured, can be reached and exists. Reads and writes
    nothing in it. `make push` and `make pull` run this check first.

    Example:

        vixml check-remote
        vixml check-remote --remote shared
    """
    from vixml.check.doctor import require_remote

    print(f"the remote is there: {require_remote(repository, remote, filled=filled)}")


def doctor(results: Results = RESULTS, config_dir: ConfigDir = CONFIG_DIR) -> None:
    r"""Print one block about this machine, the installation and the results, to paste into a bug report.

    The block contains no secrets, and the home folder is written as ~. The
    command never fails: if something cannot be found out, the block says why.

    Example:

        vixml doctor
    """
    from vixml.check.doctor import block

    print(block(results, config_dir))


def document_config(
    root: Annotated[Path, Option(help="The repository.")] = Path("."),
    check: Annotated[bool, Option(help="Change nothing; fail if a file is out of date.")] = False,
) -> None:
    """Write docs/config.md and config/schemas/ from the config models.

    Run it after changing the models in src/vixml/config; until then, a test
    fails.

    Example:

        vixml document-config --check
    """
    from vixml.config.document import document

    changed = document(root, check=check)
    print("\n".join(map(str, changed)) if changed else "nothing to change")


COMMANDS = (check, preflight, check_remote, doctor, document_config)
