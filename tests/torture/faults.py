"""Faults of the machine under every stage: killed at a file operation, a disk that is full, read-only or blinking, damaged files."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import tiny_world
import yaml
from inputs import mutate, refused

from vixml.cli import main
from vixml.provenance import MANIFEST, not_whole

RUN, RUNS = ("picto", "vixml-minilm-l3"), "runs/picto/vixml-minilm-l3/seed0"
CHOSEN = {"reuse": "vixml-minilm-l3", "inference": {"method": "chosen", "image_weight": 0.3, "lexical_weight": 0.3}}
PAIRS = enumerate(product(tiny_world.SHAPES, tiny_world.COLOURS))
TABLE = "id,name,kind,pictures\n" + "".join(f"i{n},{shape} {colour},kind {n % 3},\n" for n, (shape, colour) in PAIRS)


@dataclass(frozen=True)
class Step:
    """A command of vixml: a stage, or what a user calls on his results.

    Attributes:
        words: its arguments, the command first.
        folder: that it writes, below results.
        reads: the folders of these other steps.
        last: the file of its folder that is there only if all others are.
    """

    words: tuple[str, ...]
    folder: str
    reads: tuple[str, ...] = ()
    last: str = MANIFEST

    def __call__(self) -> int:
        """Run it in this process; return its status."""
        return main(list(self.words))


CORPUS, MODEL, IMAGES = "build-corpus", "prepare-model", "embed-images"
ENCODES = (CORPUS, MODEL, "tokenize", IMAGES)
SCORED = ("--score", f"results/{RUNS}/test/score")
TAGGER = ("--model", "results/picto.model")
# In the order in which they run.
STEPS = {
    CORPUS: Step((CORPUS, "picto"), "data/picto/corpus"),
    MODEL: Step((MODEL, "minilm-l3"), "models/minilm-l3"),
    "tokenize": Step(("tokenize", "picto", "minilm-l3", "--max-len", "16"), "data/picto/tokens/minilm-l3-16", (CORPUS, MODEL)),
    "hash-texts": Step(("hash-texts", "picto"), "data/picto/lexical", (CORPUS,)),
    "render-images": Step(("render-images", "picto"), "data/picto/images", (CORPUS,)),
    IMAGES: Step((IMAGES, "picto", "efficientnet-lite0"), "data/picto/embeddings/efficientnet-lite0", ("render-images",)),
    "export-dataset": Step(("export-dataset", "picto"), "exported/picto", (CORPUS, "render-images")),
    "train": Step(("train", *RUN), f"{RUNS}/model", ENCODES),
    "build-index": Step(("build-index", *RUN), f"{RUNS}/index", (*ENCODES, "train")),
    "measure-latency": Step(("measure-latency", *RUN), f"{RUNS}/latency", (*ENCODES, "train", "build-index")),
    "choose-inference": Step(
        ("choose-inference", "picto", "chosen"), "runs/picto/chosen/seed0/choice",
        (CORPUS, "build-index", IMAGES, "hash-texts", "train"),
    ),
    "predict": Step(("predict", *RUN), f"{RUNS}/test/predictions", (CORPUS, "build-index")),
    "score": Step(("score", *RUN), f"{RUNS}/test/score", (CORPUS, "predict")),
    "predict held out": Step(("predict", *RUN, "--split", "validation"), f"{RUNS}/validation/predictions", (CORPUS, "build-index", "train")),
    "score held out": Step(("score", *RUN, "--split", "validation"), f"{RUNS}/validation/score", (CORPUS, "predict held out")),
    "make-tables": Step(("make-tables", "--tables", "table3", *SCORED, "--out", "results/tables"), "tables", ("score",)),
    "make-figures": Step(("make-figures", "--figures", "figure2", *SCORED, "--out", "results/figures"), "figures", ("score",)),
    "make-report": Step(
        ("make-report", "--tables", "table3", *SCORED, "--figures-dir", "results/figures", "--corpus", "results/data/picto/corpus",
         "--images", "results/data/picto/images", "--out", "results/report"), "report", ("score", "make-figures", CORPUS, "render-images"),
    ),
    "make-tuning": Step(("make-tuning", "--score", f"results/{RUNS}/validation/score", "--out", "results/tuning"), "tuning", ("score held out",)),
    "new": Step(("new", "shop", "table.csv", "--id", "id", "--text", "name", "--labels", "kind", "--images", "none", "--out", "results/new/shop.yaml", "--force"), "new", last="shop.yaml"),
    "pack": Step(("pack", *RUN, "--out", "results/picto.model"), "picto.model", (*ENCODES, "train", "build-index"), "model.json"),
    "tag": Step(("tag", "table.csv", *TAGGER, "--out", "results/tags/tags.csv", "--text", "name"), "tags", ("pack",), "tags.csv"),
    "export to onnx": Step(("export", "--to", "onnx", *TAGGER, "--out", "results/onnx"), "onnx", ("pack",), "README.md"),
    "export to faiss": Step(("export", "--to", "faiss", *TAGGER, "--out", "results/faiss"), "faiss", ("pack",), "README.md"),
    "export to sentence-transformers": Step(("export", "--to", "sentence-transformers", *TAGGER, "--out", "results/st"), "st", ("pack",), "README.md"),
}  # fmt: skip
# What differs from run to run.
TIMES = {MANIFEST, "training.json", "log.jsonl", "latency.json"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {
    "open",
    *(f"os.{name}" for name in ("rename", "link", "mkdir", "remove", "rmdir", "truncate", "chmod", "symlink")),
}


def make_world(folder: Path, config: Path) -> None:
    """Run every stage once on the miniature; the folder is never changed again."""
    (folder / "config" / "runs").mkdir(parents=True)
    shutil.copytree(config / "presets", folder / "config" / "presets")
    tiny_world.write(folder)
    for part in ("tables", "figures", "reported"):
        shutil.copytree(config / part, folder / "config" / part)
    runs = tiny_world.RUNS | {"runs": tiny_world.RUNS["runs"] | {"chosen": CHOSEN}}
    (folder / "config/runs/picto.yaml").write_text(yaml.safe_dump(runs), encoding="utf-8")
    (folder / "table.csv").write_text(TABLE, encoding="utf-8")
    os.chdir(folder)
    for step in STEPS:
        assert STEPS[step]() == 0, step


def outputs(step: str, results: Path = Path("results")) -> dict[str, str]:
    """Return the hashes of what a step has written, without what differs from run to run and the path of this folder."""
    folder, here = results / STEPS[step].folder, bytes(results.parent.resolve())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes().replace(here, b".")).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in TIMES
        and not path.parent.name.endswith("-tagging")  # parts that resume, which a failing disk could not remove
    }


def copied(world: Path, step: str) -> None:
    """Make this folder the world before a stage: links to the files of the others."""
    later = [STEPS[name].folder for name in list(STEPS)[list(STEPS).index(step) :]]
    shutil.copytree(world / "config", "config")
    shutil.copy(world / "table.csv", "table.csv")
    for path in sorted((world / "results").rglob("*")):
        relative = path.relative_to(world / "results")
        if path.is_file() and not any(relative.is_relative_to(folder) for folder in later):
            target = Path("results", relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)


class Operations:
    """Call ``act`` at chosen changes of files by this process; threads count too.

    Args:
        act: called with the number of the operation, from 1, before it is carried out.
    """

    def __init__(self, act: Callable[[int], None]) -> None:
        self.count, self.act, self.place = 0, act, os.path.realpath(os.getcwd())
        sys.addaudithook(self._seen)

    def _seen(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES or (event == "open" and not arguments[2] & WRITES):
            return
        name = arguments[0]
        if isinstance(name, int) or not os.path.realpath(os.fsdecode(name)).startswith(self.place):
            return
        self.count += 1
        self.act(self.count)


def in_a_child(work: Callable[[], int]) -> int:
    """Run something in a process of its own; return its status as ``os.waitpid`` gives it."""
    if (child := os.fork()) == 0:
        status = 70
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def count_operations(world: Path, step: str) -> int:
    """Return how many file operations a stage has."""
    copied(world, step)
    seen = Operations(lambda _: None)
    assert STEPS[step]() == 0
    return seen.count


def expect_whole_or_absent(world: Path, step: str) -> None:
    """Check that a step that was stopped left all of its files or none that counts."""
    folder, last = Path("results", STEPS[step].folder), STEPS[step].last
    if not (folder / last).exists():
        return
    whole = not not_whole(folder) if last == MANIFEST else outputs(step) == outputs(step, world / "results")
    assert whole, f"{folder} counts as finished and is not"


def expect_resumed(world: Path, step: str) -> None:
    """Check that the same command ends with the same files."""
    assert in_a_child(lambda: STEPS[step]()) == 0, "the same command does not succeed afterwards"
    assert outputs(step) == outputs(step, world / "results"), "the same command gives other files afterwards"
    left = [str(path) for path in Path("results").rglob(".tmp-*")]
    assert not left, f"left behind: {left}"


def kill(world: Path, step: str, at: int) -> None:
    """Kill a stage at a file operation, look at what it left, and run it again."""
    copied(world, step)

    def work() -> int:
        Operations(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == at else None)
        return STEPS[step]()

    in_a_child(work)
    expect_whole_or_absent(world, step)
    expect_resumed(world, step)


def survive(world: Path, step: str, fault: Callable[[], object]) -> None:
    """Run a stage after a fault has begun: an error or the right result, and the right result afterwards."""
    copied(world, step)

    def work() -> int:
        fault()
        refused(STEPS[step]())
        return 0

    assert in_a_child(work) == 0, "neither a result nor a clear error"
    expect_whole_or_absent(world, step)
    expect_resumed(world, step)


def failing_disk(world: Path, step: str, at: int, number: int, once: bool) -> None:
    """Let file operations fail, one or all from there on."""

    def fail(count: int) -> None:
        if count == at or (count > at and not once):
            raise OSError(number, os.strerror(number))

    survive(world, step, lambda: Operations(fail))


def small_disk(world: Path, step: str, size: int) -> None:
    """Let no file grow beyond a size, as on a full disk; also where a library writes."""

    def limit() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1), os.dup2(1, 2)  # these are files, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    survive(world, step, limit)


def damaged(world: Path, step: str, file: str, seed: int) -> None:
    """Damage a file that a stage reads: the same result, or a clear error."""
    copied(world, step)
    path, draw = Path("results", file), random.Random(seed)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(mutate(draw, data, [b"", b"{}", b"[]"]))
    if path.read_bytes() == data:
        return
    status = STEPS[step]()
    refused(status)
    if status == 0:
        same = outputs(step) == outputs(step, world / "results")
        assert same, f"another result from a damaged {file}, without an error"


@dataclass(frozen=True)
class Fault:
    """A case of this module; ``work`` runs in an empty folder."""

    name: str
    work: Callable[[Path], None]


def faults(draw: random.Random, world: Path, operations: dict[str, int]) -> Iterator[tuple[str, Fault]]:
    """Yield (kind, fault) without end, each kind in turn."""
    errors = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EMFILE)
    while True:
        step = draw.choice(list(STEPS))
        at = draw.randrange(1, operations[step] + 1)
        yield "kill", Fault(f"{step}, operation {at}", lambda _, step=step, at=at: kill(world, step, at))
        step, number, once = draw.choice(list(STEPS)), draw.choice(errors), draw.random() < 0.5
        at = draw.randrange(1, operations[step] + 1)
        name = f"{step}, {errno.errorcode[number]} at {at}, {'once' if once else 'from there on'}"
        yield "disk", Fault(name, lambda _, a=(step, at, number, once): failing_disk(world, *a))
        step, size = draw.choice(list(STEPS)), draw.choice([0, 100, 4096, 20_000, 200_000])
        yield "disk", Fault(f"{step}, files up to {size} bytes", lambda _, a=(step, size): small_disk(world, *a))
        step = draw.choice([name for name, step in STEPS.items() if step.reads])
        folder = STEPS[draw.choice(STEPS[step].reads)].folder
        file = f"{folder}/{draw.choice(sorted(_files(world / 'results' / folder)))}"
        seed = draw.randrange(10**6)
        yield "damage", Fault(f"{step}, {file}, {seed}", lambda _, a=(step, file, seed): damaged(world, *a))


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
