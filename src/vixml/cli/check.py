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
    dataset: Annotated[str | None, Option(help="Look at this dataset only.")] = None,
    run: Annotated[str | None, Option(help="Look at this run only, and at what it is made from.")] = None,
    quick: Annotated[bool, Option("--quick", help="Take files above 4 MB by their size, not their hash.")] = False,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    r"""Check finished results in stages: data, tokens, images, model, index, predictions, scores.

    Prints one line per stage: counts and hashes, then tokens, image coverage and norms,
    then recall against exact search, then scores computed again. The first stage
    that fails is the last looked at: what comes after it is made from it. Changes
    nothing. The exit status is 1 if a stage failed.

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
        Path | None, Option(help="Configuration, as for `snakemake --configfile`; without it config/config.yaml.")
    ] = None,
    profile: Annotated[
        Path | None, Option(help="Profile, as for `snakemake --profile`: device, and SLURM's partition.")
    ] = None,
) -> None:
    r"""Check what a configuration needs of this machine before it runs: packages, GPU, memory, disk, models, network.

    Prints one line per check: ok, fails or not checked, with what to do. Only
    trainings that are not finished count. Changes nothing, and fails
    if a job could not work. The workflow runs it before its first job when it
    computes on a GPU.

    Example:

        vixml preflight --config config/paper.yaml --profile profiles/gpu
    """
    from vixml.check.preflight import before, refuse
    from vixml.plan.plan import read_workflow

    refuse(before(read_workflow(config), profile))


def check_remote(
    remote: Annotated[str | None, Option(help="Name of the remote; the default one without it.")] = None,
    filled: Annotated[
        bool, Option("--filled", help="Its folder must be there already, as for a pull; a push makes it.")
    ] = False,
    repository: Annotated[Path, Option(help="Folder of the repository.")] = Path("."),
) -> None:
    r"""Check that DVC's remote is there, before anything is pushed to it or pulled.

    Looks whether it is configured, can be reached and exists; reads and writes
    nothing in it. `make push` and `make pull` ask it first.

    Example:

        vixml check-remote
        vixml check-remote --remote shared
    """
    from vixml.check.doctor import require_remote

    print(f"the remote is there: {require_remote(repository, remote, filled=filled)}")


def doctor(results: Results = RESULTS, config_dir: ConfigDir = CONFIG_DIR) -> None:
    r"""Print one block on this machine, installation and results, to paste into a report of a problem.

    It holds no secrets, and the home folder is written ~. It never fails: what
    cannot be told says why.

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

    Run it after a change of the models in src/vixml/config; a test fails until
    then.

    Example:

        vixml document-config --check
    """
    from vixml.config.document import document

    changed = document(root, check=check)
    print("\n".join(map(str, changed)) if changed else "nothing to change")


COMMANDS = (check, preflight, check_remote, doctor, document_config)
