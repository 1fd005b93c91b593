"""``vixml fit``: run the workflow of one catalogue with programs that start at once, pack its tagger, print a table."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vixml.cli.warm import warm_programs
from vixml.config.load import load_workflow, merge, read_yaml
from vixml.config.project import Project
from vixml.data.new import quoted
from vixml.errors import VixmlError
from vixml.files import sha256_file, write_text
from vixml.manifest import MANIFEST
from vixml.stages import Job

TAGGER = "tagger"
INTERRUPTED = 130  # status of a workflow that has said what is kept and how to resume (rules/display.smk)
PATIENCE = 10.0  # seconds for an interrupted workflow to end by itself


def fit(file: Path, out: Path | None = None, start: Path | None = None, cores: int | None = None) -> str:
    """Run a catalogue's workflow, write its model folder, and return the table of its scores with what to do next.

    Raises:
        VixmlError: a file that names no tagger, an earlier model that would be overwritten, or a workflow that failed: its own
            message came before.
    """
    if not Path("Snakefile").is_file():
        hint = f"go to the project's folder; {file} may be a path"
        raise VixmlError("the workflow is not here", where=Path.cwd(), found="no Snakefile", hint=hint)
    out = out or Path(f"{file.stem}.model")
    if start is not None:
        _keep(start, out)
        _write_start(file, start)
    workflow = load_workflow(merge(read_yaml("config/config.yaml"), read_yaml(file)), file)
    target = next((one for one in workflow.targets if TAGGER in one.runs and one.split == "test"), None)
    if target is None:
        what, where, expected = "no run to tag new items with", f"{file}: targets", f"a run {TAGGER!r}"
        hint = "`vixml new` writes one; or train with snakemake and name a run to `vixml pack`"
        raise VixmlError(what, where=where, expected=expected, hint=hint)
    project, seed = Project(workflow.config_dir, workflow.results), target.seeds[0]
    job = Job(project, "predict", {"dataset": target.dataset, "run": TAGGER, "seed": seed, "split": "test"})
    if job.run.start is not None:  # of an earlier call
        _keep(Path(job.run.start.folder), out)
    from vixml.report.fitted import fitted_table
    from vixml.tagging.pack import pack

    _run(file, cores, _needed(job, target.runs, workflow.published_vectors))
    folder = pack(project, target.dataset, TAGGER, seed, out)
    table = fitted_table(project, target.dataset, target.runs, seed, TAGGER)
    shown = shlex.quote(os.path.relpath(folder))
    return f"\n{table}\n\n{shown} tags new items:\n  vixml tag new.csv --model {shown} --out tags.csv"


def _needed(job: Job, runs: Sequence[str], published_vectors: bool) -> list[Path]:
    """Return the files that packing and the printed table read: those that were deleted are made again.

    Tables that are up to date need none of them, so Snakemake would not make them. ``job``: prediction of the run to pack;
    ``runs``: those of the table; ``published_vectors``: whether published image embeddings are imported.
    """
    from vixml.report.fitted import BASELINES
    from vixml.tagging.pack import folders_of

    folders = [*folders_of(job).values(), *job.reads().values(), job.folder("build-index")]
    if job.run.inference.method == "chosen":
        folders += Job(job.project, "choose-inference", job.names).reads().values()
    folders += [
        Job(job.project, "predict", job.names | {"run": run}).out for run in runs if run in (*BASELINES, TAGGER)
    ]
    raw: list[Path] = []
    if job.run.needs_embeddings:
        name = job.run.images.vision
        imported = published_vectors and name in job.dataset.published_vectors
        embed = Job(job.project, "embed-images", job.names | {"vision": name})
        folders += [folder for of, folder in embed.reads().items() if not (of == "images" and imported)]
        raw = [job.raw / job.project.world.sources[source].filename for source in embed.sources()]
    return list(dict.fromkeys([*(folder / MANIFEST for folder in folders), *raw]))


def _keep(start: Path, out: Path) -> None:
    """Check that the model to start from stays: the catalogue's file names it by its hash, and it may be wanted again."""
    if os.path.realpath(start) == os.path.realpath(out):
        hint = f"name another folder: --out {'next' if out.stem != 'next' else 'newer'}.model"
        raise VixmlError("the model to start from would be overwritten", where=out, hint=hint)


def _write_start(file: Path, folder: Path) -> None:
    """Write the earlier model into a catalogue's file, in place of the line `start`."""
    from vixml.tagging.model_folder import HEADER, ModelFolder

    header = ModelFolder.open(folder).folder / HEADER  # whole and unaltered
    named = f"{{folder: {quoted(str(folder))}, sha256: {quoted(sha256_file(header))}}}"
    text, n = re.subn(r"(?m)^  start:.*$", lambda _: f"  start: {named}", file.read_text(encoding="utf-8"), count=1)
    if not n:
        raise VixmlError(
            "the file has no line for an earlier model", where=file, expected="`  start: null` below `base:`",
            hint=f"add it, or write the file again with `vixml new`; its content then: {named}",
        )  # fmt: skip
    write_text(file, text)


def _run(file: Path, cores: int | None, more: Sequence[Path]) -> None:
    """Run the workflow, which makes the tables and ``more`` files; its progress goes to the terminal."""
    command = [sys.executable, "-m", "snakemake", "paper_tables", *(path.as_posix() for path in more)]
    command += ["--cores", str(cores or "all"), "--quiet", "host", "reason", "--configfile", str(file)]
    with warm_programs() as programs:
        path = os.pathsep.join([programs, str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        process = subprocess.Popen(command, env=os.environ | {"PATH": path})
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached the workflow, too; a further signal could end it before its last words.
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.terminate()
            if (status := process.wait()) != INTERRUPTED:
                raise
        except BaseException:  # terminated: it ends in order, with what is kept
            process.terminate()
            process.wait()
            raise
    if status == INTERRUPTED:
        raise SystemExit(INTERRUPTED)
    if status:
        raise VixmlError("the workflow did not finish", where=file, hint="its message is above; then the same command")
