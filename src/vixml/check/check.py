"""Check finished results in stages, from data to scores: a failure names its stage, and later stages are not checked.

A number can only be right if everything in front of it is. So nothing is said of a score before the data, the tokens, the
image vectors, the models, the indexes and the predictions behind it were found in order.

A check returns a sentence worth printing, or nothing; it raises VixmlError for what is wrong (the loaders of the other modules
do the same) and :class:`Absent` for what it cannot look at.
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
from vixml.evaluation.predictions import Predictions, load_predictions
from vixml.files import load_array, read_json, sha256_file, sha256_json
from vixml.images.embeddings import ImageEmbeddings, take_rows
from vixml.provenance import MANIFEST, read_manifest
from vixml.ragged import Ragged

STAGES = ("data", "tokens", "images", "model", "index", "predictions", "scores")
# The folders right below results: an input is found by what follows one of them, wherever results lay when it was read.
TOP = ("pages", "raw", "models", "data", "runs", "tables", "figures", "tuning", "report")
KEYS = {"stage": str, "config": dict, "inputs": dict, "outputs": dict, "outputs_sha256": str}  # of a manifest
BIG = 4 << 20  # bytes; a quick check takes larger files by their size
SHOWN = 5  # failures, and absent things, that are printed of a stage
ROWS, PIECE = 16384, 1024  # rows of a matrix whose norms are checked, and how many of these at a time
QUERIES, LABELS = 128, 8192  # queries that are searched again, and labels compared with them at a time
CLOSE = 1e-5  # two ways of adding up one inner product of unit vectors
UNIT = 1e-4  # rows are normalised in float32
SAMPLED = 0.01  # the recall of an index may be off by this much: two samples of queries differ
PART = 1 << 24  # bytes of a tensor read at a time
# How a number is stored -> its bits as an unsigned number, and an exponent of ones only: NaN or infinity. Read so,
# bfloat16 needs no library.
EXPONENT = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}

Check = Callable[[], str | None]


# --- Answers, and the checks that every finished folder must pass.


class Absent(Exception):
    """Something that a check would look at does not exist."""


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


def attempt(check: Check, where: object = None) -> str | Failed | Absent:
    """Return the answer of a check; what it refuses or cannot read is a failure, not the end of all checks.

    Args:
        check: one check.
        where: the file to name if a failure does not know its own.
    """
    try:
        return check() or ""
    except Absent as absent:
        return absent
    except VixmlError as error:
        return Failed(error.what, error.found, error.expected, error.where or where)
    except OSError as error:
        return Failed("a file cannot be read", error.strerror or error, "a readable file", error.filename or where)
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        # A file whose parts are missing or of another kind: whatever reads it stumbles somewhere.
        return Failed("a file does not hold what it should", f"{type(error).__name__}: {error}", None, where)


def same(found: Mapping[str, Any], expected: Mapping[str, object], file: object, what: str) -> None:
    """Check that some keys of a mapping have the values expected; name all that differ."""
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    if wrong:
        raise VixmlError(
            what,
            found=", ".join(f"{key} {found.get(key)}" for key in wrong),
            expected=", ".join(f"{key} {expected[key]}" for key in wrong),
            where=file,
        )


@dataclass(frozen=True)
class Artifact:
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

    @property
    def source(self) -> str:
        """Return the split of the corpus that predictions or scores are of."""
        return "test" if self.config["split"] == "test" else "train"

    def input(self, name: str) -> Path:
        """Return the folder of an input."""
        path = self.locate(self.manifest["inputs"][name]["path"])
        if path is None:
            raise Absent(f"the {name} of {self.path}")
        return path

    def locate(self, path: str) -> Path | None:
        """Return where an input lies now, or None: below this folder of results, even if it was another one then."""
        parts = Path(path).parts
        for at, part in enumerate(parts):
            if part in TOP and (here := self.results.joinpath(*parts[at:])).exists():
                return here
        return None

    def whole_manifest(self) -> None:
        """Check that the manifest can be read, has its parts, and that none was altered by hand."""
        file = self.path / MANIFEST
        manifest = read_manifest(self.path)
        for key, kind in KEYS.items():
            if not isinstance(manifest.get(key), kind):
                raise VixmlError("a manifest lacks a part", found=f"no {key}", expected=", ".join(KEYS), where=file)
        for key, digest in (("outputs", "outputs_sha256"), ("config", "config_sha256")):
            if (now := sha256_json(manifest[key])) != manifest.get(digest):
                what, expected = f"a manifest was altered: its {key}", manifest.get(digest)
                raise VixmlError(what, found=now, expected=expected, where=f"{file}: {digest}")

    def same_files(self, quick: bool = False) -> None:
        """Check that the files are those that the stage wrote, by size and SHA-256, and that there are no others.

        Args:
            quick: take files above :data:`BIG` bytes by their size.
        """
        outputs, other = self.manifest["outputs"], "a file is not the one that its stage wrote"
        for name, entry in outputs.items():
            file, bytes_ = self.path / name, f"{entry['bytes']} bytes"
            if not file.is_file():
                what = "a file that the manifest names is missing"
                raise VixmlError(what, found="nothing", expected=bytes_, where=file)
            if (size := file.stat().st_size) != entry["bytes"]:
                raise VixmlError(other, found=f"{size} bytes", expected=bytes_, where=file)
            if not (quick and size > BIG) and (digest := sha256_file(file)) != entry["sha256"]:
                raise VixmlError(other, found=digest, expected=entry["sha256"], where=file)
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            name = file.relative_to(self.path).as_posix()
            if name not in outputs and name != MANIFEST and not file.name.startswith("."):
                expected = "only what the manifest names"
                raise VixmlError("a file that its stage did not write", found=name, expected=expected, where=file)

    def current_inputs(self, quick: bool = False) -> None:
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
                raise VixmlError(
                    f"made from another {name} than the one that lies there now: the chain is stale",
                    found=f"{path}: {now}",
                    expected=entry["sha256"],
                    where=f"{self.path / MANIFEST}: inputs.{name}",
                )
        if gone:
            raise Absent(f"{', '.join(gone)} of {self.path}")


# --- What each stage's files must hold, from data to scores. Without torch.


def raw_files(results: Path, world: World, quick: bool) -> str:
    """Check the fetched files that are present against the registry's sizes and hashes."""
    found = [s for s in world.sources.values() if (results / "raw" / s.filename).is_file()]
    if not found:
        raise Absent(f"files in {results / 'raw'}")
    unknown, altered = 0, "a raw file was altered or cut short"
    for source in found:
        file = results / "raw" / source.filename
        size, receipt = file.stat().st_size, file.with_name(f"{file.name}.json")
        if source.bytes is not None and size != source.bytes:
            raise VixmlError(altered, found=f"{size} bytes", expected=f"{source.bytes} bytes", where=file)
        # A file placed by hand may have no published hash: its receipt says what was placed, where `download` saw it.
        if source.sha256 is None and not receipt.exists():
            unknown += 1
            continue
        expected = source.sha256 or read_json(receipt)["sha256"]
        if not (quick and size > BIG) and (digest := sha256_file(file)) != expected:
            raise VixmlError(altered, found=digest, expected=expected, where=file)
    said = f"{len(found) - unknown} raw files as registered"
    return said + (f", {unknown} placed by hand, without a known hash" if unknown else "")


def counts(corpus: Artifact, dataset: str, world: World) -> str:
    """Check that a corpus is whole, and counts what ``counts.json`` and the registry say."""
    if dataset not in world.datasets:
        raise Absent(f"the entry {dataset} in datasets.yaml, to count against")
    entry = world.datasets[dataset]
    opened = Corpus.load(corpus.path, filter_required=entry.filter_required)
    file = corpus.path / "counts.json"
    said = read_json(file)
    found = {"n_train": opened.n("train"), "n_test": opened.n("test")}
    found |= {"n_labels": opened.n_labels, "n_images": opened.n_images}
    same(said, found, file, "a corpus does not hold what it counts")
    verify_counts(said, entry.expect, file)
    numbers = ", ".join(f"{value:,} {name.removeprefix('n_')}" for name, value in found.items())
    return f"{dataset}: {numbers}" + (", as registered" if entry.expect else ", none registered")


def token_rows(tokens: Artifact, corpus: Corpus) -> str:
    """Check that every text of the corpus has its row, no longer than allowed, with ids of the vocabulary."""
    for split in SPLITS:
        folder = tokens.path / split
        rows = Ragged.load(folder)  # refuses ids out of range
        if len(rows) != corpus.n(split):
            what, expected = "tokens are not those of the corpus", f"{corpus.n(split)} rows"
            raise VixmlError(what, found=f"{len(rows)} rows", expected=expected, where=folder)
        longest, allowed = int(rows.lengths.max(initial=0)), tokens.config["max_len"]
        if longest > allowed:
            what = "a text has more tokens than allowed"
            raise VixmlError(what, found=longest, expected=f"{allowed} at most", where=folder)
    return f"{tokens.path.name}: {sum(corpus.n(split) for split in SPLITS):,} texts"


def coverage(store: Artifact, corpus: Corpus) -> str:
    """Check that the store is of the corpus's images; say how many queries and labels have one."""
    file = store.path / "store.json"
    header = read_json(file)
    same(header, {"n_images": corpus.n_images}, file, "an image store is not that of the corpus")
    present = np.ones(corpus.n_images, dtype=bool)
    present[np.asarray(header["missing"], dtype=np.int64)] = False
    shares = []
    for split in SPLITS:
        lists = corpus.images(split)
        with_image = np.zeros(len(lists), dtype=bool)
        with_image[lists.row_ids()[present[lists.values]]] = True
        shares.append(f"{100 * with_image.mean() if len(with_image) else 0:.1f} % of {split}")
    return f"with an image: {', '.join(shares)}; {len(header['missing']):,} of {len(present):,} missing"


def image_norms(embeddings: Artifact, corpus: Corpus) -> str:
    """Check a sample of image vectors: finite, not zero, and zero where the image is missing."""
    opened = ImageEmbeddings.open(embeddings.path)
    for split in SPLITS:
        opened.images_of(corpus, split)  # refuses lists of another number of items
    if not opened.item_lists and len(opened) != corpus.n_images:
        what, expected = "image embeddings are not those of the corpus", f"{corpus.n_images} rows"
        raise VixmlError(what, found=f"{len(opened)} rows", expected=expected, where=embeddings.path)
    rows = sample(len(opened), ROWS)
    for part in pieces(rows, PIECE):
        norms = np.linalg.norm(take_rows(opened.vectors, part).astype(np.float32), axis=1)
        missing = np.isin(part, opened.missing)
        wrong = np.where(missing, norms != 0, ~(np.isfinite(norms) & (norms > 0)))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise VixmlError(
                "an image vector has a wrong norm",
                found=norms[at],
                expected="0, its image is missing" if missing[at] else "finite, above 0",
                where=f"{embeddings.path / 'vectors.npy'}, row {part[at]}",
            )
    return f"{embeddings.path.name}: norms of {len(rows):,} of {len(opened):,} vectors"


def training_record(model: Artifact, identity: dict[str, object]) -> None:
    """Check that ``training.json`` is of this run, and that its last loss is a number."""
    file = model.path / "training.json"
    record = read_json(file)
    same(record, identity, file, "a training record of something else")
    loss = (record.get("last_epoch") or {}).get("loss")
    if loss is not None and not math.isfinite(loss):
        what = "a training ended without a loss"
        raise VixmlError(what, found=loss, expected="a finite number", where=f"{file}: last_epoch.loss")


def finite_weights(model: Artifact) -> None:
    """Check that no weight of a trained model is NaN or infinite, a piece of a tensor at a time."""
    file = model.path / "model.safetensors"
    if not file.exists():
        raise Absent(str(file))
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
                where = f"{file}: {name}, number {(at - start) // width + int(np.argmax(wrong))}"
                raise VixmlError("a weight is not finite", found="NaN or infinity", expected="numbers", where=where)


def unit_rows(index: Artifact, corpus: Corpus) -> str:
    """Check the vectors of queries and labels: as many as the corpus has, and a sample of them of length 1."""
    names = {"train": "train", "test": "test", "label_u": "label", "label_z": "label"}
    for name, split in names.items():
        file = index.path / f"{name}.npy"
        if name == "label_z" and not file.exists():
            continue  # a method without prototypes
        vectors = load_array(file)
        if vectors.ndim != 2 or len(vectors) != corpus.n(split) or vectors.dtype != np.float32:
            found, expected = f"{vectors.shape} {vectors.dtype}", f"({corpus.n(split)}, dim) float32"
            raise VixmlError("an index is not that of the corpus", found=found, expected=expected, where=file)
        for part in pieces(sample(len(vectors), ROWS), PIECE):
            norms = np.linalg.norm(vectors[part], axis=1)
            wrong = ~(np.abs(norms - 1) <= UNIT)  # NaN is wrong too
            if wrong.any():
                at = int(np.argmax(wrong))
                where = f"{file}, row {part[at]}"
                raise VixmlError("a vector is not of length 1", found=norms[at], expected=f"1 ± {UNIT:g}", where=where)
    return "rows of length 1"


def load_ranking(predictions: Path, source: str, corpus: Corpus) -> Predictions:
    """Load every ranking: labels that exist, each once, best first."""
    return load_predictions(predictions, corpus.n(source), corpus.n_labels)


def rankings(predictions: Artifact, corpus: Corpus) -> None:
    """Check every ranking: labels that exist, each once, best first, of the split that the folder says."""
    found = load_ranking(predictions.path, predictions.source, corpus)
    if (found.rows is not None) != (predictions.source == "train"):
        raise VixmlError(
            "predictions of another split",
            found=predictions.config["split"],
            expected="held-out rows of train for split validation, and for no other",
            where=predictions.path,
        )


def exact_recall(predictions: Artifact, corpus: Corpus) -> str:
    """Check the rankings of a label search against all inner products, for a sample of queries.

    Of an exact search recall@k must be 1, for each query; through an index that looks at a part of the labels, the mean must
    be what the run asks for, less :data:`SAMPLED`. Labels that tie at rank k are equally good. Predictions by votes or by
    popularity have no such reference.
    """
    how = predictions.config["inference"]
    if how["method"] != "label-search":
        return f"{how['method']}: rankings whole"
    index, source = predictions.input("index"), predictions.source
    found = load_ranking(predictions.path, source, corpus)
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
        excluded = np.isin(own, banned.row(i)).sum()
        if len(own) != len(reachable) or excluded:
            raise VixmlError(
                "a ranking has too few labels, or one that the filter excludes",
                found=f"{len(own)} labels, {excluded} excluded",
                expected=f"{len(reachable)} labels",
                where=f"{file}, row {row}",
            )
        exact = labels[own].astype(np.float64) @ queries[i]
        if (off := np.abs(exact - scores[row, : len(own)]).max(initial=0)) > CLOSE:
            raise VixmlError(
                "scores are not the inner products of the index",
                found=f"off by {off:.3g}",
                expected=f"within {CLOSE:g}",
                where=f"{predictions.path / 'scores.npy'}, row {row}",
            )
        hits = int((exact >= reachable.min(initial=np.inf) - CLOSE).sum())
        if hits < len(reachable) and exactly:
            what, recall = "a ranking is not that of an exact search", f"recall@{k} = {hits / len(reachable):.4f}"
            raise VixmlError(what, found=recall, expected="1", where=f"{file}, row {row}")
        wanted, right = wanted + len(reachable), right + hits
    if exactly:
        return f"recall@{k} = 1 against exact search"
    recall = right / max(wanted, 1)
    if recall < how["index_recall"] - SAMPLED:
        raise VixmlError(
            "an index misses more than the run allows",
            found=f"recall@{k} = {recall:.4f}",
            expected=f"{how['index_recall']:g}, on another sample of queries",
            where=file,
        )
    return f"recall@{k} of at least {how['index_recall']:g} through an index ({how['index']})"


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


def same_scores(score: Artifact, corpus: Corpus) -> str:
    """Compute every metric again from the predictions, and compare it with what ``scores.json`` says."""
    file, config, source = score.path / "scores.json", score.config, score.source
    said = read_json(file)
    identity = {key: config[key] for key in ("dataset", "run", "seed", "split", "ks", "deep_ks")}
    same(said, identity, file, "a score of something else than its folder says")
    predictions = load_ranking(score.input("predictions"), source, corpus)
    truth, pairs = corpus.labels(source), corpus.filter(source)
    if predictions.rows is not None:
        truth, pairs = truth.take(predictions.rows), None if pairs is None else pairs.take(predictions.rows)
    how = config["propensity"]
    weights = inverse_propensity(corpus.labels("train").counts(), corpus.n("train"), how["a"], how["b"])
    again = evaluate(
        predictions.labels, truth, weights, filter=pairs, ks=config["ks"], deep_ks=config["deep_ks"]
    ).metrics
    if set(again) != set(said["metrics"]):
        found, expected = ", ".join(said["metrics"]), ", ".join(again)
        raise VixmlError("a score has other metrics", found=found, expected=expected, where=file)
    for name, value in again.items():
        if not abs(value - said["metrics"][name]) <= 1e-6:
            what, found = f"{name} is not that of the predictions", said["metrics"][name]
            raise VixmlError(what, found=found, expected=value, where=f"{file}: {name}")
    return f"{len(again)} metrics computed again"


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


# --- All finished folders, stage by stage.


@dataclass(frozen=True)
class StageReport:
    """The outcome of one stage.

    Attributes:
        stage: one of :data:`STAGES`.
        n_folders: finished folders.
        said: sentences of the checks, each with how often.
        failed: every failure.
        absent: what could not be looked at.
        unfinished: folders without a manifest.
    """

    stage: str
    n_folders: int
    said: dict[str, int]
    failed: list[Failed]
    absent: list[str]
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
        files = self.folder.glob(f"runs/{dataset}/{run}/seed*/*/predictions/{MANIFEST}")
        folders = [Artifact(file.parent, self.folder) for file in files]
        return {f.config.get("trained_as", run) for f in folders if attempt(f.whole_manifest) == ""}

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
            "images": [q for p in data for q in (p / "images", *sorted(p.glob("embeddings/*")))],
            "model": [*sorted(self.folder.glob("models/*")), *(p / "model" for p in seeds)],
            "index": [p / "index" for p in seeds],
            "predictions": [p / split / "predictions" for p in own for split in ("test", "validation")],
            "scores": [p / split / "score" for p in own for split in ("test", "validation")],
        }[stage]
        return [path for path in found if path.is_dir()]

    def checks(self, stage: str, folder: Artifact) -> list[Check]:
        """Return the checks of a folder's files, beside those of its manifest."""
        parts = folder.path.relative_to(self.folder).parts
        if parts[0] == "models":
            return []
        dataset = parts[1]

        def of_corpus(check: Callable[[Artifact, Corpus], str | None]) -> Check:
            def run() -> str | None:
                path = self.folder / "data" / dataset / "corpus"
                if not (path / MANIFEST).exists():
                    raise Absent(f"the corpus of {dataset}")
                return check(folder, Corpus.load(path))

            return run

        if stage == "data":
            return [partial(counts, folder, dataset, self.world)]
        if parts[0] == "data":
            return [of_corpus({"tokens": token_rows, "images": coverage, "embeddings": image_norms}[parts[2]])]
        identity: dict[str, object] = {"dataset": dataset, "run": parts[2], "seed": int(parts[3].removeprefix("seed"))}
        if stage in ("predictions", "scores"):
            identity["split"] = parts[4]
        of_something_else = "a folder holds the result of something else"
        first = partial(same, folder.config, identity, folder.path / MANIFEST, of_something_else)
        if stage == "model":
            weights = [] if self.quick else [partial(finite_weights, folder)]
            return [first, partial(training_record, folder, identity), *weights]
        checks = {"index": [unit_rows], "predictions": [rankings, exact_recall], "scores": [same_scores]}
        return [first, *map(of_corpus, checks[stage])]


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
    """Yield the report of each stage, in order; the one that fails is the last."""
    for stage in STAGES:
        report = inspect_stage(results, stage)
        yield report
        if report.failed:
            return


def inspect_stage(results: Results, stage: str) -> StageReport:
    """Check all folders of one stage; a folder's first failure ends the checks of that folder only."""
    folders = results.folders(stage)
    finished = [path for path in folders if (path / MANIFEST).exists()]
    answers: list[str | Failed | Absent] = []
    if stage == "data":
        raw = partial(raw_files, results.folder, results.world, results.quick)
        answers.append(attempt(raw, results.folder / "raw"))
    for path in finished:
        answers += _answers(results, stage, Artifact(path, results.folder))
    return StageReport(
        stage=stage,
        n_folders=len(finished),
        said=dict(Counter(answer for answer in answers if isinstance(answer, str) and answer)),
        failed=[answer for answer in answers if isinstance(answer, Failed)],
        absent=list(dict.fromkeys(str(answer) for answer in answers if isinstance(answer, Absent))),
        unfinished=[str(path) for path in folders if path not in finished],
    )


def _answers(results: Results, stage: str, folder: Artifact) -> Iterator[str | Failed | Absent]:
    def checks() -> Iterator[Check]:
        yield folder.whole_manifest
        # The stage's own checks say more than that a hash differs, so they come before it.
        yield from results.checks(stage, folder)
        yield partial(folder.same_files, results.quick)
        yield partial(folder.current_inputs, results.quick)

    for check in checks():
        yield (answer := attempt(check, folder.path))
        if isinstance(answer, Failed):
            return


def line(report: StageReport) -> str:
    """Return the line of one stage, and below it every failure."""
    word = "FAILED" if report.failed else "ok" if report.n_folders else "not there"
    folders = f"{report.n_folders} folder{'' if report.n_folders == 1 else 's'}" if report.n_folders else ""
    said = [f"{text} ({n} times)" if n > 1 else text for text, n in report.said.items()]
    parts = [folders, *([] if report.failed else said)]
    if report.unfinished:
        parts.append(f"{len(report.unfinished)} unfinished")
    if report.absent:
        parts.append("not compared: " + _some(report.absent))
    lines = [f"{report.stage:<12} {word:<10} {'; '.join(filter(None, parts))}".rstrip()]
    for failure in report.failed[:SHOWN]:
        lines += [f"  {text}" for text in str(failure).splitlines()]
    if len(report.failed) > SHOWN:
        lines.append(f"  and {len(report.failed) - SHOWN} more")
    return "\n".join(lines)


def last_line(reports: Sequence[StageReport]) -> str:
    """Return the conclusion."""
    failed = next((report.stage for report in reports if report.failed), None)
    if failed is None:
        return "every stage that is there is in order"
    later = STAGES[STAGES.index(failed) + 1 :]
    rest = f"; not looked at: {', '.join(later)}" if later else ""
    return f"the stage {failed} failed{rest}. Run snakemake again; if it finds nothing to do, delete the folder first"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
