"""One block that says where something goes wrong: machine, installation, configuration, results.

It is pasted into public reports: no environment variable, host or user name stands in it, and the home folder is written
``~``. Every line is made apart from the others, so that a broken part is told and not fatal.
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
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from vixml import __version__
from vixml.config.load import load_workflow, read_yaml
from vixml.errors import VixmlError
from vixml.provenance import PACKAGES, git_state, machine

# --- What a killed run left behind: its lock, and jobs that go on without it, here or in SLURM's queue.


def locked(folder: Path) -> bool:
    """Return whether Snakemake holds ``folder`` locked, or did when it was killed."""
    return any((folder / ".snakemake" / "locks").glob("*.lock"))


def processes(folder: Path, program: str) -> list[int]:
    """Return the processes of a program that were started in ``folder``, this one and its parents left out.

    A Snakemake that a batch system started for one job of another one counts as that job, not as a Snakemake.

    Args:
        folder: where the workflow lies.
        program: the name of a command, ``snakemake`` or ``vixml``.
    """
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    here, found = folder.resolve(), []
    for process in psutil.process_iter():
        try:
            words, place = process.cmdline(), Path(process.cwd())
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's
        if place != here or process.pid in own or not any(Path(word).name == program for word in words[:3]):
            continue
        if "--mode" not in words:
            found.append(process.pid)
    return sorted(found)


def queued(folder: Path) -> list[str]:
    """Return the jobs in SLURM's queue that were submitted from ``folder``; none where there is no SLURM."""
    if shutil.which("squeue") is None:
        return []
    try:
        asked = ["squeue", "--me", "--noheader", "--array", "--format=%i %Z"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(" ", 1) for line in done.stdout.splitlines() if " " in line]
    return [job for job, place in rows if Path(place).resolve() == folder.resolve()]


def explain_lock(folder: Path) -> str:
    """Return why ``folder`` is locked and which commands clear it; empty if it is not locked.

    Args:
        folder: where the workflow lies.
    """
    if not locked(folder):
        return ""
    if holders := processes(folder, "snakemake"):
        named = " ".join(map(str, holders))
        return (
            f"A Snakemake is at work in this folder already, process {named}.\n"
            f"  what now: wait until it has finished; or stop it, with its jobs: kill -INT {named}"
        )
    # A job of SLURM may run on this very node: it is ended through SLURM.
    if waiting := queued(folder):
        ends = f"scancel {' '.join(waiting)}"
    elif jobs := processes(folder, "vixml"):
        ends = f"kill {' '.join(map(str, jobs))}"
    else:
        ends = ""
    if ends:
        said = (
            "jobs that it started still run. Wait until they have ended, or end them; two trainings of the same run\n"
            f"would stand in each other's way. What it finished is kept.\n  what now: {ends}\n            "
        )
    else:
        said = "nothing runs here any more. What it finished is kept.\n  what now: "
    clear = "snakemake --unlock\n            then the same command again; a training resumes from its checkpoint"
    return f"This folder is locked by a run that was killed; {said}{clear}"


TOOLS = ("conda", "dvc", "sinfo", "make", "git")
# Where the finished stages lie, by what the workflow calls them.
FINISHED = {
    "corpus": "data/*/corpus",
    "tokens": "data/*/tokens/*",
    "images": "data/*/images",
    "embeddings": "data/*/embeddings/*",
    "language model": "models/*",
    "model": "runs/*/*/seed*/model",
    "index": "runs/*/*/seed*/index",
    "predictions": "runs/*/*/seed*/*/predictions",
    "score": "runs/*/*/seed*/*/score",
    "tables": "tables",
    "figures": "figures",
    "report": "report",
}
REPOSITORY = Path(__file__).resolve().parents[3]


def block(results: Path, config_dir: Path) -> str:
    """Return the block, between fences that keep its layout wherever it is pasted.

    Args:
        results: folder of all results, there or not.
        config_dir: folder of the workflow's configurations.
    """
    lines: dict[str, Callable[[], str]] = {
        "vixml": vixml,
        "python": python,
        "system": platform.platform,
        "processor": processor,
        "memory": memory,
        "disk": lambda: disk(results),
        "gpu": gpu,
        "torch": torch_build,
        "packages": packages,
        "snakemake": snakemake,
        "tools": tools,
        "config": lambda: configurations(config_dir),
        "results": lambda: finished(results),
        "checkpoints": lambda: checkpoints(results),
        "lock": lambda: lock(Path.cwd()),
    }
    told = [f"{name + ':':<12} {_told(line)}" for name, line in lines.items()]
    return _without_home("\n".join(["```", *told, "```"]))


def _told(line: Callable[[], str]) -> str:
    """Return what a line says, or why it cannot be told. More rows of it are set under its first."""
    try:
        text = line()
    except VixmlError as error:
        text = f"cannot be told: {_first(error)}"
    except Exception as error:  # a broken installation raises anything, and is what this page is for
        text = f"cannot be told: {type(error).__name__}: {error}".splitlines()[0]
    return text.replace("\n", "\n" + " " * 13)


def _first(error: VixmlError) -> str:
    return error.what + (f" ({error.where})" if error.where is not None else "")


def _without_home(text: str) -> str:
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text) if home else text


def vixml() -> str:
    """Return version and commit."""
    state = git_state()
    if state["commit"] is None:
        return f"{__version__}, commit unknown: not a git checkout, or no git"
    return f"{__version__}, commit {state['commit'][:12]}{' with changes' if state['modified'] else ''}"


def python() -> str:
    """Return version and place of the interpreter."""
    return f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"


def processor() -> str:
    """Return the model of the processor and the cores that may be used."""
    found = machine()
    return f"{found['processor']}, {found['cores']} cores usable of {os.cpu_count()}"


def memory() -> str:
    """Return main memory, and the limit of a container if there is one."""
    text = Path("/proc/meminfo").read_text(encoding="utf-8")
    kib = {key: int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    said = f"{_gigabytes(1024 * kib['MemTotal'])}, {_gigabytes(1024 * kib['MemAvailable'])} available"
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (value := limit.read_text().strip()).isdecimal():
        said += f", at most {_gigabytes(int(value))} here"
    return said


def disk(results: Path) -> str:
    """Return what is free where results go."""
    place = results.absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return f"{_gigabytes(usage.free)} free of {_gigabytes(usage.total)}, for {results}"


def gpu() -> str:
    """Return each GPU with its memory and driver, as the driver's own tool names them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none: nvidia-smi is not on PATH"
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run([tool, *query], capture_output=True, text=True, timeout=30)
    if done.returncode:
        return f"nvidia-smi failed: {(done.stdout + done.stderr).strip().splitlines()[0]}"
    # Equal cards are told once.
    counted = Counter(line.strip() for line in done.stdout.splitlines() if line.strip())
    return "\n".join(f"{n} x {card}" for card, n in counted.items()) or "none"


def torch_build() -> str:
    """Return the build of torch, and whether it can compute on a GPU."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for processors"
    said = f"{torch.__version__}, built {built}, {torch.get_num_threads()} threads"
    from vixml.runtime import gpu_trouble

    trouble = gpu_trouble()
    if trouble is None:
        return f"{said}; CUDA: works"
    if trouble.gpu is None:
        return f"{said}; CUDA: not available ({trouble.why})"
    return f"{said}; CUDA: CANNOT BE USED beside {trouble.gpu}: {trouble.why}\nwhat now: {trouble.fix}"


def packages() -> str:
    """Return the main packages, and mark those that differ from requirements.lock."""
    locked = _locked()
    found = []
    for name in _main_packages():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} MISSING")
            continue
        pinned = locked.get(_normal(name))
        # torch's build stands behind a plus sign and depends on the machine.
        differs = pinned is not None and version.split("+")[0] != pinned
        found.append(f"{name} {version}" + (f" (LOCK {pinned})" if differs else ""))
    note = "" if locked else "\nrequirements.lock was not found: nothing to compare with"
    return ", ".join(found) + note


def _main_packages() -> list[str]:
    """Return what vixml requires: as its source says, else as it was installed, else what manifests name."""
    project = REPOSITORY / "pyproject.toml"
    if project.is_file():
        wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        try:
            wanted = importlib.metadata.requires("vixml") or []
        except importlib.metadata.PackageNotFoundError:
            return list(PACKAGES)
    return [re.match(r"[\w.-]+", line)[0] for line in wanted if "extra ==" not in line]


def _locked() -> dict[str, str]:
    for folder in (Path.cwd(), REPOSITORY):
        path = folder / "requirements.lock"
        if path.is_file():
            pins = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            return {_normal(name): version for name, version in pins}
    return {}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def snakemake() -> str:
    """Return the version of Snakemake, and where its command lies."""
    found = shutil.which("snakemake")
    beside = Path(sys.executable).with_name("snakemake")
    place = found or (f"{beside}, not on PATH" if beside.exists() else "the command was not found")
    return f"{importlib.metadata.version('snakemake')}, {place}"


def tools() -> str:
    """Return which tools beside Python are there."""
    return ", ".join(f"{name} {'yes' if shutil.which(name) else 'no'}" for name in TOOLS)


def configurations(config_dir: Path) -> str:
    """Return for each file of the workflow whether it can be read, with the first line of what is wrong."""
    base_path = config_dir / "config.yaml"
    # A folder of one's own may have overlays only; one without either is no configuration.
    base = read_yaml(base_path) if base_path.exists() or not (config_dir / "datasets.yaml").exists() else {}
    said = {}
    for path in sorted(config_dir.glob("*.yaml")):
        try:
            own = read_yaml(path)
            if "targets" not in own:
                continue  # datasets.yaml and models.yaml, which every other one reads
            load_workflow(base | own | {"config_dir": str(config_dir)}, path)
            said[path.name] = "ok"
        except VixmlError as error:
            said[path.name] = _first(error)
    wrong = [f"{name}: {text}" for name, text in said.items() if text != "ok"]
    fine = [name for name, text in said.items() if text == "ok"]
    return "\n".join([*([f"ok: {', '.join(fine)}"] if fine else []), *wrong])


def finished(results: Path) -> str:
    """Return how many folders of each stage are finished, and how many were begun only."""
    if not results.is_dir():
        return f"{results} does not exist"
    parts = []
    for name, pattern in FINISHED.items():
        folders = [path for path in results.glob(pattern) if path.is_dir()]
        done = sum((path / "manifest.json").exists() for path in folders)
        if folders:
            begun = len(folders) - done
            parts.append(f"{done} {name}" + (f" ({begun} unfinished)" if begun else ""))
    return ", ".join(parts) or "nothing finished yet"


def checkpoints(results: Path) -> str:
    """Return the checkpoints that lie around: trainings that run now, or that go on when they are started again."""
    said = []
    for path in sorted(results.glob("runs/*/*/seed*/checkpoint/state.pt")):
        stat = path.stat()
        minutes = max(0, round((time.time() - stat.st_mtime) / 60))
        run = "/".join(path.parts[-5:-2])
        said.append(f"{run}: {_gigabytes(stat.st_size)}, written {minutes} minutes ago")
    return "\n".join(said) or "none"


def lock(folder: Path) -> str:
    """Return whether Snakemake holds the folder locked, who does, and how to clear a lock that nobody holds."""
    if not locked(folder):
        return "none"
    if holders := processes(folder, "snakemake"):
        return f"held by a running snakemake (process {', '.join(map(str, holders))})"
    if jobs := processes(folder, "vixml"):
        return f"STALE, but jobs of a killed run go on (process {', '.join(map(str, jobs))}): end them, then `snakemake --unlock`"
    return "STALE, no snakemake runs here: clear it with `snakemake --unlock`"


def _gigabytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB"


# --- What each door to the workflow needs of the machine: a conda client, a SLURM with the partitions named, a DVC
# remote.


SEVERAL = 8  # names of partitions that are worth listing


def require_conda() -> None:
    """Check that Snakemake will find a conda client.

    Raises:
        VixmlError: there is none.
    """
    if shutil.which("conda") is None:
        raise VixmlError(
            "--use-conda needs a conda client, and there is none",
            found="no `conda` on PATH",
            expected="conda 24.7.1 or newer (Miniforge brings it)",
            hint="install one and activate it; or leave --use-conda out: then jobs run in the environment of `make install`",
        )


def require_slurm(partitions: Iterable[str]) -> None:
    """Check that SLURM answers here, and that it has every partition that jobs will be sent to.

    Args:
        partitions: names; one entry may be several, joined by commas, as ``sbatch`` takes them.

    Raises:
        VixmlError: no SLURM, no answer, or no such partition.
    """
    where = "profiles/slurm/config.yaml: slurm_partition"
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
            found=(done.stderr or done.stdout).strip().splitlines()[0],
            hint="try `sinfo`; when it lists partitions again, give the same command again",
        )
    offered = sorted(set(done.stdout.split()))
    for name in sorted({part for named in partitions for part in named.split(",")} - set(offered)):
        shown = ", ".join(offered[:SEVERAL]) + (f" and {len(offered) - SEVERAL} more" if len(offered) > SEVERAL else "")
        raise VixmlError(
            f"SLURM has no partition {name!r}",
            where=where,
            found=f"sinfo lists: {shown}",
            hint=f"name one of them there, or on the command line: --default-resources slurm_partition={offered[0]}"
            if offered
            else "ask your administrators for a partition",
        )


def require_array(rule: str, jobs: int, limit: int, at_once: int) -> None:
    """Check that a job array can be filled: the executor holds its jobs back until as many are ready, else for ever.

    Args:
        rule: whose jobs become arrays.
        jobs: of that rule, to be run.
        limit: jobs in one array at most (``--slurm-array-limit``, SLURM's own ``MaxArraySize``).
        at_once: jobs of that rule that may be under way together, by ``jobs`` and ``resources``.

    Raises:
        VixmlError: an array has more places than jobs may be under way.
    """
    if min(jobs, limit) > at_once:
        raise VixmlError(
            f"an array of {min(jobs, limit)} jobs of {rule} would never be submitted",
            where="profiles/slurm/config.yaml: jobs, resources",
            found=f"at most {at_once} of them may be under way at once",
            hint=f"give --slurm-array-limit {at_once}, or allow more jobs and GPUs",
        )


def require_remote(root: Path, name: str | None = None, *, filled: bool = False) -> str:
    """Check that DVC has a remote, and that it can be reached.

    Args:
        root: the repository.
        name: of the remote; the default one without it.
        filled: whether a folder must be there already, as for a pull; a push makes it, but never the disk under it.

    Returns:
        The remote's address.

    Raises:
        VixmlError: no remote, or one that does not answer.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    where = ".dvc/config, .dvc/config.local"
    add = "dvc remote add --default shared PLACE (a folder, s3://..., gs://..., ssh://...; docs/dvc.md)"
    try:
        with Repo(str(root)) as repo:
            known = sorted(repo.config["remote"])
            chosen = name or repo.config["core"].get("remote")
            if chosen is None or chosen not in known:
                raise VixmlError(
                    f"DVC knows no remote {chosen!r}" if chosen else "DVC has no default remote",
                    where=where,
                    found=f"remotes: {', '.join(known) or 'none'}",
                    hint=f"name one of them, or add one: {add}" if known else add,
                )
            remote = repo.cloud.get_remote(chosen)
            address = remote.fs.unstrip_protocol(remote.path)
            place = remote.path
            if remote.fs.protocol == "local" and not filled:
                place = str(Path(place).parent)
            if not remote.fs.exists(place):
                raise VixmlError(
                    f"the DVC remote {chosen!r} is not there",
                    where=where,
                    found=f"nothing at {place}",
                    hint=f"mount or make it, or put it right: dvc remote modify {chosen} url PLACE",
                )
            return address
    except VixmlError:
        raise
    except (DvcException, ImportError, OSError) as error:
        raise VixmlError(
            f"the DVC remote {name or 'that is the default'} cannot be reached",
            where=where,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint="s3:// needs `pip install dvc-s3`, gs:// dvc-gs, ssh:// dvc-ssh; credentials: docs/dvc.md",
        ) from None
    except Exception as error:  # each kind of store has errors of its own
        raise VixmlError(
            f"the DVC remote {name or 'that is the default'} does not answer",
            where=where,
            found=f"{type(error).__name__}: {error}".splitlines()[0],
            hint="check its address (dvc remote list) and credentials (docs/dvc.md)",
        ) from None
