"""Try hostile and odd cases, and say which gave neither the right result nor one clear error.

    python tests/torture/run.py --cases 2000

Kinds: `input` (damaged files of every kind that a user or the web gives), `damage` (of every intermediate file), `kill` (a stage, at a
file operation), `disk` (full, read-only, blinking), `web` (a hostile server), `source` (a download, a fetch or an import, killed at a
file operation), `image` (every mode, depth and orientation), `entry` (snakemake, dvc and fit, killed with all of their processes at a
file operation). Each case runs in a process of its own, with a limit of time and memory. The same seed gives the same cases. Of each
bad one a folder remains with its files, what was said, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import importlib
import math
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
from vixml.cli import warm  # noqa: E402
from vixml.errors import VixmlError  # noqa: E402
from vixml.stages import STAGES  # noqa: E402

CONFIG = TESTS.parent / "config"
# Processor time and memory of one case; on a busy machine, it may take ten times as long.
SECONDS, MEMORY, WAITS = 60, 6 << 30, 10
LIMITS = {"entry": 300}
# Kind -> cases of each round; below 0: one every so many rounds.
EVERY = {"input": 12, "image": 4, "kill": 2, "disk": 2, "damage": 2, "web": -2, "source": -2, "entry": -6}
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
        module = importlib.import_module({"entry": "entry", "source": "sources"}.get(kind, "others"))
        yield from (Case(kind, name, work) for name, work in getattr(module, f"{kind}_cases")(draw, scratch))


def _world(scratch: Path) -> Path:
    import faults

    world, made = scratch / "world", scratch / "world-made"
    if not made.exists():
        shutil.rmtree(world, ignore_errors=True)
        outcome = tried(Case("set-up", "world", lambda _: faults.make_world(world, CONFIG)), scratch / "make", 600)
        assert outcome is None, outcome
        made.touch()
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


@dataclass
class Attempt:
    """A case that runs in a process of its own, the first of its group; ``ends`` is a time of the clock."""

    case: Case
    folder: Path
    child: int
    ends: float

    @classmethod
    def start(cls, case: Case, folder: Path, seconds: float) -> Attempt:
        """Start a case in an empty folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sys.stdout.flush(), sys.stderr.flush()
        if (child := os.fork()) == 0:
            _in_the_child(case, folder, cls._said(folder), seconds)
        return cls(case, folder, child, time.monotonic() + WAITS * seconds)

    @staticmethod
    def _said(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.said")

    def outcome(self) -> tuple[str | None, float] | None:
        """Return what was bad (None: nothing) and the processor time in seconds, or None while it runs."""
        done, status, used = os.wait4(self.child, os.WNOHANG)
        late = not done and time.monotonic() > self.ends
        if not done and not late:
            return None
        with suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)  # of one that ended: what it started and left
        if late:
            used = os.wait4(self.child, 0)[2]
        seconds, bad = used.ru_utime + used.ru_stime, None
        if late:
            bad = "not done in time"
        elif status:
            text = self._said(self.folder).read_text(encoding="utf-8", errors="replace")[-4000:]
            bad = f"{'signal' if os.WIFSIGNALED(status) else 'status'} {status & 127 or status >> 8}\n{text}"
        return bad, seconds

    def remove(self) -> None:
        """Remove its folder and what it said."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._said(self.folder).unlink(missing_ok=True)


def tried(case: Case, folder: Path, seconds: float = SECONDS) -> str | None:
    """Run a case in a process of its own; return what was bad, or None.

    Args:
        case, folder: what, and where.
        seconds: of processor time; on a busy machine it may take :data:`WAITS` times as long.
    """
    attempt = Attempt.start(case, folder, seconds)
    while (outcome := attempt.outcome()) is None:
        time.sleep(0.01)
    return outcome[0]


def _in_the_child(case: Case, folder: Path, said: Path, seconds: float) -> None:
    status = 1
    try:
        os.setsid()
        stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(stream, 1), os.dup2(stream, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ |= ENVIRONMENT
        if case.kind != "entry":  # snakemake and what it starts
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY + _mapped(),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
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


class Tally:
    """What came of the cases of each kind, and the processor time that they took."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def add(self, kind: str, bad: bool, seconds: float) -> None:
        """Count a case."""
        self.counts[f"{kind} {'bad' if bad else 'good'}"] += 1
        self.seconds[kind] += seconds

    @property
    def bad(self) -> int:
        """Return how many cases were bad."""
        return sum(n for name, n in self.counts.items() if name.endswith(" bad"))

    def line(self) -> str:
        """Return one line."""
        n = self.counts.total()
        return f"{n} tried, {n - self.bad} good, {self.bad} bad, {sum(self.seconds.values()) / 60:.1f} min of processor time"

    def table(self) -> str:
        """Return a table by kind."""
        rows = [f"{'kind':<8} {'tried':>6} {'good':>6} {'bad':>6} {'s of processor per case':>24}"]
        for kind in self.seconds:
            good, bad = self.counts[f"{kind} good"], self.counts[f"{kind} bad"]
            rows.append(f"{kind:<8} {good + bad:>6} {good:>6} {bad:>6} {self.seconds[kind] / (good + bad):>24.2f}")
        return "\n".join([*rows, self.line()])


def torture(
    n: int, seed: int, kinds: list[str], out: Path, processes: int = 2, only: str = "", kept: Path | None = None
) -> Tally:
    """Try ``n`` cases, ``processes`` at once, and keep a reproduction of each bad one in ``out``; ``kept`` as in :func:`main`."""
    import torch

    modules = {stage.module for stage in STAGES.values()} | {"vixml.tagging.stream", "vixml.tagging.pack"}
    for name in (*warm.LIBRARIES, *modules):
        importlib.import_module(name)  # once, not in each case
    torch.set_num_threads(1)
    tally, running, shown = Tally(), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", dir=kept) as scratch:
        chosen = (case for case in cases(seed, kinds, kept or Path(scratch)) if only in f"{case.kind} {case.name}")
        waiting = enumerate(islice(chosen, n))
        try:
            while running or waiting is not None:
                # This process has no threads: a child that is forked beside one may wait for a lock that nobody releases.
                if waiting is not None and len(running) < processes:
                    if (following := next(waiting, None)) is None:
                        waiting = None
                    else:
                        number, case = following
                        seconds = LIMITS.get(case.kind, SECONDS)
                        running.append(Attempt.start(case, Path(scratch, f"case-{number}"), seconds))
                    continue
                ended = [(attempt, outcome) for attempt in running if (outcome := attempt.outcome()) is not None]
                for attempt, (bad, seconds) in ended:
                    running.remove(attempt)
                    tally.add(attempt.case.kind, bad is not None, seconds)
                    if bad is not None:
                        _keep(attempt.case, attempt.folder, bad, out, seed)
                    attempt.remove()
                if time.monotonic() > shown + 60:
                    shown = time.monotonic()
                    print(f"{tally.counts.total()} of {n}: {tally.line()}", flush=True)
                if not ended:
                    time.sleep(0.005)
        finally:
            for attempt in running:
                with suppress(ProcessLookupError):
                    os.killpg(attempt.child, signal.SIGKILL)
    return tally


def _keep(case: Case, folder: Path, bad: str, out: Path, seed: int) -> None:
    """Write a reproduction of a bad case."""
    place = out / "".join(c if c.isalnum() else "-" for c in f"{case.kind} {case.name}")[:100]
    shutil.rmtree(place, ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, place / "files", symlinks=True, ignore=shutil.ignore_patterns("results"))
    place.mkdir(parents=True, exist_ok=True)
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
    parser.add_argument("--kept", type=Path, help="folder for the finished miniature, which another call uses again")
    given = parser.parse_args()
    if given.kept is not None:
        given.kept = given.kept.resolve()
        given.kept.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    kinds, out = given.kinds.split(","), given.out.resolve()
    tally = torture(given.cases, given.seed, kinds, out, given.processes, given.only, given.kept)
    print(tally.table())
    kept = f"; reproductions in {given.out}" if tally.bad else ""
    print(f"{(time.monotonic() - started) / 60:.1f} minutes{kept}")
    return int(tally.bad > 0)


if __name__ == "__main__":
    sys.exit(main())
