"""Describe the machine, installation and results for a bug report, and check what the workflow needs of the machine.

The description is pasted into public reports: it contains no environment variable, host or user name, and the home folder
is written ``~``. Its lines are independent, so that a broken part is one line and not a failure.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ValidationError

from vixml import __version__
from vixml.config.load import load_workflow, read_yaml
from vixml.errors import VixmlError
from vixml.provenance import MANIFEST, existing, git_state, machine
from vixml.stages import find, place
from vixml.text import size

REPOSITORY = Path(__file__).resolve().parents[3]
TOOLS = ("conda", "dvc", "sinfo", "make", "git")
# Names of finished folders -> the stage that writes them.
FINISHED = {
    "corpus": "build-corpus", "tokens": "tokenize", "images": "render-images", "embeddings": "embed-images",
    "language model": "prepare-model", "model": "train", "index": "build-index", "predictions": "predict", "score": "score",
}  # fmt: skip
PAGES = ("tables", "figures", "report")
SEVERAL = 8  # partitions to list at most
SLURM_PROFILE = "profiles/slurm/config.yaml"


# -- what a killed run left behind: its lock, and jobs that still run, here or in SLURM's queue ----------------------------


def locked(folder: Path) -> bool:
    """Return whether ``folder`` has a lock of Snakemake, running or killed."""
    return any((folder / ".snakemake" / "locks").glob("*.lock"))


def someone_elses(folder: Path) -> bool:
    """Return whether a lock of Snakemake in ``folder`` belongs to another user."""
    for lock in (folder / ".snakemake" / "locks").glob("*.lock"):
        with suppress(FileNotFoundError):  # its run has ended meanwhile
            if lock.stat().st_uid != os.getuid():
                return True
    return False


def processes(folder: Path, program: str) -> list[int]:
    """Return the processes of a program that were started in ``folder``, except this one and its parents.

    A Snakemake that a batch system started for one job of another one counts as that job, not as a Snakemake.
    """
    family = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            words, here = process.cmdline(), Path(process.cwd()) == folder.resolve()
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to another user
        runs = any(Path(word).name == program for word in words[:3])
        if here and runs and process.pid not in family and "--mode" not in words:
            found.append(process.pid)
    return sorted(found)


def queued(folder: Path) -> list[str]:
    """Return the jobs in SLURM's queue that were submitted from ``folder``; none where there is no SLURM."""
    try:
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %Z"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    return [job for job, submitted in rows if Path(submitted).resolve() == folder.resolve()]


def explain_lock(folder: Path) -> str:
    """Return why ``folder`` is locked and which commands unlock it; empty if it is not locked."""
    if not locked(folder):
        return ""
    if holders := " ".join(map(str, processes(folder, "snakemake"))):
        return (
            f"Snakemake already runs in this folder, process {holders}.\n"
            f"  what now: wait until it has finished, or stop it and its jobs: kill -INT {holders}"
        )
    if someone_elses(folder):  # their processes cannot be seen
        return (
            "This folder is locked by a run of another user; whether it still runs cannot be seen from here.\n"
            "  what now: ask them (ls -l .snakemake/locks says whom); only if that run has ended: snakemake --unlock"
        )
    commands = ["snakemake --unlock", "then the same command again; a training resumes from its checkpoint"]
    state = "nothing of it runs on this one."
    # A job of SLURM may run on this very machine: it is ended through SLURM.
    if jobs := queued(folder):
        commands.insert(0, f"scancel {' '.join(jobs)}")
    elif jobs := processes(folder, "vixml"):
        commands.insert(0, f"kill {' '.join(map(str, jobs))}")
    if jobs:
        state = "jobs that it started still run.\nWait until they have ended, or end them: they write the same files as a new run."
    now = "\n            ".join(commands)
    return (
        f"This folder is locked by a run that was killed, or that runs on another machine; {state}\n"
        "If it was started on another machine, look there first: it may still run. What it finished is kept.\n"
        f"  what now: {now}"
    )


class _Process(BaseModel, extra="forbid", strict=True):
    pid: int
    cmd: str


class _Running(BaseModel, extra="forbid", strict=True):
    """DVC's list: path -> the process that writes it, or those that read it."""

    write: dict[str, _Process] = {}
    read: dict[str, list[_Process]] = {}


def mend_rwlock(folder: Path) -> str:
    """Remove DVC's list of running commands if a kill cut it; return a sentence on it, empty if the list is whole.

    DVC rewrites the list in place, refuses to run at all with half of one, and keeps nothing else in it.
    """
    path = folder / ".dvc" / "tmp" / "rwlock"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ""
    with suppress(ValidationError):
        _Running.model_validate_json(text)
        return ""
    if running := " ".join(map(str, processes(folder, "dvc"))):
        return f"{path} is damaged, and `dvc` runs here (process {running}).\n  what now: when it has ended, rm {path}"
    path.unlink()
    return f"Removed {path}, DVC's list of running commands: a kill had cut it, and no `dvc` of yours runs on this machine."


def require_tracked(results: Path, pages: Path | None) -> None:
    """Raise VixmlError unless a configuration writes where DVC looks (dvc.yaml): ``results``, for its pages, too."""
    for key, folder in (("results", results), ("pages", pages)):
        if folder is not None and folder.resolve() != Path("results").resolve():
            what = "DVC tracks the folder `results`, and this configuration writes somewhere else"
            hint = "leave the key out; or run snakemake without DVC; or name the folder in dvc.yaml"
            raise VixmlError(what, where=f"{key} of the configuration", found=folder, expected="results", hint=hint)


# -- the description ------------------------------------------------------------------------------------------------------


def block(results: Path, config_dir: Path) -> str:
    """Return the description, between fences that keep its layout."""
    lines: dict[str, Callable[[], str]] = {
        "vixml": vixml,
        "python": lambda: f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
        "system": platform.platform,
        "processor": processor,
        "memory": describe_memory,
        "disk": lambda: describe_disk(results),
        "gpu": gpu,
        "torch": torch_build,
        "packages": describe_packages,
        "snakemake": describe_snakemake,
        "tools": lambda: ", ".join(f"{name} {'yes' if shutil.which(name) else 'no'}" for name in TOOLS),
        "config": lambda: configurations(config_dir),
        "results": lambda: finished(results),
        "checkpoints": lambda: checkpoints(results),
        "lock": lambda: explain_lock(Path.cwd()) or "none",
    }
    text = "\n".join(["```", *(f"{name + ':':<12} {_answer(line)}" for name, line in lines.items()), "```"])
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text) if home else text


def _answer(line: Callable[[], str]) -> str:
    """Return the text of a line, or why there is none; further rows are indented."""
    try:
        text = line()
    except VixmlError as error:
        text = f"unknown: {_first(error)}"
    except Exception as error:  # a broken installation raises anything
        text = f"unknown: {type(error).__name__}: {error}".splitlines()[0]
    return text.replace("\n", "\n" + " " * 13)


def _first(error: VixmlError) -> str:
    return error.what + (f" ({error.where})" if error.where is not None else "")


def vixml() -> str:
    """Return version and commit."""
    state = git_state()
    if state["commit"] is None:
        return f"{__version__}, commit unknown: not a git checkout, or no git"
    return f"{__version__}, commit {state['commit'][:12]}{' with changes' if state['modified'] else ''}"


def processor() -> str:
    """Return the model of the processor and its usable cores."""
    found = machine()
    return f"{found['processor']}, {found['cores']} cores usable of {os.cpu_count()}"


def describe_memory() -> str:
    """Return main memory, and the limit of a container if there is one."""
    found, limit = psutil.virtual_memory(), memory_limit()
    limited = "" if limit is None else f", at most {size(limit)} here"
    return f"{size(found.total)}, {size(found.available)} available{limited}"


def memory_limit() -> int | None:
    """Return the bytes that a container may use; None without a limit."""
    limit = Path("/sys/fs/cgroup/memory.max")
    found = limit.read_text().strip() if limit.is_file() else ""
    return int(found) if found.isdecimal() else None


def describe_disk(results: Path) -> str:
    """Return the free space for results."""
    usage = shutil.disk_usage(existing(results))
    return f"{size(usage.free)} free of {size(usage.total)}, for {results}"


def gpu() -> str:
    """Return each kind of GPU with its memory and driver, as the driver's tool lists them."""
    if shutil.which("nvidia-smi") is None:
        return "none: nvidia-smi is not on PATH"
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        return f"nvidia-smi failed: {_complaint(done)}"
    cards = Counter(line.strip() for line in done.stdout.splitlines() if line.strip())
    return "\n".join(f"{n} x {card}" for card, n in cards.items()) or "none"


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the first line that a failed program printed, or its status if there is none."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[0] if lines else f"status {done.returncode}, and no message"


def torch_build() -> str:
    """Return the build of torch, and whether it can compute on a GPU."""
    import torch

    from vixml.runtime import gpu_trouble

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for processors"
    about = f"{torch.__version__}, built {built}, {torch.get_num_threads()} threads"
    trouble = gpu_trouble()
    if trouble is None:
        return f"{about}; CUDA: works"
    if trouble.gpu is None:
        return f"{about}; CUDA: not available ({trouble.why})"
    return f"{about}; CUDA: CANNOT BE USED beside {trouble.gpu}: {trouble.why}\nwhat now: {trouble.fix}"


def installed() -> Iterator[tuple[Requirement, str | None]]:
    """Yield each package that vixml requires on this machine, and the version that is there; None: it is missing."""
    project = REPOSITORY / "pyproject.toml"  # of a checkout, which may be newer than what was installed from it
    if project.is_file():
        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = importlib.metadata.requires("vixml") or []
    for required in map(Requirement, texts):
        if required.marker is None or required.marker.evaluate({"extra": ""}):
            try:
                yield required, importlib.metadata.version(required.name)
            except importlib.metadata.PackageNotFoundError:
                yield required, None


def describe_packages() -> str:
    """Return the packages that vixml requires, and mark those that differ from requirements.lock."""
    locks = [folder / "requirements.lock" for folder in (Path.cwd(), REPOSITORY)]
    lock = next((path.read_text(encoding="utf-8") for path in locks if path.is_file()), "")
    pins = {canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)}
    found = []
    for required, version in installed():
        # The part after a plus sign is torch's build, which depends on the machine.
        pin = pins.get(canonicalize_name(required.name), version)
        differs = version is not None and pin not in (version, version.split("+")[0])
        found.append(f"{required.name} {version or 'MISSING'}" + (f" (LOCK {pin})" if differs else ""))
    return ", ".join(found) + ("" if pins else "\nrequirements.lock was not found: nothing to compare with")


def describe_snakemake() -> str:
    """Return the version of Snakemake and the path of its command."""
    beside = Path(sys.executable).with_name("snakemake")
    absent = f"{beside}, not on PATH" if beside.exists() else "the command was not found"
    return f"{importlib.metadata.version('snakemake')}, {shutil.which('snakemake') or absent}"


def configurations(config_dir: Path) -> str:
    """Return whether each configuration of the workflow can be read, with the first line of an error."""
    base_path = config_dir / "config.yaml"
    # A user's folder may have overlays only; one without a registry either is no configuration.
    base = read_yaml(base_path) if base_path.exists() or not (config_dir / "datasets.yaml").exists() else {}
    fine, wrong = [], []
    for path in sorted(config_dir.glob("*.yaml")):
        try:
            overlay = read_yaml(path)
            if "targets" in overlay:  # the registry has none
                load_workflow(base | overlay | {"config_dir": str(config_dir)}, path)
                fine.append(path.name)
        except VixmlError as error:
            wrong.append(f"{path.name}: {_first(error)}")
    return "\n".join([*([f"ok: {', '.join(fine)}"] if fine else []), *wrong])


def finished(results: Path) -> str:
    """Return the number of finished folders per stage, and of unfinished ones."""
    if not results.is_dir():
        return f"{results} does not exist"
    folders = {name: [path for path, _ in find(stage, results)] for name, stage in FINISHED.items()}
    folders |= {name: [results / name] for name in PAGES if (results / name).is_dir()}
    parts = []
    for name, paths in folders.items():
        done = sum((path / MANIFEST).exists() for path in paths)
        begun = f" ({len(paths) - done} unfinished)" if done < len(paths) else ""
        parts += [f"{done} {name}{begun}"] if paths else []
    return ", ".join(parts) or "nothing finished yet"


def checkpoints(results: Path) -> str:
    """Return the checkpoints: of trainings that run now, or that resume when they are started again."""
    found = []
    folder = place("train", "", dataset="*", run="*", seed="*").parent
    for path in sorted(results.glob(f"{folder}/checkpoint/state.pt")):
        minutes = max(0, round((time.time() - path.stat().st_mtime) / 60))
        found.append(f"{'/'.join(path.parts[-5:-2])}: {size(path.stat().st_size)}, written {minutes} minutes ago")
    return "\n".join(found) or "none"


# -- what an entry point of the workflow needs: a conda client, SLURM with the named partitions, a DVC remote ---------------


def require_conda() -> None:
    """Raise VixmlError unless Snakemake will find a conda client."""
    if shutil.which("conda") is None:
        raise VixmlError(
            "--use-conda needs a conda client, and there is none",
            found="no `conda` on PATH",
            expected="conda 24.7.1 or newer (Miniforge includes it)",
            hint="install one and activate it; or leave --use-conda out: then jobs run in the environment of `make install`",
        )


def require_slurm(partitions: Iterable[str]) -> None:
    """Raise VixmlError unless there is a SLURM, it answers, and it has every partition that jobs will be sent to.

    ``partitions``: one may be several names, joined by commas, as ``sbatch`` takes them.
    """
    absent = [program for program in ("sinfo", "sbatch", "squeue") if shutil.which(program) is None]
    if absent:
        raise VixmlError(
            "jobs are to go to SLURM, and this machine has none",
            found=f"no `{'`, `'.join(absent)}` on PATH",
            hint="give the command on a node of the cluster (`module load slurm` on some); or leave --profile profiles/slurm out",
        )
    done = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True)
    if done.returncode:
        raise VixmlError(
            "SLURM does not answer",
            found=_complaint(done),
            hint="try `sinfo`; when it lists partitions again, give the same command again",
        )
    offered = sorted(set(done.stdout.split()))
    unknown = sorted({part for named in partitions for part in named.split(",")} - set(offered))
    if unknown:
        more = f" and {len(offered) - SEVERAL} more" if len(offered) > SEVERAL else ""
        what, found = f"SLURM has no partition {unknown[0]!r}", f"sinfo lists: {', '.join(offered[:SEVERAL])}{more}"
        hint = "ask your administrators for a partition"
        if offered:
            hint = f"name one of them there, such as slurm_partition: {offered[0]} (--default-resources on the command line would "
            hint += "replace all of the profile's, also the account)"
        raise VixmlError(what, where=f"{SLURM_PROFILE}: slurm_partition", found=found, hint=hint)


def require_array(rule: str, jobs: int, limit: int, at_once: int) -> None:
    """Raise VixmlError unless a rule's job arrays can be filled: the executor holds jobs back until an array is full.

    ``jobs`` are to be run; an array has at most ``limit`` (``--slurm-array-limit``), and ``at_once`` may run together.
    """
    if min(jobs, limit) > at_once:
        what = f"an array of {min(jobs, limit)} jobs of {rule} would never be submitted"
        found = f"at most {at_once} of them may run at once"
        hint = f"give --slurm-array-limit {at_once}, or allow more jobs and GPUs"
        raise VixmlError(what, where=f"{SLURM_PROFILE}: jobs, resources", found=found, hint=hint)


@contextmanager
def _each_error_as(what: str, where: str, hint: str) -> Iterator[None]:
    """Turn every error of a store, each kind of which has its own, into one: one of the machine, too, is about the remote."""
    try:
        yield
    except VixmlError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise VixmlError(what, where=where, found=found, hint=hint) from None


def require_remote(root: Path, name: str | None = None, *, filled: bool = False) -> str:
    """Return the address of DVC's remote (None: the default one); VixmlError unless there is one that can be reached.

    ``filled``: its folder must exist, as for a pull; a push creates it, but not the folder above it.
    """
    from dvc.repo import Repo

    where = ".dvc/config, .dvc/config.local"
    add = "dvc remote add --default shared PLACE (a folder, s3://..., gs://..., ssh://...; docs/dvc.md)"
    unreachable = f"the DVC remote {name or 'that is the default'} cannot be reached"
    hint = (
        "s3:// needs `pip install dvc-s3`, gs:// dvc-gs, ssh:// dvc-ssh; otherwise check its address (dvc remote list) "
        "and credentials (docs/dvc.md)"
    )
    with _each_error_as(unreachable, where, hint), Repo(str(root)) as repo:
        known = sorted(repo.config["remote"])
        chosen = name or repo.config["core"].get("remote")
        if chosen not in known:
            what = f"DVC knows no remote {chosen!r}" if chosen else "DVC has no default remote"
            found, hint = f"remotes: {', '.join(known) or 'none'}", f"name one of them, or add one: {add}"
            raise VixmlError(what, where=where, found=found, hint=hint if known else add)
        remote = repo.cloud.get_remote(chosen)
        new = remote.fs.protocol == "local" and not filled
        folder = str(Path(remote.path).parent) if new else remote.path
        if not remote.fs.exists(folder):
            what, found = f"the DVC remote {chosen!r} is not there", f"nothing at {folder}"
            hint = f"mount or create it, or correct its address: dvc remote modify {chosen} url PLACE"
            raise VixmlError(what, where=where, found=found, hint=hint)
        return remote.fs.unstrip_protocol(remote.path)
