"""Check finished results in stages, from data to scores: a failure names its stage, and later stages are not looked at.

A number can only be right if everything in front of it is. So nothing is said of a score before the data, the tokens, the
image vectors, the models, the indexes and the predictions behind it were found in order.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.load import load_world, unknown_key
from vixml.config.registry import World
from vixml.data.corpus import SPLITS, Corpus, verify_counts
from vixml.data.propensity import inverse_propensity
from vixml.errors import VixmlError
from vixml.evaluation.metrics import evaluate
from vixml.evaluation.predictions import load_predictions
from vixml.files import load_array, read_json, sha256_file, sha256_json
from vixml.images.bank import ImageBank, take_rows
from vixml.provenance import MANIFEST, read_manifest
from vixml.ragged import Ragged

# --- Look into predictions and scores: whole rankings, exact search again, every metric again. One function a
# question.


QUERIES = 128  # queries that are searched again
LABELS = 8192  # labels compared with them at a time
# Two ways of adding up one inner product of unit vectors.
CLOSE = 1e-5
SAMPLED = 0.01  # the recall of an index may be off by this much: two samples of queries differ


# -- predictions ------------------------------------------------------------------------------------------------------


def rankings(predictions: Sealed, corpus: Corpus) -> Outcome:
    """Check every ranking: labels that exist, each once, best first."""
    source = _source(predictions)
    found = load_predictions(predictions.path, corpus.n(source), corpus.n_labels)
    if (found.rows is not None) != (source == "train"):
        expected = "held-out rows of train for split validation, and for no other"
        return Failed("predictions of another split", predictions.config["split"], expected, predictions.path)
    return Ok()


def exact_recall(predictions: Sealed, corpus: Corpus) -> Outcome:
    """Check the rankings of a label search against all inner products, for a sample of queries.

    Of an exact search recall@k must be 1, for each query; through an index that looks at a part of the labels, the mean must
    be what the run asks for, less :data:`SAMPLED`. Labels that tie at place k stand for one another. Predictions by votes or by
    popularity have no such reference.
    """
    how = predictions.config["inference"]
    if how["method"] != "label-search":
        return Ok(f"{how['method']}: rankings whole")
    index = predictions.locate(predictions.manifest["inputs"]["index"]["path"])
    if index is None:
        return NotThere(f"the index of {predictions.path}")
    source = _source(predictions)
    found = load_predictions(predictions.path, corpus.n(source), corpus.n_labels)
    ranked, scores = found.labels, load_array(predictions.path / "scores.npy")
    some = sample(len(ranked), QUERIES)
    rows = some if found.rows is None else found.rows[some]
    queries = load_array(index / f"{source}.npy")[rows].astype(np.float64)
    labels = load_array(index / f"label_{how['labels_as']}.npy")
    pairs = corpus.filter(source)
    banned = Ragged.from_rows([[]] * len(rows), len(labels)) if pairs is None else pairs.take(rows)
    k, right, wanted = ranked.shape[1], 0, 0
    exactly = how.get("index", "exact") == "exact"
    best = _best_scores(queries, labels, banned, k)
    file = predictions.path / "labels.npy"
    for i, row in enumerate(some):
        reachable, own = best[i][best[i] > -np.inf], ranked[row][ranked[row] >= 0]
        if len(own) != len(reachable) or np.isin(own, banned.row(i)).any():
            return Failed(
                "a ranking has too few labels, or one that the filter excludes",
                f"{len(own)} labels, {np.isin(own, banned.row(i)).sum()} excluded",
                f"{len(reachable)} labels",
                f"{file}, row {row}",
            )
        exact = labels[own].astype(np.float64) @ queries[i]
        if (off := np.abs(exact - scores[row, : len(own)]).max(initial=0)) > CLOSE:
            return Failed(
                "scores are not the inner products of the index",
                f"off by {off:.3g}",
                f"within {CLOSE:g}",
                f"{predictions.path / 'scores.npy'}, row {row}",
            )
        hits = int((exact >= reachable.min(initial=np.inf) - CLOSE).sum())
        wanted += len(reachable)
        if hits < len(reachable) and exactly:
            return Failed(
                "a ranking is not that of an exact search",
                f"recall@{k} = {hits / len(reachable):.4f}",
                "1",
                f"{file}, row {row}",
            )
        right += hits
    if exactly:
        return Ok(f"recall@{k} = 1 against exact search")
    recall = right / max(wanted, 1)
    if recall < how["index_recall"] - SAMPLED:
        return Failed(
            "an index misses more than the run allows",
            f"recall@{k} = {recall:.4f}",
            f"{how['index_recall']:g}, on another sample of queries",
            file,
        )
    return Ok(f"recall@{k} of at least {how['index_recall']:g} through an index ({how['index']})")


def _best_scores(queries: np.ndarray, labels: np.ndarray, banned: Ragged, k: int) -> np.ndarray:
    """Return each query's k largest inner products with labels that are not banned: (n, k) float64, -inf for none."""
    best = np.full((len(queries), k), -np.inf)
    at, excluded = banned.row_ids(), banned.values
    for start in range(0, len(labels), LABELS):
        block = queries @ labels[start : start + LABELS].astype(np.float64).T
        here = (excluded >= start) & (excluded < start + LABELS)
        block[at[here], excluded[here] - start] = -np.inf
        both = np.concatenate([best, block], axis=1)
        best = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    return best


# -- scores -----------------------------------------------------------------------------------------------------------


def same_scores(score: Sealed, corpus: Corpus) -> Outcome:
    """Compute every metric again from the predictions, and compare it with what ``scores.json`` says."""
    file = score.path / "scores.json"
    said = read_json(file)
    config = score.config
    identity = {key: config[key] for key in ("dataset", "run", "seed", "split", "ks", "deep_ks")}
    outcome = same(said, identity, file, "a score of something else than its folder says")
    if isinstance(outcome, Failed):
        return outcome
    folder = score.locate(score.manifest["inputs"]["predictions"]["path"])
    if folder is None:
        return NotThere(f"the predictions of {score.path}")
    source = _source(score)
    predictions = load_predictions(folder, corpus.n(source), corpus.n_labels)
    truth, pairs = corpus.labels(source), corpus.filter(source)
    if predictions.rows is not None:
        truth, pairs = truth.take(predictions.rows), None if pairs is None else pairs.take(predictions.rows)
    how = config["propensity"]
    weights = inverse_propensity(corpus.labels("train").counts(), corpus.n("train"), how["a"], how["b"])
    again = evaluate(
        predictions.labels, truth, weights, filter=pairs, ks=config["ks"], deep_ks=config["deep_ks"]
    ).metrics
    if set(again) != set(said["metrics"]):
        return Failed("a score has other metrics", ", ".join(said["metrics"]), ", ".join(again), file)
    for name, value in again.items():
        if not abs(value - said["metrics"][name]) <= 1e-6:
            return Failed(f"{name} is not that of the predictions", said["metrics"][name], value, f"{file}: {name}")
    return Ok(f"{len(again)} metrics computed again")


def _source(folder: Sealed) -> str:
    return "test" if folder.config["split"] == "test" else "train"


# --- Look into a trained model and its vectors: the record, the weights, the norms. One function a question,
# without torch.


PART = 1 << 24  # bytes of a tensor read at a time
# Rows are normalised in float32.
UNIT = 1e-4
# How a number is stored -> its bits as an unsigned number, and an exponent of ones only: NaN or infinity. Read so,
# bfloat16 needs no library.
EXPONENT = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}


# -- model ------------------------------------------------------------------------------------------------------------


def training_record(model: Sealed, identity: dict[str, object]) -> Outcome:
    """Check that ``training.json`` is of this run, and that its last loss is a number."""
    file = model.path / "training.json"
    record = read_json(file)
    outcome = same(record, identity, file, "a training record of something else")
    if isinstance(outcome, Failed):
        return outcome
    loss = (record.get("last_epoch") or {}).get("loss")
    if loss is not None and not math.isfinite(loss):
        return Failed("a training ended without a loss", loss, "a finite number", f"{file}: last_epoch.loss")
    return Ok()


def finite_weights(model: Sealed) -> Outcome:
    """Check that no weight of a trained model is NaN or infinite, a piece of a tensor at a time."""
    file = model.path / "model.safetensors"
    if not file.exists():
        return NotThere(str(file))
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    for name, entry in header.items():
        if entry.get("dtype") not in EXPONENT:
            continue  # whole numbers, and the file's own notes
        kind, ones = EXPONENT[entry["dtype"]]
        start, stop = entry["data_offsets"]
        width = np.dtype(kind).itemsize
        for at in range(start, stop, PART):
            n = (min(at + PART, stop) - at) // width
            bits = np.fromfile(file, dtype=kind, count=n, offset=8 + length + at)
            wrong = (bits & bits.dtype.type(ones)) == ones
            if wrong.any():
                place = f"{file}: {name}, number {(at - start) // width + int(np.argmax(wrong))}"
                return Failed("a weight is not finite", "NaN or infinity", "numbers", place)
    return Ok()


# -- index ------------------------------------------------------------------------------------------------------------


def unit_rows(index: Sealed, corpus: Corpus) -> Outcome:
    """Check the vectors of queries and labels: as many as the corpus has, and a sample of them of length 1."""
    names = {"train": "train", "test": "test", "label_u": "label", "label_z": "label"}
    for name, split in names.items():
        file = index.path / f"{name}.npy"
        if name == "label_z" and not file.exists():
            continue  # a method without prototypes
        vectors = load_array(file)
        if vectors.ndim != 2 or len(vectors) != corpus.n(split) or vectors.dtype != np.float32:
            expected = f"({corpus.n(split)}, dim) float32"
            return Failed("an index is not that of the corpus", f"{vectors.shape} {vectors.dtype}", expected, file)
        for part in pieces(sample(len(vectors), ROWS), PIECE):
            norms = np.linalg.norm(vectors[part], axis=1)
            wrong = ~(np.abs(norms - 1) <= UNIT)  # NaN is wrong too
            if wrong.any():
                at = int(np.argmax(wrong))
                return Failed("a vector is not of length 1", norms[at], f"1 ± {UNIT:g}", f"{file}, row {part[at]}")
    return Ok("rows of length 1")


# --- Look into the files in front of a training: raw files, counts, tokens, pictures, their vectors. One function a
# question.


# -- data -------------------------------------------------------------------------------------------------------------


def raw_files(results: Path, world: World, quick: bool) -> Outcome:
    """Check the fetched files that lie there against the registry's sizes and hashes."""
    found = [s for s in world.sources.values() if (results / "raw" / s.filename).is_file()]
    if not found:
        return NotThere(f"files in {results / 'raw'}")
    unknown = 0
    for source in found:
        file = results / "raw" / source.filename
        size, receipt = file.stat().st_size, file.with_name(f"{file.name}.json")
        if source.bytes is not None and size != source.bytes:
            return Failed("a raw file was altered or cut short", f"{size} bytes", f"{source.bytes} bytes", file)
        # A file placed by hand may have no published hash: its receipt says what was placed, where `download` saw it.
        if source.sha256 is None and not receipt.exists():
            unknown += 1
            continue
        expected = source.sha256 or read_json(receipt)["sha256"]
        if not (quick and size > BIG) and (digest := sha256_file(file)) != expected:
            return Failed("a raw file was altered or cut short", digest, expected, file)
    said = f"{len(found) - unknown} raw files as registered"
    return Ok(said + (f", {unknown} placed by hand, without a known hash" if unknown else ""))


def counts(corpus: Sealed, dataset: str, world: World) -> Outcome:
    """Check that a corpus is whole, and counts what ``counts.json`` and the registry say."""
    if dataset not in world.datasets:
        return NotThere(f"the entry {dataset} in datasets.yaml, to count against")
    entry = world.datasets[dataset]
    opened = Corpus.load(corpus.path, filter_required=entry.filter_required)
    file = corpus.path / "counts.json"
    said = read_json(file)
    found = {"n_train": opened.n("train"), "n_test": opened.n("test")}
    found |= {"n_labels": opened.n_labels, "n_images": opened.n_images}
    outcome = same(said, found, file, "a corpus does not hold what it counts")
    if isinstance(outcome, Failed):
        return outcome
    verify_counts(said, entry.expect, file)
    numbers = ", ".join(f"{value:,} {name.removeprefix('n_')}" for name, value in found.items())
    return Ok(f"{dataset}: {numbers}" + (", as registered" if entry.expect else ", none registered"))


# -- tokens -----------------------------------------------------------------------------------------------------------


def token_rows(tokens: Sealed, corpus: Corpus) -> Outcome:
    """Check that every text of the corpus has its row, no longer than allowed, with ids of the vocabulary."""
    for split in SPLITS:
        folder = tokens.path / split
        rows = Ragged.load(folder)  # refuses ids out of range
        if len(rows) != corpus.n(split):
            return Failed("tokens are not those of the corpus", f"{len(rows)} rows", f"{corpus.n(split)} rows", folder)
        longest, allowed = int(rows.lengths.max(initial=0)), tokens.config["max_len"]
        if longest > allowed:
            return Failed("a text has more tokens than allowed", longest, f"{allowed} at most", folder)
    return Ok(f"{tokens.path.name}: {sum(corpus.n(split) for split in SPLITS):,} texts")


# -- images -----------------------------------------------------------------------------------------------------------


def coverage(store: Sealed, corpus: Corpus) -> Outcome:
    """Check that the store speaks of the corpus's pictures; say how many queries and labels have one."""
    file = store.path / "store.json"
    header = read_json(file)
    outcome = same(header, {"n_images": corpus.n_images}, file, "an image store is not that of the corpus")
    if isinstance(outcome, Failed):
        return outcome
    there = np.ones(corpus.n_images, dtype=bool)
    there[np.asarray(header["missing"], dtype=np.int64)] = False
    shares = []
    for split in SPLITS:
        lists = corpus.images(split)
        pictured = np.zeros(len(lists), dtype=bool)
        pictured[lists.row_ids()[there[lists.values]]] = True
        shares.append(f"{100 * pictured.mean() if len(pictured) else 0:.1f} % of {split}")
    return Ok(f"with a picture: {', '.join(shares)}; {len(header['missing']):,} of {len(there):,} missing")


def bank_norms(bank: Sealed, corpus: Corpus) -> Outcome:
    """Check a sample of image vectors: finite, not zero, and zero where the picture is missing."""
    opened = ImageBank.open(bank.path)
    for split in SPLITS:
        opened.images_of(corpus, split)  # refuses lists of another number of items
    if not opened.own and len(opened) != corpus.n_images:
        return Failed("a bank is not that of the corpus", f"{len(opened)} rows", f"{corpus.n_images} rows", bank.path)
    file = bank.path / "vectors.npy"
    rows = sample(len(opened), ROWS)
    for part in pieces(rows, PIECE):
        norms = np.linalg.norm(take_rows(opened.vectors, part).astype(np.float32), axis=1)
        absent = np.isin(part, opened.missing)
        wrong = np.where(absent, norms != 0, ~(np.isfinite(norms) & (norms > 0)))
        if wrong.any():
            at = int(np.argmax(wrong))
            expected = "0, its picture is missing" if absent[at] else "finite, above 0"
            return Failed("an image vector has a wrong norm", norms[at], expected, f"{file}, row {part[at]}")
    return Ok(f"{bank.path.name}: norms of {len(rows):,} of {len(opened):,} vectors")


# --- A stage's finished folder and what its manifest promises of it; the three answers that a check may give.


# A quick check takes larger files by their size.
BIG = 4 << 20
KEYS = {"stage": str, "config": dict, "inputs": dict, "outputs": dict, "outputs_sha256": str}
# The folders right below results: an input is found by what follows one of them, wherever results lay when it was read.
PLACES = ("pages", "raw", "models", "data", "runs", "tables", "figures", "tuning", "report")


@dataclass(frozen=True)
class Ok:
    """A check found what it expected.

    Attributes:
        said: what is worth printing of it; empty for nothing.
    """

    said: str = ""


@dataclass(frozen=True)
class Failed:
    """A check found something else than it expected."""

    what: str
    found: object
    expected: object
    file: object

    def __str__(self) -> str:
        parts = {"file": self.file, "found": self.found, "expected": self.expected}
        return "\n".join(
            [self.what, *(f"  {key + ':':<9} {value}" for key, value in parts.items() if value is not None)]
        )


@dataclass(frozen=True)
class NotThere:
    """What a check would look at does not exist.

    Attributes:
        what: the thing that is missing.
    """

    what: str


Outcome = Ok | Failed | NotThere


def attempt(check: Callable[[], Outcome], where: object = None) -> Outcome:
    """Return what a check answers; what it refuses or cannot read is a failure, not the end of all checks.

    Args:
        check: one check.
        where: the place to name if a failure does not know its own.
    """
    try:
        return check()
    except VixmlError as error:
        return Failed(error.what, error.found, error.expected, error.where or where)
    except OSError as error:
        return Failed("a file cannot be read", error.strerror or error, "a readable file", error.filename or where)
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        # A file whose parts are missing or of another kind: whatever reads it stumbles somewhere.
        return Failed("a file does not hold what it should", f"{type(error).__name__}: {error}", None, where)


@dataclass(frozen=True)
class Sealed:
    """A folder that a stage has finished.

    Attributes:
        path: of the folder.
        results: the folder of all results, below which it lies.
    """

    path: Path
    results: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return its manifest; read it only once :meth:`whole_manifest` was ok."""
        return read_manifest(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Return what the stage obeyed."""
        return self.manifest["config"]

    def checks(self, quick: bool) -> list[Callable[[], Outcome]]:
        """Return the checks that every stage's folder must pass, in order."""
        return [self.whole_manifest, lambda: self.same_files(quick), lambda: self.current_inputs(quick)]

    def whole_manifest(self) -> Outcome:
        """Check that the manifest can be read, has its parts, and that none was altered by hand."""
        file = self.path / MANIFEST
        manifest = read_manifest(self.path)
        for key, kind in KEYS.items():
            if not isinstance(manifest.get(key), kind):
                return Failed("a manifest lacks a part", f"no {key}", ", ".join(KEYS), file)
        for key, digest in (("outputs", "outputs_sha256"), ("config", "config_sha256")):
            if (now := sha256_json(manifest[key])) != manifest.get(digest):
                return Failed(f"a manifest was altered: its {key}", now, manifest.get(digest), f"{file}: {digest}")
        return Ok()

    def same_files(self, quick: bool = False) -> Outcome:
        """Check that the files are those that the stage wrote, by size and SHA-256, and that there are no others.

        Args:
            quick: take files above :data:`BIG` bytes by their size.
        """
        outputs = self.manifest["outputs"]
        for name, entry in outputs.items():
            file = self.path / name
            if not file.is_file():
                return Failed("a file that the manifest names is missing", "nothing", f"{entry['bytes']} bytes", file)
            if (size := file.stat().st_size) != entry["bytes"]:
                return Failed(
                    "a file is not the one that its stage wrote", f"{size} bytes", f"{entry['bytes']} bytes", file
                )
            if not (quick and size > BIG) and (digest := sha256_file(file)) != entry["sha256"]:
                return Failed("a file is not the one that its stage wrote", digest, entry["sha256"], file)
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name = file.relative_to(self.path).as_posix()
            if name not in outputs and name != MANIFEST and not file.name.startswith("."):
                return Failed("a file that its stage did not write", name, "only what the manifest names", file)
        return Ok()

    def current_inputs(self, quick: bool = False) -> Outcome:
        """Check that the inputs are still what the stage read: otherwise its result is of another chain.

        An input that is gone cannot be compared; that is no failure (raw files may be removed once they were read).
        """
        gone = []
        for name, entry in self.manifest["inputs"].items():
            path = self.locate(entry["path"])
            if path is None or (path.is_dir() and not (path / MANIFEST).exists()):
                gone.append(name)
                continue
            if path.is_dir():
                now = read_manifest(path)["outputs_sha256"]
            elif quick and path.stat().st_size > BIG:
                continue
            else:
                now = sha256_file(path)
            if now != entry["sha256"]:
                return Failed(
                    f"made from another {name} than the one that lies there now: the chain is stale",
                    f"{path}: {now}",
                    entry["sha256"],
                    f"{self.path / MANIFEST}: inputs.{name}",
                )
        return NotThere(f"{', '.join(gone)} of {self.path}") if gone else Ok()

    def locate(self, path: str) -> Path | None:
        """Return where an input lies now, or None: below this folder of results, even if it was another one then."""
        parts = Path(path).parts
        for at, part in enumerate(parts):
            if part in PLACES and (here := self.results.joinpath(*parts[at:])).exists():
                return here
        return None

    def identity(self, **expected: object) -> Outcome:
        """Check that the folder holds what its place says: dataset, run, seed and the like."""
        return same(self.config, expected, self.path / MANIFEST, "a folder holds the result of something else")


def same(found: Mapping[str, Any], expected: Mapping[str, object], file: object, what: str) -> Outcome:
    """Check that some keys of a mapping have the values expected; all that differ are named."""
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    if not wrong:
        return Ok()
    return Failed(
        what,
        ", ".join(f"{key} {found.get(key)}" for key in wrong),
        ", ".join(f"{key} {expected[key]}" for key in wrong),
        file,
    )


STAGES = ("data", "tokens", "images", "model", "index", "predictions", "scores")
SHOWN = 5  # failures, and things not there, that are printed of a stage

Check = Callable[[], Outcome]


@dataclass(frozen=True)
class StageReport:
    """What was found of one stage.

    Attributes:
        stage: one of :data:`STAGES`.
        n_folders: finished folders.
        said: what the checks had to say, each with how often.
        failed: every failure.
        not_there: what could not be looked at.
        unfinished: folders without a manifest.
    """

    stage: str
    n_folders: int
    said: dict[str, int]
    failed: list[Failed]
    not_there: list[str]
    unfinished: list[str]


@dataclass(frozen=True)
class Results:
    """The finished folders to look at.

    Attributes:
        folder: of all results.
        world: the registry.
        dataset: this one only; None for all.
        run: this one only, with the run whose model it uses; None for all.
        quick: take large files by their size.
    """

    folder: Path
    world: World
    dataset: str | None = None
    run: str | None = None
    quick: bool = False

    @cached_property
    def runs(self) -> list[tuple[str, str]]:
        """Return dataset and run of everything to look at."""
        there = [p.relative_to(self.folder / "runs").parts for p in sorted(self.folder.glob("runs/*/*")) if p.is_dir()]
        wanted = [(d, r) for d, r in there if self.dataset in (None, d) and self.run in (None, r)]
        used = {(d, model) for d, r in wanted for model in self._models_of(d, r)}
        return sorted({*wanted, *used})

    def _models_of(self, dataset: str, run: str) -> set[str]:
        """Return the runs whose models a run's predictions were made with."""
        folders = [p.parent for p in self.folder.glob(f"runs/{dataset}/{run}/seed*/*/predictions/{MANIFEST}")]
        whole = [
            f for f in (Sealed(path, self.folder) for path in folders) if isinstance(attempt(f.whole_manifest), Ok)
        ]
        return {f.config.get("trained_as", run) for f in whole}

    @cached_property
    def datasets(self) -> list[str]:
        """Return the datasets to look at."""
        if self.run is not None:
            return sorted({dataset for dataset, _ in self.runs})
        there = sorted(path.name for path in self.folder.glob("data/*") if path.is_dir())
        return [name for name in there if self.dataset in (None, name)]

    def folders(self, stage: str) -> list[Path]:
        """Return the folders of a stage, finished or not."""
        data = [self.folder / "data" / dataset for dataset in self.datasets]
        seeds = [p for d, r in self.runs for p in sorted((self.folder / "runs" / d / r).glob("seed*"))]
        # What a run of another name reads is looked at as far as its index.
        own = [p for p in seeds if self.run in (None, p.parent.name)]
        found = {
            "data": [p / "corpus" for p in data],
            "tokens": [q for p in data for q in sorted(p.glob("tokens/*"))],
            "images": [q for p in data for q in (p / "images", *sorted(p.glob("bank/*")))],
            "model": [*sorted(self.folder.glob("models/*")), *(p / "model" for p in seeds)],
            "index": [p / "index" for p in seeds],
            "predictions": [p / split / "predictions" for p in own for split in ("test", "validation")],
            "scores": [p / split / "score" for p in own for split in ("test", "validation")],
        }[stage]
        return [path for path in found if path.is_dir()]

    def corpus(self, dataset: str) -> Corpus | None:
        """Return a dataset's corpus; None if it is not finished."""
        folder = self.folder / "data" / dataset / "corpus"
        return Corpus.load(folder) if (folder / MANIFEST).exists() else None

    def checks(self, stage: str, folder: Sealed) -> list[Check]:
        """Return the checks of what lies in one folder, behind those of its manifest."""
        parts = folder.path.relative_to(self.folder).parts
        if parts[0] == "models":
            return []
        dataset = parts[1]
        if stage == "data":
            return [lambda: counts(folder, dataset, self.world)]
        if parts[0] == "data":
            probes = {"tokens": token_rows, "images": coverage, "bank": bank_norms}
            return [self._with_corpus(dataset, partial(probes[parts[2]], folder))]
        identity: dict[str, object] = {"dataset": dataset, "run": parts[2], "seed": int(parts[3].removeprefix("seed"))}
        if stage in ("predictions", "scores"):
            identity["split"] = parts[4]
        looked_at = {
            "index": [unit_rows],
            "predictions": [rankings, exact_recall],
            "scores": [same_scores],
        }.get(stage, [])
        checks: list[Check] = [lambda: folder.identity(**identity)]
        if stage == "model":
            checks.append(lambda: training_record(folder, identity))
            if not self.quick:
                checks.append(lambda: finite_weights(folder))
        return checks + [self._with_corpus(dataset, partial(probe, folder)) for probe in looked_at]

    def _with_corpus(self, dataset: str, probe: Callable[[Corpus], Outcome]) -> Check:
        def check() -> Outcome:
            corpus = self.corpus(dataset)
            return NotThere(f"the corpus of {dataset}") if corpus is None else probe(corpus)

        return check


def open_results(
    folder: Path, config_dir: Path, dataset: str | None = None, run: str | None = None, *, quick: bool = False
) -> Results:
    """Return the results to look at.

    Raises:
        VixmlError: a dataset or run without any result, or nothing finished at all: that nothing failed would say nothing.
    """
    everything = Results(folder, load_world(config_dir), quick=quick)
    known = sorted({*everything.datasets, *(d for d, _ in everything.runs)})
    if dataset is not None and dataset not in known:
        raise unknown_key(dataset, known, f"--dataset: {folder}")
    runs = sorted({r for d, r in everything.runs if dataset in (None, d)})
    if run is not None and run not in runs:
        raise unknown_key(run, runs, f"--run: {folder}/runs")
    chosen = Results(folder, everything.world, dataset, run, quick)
    if not any((path / MANIFEST).exists() for stage in STAGES for path in chosen.folders(stage)):
        raise VixmlError(
            "there is nothing to check",
            where=folder,
            found="no finished stage",
            hint="make some results, e.g. `make demo`",
        )
    return chosen


def inspect(results: Results) -> Iterator[StageReport]:
    """Yield what was found of each stage, in order; the one that fails is the last."""
    for stage in STAGES:
        report = inspect_stage(results, stage)
        yield report
        if report.failed:
            return


def inspect_stage(results: Results, stage: str) -> StageReport:
    """Look at all folders of one stage; a folder's first failure ends the look at that folder only."""
    folders = results.folders(stage)
    finished = [path for path in folders if (path / MANIFEST).exists()]
    outcomes: list[Outcome] = []
    if stage == "data":
        outcomes.append(
            attempt(lambda: raw_files(results.folder, results.world, results.quick), results.folder / "raw")
        )
    for path in finished:
        outcomes += _look(results, stage, Sealed(path, results.folder))
    return StageReport(
        stage=stage,
        n_folders=len(finished),
        said=dict(Counter(o.said for o in outcomes if isinstance(o, Ok) and o.said)),
        failed=[o for o in outcomes if isinstance(o, Failed)],
        not_there=list(dict.fromkeys(o.what for o in outcomes if isinstance(o, NotThere))),
        unfinished=[str(path) for path in folders if path not in finished],
    )


def _look(results: Results, stage: str, folder: Sealed) -> Iterator[Outcome]:
    checks = folder.checks(results.quick)
    yield (whole := attempt(checks[0], folder.path))
    if isinstance(whole, Failed):
        return
    # The stage's own checks say more than that a hash differs, so they come before it.
    for check in [*results.checks(stage, folder), *checks[1:]]:
        yield (outcome := attempt(check, folder.path))
        if isinstance(outcome, Failed):
            return


def line(report: StageReport) -> str:
    """Return the line of one stage, and below it every failure."""
    word = "FAILED" if report.failed else "ok" if report.n_folders else "not there"
    folders = f"{report.n_folders} folder{'' if report.n_folders == 1 else 's'}" if report.n_folders else ""
    said = [f"{text} ({n} times)" if n > 1 else text for text, n in report.said.items()]
    parts = [folders, *([] if report.failed else said)]
    if report.unfinished:
        parts.append(f"{len(report.unfinished)} unfinished")
    if report.not_there:
        parts.append("not compared: " + _some(report.not_there))
    lines = [f"{report.stage:<12} {word:<10} {'; '.join(filter(None, parts))}".rstrip()]
    for failure in report.failed[:SHOWN]:
        lines += [f"  {text}" for text in str(failure).splitlines()]
    if len(report.failed) > SHOWN:
        lines.append(f"  and {len(report.failed) - SHOWN} more")
    return "\n".join(lines)


def last_line(reports: Sequence[StageReport]) -> str:
    """Return what it comes to."""
    failed = next((report.stage for report in reports if report.failed), None)
    if failed is None:
        return "every stage that is there is in order"
    later = STAGES[STAGES.index(failed) + 1 :]
    rest = f"; not looked at: {', '.join(later)}" if later else ""
    return f"the stage {failed} failed{rest}. Run snakemake again; if it finds nothing to do, delete the folder first"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# --- Rows of a large array to look at: a sample, the same one every time, a piece at a time.


ROWS = 16384  # rows of a matrix whose norms are looked at
PIECE = 1024  # of these, how many at a time


def sample(n: int, at_most: int) -> np.ndarray:
    """Return rows to look at, ascending: all of ``n``, or ``at_most`` of them, the same ones every time.

    Example:
        >>> sample(3, 5).tolist(), len(sample(1000, 5)), bool((sample(1000, 5) == sample(1000, 5)).all())
        ([0, 1, 2], 5, True)
    """
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, at_most, replace=False, shuffle=False))


def pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Return rows in pieces of ``size``, the last one shorter."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]
