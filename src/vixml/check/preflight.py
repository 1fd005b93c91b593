"""Check, before the first job, what a configuration needs of this machine, its network and its accounts.

Each check yields lines: ok, fails or not checked, with what was found and what to do. A line that makes a job impossible stops
the workflow; the others are advice.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import psutil

from vixml.check.doctor import installed, memory_limit, require_slurm
from vixml.check.profile import pairs, profile_settings
from vixml.config.project import Project
from vixml.config.registry import Source
from vixml.config.run import RunConfig
from vixml.config.targets import asked_runs
from vixml.config.workflow import WorkflowConfig
from vixml.data.download import by_hand, hub_error, partial_folder
from vixml.data.hub_checkpoint import placed_folder
from vixml.errors import VixmlError
from vixml.plan.assumptions import CONTEXT, HARDWARE
from vixml.plan.plan import Plan, RunKey, make_plan
from vixml.provenance import MANIFEST, existing
from vixml.runtime import SCARCE, SHARED, gpu_hardware
from vixml.stages import Job, place, raw_dir
from vixml.text import size

State = Literal["ok", "fails", "not checked"]
SKEW = 300.0  # seconds that a clock may be wrong
SECONDS = 10.0  # to wait for a host
DRIVE = "https://drive.google.com"
# A kind of part of a plan -> the stage whose folder it fills.
FILLS = {
    "model": "prepare-model", "tokens": "tokenize", "images": "render-images", "embeddings": "embed-images",
    "train": "train", "index": "build-index", "predict": "predict",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One check: its name, outcome, what was found, what to do (an imperative clause), and whether a job cannot work."""

    name: str
    state: State
    found: str
    hint: str = ""
    stops: bool = False

    def __str__(self) -> str:
        advice = f"\n{'':<27}what now: {self.hint}" if self.hint else ""
        return f"{self.state:<12} {self.name:<13} {self.found}{advice}"


def preflight(
    project: Project,
    workflow: WorkflowConfig,
    trainings: Iterable[RunKey],
    asked: Iterable[RunKey],
    *,
    gpu: bool,
    here: bool = True,
) -> Iterator[Line]:
    """Yield the outcome of every check, as it is known.

    Args:
        project, workflow: the configuration, and what is to be run.
        trainings: not finished yet: what they and the stages behind them need is checked.
        asked: runs that are predicted; those that read none of these trainings are left out.
        gpu: heavy stages compute on a GPU of this machine.
        here: jobs run on this machine, not on nodes of a cluster.
    """
    runs = readers(project, trainings, asked)
    try:
        plan = make_plan(workflow, HARDWARE["gpu"], project.results, runs)
    except VixmlError as error:  # a dataset whose entry gives no sizes, a model of unknown shape
        yield Line("memory, disk", "not checked", f"{error.what} ({error.where})", error.hint or "")
        plan = Plan(workflow.name, HARDWARE["gpu"], {}, {}, (), (), ())
    yield from check_packages({key[:2]: project.run(*key[:2]) for key in runs}.values())
    if here:
        yield from accelerator(plan, wanted=gpu)
        yield from host_memory(plan)
        yield from shared_memory(wanted=gpu)
    else:
        yield Line("nodes", "not checked", "GPU, driver and memory of a cluster's nodes cannot be seen from here")
    yield from check_disk(project, plan, workflow.published_vectors)
    fetching = unmade(project, runs, workflow.published_vectors)
    yield from hub_models(project, fetching)
    yield from hosts(project, fetching)


def before(workflow: WorkflowConfig, profile: Path | None) -> Iterator[Line]:
    """Yield the checks of a configuration and a profile of Snakemake."""
    project = Project(workflow.config_dir, workflow.results)
    settings = profile_settings(profile) if profile is not None else {}
    on_cluster = settings.get("executor") == "slurm"
    device = pairs(settings.get("config", ())).get("device", workflow.device)
    if on_cluster:
        partition = pairs(settings.get("default-resources", ())).get("slurm_partition")
        yield slurm([partition] if partition else [])
    gpu = not on_cluster and (device == "cuda" or (device == "auto" and gpu_hardware() is not None))
    trainings, asked = unfinished(project, workflow), asked_runs(workflow)
    yield from preflight(project, workflow, trainings, asked, gpu=gpu, here=not on_cluster)


def unfinished(project: Project, workflow: WorkflowConfig) -> list[RunKey]:
    """Return the trainings of a configuration that are not finished."""
    keys = dict.fromkeys(one for key in asked_runs(workflow) for one in project.trainings_of(*key))
    folders = [place("train", project.results, dataset=dataset, run=run, seed=seed) for dataset, run, seed in keys]
    return [key for key, folder in zip(keys, folders, strict=True) if not (folder / MANIFEST).exists()]


def readers(project: Project, trainings: Iterable[RunKey], asked: Iterable[RunKey]) -> list[RunKey]:
    """Return those of some runs that read one of these trainings, and the trainings that none of them reads."""
    trained, read = set(trainings), {key: project.trainings_of(*key) for key in asked}
    found = [key for key, models in read.items() if not trained.isdisjoint(models)]
    return [*found, *sorted(trained.difference(*(read[key] for key in found)))]


def check_packages(runs: Iterable[RunConfig]) -> Iterator[Line]:
    """Compare installed packages with what vixml requires, and with what the kernels of the runs require."""
    wrong = []
    for required, version in installed():
        if version is None:
            wrong.append(f"{required.name} is missing")
        elif not required.specifier.contains(version, prereleases=True):
            wrong.append(f"{required.name} {version} (needs {required.specifier})")
    if wrong:
        hint = "make install, or pip install with requirements.lock"
        yield Line("packages", "fails", ", ".join(wrong), hint, stops=True)
    else:
        yield Line("packages", "ok", "all that vixml requires")
    fused = [run for run in runs if run.encoder.kernels == "liger"]
    if fused:
        try:
            yield Line("kernels", "ok", f"liger-kernel {importlib.metadata.version('liger-kernel')}")
        except importlib.metadata.PackageNotFoundError:
            found = f"liger-kernel is missing; {len(fused)} runs would use plain kernels: slower, and more memory"
            yield Line("kernels", "fails", found, 'pip install "vixml[gpu]"')


# Run in a process of its own: a context on the card would stay with Snakemake, and hold memory.
_LOOK = """
import json, torch
from vixml.runtime import gpu_trouble
trouble = gpu_trouble()
cards = [] if trouble else [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(torch.cuda.device_count())]
print(json.dumps({"trouble": trouble and [trouble.gpu, trouble.why, trouble.fix], "cards": cards, "torch": torch.__version__}))
"""


def accelerator(plan: Plan, *, wanted: bool) -> Iterator[Line]:
    """Check driver against build, and the cards' memory against the need of each run."""
    if not wanted:
        yield Line("GPU", "not checked", "none is found or asked for: heavy stages compute on the processor")
        return
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Line("GPU", "fails", f"torch cannot be asked: {last[:200]}", "vixml doctor", stops=True)
        return
    seen = json.loads(done.stdout.splitlines()[-1])
    if seen["trouble"]:
        gpu, why, fix = seen["trouble"]
        yield Line("GPU", "fails", f"{gpu or 'none'}; {why}", fix, stops=True)
        return
    cards = seen["cards"]
    names = ", ".join(f"{name} ({size(total)})" for name, _, total in cards)
    yield Line("GPU", "ok", f"torch {seen['torch']} computes on {names}")
    used = {i: total - free for i, (_, free, total) in enumerate(cards) if total - free > 2 * CONTEXT}
    if used:
        hint = "nvidia-smi shows by whom; free it, or hide the card with CUDA_VISIBLE_DEVICES"
        yield Line("GPU in use", "fails", "; ".join(f"{i}: {size(n)} in use" for i, n in used.items()), hint)
    room = float(min(total for _, _, total in cards))
    needs = {name: cost.gpu_memory_bytes for name, cost in plan.parts.items()}
    yield check_memory("GPU memory", needs, room)


def check_memory(name: str, needs: dict[str, float], room: float) -> Line:
    """Compare the needs of a plan's parts with the memory that there is."""
    large = sorted(((need, part) for part, need in needs.items() if need > room), reverse=True)
    if not large:
        return Line(name, "ok", f"{size(room)}; at most {size(max(needs.values(), default=0.0))} are needed at once")
    shown = ", ".join(f"{part} {size(need)}" for need, part in large[:3])
    more = f" and {len(large) - 3} more" if len(large) > 3 else ""
    smaller = "make `training.items_at_once` smaller, " * (name == "GPU memory")  # of a step on a device
    hint = f"leave these runs out of `targets`, {smaller}or take a larger machine"
    return Line(name, "fails", f"{size(room)} are there, and predicted are: {shown}{more}", hint, stops=True)


def host_memory(plan: Plan) -> Iterator[Line]:
    """Compare main memory, or a container's limit, with the need of the largest job."""
    limit = memory_limit()
    room = float(min(psutil.virtual_memory().total, math.inf if limit is None else limit))
    needs = {name: cost.host_memory_bytes for name, cost in plan.parts.items()}
    yield check_memory("main memory", needs, room)


def to_write(project: Project, plan: Plan, published: bool) -> float:
    """Return the bytes that a plan's runs have still to write: of each unfinished part, what its files leave of it."""
    stays, passes = 0.0, 0.0  # one checkpoint at a time
    for part, key in {part: key for key, parts in plan.runs.items() for part in parts}.items():
        stay, passing = paths_of(project, key, part, published)
        if not (stay[0] / MANIFEST).exists():
            stays += max(0.0, plan.parts[part].disk_bytes - bytes_in(stay))
            passes = max(passes, plan.parts[part].scratch_bytes - bytes_in(passing))
    return stays + passes


def paths_of(project: Project, key: RunKey, part: str, published: bool) -> tuple[list[Path], list[Path]]:
    """Return the folders and files of a part of a run's plan: what stays, its folder first, and a checkpoint."""
    (dataset, run, seed), (kind, *rest) = key, part.split("/")
    run = rest[1] if kind in ("train", "index") else run  # another's, if the run reuses a model or is chosen on some
    jobs = [
        Job(project, "score", {"dataset": dataset, "run": run, "seed": seed, "split": split})
        for split in ("test", "validation")
    ]
    stay = list(dict.fromkeys(job.folder(FILLS[kind]) for job in jobs))
    if kind in ("images", "embeddings"):  # `images-fetching`, which is resumed
        stay += stay[0].parent.glob(f"{stay[0].name}-*")
    vectors = project.dataset(dataset).published_vectors.get(rest[-1]) if published and kind == "embeddings" else None
    if vectors is not None:
        files = [raw_dir(project.results) / project.world.sources[name].filename for name in vectors.sources]
        stay += [*files, *map(partial_folder, files)]
    return stay, [stay[0].with_name("checkpoint")] * (kind == "train")


def bytes_in(paths: Iterable[Path]) -> int:
    """Return the size of some files and of the files below some folders, as far as they are there."""
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def check_disk(project: Project, plan: Plan, published: bool) -> Iterator[Line]:
    """Compare free space with what is still to be written."""
    place = existing(project.results)
    free, need = shutil.disk_usage(place).free, to_write(project, plan, published)
    if need > free:
        hint = f"make room on the disk of {place}, or name another folder: `results: FOLDER` in the configuration"
        yield Line("disk", "fails", f"{size(free)} free, {size(need)} predicted", hint, stops=True)
    else:
        yield Line("disk", "ok", f"{size(free)} free, {size(need)} predicted")
    if not os.access(place, os.W_OK):
        hint = "give this user write access, or name another folder"
        yield Line("disk", "fails", f"{place} cannot be written", hint, stops=True)


def shared_memory(*, wanted: bool) -> Iterator[Line]:
    """Look whether processes that assemble batches can hand them over."""
    if not wanted or not SHARED.exists():
        yield Line("/dev/shm", "not checked", "batches are assembled in the training's own process")
        return
    free = shutil.disk_usage(SHARED).free
    if free < SCARCE:
        found = f"{size(free)} free, less than {size(SCARCE)}: the training's own process assembles batches, and the GPU waits for it"
        yield Line("/dev/shm", "fails", found, "give the container more (docker run --shm-size=16g)")
    else:
        yield Line("/dev/shm", "ok", f"{size(free)} free")


def unmade(project: Project, runs: Iterable[RunKey], published: bool) -> list[Job]:
    """Return the jobs that read raw files or models of the hub for some runs and are not finished, each once.

    ``published``: image embeddings are imported where there are any, so that neither images nor a vision model are read.
    """
    found: dict[Path, Job] = {}
    for dataset, name, _ in runs:
        run, entry = project.run(dataset, name), project.dataset(dataset)
        names = {"dataset": dataset, "model": run.encoder.model, "vision": run.images.vision}
        stages = ["build-corpus", "prepare-model"]
        if run.needs_embeddings and not (Job(project, "embed-images", names).out / MANIFEST).exists():
            imported = published and run.images.vision in entry.published_vectors
            images = "fetch-images" if entry.fetches else "render-images"
            stages += ["import-vectors"] if imported else [images, "prepare-vision", "embed-images"]
        jobs = [Job(project, stage, names) for stage in stages]
        found |= {job.out: job for job in jobs if not (job.out / MANIFEST).exists()}
    return list(found.values())


def hub_models(project: Project, jobs: Iterable[Job]) -> Iterator[Line]:
    """Ask the hub whether this account may read each model that some jobs are to fetch: terms, token, name."""
    from huggingface_hub import HfApi, constants

    used = [(job.names["model"], job.model) for job in jobs if job.stage.name == "prepare-model"]
    used += [(job.names["vision"], job.vision) for job in jobs if job.stage.name == "prepare-vision"]
    readable: list[str] = []
    refused: dict[tuple[str, str], list[str]] = {}  # (found, what to do) -> models
    for name, entry in sorted(used, key=lambda one: one[0]):
        by_name = placed_folder(raw_dir(project.results), entry.checkpoint)
        if not entry.kind.startswith("hub") or by_name.exists():
            continue
        try:
            HfApi().auth_check(entry.checkpoint)
        except Exception as error:  # from several HTTP libraries, with other names in each version
            wrong = hub_error(
                error, name, entry.revision,
                refused="accept the terms on the model's page and set HF_TOKEN to your token",
                absent="check `checkpoint` in models.yaml; a private model looks like this without HF_TOKEN",
                alternative=f"or place its files in {by_name.parent}/ORGANISATION--NAME",
            )  # fmt: skip
            if not isinstance(wrong, VixmlError):
                raise wrong from None
            refused.setdefault((str(wrong.found), wrong.hint or ""), []).append(f"{name} ({entry.checkpoint})")
        else:
            readable.append(name)
    for (found, hint), names in refused.items():
        yield Line("hub", "fails", f"{', '.join(names)}: {found}", hint, stops=True)
    if readable:
        yield Line("hub", "ok", f"{', '.join(readable)} may be read from {constants.ENDPOINT}")
    if not readable and not refused:
        yield Line("hub", "not checked", "no model is to be fetched from it")


def hosts(project: Project, jobs: Iterable[Job]) -> Iterator[Line]:
    """Ask each kind of host that some jobs' raw files are still to come from, and compare the clocks."""
    missing: dict[str, list[Source]] = {}
    names = dict.fromkeys(name for job in jobs for name in job.sources())
    for source in (project.world.sources[name] for name in names):
        if not (raw_dir(project.results) / source.filename).exists():
            missing.setdefault(source.kind, []).append(source)
    for kind, sources in sorted(missing.items()):
        n = f"{len(sources)} files" if len(sources) > 1 else "1 file"
        if kind == "place":
            target = raw_dir(project.results) / sources[0].filename
            found = f"{n} to be placed by hand, first {target.name}"
            yield Line("raw files", "fails", found, by_hand(sources[0], target), stops=True)
            continue
        try:
            date = ASK[kind](sources[0])
        except Exception as error:
            found = f"{n} to fetch, and no answer: {type(error).__name__}: {error}".splitlines()[0][:200]
            hint = f"check network and proxy; or place the files by hand in {raw_dir(project.results)}"
            yield Line(f"from {kind}", "fails", found, hint, stops=True)
            continue
        yield Line(f"from {kind}", "ok", f"{n} to fetch, and the host answers")
        if date is not None:
            yield clock(date)
    if not missing:
        yield Line("network", "not checked", "no raw file is to be fetched")


def _answers(address: str) -> datetime | None:
    """Return the time that a host gives with its answer, whatever the answer is."""
    import httpx2

    date = httpx2.head(address, timeout=SECONDS).headers.get("date")
    return None if date is None else parsedate_to_datetime(date)


def _hub(source: Source) -> datetime | None:
    from huggingface_hub import constants

    return _answers(constants.ENDPOINT)


def _index(source: Source) -> None:
    command = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", source.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ConnectionError((done.stderr.strip().splitlines() or ["pip failed without a message"])[-1])


ASK = {"hub": _hub, "google-drive": lambda source: _answers(DRIVE), "wheel": _index}


def clock(date: datetime) -> Line:
    """Compare this machine's clock with a host's."""
    off = (datetime.now(UTC) - date).total_seconds()
    if abs(off) <= SKEW:
        return Line("clock", "ok", f"{abs(off):.0f} s from a host's")
    found = f"{abs(off) / 60:.0f} minutes {'ahead of' if off > 0 else 'behind'} a host's"
    hint = "set it (timedatectl set-ntp true): Snakemake compares times of files, and certificates have dates"
    return Line("clock", "fails", found, hint, stops=True)


def slurm(partitions: Iterable[str]) -> Line:
    """Ask SLURM for the partitions that jobs will be sent to."""
    try:
        require_slurm(partitions)
    except VixmlError as error:
        return Line("SLURM", "fails", f"{error.what}; {error.found}", error.hint or "", stops=True)
    return Line("SLURM", "ok", f"has {', '.join(sorted(partitions)) or 'a default partition'}")


def refuse(lines: Iterable[Line]) -> None:
    """Print each line as it comes, and raise VixmlError after the last if a job cannot work."""
    failed = []
    for line in lines:
        print(line, file=sys.stderr, flush=True)
        if line.state == "fails" and line.stops:
            failed.append(line)
    if failed:
        what = f"{len(failed)} checks" if len(failed) > 1 else "a check"
        names, hint = dict.fromkeys(line.name for line in failed), "the lines above say what to do. Nothing was run"
        raise VixmlError(
            f"{what} before the first job failed", where="vixml preflight", found=", ".join(names), hint=hint
        )
