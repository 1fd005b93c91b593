"""Try hostile and odd cases, and say which gave neither the right result nor one clear error.

    python tests/torture/run.py --cases 2000

Kinds: `input` (damaged files of every kind that a user or the web gives), `damage` (of every intermediate file), `kill` (a stage, at
a file operation), `disk` (full, read-only, blinking), `web` (a hostile server), `image` (every mode, depth and orientation), `entry`
(snakemake, killed after some results). Each case runs in a process of its own, with a limit of time and memory. The same seed gives
the same cases. Of each bad one a folder remains with its files, what was said, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / part) for part in ("torture", "", "workflow", "images", "data", "models")]
ENVIRONMENT = {"VIXML_PRECISION": "fp32", "VIXML_PROGRESS": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
if __name__ == "__main__":
    os.environ |= ENVIRONMENT

from vixml import torchvision_fix as _first  # noqa: E402, F401 -- before transformers
from vixml.errors import VixmlError  # noqa: E402

CONFIG = TESTS.parent / "config"
SECONDS, MEMORY = 60, 6 << 30  # of one case
# Kind -> cases of each round; below 0: one every so many rounds.
EVERY = {"input": 12, "image": 4, "kill": 2, "disk": 2, "damage": 2, "web": -2, "entry": -20}
KINDS = tuple(EVERY)


@dataclass(frozen=True)
class Case:
    """One case: ``work`` gets an empty folder, in a process of its own; it may raise :class:`VixmlError` and nothing else."""

    kind: str
    name: str
    work: Callable[[Path], None]


def cases(seed: int, kinds: list[str], scratch: Path) -> Iterator[Case]:
    """Yield cases without end: of each kind in turn, and the more often the quicker its cases are."""
    streams = {kind: _stream(kind, random.Random(f"{seed}:{kind}"), scratch) for kind in kinds}
    for turn in count():
        for kind, stream in streams.items():
            often = EVERY[kind]
            yield from islice(stream, often if often > 0 else int(turn % -often == 0))


def _stream(kind: str, draw: random.Random, scratch: Path) -> Iterator[Case]:
    if kind == "input":
        import inputs

        subjects = list(inputs.subjects(CONFIG))
        others = [data for subject in subjects for data in subject.files.values()]
        while True:
            for subject in subjects:
                number = draw.randrange(10**9)

                def work(folder: Path, subject: inputs.Subject = subject, number: int = number) -> None:
                    subject.write(folder, random.Random(number), others)
                    subject.read(folder)

                yield Case(kind, f"{subject.name} {number}", work)
    elif kind in ("kill", "disk", "damage"):
        import faults

        world = _world(scratch)
        operations = _counted(world, scratch)
        for found, fault in faults.faults(draw, world, operations):
            if found == kind:
                yield Case(kind, fault.name, fault.work)
    else:
        import others

        yield from (Case(kind, name, work) for name, work in getattr(others, f"{kind}_cases")(draw, scratch))


def _world(scratch: Path) -> Path:
    import faults

    world = scratch / "world"
    if not world.exists():
        outcome = tried(Case("set-up", "world", lambda _: faults.make_world(world, CONFIG)), scratch / "make", 600)
        assert outcome is None, outcome
    return world


def _counted(world: Path, scratch: Path) -> dict[str, int]:
    import faults

    found = {}
    for step in faults.STEPS:
        path = scratch / f"operations-{step}"
        if not path.exists():
            work = lambda _, step=step, path=path: path.write_text(str(faults.count_operations(world, step)))  # noqa: E731
            outcome = tried(Case("set-up", step, work), scratch / "count", 600)
            assert outcome is None, outcome
        found[step] = int(path.read_text())
    return found


def tried(case: Case, folder: Path, seconds: float = SECONDS) -> str | None:
    """Run a case in a process of its own; return what was bad, or None."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said = folder.with_name(f"{folder.name}.said")
    child = os.fork()
    if child == 0:
        os.setsid()
        _in_the_child(case, folder, said)
    ends = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > ends:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"not done after {seconds} s"
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started and left
    if status == 0:
        return None
    text = said.read_text(encoding="utf-8", errors="replace")[-4000:]
    return f"{'signal' if os.WIFSIGNALED(status) else 'status'} {status & 127 or status >> 8}\n{text}"


def _in_the_child(case: Case, folder: Path, said: Path) -> None:
    status = 1
    try:
        stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1), os.dup2(stream, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ |= ENVIRONMENT
        resource.setrlimit(
            resource.RLIMIT_AS, (resource.RLIM_INFINITY if case.kind == "entry" else MEMORY + _mapped(),) * 2
        )
        os.chdir(folder)
        case.work(folder)
        status = 0
    except VixmlError:
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def torture(n: int, seed: int, kinds: list[str], out: Path, processes: int = 2, only: str = "") -> Counter[str]:
    """Try ``n`` cases; return how many were good and bad, by kind."""
    import torch

    torch.set_num_threads(1)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch, ThreadPoolExecutor(processes) as pool:
        chosen = (case for case in cases(seed, kinds, Path(scratch)) if only in f"{case.kind} {case.name}")

        def attempt(number: int, case: Case) -> tuple[int, Case, Path, str | None]:
            folder = Path(scratch) / f"case-{number}"
            return number, case, folder, tried(case, folder, 600 if case.kind == "entry" else SECONDS)

        waiting = []
        for number, case in enumerate(islice(chosen, n)):
            waiting.append(pool.submit(attempt, number, case))
            while len(waiting) >= 2 * processes or (number == n - 1 and waiting):
                _, case, folder, bad = waiting.pop(0).result()
                found[f"{case.kind} {'bad' if bad else 'good'}"] += 1
                if bad:
                    _keep(case, folder, bad, out, seed)
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_name(f"{folder.name}.said").unlink(missing_ok=True)
    return found


def _keep(case: Case, folder: Path, bad: str, out: Path, seed: int) -> None:
    """Write a reproduction of a bad case."""
    place = out / "".join(c if c.isalnum() else "-" for c in f"{case.kind} {case.name}")[:100]
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(
        folder, place / "files", symlinks=True, ignore=shutil.ignore_patterns("results")
    ) if folder.exists() else place.mkdir(parents=True)
    command = f"python tests/torture/run.py --seed {seed} --kinds {case.kind} --only '{case.name}' --cases 1"
    (place / "bad.txt").write_text(f"{case.kind}: {case.name}\n\n{command}\n\n{bad}\n", encoding="utf-8")
    print(f"bad: {case.kind}: {case.name}: {bad.strip().splitlines()[-1][:150]}", flush=True)


def main() -> int:
    """Parse arguments, try the cases, print a table; return 1 if one was bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of " + ", ".join(KINDS))
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--out", type=Path, default=Path("results/torture"), help="for reproductions of bad cases")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    started = time.monotonic()
    found = torture(given.cases, given.seed, given.kinds.split(","), given.out.resolve(), given.processes, given.only)
    minutes = (time.monotonic() - started) / 60
    print(f"{'kind':<8} {'tried':>6} {'good':>6} {'bad':>6}")
    for kind in (*given.kinds.split(","), "all"):
        good, bad = (
            sum(v for k, v in found.items() if k.endswith(e) and (kind == "all" or k.startswith(kind)))
            for e in (" good", " bad")
        )
        print(f"{kind:<8} {good + bad:>6} {good:>6} {bad:>6}")
    print(
        f"{minutes:.1f} minutes" + (f"; reproductions in {given.out}" if any(k.endswith("bad") for k in found) else "")
    )
    return int(any(k.endswith(" bad") for k in found))


if __name__ == "__main__":
    sys.exit(main())
