"""Look into each stage's files: counts, ids, norms, exact search, scores. One small function a question.

Large arrays are sampled, the same rows every time, and read in pieces. Nothing here needs torch: exact search is repeated
with NumPy in float64, so that it shares no code with what it checks.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np

from vixml.config.world import World
from vixml.data.corpus import SPLITS, Corpus, verify_counts
from vixml.data.propensity import inverse_propensity
from vixml.evaluation.metrics import evaluate
from vixml.evaluation.predictions import load_predictions
from vixml.files import load_array, read_json, sha256_file
from vixml.images.bank import ImageBank
from vixml.ragged import Ragged
from vixml.reproduce.sealed import BIG, Failed, NotThere, Ok, Outcome, Sealed, same

ROWS = 16384  # rows of a matrix whose norms are looked at
PIECE = 1024  # of these, how many at a time
QUERIES = 128  # queries that are searched again
LABELS = 8192  # labels compared with them at a time
PART = 1 << 24  # bytes of a tensor read at a time
# Rows are normalised in float32.
UNIT = 1e-4
# Two ways of adding up one inner product of unit vectors.
CLOSE = 1e-5
SAMPLED = 0.01  # the recall of an index may be off by this much: two samples of queries differ
# How a number is stored -> its bits as an unsigned number, and an exponent of ones only: NaN or infinity. Read so,
# bfloat16 needs no library.
EXPONENT = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}


def sample(n: int, at_most: int) -> np.ndarray:
    """Return rows to look at, ascending: all of ``n``, or ``at_most`` of them, the same ones every time.

    Example:
        >>> sample(3, 5).tolist(), len(sample(1000, 5)), bool((sample(1000, 5) == sample(1000, 5)).all())
        ([0, 1, 2], 5, True)
    """
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, at_most, replace=False, shuffle=False))


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
    for part in _pieces(rows, PIECE):
        norms = np.linalg.norm(opened.vectors[part].astype(np.float32), axis=1)
        absent = np.isin(part, opened.missing)
        wrong = np.where(absent, norms != 0, ~(np.isfinite(norms) & (norms > 0)))
        if wrong.any():
            at = int(np.argmax(wrong))
            expected = "0, its picture is missing" if absent[at] else "finite, above 0"
            return Failed("an image vector has a wrong norm", norms[at], expected, f"{file}, row {part[at]}")
    return Ok(f"{bank.path.name}: norms of {len(rows):,} of {len(opened):,} vectors")


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
        for part in _pieces(sample(len(vectors), ROWS), PIECE):
            norms = np.linalg.norm(vectors[part], axis=1)
            wrong = ~(np.abs(norms - 1) <= UNIT)  # NaN is wrong too
            if wrong.any():
                at = int(np.argmax(wrong))
                return Failed("a vector is not of length 1", norms[at], f"1 ± {UNIT:g}", f"{file}, row {part[at]}")
    return Ok("rows of length 1")


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


def _pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]
