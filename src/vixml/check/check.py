"""Check finished results in stages, from data to scores: a failure names its stage, and later stages are not checked.

A score can only be right if everything before it is. Therefore the data, tokens, image vectors, models, indexes and
predictions behind it are checked first.

A check returns a sentence to print, or nothing. It raises VixmlError for what is wrong, as the loaders of the other packages
do, and :class:`Absent` for what cannot be looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vixml.config.load import load_world, require
from vixml.config.registry import World
from vixml.data.corpus import SPLITS, Corpus, verify_counts
from vixml.data.download import verify_download
from vixml.data.propensity import inverse_propensity
from vixml.errors import VixmlError, expect_equal
from vixml.evaluation.metrics import evaluate
from vixml.evaluation.predictions import Predictions, load_predictions
from vixml.files import load_array, read_json, sha256_file
from vixml.images.embeddings import ImageEmbeddings, coverage, take_rows
from vixml.images.store import ImageStore
from vixml.manifest import MANIFEST, expect_nothing_else, holds, not_whole, read_manifest, verify
from vixml.ragged import Ragged
from vixml.stages import PLACES, find, place, raw_dir

# The folders directly below results: an input is found by the part of its path from there, even if results were moved.
TOP = {"raw", *(path.split("/")[0] for path in PLACES.values())}
KEYS = {"stage": str, "config": dict, "inputs": dict, "outputs": dict, "outputs_sha256": str}  # of a manifest
BIG = 4 << 20  # bytes; a quick check compares only the size of larger files
SHOWN = 5  # failures, and absent things, that are printed per stage
ROWS, PIECE = 16384, 1024  # rows of a matrix whose norms are checked, and how many at a time
QUERIES, LABELS = 128, 8192  # queries that are searched again, and labels compared with them at a time
CLOSE = 1e-5  # difference of two ways to sum one inner product of unit vectors
UNIT = 1e-4  # rows are normalised in float32
SAMPLED = 0.01  # tolerance of the recall of an index: two samples of queries differ
PART = 1 << 22  # numbers of a tensor checked at a time


# -- answers of checks ------------------------------------------------------------------------------------------------


class Absent(Exception):
    """Something that a check would look at does not exist."""


def attempt(check: Callable[[], str | None], where: object = None) -> str | VixmlError | Absent:
    """Return the answer of a check: its sentence, or the error, which names ``where`` if it names no file."""
    try:
        return check() or ""
    except Absent as absent:
        return absent
    except VixmlError as error:
        error.where = error.where or where
        return error
    except OSError as error:
        what, found = "a file cannot be read", error.strerror or error
        return VixmlError(what, found=found, expected="a readable file", where=error.filename or where)
    except (AttributeError, LookupError, TypeError, ValueError, SafetensorError) as error:
        # Whatever reads a file with missing or wrong parts raises one of these.
        found = f"{type(error).__name__}: {error}"
        return VixmlError("a file does not hold what it should", found=found, where=where)


def ensure(ok: bool, what: str, found: object, expected: object, where: object) -> None:
    """Raise VixmlError unless ``ok``."""
    if not ok:
        raise VixmlError(what, found=found, expected=expected, where=where)


def require_values(found: Mapping[str, Any], expected: Mapping[str, object], file: object, what: str) -> None:
    """Require values of some keys of a mapping; the error names all that differ."""
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    found, expected = (", ".join(f"{key} {source.get(key)}" for key in wrong) for source in (found, expected))
    expect_equal(found, expected, what, where=file)


# -- a finished folder, and the checks that each must pass --------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """The folder of a stage, with the names in its path (dataset, run and the like), as a part of all results."""

    path: Path
    names: dict[str, str]
    results: FinishedFolders

    @property
    def finished(self) -> bool:
        """Return whether its stage has finished."""
        return (self.path / MANIFEST).exists()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return its manifest; read it only after :meth:`whole_manifest` passed."""
        return read_manifest(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration of the stage."""
        return self.manifest["config"]

    @property
    def run(self) -> tuple[str, str]:
        """Return its dataset and run."""
        return self.names["dataset"], self.names["run"]

    @property
    def identity(self) -> dict[str, object]:
        """Return the names in its path, as a manifest has them."""
        return {**self.names, "seed": int(self.names["seed"])}

    @property
    def source(self) -> str:
        """Return the split of the corpus that predictions or scores are of."""
        return "test" if self.config["split"] == "test" else "train"

    @cached_property
    def corpus(self) -> Corpus:
        """Return the corpus of its dataset."""
        path = place("build-corpus", self.results.folder, **self.names)
        if not (path / MANIFEST).exists():
            raise Absent(f"the corpus of {self.names['dataset']}")
        return Corpus.load(path)

    def input(self, name: str) -> Path:
        """Return the folder of an input."""
        path = self.results.locate(self.manifest["inputs"][name]["path"])
        if path is None:
            raise Absent(f"the {name} of {self.path}")
        return path

    def whole_manifest(self) -> None:
        """Check that the manifest can be read, was not altered by hand, and has its parts."""
        file, manifest = self.path / MANIFEST, read_manifest(self.path)
        for key, kind in KEYS.items():
            ensure(isinstance(manifest.get(key), kind), "a manifest lacks a part", f"no {key}", ", ".join(KEYS), file)

    def same_files(self) -> None:
        """Check that the files are those that the stage wrote, by size and SHA-256, and that there are no others."""
        outputs = self.manifest["outputs"]
        altered = not_whole(self.path)
        verify(self.path, altered or [name for name in outputs if not self.results.skips(self.path / name)])
        expect_nothing_else(self.path)

    def current_inputs(self) -> None:
        """Check that the inputs are still those that the stage read; otherwise the result is out of date.

        An input that is gone cannot be compared, which is no failure: raw files may be removed after they were read.
        """
        gone = []
        for name, entry in self.manifest["inputs"].items():
            path = self.results.locate(entry["path"])
            if path is None or (path.is_dir() and not (path / MANIFEST).exists()):
                gone.append(name)
            elif path.is_dir() or not self.results.skips(path):
                now = read_manifest(path)["outputs_sha256"] if path.is_dir() else sha256_file(path)
                what = f"made from another {name} than the one that is there now: the chain is stale"
                expect_equal(now, entry["sha256"], what, where=f"{self.path / MANIFEST}: inputs.{name} ({path})")
        if gone:
            raise Absent(f"{', '.join(gone)} of {self.path}")


# -- checks of one stage's files, from data to scores --------------------------------------------------------------------


def raw_files(results: FinishedFolders) -> str:
    """Check the downloaded files that are present against the registry's sizes and hashes."""
    folder = raw_dir(results.folder)
    found = {name: source for name, source in results.world.sources.items() if (folder / source.filename).is_file()}
    if not found:
        raise Absent(f"files in {folder}")
    unknown = 0
    for name, source in found.items():
        file = folder / source.filename
        # The receipt of a file placed by hand, which may have no published hash, records the first hash seen.
        unknown += source.sha256 is None and not file.with_name(f"{file.name}.json").exists()
        if results.skips(file):
            size, what = file.stat().st_size, "a raw file was altered or cut short"
            expect_equal(f"{size} bytes", f"{source.bytes or size} bytes", what, where=file)
        else:
            verify_download(file, name, source)
    hand = f", {unknown} placed by hand, without a known hash" if unknown else ""
    return f"{len(found) - unknown} raw files as registered{hand}"


def corpus_counts(folder: Artifact) -> str:
    """Check that a corpus is whole, and has the counts of ``counts.json`` and of the registry."""
    dataset, file = folder.names["dataset"], folder.path / "counts.json"
    entry = folder.results.world.datasets.get(dataset)
    if entry is None:
        raise Absent(f"the entry {dataset} in datasets.yaml, to count against")
    corpus, counted = Corpus.load(folder.path, filter_required=entry.filter_required), read_json(file)
    found = {"n_train": corpus.n("train"), "n_test": corpus.n("test")}
    found |= {"n_labels": corpus.n_labels, "n_images": corpus.n_images}
    require_values(counted, found, file, "a corpus does not hold what it counts")
    verify_counts(counted, entry.expect, file)
    numbers = ", ".join(f"{value:,} {name.removeprefix('n_')}" for name, value in found.items())
    return f"{dataset}: {numbers}" + (", as registered" if entry.expect else ", none registered")


def token_rows(folder: Artifact) -> str:
    """Check that every text of the corpus has its row, no longer than allowed, with ids of the vocabulary."""
    corpus, allowed = folder.corpus, folder.config["max_len"]
    for split in SPLITS:
        rows, where = Ragged.load(folder.path / split), folder.path / split  # refuses ids out of range
        what = "tokens are not those of the corpus"
        expect_equal(f"{len(rows)} rows", f"{corpus.n(split)} rows", what, where=where)
        longest = int(rows.lengths.max(initial=0))
        ensure(longest <= allowed, "a text has more tokens than allowed", longest, f"{allowed} at most", where)
    return f"{folder.path.name}: {sum(corpus.n(split) for split in SPLITS):,} texts"


def stored_images(folder: Artifact) -> str:
    """Check that the store is whole and of the corpus's images; count the queries and labels that have one."""
    corpus, store = folder.corpus, ImageStore.open(folder.path)
    what, where = "an image store is not that of the corpus", folder.path / "store.json"
    expect_equal(f"n_images {len(store)}", f"n_images {corpus.n_images}", what, where=where)
    shares = [f"{share:.1f} % of {split}" for split, share in coverage(corpus, store.missing).items()]
    return f"with an image: {', '.join(shares)}; {len(store.missing):,} of {len(store):,} missing"


def image_norms(folder: Artifact) -> str:
    """Check a sample of image vectors: finite, not zero, and zero if the image is missing."""
    corpus, opened = folder.corpus, ImageEmbeddings.open(folder.path)
    for split in SPLITS:
        opened.images_of(corpus, split)  # refuses lists of another number of items
    if not opened.item_lists:
        what = "image embeddings are not those of the corpus"
        expect_equal(f"{len(opened)} rows", f"{corpus.n_images} rows", what, where=folder.path)
    rows, norms = sampled_norms(opened.vectors)
    missing = np.isin(rows, opened.missing)
    wrong = np.flatnonzero(np.where(missing, norms != 0, ~(np.isfinite(norms) & (norms > 0))))
    if len(wrong):
        at, where = wrong[0], f"{folder.path / 'vectors.npy'}, row {rows[wrong[0]]}"
        expected = "0, its image is missing" if missing[at] else "finite, above 0"
        raise VixmlError("an image vector has a wrong norm", found=norms[at], expected=expected, where=where)
    return f"{folder.path.name}: norms of {len(rows):,} of {len(opened):,} vectors"


def same_identity(folder: Artifact) -> None:
    """Check that a folder's manifest agrees with its path."""
    what = "a folder holds the result of something else"
    require_values(folder.config, folder.identity, folder.path / MANIFEST, what)


def check_training_record(folder: Artifact) -> None:
    """Check that ``training.json`` is of this run, and that its last loss is a number."""
    file = folder.path / "training.json"
    record = read_json(file)
    require_values(record, folder.identity, file, "a training record of something else")
    loss = (record.get("last_epoch") or {}).get("loss")
    ok = loss is None or math.isfinite(loss)
    ensure(ok, "a training ended without a loss", loss, "a finite number", f"{file}: last_epoch.loss")


def finite_weights(folder: Artifact) -> None:
    """Check that no weight of a trained model is NaN or infinite, a part of a tensor at a time."""
    if folder.results.quick:
        return
    file = folder.path / "model.safetensors"
    if not file.exists():
        raise Absent(str(file))
    with safe_open(file, "pt") as stream:
        for name in stream.keys():  # noqa: SIM118 -- it is no mapping
            for i, part in enumerate(stream.get_tensor(name).reshape(-1).split(PART)):
                wrong = (~part.isfinite()).nonzero()
                if len(wrong):
                    where = f"{file}: {name}, number {i * PART + int(wrong[0])}"
                    raise VixmlError("a weight is not finite", found="NaN or infinity", expected="numbers", where=where)


def unit_rows(folder: Artifact) -> str:
    """Check the vectors of queries and labels: as many as the corpus has, and a sample of them of length 1."""
    for name, split in {"train": "train", "test": "test", "label_u": "label", "label_z": "label"}.items():
        file, n = folder.path / f"{name}.npy", folder.corpus.n(split)
        if name == "label_z" and not holds(folder.path, file.name):
            continue  # a method without prototypes
        vectors = load_array(file)
        ok = vectors.ndim == 2 and len(vectors) == n and vectors.dtype == np.float32
        found, expected = f"{vectors.shape} {vectors.dtype}", f"({n}, dim) float32"
        ensure(ok, "an index is not that of the corpus", found, expected, file)
        rows, norms = sampled_norms(vectors)
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT))  # NaN is wrong too
        if len(wrong):
            where, expected = f"{file}, row {rows[wrong[0]]}", f"1 ± {UNIT:g}"
            raise VixmlError("a vector is not of length 1", found=norms[wrong[0]], expected=expected, where=where)
    return "rows of length 1"


def rankings(folder: Artifact) -> str:
    """Check every ranking, and those of a label search against all inner products, for a sample of queries.

    A ranking has labels that exist, each once, best first, and the rows of the split in its path. Predictions of other
    methods have no further reference.
    """
    source, how = folder.source, folder.config["inference"]
    found = load_predictions(folder.path, folder.corpus.n(source), folder.corpus.n_labels)
    expected = "held-out rows of train for split validation, and for no other"
    ok = (found.rows is not None) == (source == "train")
    ensure(ok, "predictions of another split", folder.config["split"], expected, folder.path)
    return exact_recall(folder, found) if how["method"] == "label-search" else f"{how['method']}: rankings whole"


def exact_recall(folder: Artifact, predictions: Predictions) -> str:
    """Compare a sample of rankings with an exact search; labels that tie at rank k are equally good.

    With an exact search recall@k must be 1 for each query; with an approximate index the mean must be at least
    ``index_recall`` less :data:`SAMPLED`.
    """
    index, source, how = folder.input("index"), folder.source, folder.config["inference"]
    ranked, scores = predictions.labels, load_array(folder.path / "scores.npy")
    some = sampled_rows(len(ranked), QUERIES)
    rows = some if predictions.rows is None else predictions.rows[some]
    queries = load_array(index / f"{source}.npy")[rows].astype(np.float64)
    labels = load_array(index / f"label_{how['labels_as']}.npy")
    pairs = folder.corpus.filter(source)
    banned = Ragged.from_rows([[]] * len(rows), len(labels)) if pairs is None else pairs.take(rows)
    k, right, wanted = ranked.shape[1], 0, 0
    exactly = how.get("index", "exact") == "exact"
    best = _best_scores(queries, labels, banned, k)
    few = "a ranking lacks labels, or has one that the filter excludes"
    other = "a ranking is not that of an exact search"
    for i, row in enumerate(some):
        in_labels, in_scores = (f"{folder.path / name}, row {row}" for name in ("labels.npy", "scores.npy"))
        reachable, predicted = best[i][best[i] > -np.inf], ranked[row][ranked[row] >= 0]
        n, excluded = len(reachable), int(np.isin(predicted, banned.row(i)).sum())
        found = f"{len(predicted)} labels, {excluded} excluded"
        ensure(len(predicted) == n and not excluded, few, found, f"{n} labels", in_labels)
        exact = labels[predicted].astype(np.float64) @ queries[i]
        off = np.abs(exact - scores[row, : len(predicted)]).max(initial=0)
        what, expected = "scores are not the inner products of the index", f"within {CLOSE:g}"
        ensure(off <= CLOSE, what, f"off by {off:.3g}", expected, in_scores)
        hits = int((exact >= reachable.min(initial=np.inf) - CLOSE).sum())
        ensure(hits == n or not exactly, other, f"recall@{k} = {hits / max(n, 1):.4f}", "1", in_labels)
        wanted, right = wanted + n, right + hits
    if exactly:
        return f"recall@{k} = 1 against exact search"
    recall, least, where = right / max(wanted, 1), how["index_recall"], folder.path / "labels.npy"
    what, expected = "an index misses more than the run allows", f"{least:g}, on another sample of queries"
    ensure(recall >= least - SAMPLED, what, f"recall@{k} = {recall:.4f}", expected, where)
    return f"recall@{k} of at least {least:g} through an index ({how['index']})"


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


def same_scores(folder: Artifact) -> str:
    """Compute every metric again from the predictions, and compare it with ``scores.json``."""
    file, config, source, corpus = folder.path / "scores.json", folder.config, folder.source, folder.corpus
    written = read_json(file)
    identity = {key: config[key] for key in ("dataset", "run", "seed", "split", "ks", "deep_ks")}
    require_values(written, identity, file, "a score of something else than its folder says")
    predictions = load_predictions(folder.input("predictions"), corpus.n(source), corpus.n_labels)
    truth, pairs = corpus.labels(source), corpus.filter(source)
    if predictions.rows is not None:
        truth, pairs = truth.take(predictions.rows), None if pairs is None else pairs.take(predictions.rows)
    how = config["propensity"]
    weights = inverse_propensity(corpus.labels("train").counts(), corpus.n("train"), how["a"], how["b"])
    ks = {"ks": config["ks"], "deep_ks": config["deep_ks"]}
    again, found = evaluate(predictions.labels, truth, weights, filter=pairs, **ks).metrics, written["metrics"]
    expect_equal(", ".join(sorted(found)), ", ".join(sorted(again)), "a score has other metrics", where=file)
    for name, value in again.items():
        ok = abs(value - found[name]) <= 1e-6
        ensure(ok, f"{name} is not that of the predictions", found[name], value, f"{file}: {name}")
    return f"{len(again)} metrics computed again"


def sampled_norms(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample of the rows of a matrix, ascending, and their norms in float32."""
    rows = sampled_rows(len(vectors), ROWS)
    norms = np.zeros(len(rows), dtype=np.float32)
    for at in range(0, len(rows), PIECE):
        part = take_rows(vectors, rows[at : at + PIECE]).astype(np.float32)
        norms[at : at + PIECE] = np.linalg.norm(part, axis=1)
    return rows, norms


def sampled_rows(n: int, at_most: int) -> np.ndarray:
    """Return all of ``n`` rows, or ``at_most`` of them, ascending, the same ones every time.

    Example:
        >>> sampled_rows(3, 5).tolist(), len(sampled_rows(1000, 5)), bool((sampled_rows(1000, 5) == sampled_rows(1000, 5)).all())
        ([0, 1, 2], 5, True)
    """
    if n <= at_most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, at_most, replace=False, shuffle=False))


# -- all finished folders, stage by stage --------------------------------------------------------------------------------

Check = Callable[[Artifact], str | None]
# The stages of the report -> those of the workflow -> the checks of their files, beside those of the manifest.
CHECKS: dict[str, dict[str, tuple[Check, ...]]] = {
    "data": {"build-corpus": (corpus_counts,)},
    "tokens": {"tokenize": (token_rows,), "hash-texts": ()},
    "images": {
        "prepare-vision": (),
        "render-images": (stored_images,),
        "embed-images": (image_norms,),
        "export-dataset": (),
    },
    "model": {"prepare-model": (), "train": (same_identity, check_training_record, finite_weights)},
    "index": {"build-index": (same_identity, unit_rows), "measure-latency": (same_identity,)},
    "predictions": {"install-peers": (), "choose-inference": (same_identity,), "predict": (same_identity, rankings)},
    "scores": {"score": (same_identity, same_scores)},
}
# Stages of a dataset, and of a run.
DATA = ("build-corpus", "tokenize", "hash-texts", "render-images", "embed-images", "export-dataset")
RUNS = ("train", "build-index", "measure-latency", "choose-inference", "predict", "score")


@dataclass(frozen=True)
class StageReport:
    """The outcome of one stage; ``absent`` is what could not be looked at, ``unfinished`` are folders without a manifest."""

    stage: str
    n_folders: int
    answers: dict[str, int]
    failed: list[VixmlError]
    absent: list[str]
    unfinished: list[str]


@dataclass(frozen=True)
class FinishedFolders:
    """The finished folders to look at: all, or those of one dataset, or of one run and the run whose model it uses.

    ``quick`` compares only the size of large files.
    """

    folder: Path
    world: World
    dataset: str | None = None
    run: str | None = None
    quick: bool = False

    def skips(self, file: Path) -> bool:
        """Return whether a file is not hashed."""
        return self.quick and file.stat().st_size > BIG

    def locate(self, path: str) -> Path | None:
        """Return the present place of an input below this folder of results, whichever folder it was then; None if gone."""
        parts = Path(path).parts
        for at, part in enumerate(parts):
            if part in TOP and (here := self.folder.joinpath(*parts[at:])).exists():
                return here
        return None

    def on_disk(self, *stages: str) -> list[Artifact]:
        """Return all folders of some stages of the workflow, finished or not."""
        return [Artifact(path, names, self) for stage in stages for path, names in find(stage, self.folder)]

    def artifacts(self, stage: str) -> list[Artifact]:
        """Return the folders of a stage to look at: of a run whose model another one uses, those up to the index."""
        found = self.on_disk(stage)
        if stage in DATA:
            return [folder for folder in found if folder.names["dataset"] in self.datasets]
        if stage in RUNS:
            found = [folder for folder in found if folder.run in self.runs]
        if stage in ("choose-inference", "predict", "score"):
            found = [folder for folder in found if self.run in (None, folder.run[1])]
        return found

    @cached_property
    def runs(self) -> set[tuple[str, str]]:
        """Return dataset and run of everything to look at, with the runs whose models predictions and their choice rest on."""
        every = {folder.run for folder in self.on_disk(*RUNS)}
        chosen = {(d, r) for d, r in every if self.dataset in (None, d) and self.run in (None, r)}
        made = [f for f in self.on_disk("predict") if f.run in chosen and attempt(f.whole_manifest) == ""]
        splits = {(f.run[0], run) for f in made for run in f.config.get("inference", {}).get("chosen_on", ())}
        return chosen | splits | {(f.run[0], f.config.get("trained_as", f.run[1])) for f in made}

    @cached_property
    def datasets(self) -> set[str]:
        """Return the datasets to look at."""
        if self.run is not None:
            return {dataset for dataset, _ in self.runs}
        found = {folder.names["dataset"] for folder in self.on_disk(*DATA, *RUNS)}
        return {name for name in found if self.dataset in (None, name)}


def open_results(
    folder: Path, config_dir: Path, dataset: str | None = None, run: str | None = None, *, quick: bool = False
) -> FinishedFolders:
    """Return the results to look at.

    Raises:
        VixmlError: a dataset or run without any result, or nothing finished at all: a check of nothing cannot fail.
    """
    everything = FinishedFolders(folder, load_world(config_dir), quick=quick)
    if dataset is not None:
        require(dataset, everything.datasets, f"--dataset: {folder}", "dataset")
    if run is not None:
        require(run, {r for d, r in everything.runs if dataset in (None, d)}, f"--run: {folder}/runs", "run")
    chosen = FinishedFolders(folder, everything.world, dataset, run, quick)
    stages = [stage for checks in CHECKS.values() for stage in checks]
    if not any(artifact.finished for stage in stages for artifact in chosen.artifacts(stage)):
        what, hint = "there is nothing to check", "make some results, e.g. `make demo`"
        raise VixmlError(what, where=folder, found="no finished stage", hint=hint)
    return chosen


def inspect(results: FinishedFolders) -> Iterator[StageReport]:
    """Yield the report of each stage, in order; the one that fails is the last."""
    for stage in CHECKS:
        report = inspect_stage(results, stage)
        yield report
        if report.failed:
            return


def inspect_stage(results: FinishedFolders, stage: str) -> StageReport:
    """Check all folders of one stage; a folder's first failure ends the checks of that folder only."""
    answers: list[str | VixmlError | Absent] = []
    if stage == "data":
        answers.append(attempt(partial(raw_files, results), raw_dir(results.folder)))
    folders = [(artifact, checks) for name, checks in CHECKS[stage].items() for artifact in results.artifacts(name)]
    for artifact, checks in folders:
        # The stage's own checks say more than a hash that differs, so they come first.
        every = (Artifact.whole_manifest, *checks, Artifact.same_files, Artifact.current_inputs)
        for check in every if artifact.finished else ():
            answers.append(answer := attempt(partial(check, artifact), artifact.path))
            if isinstance(answer, VixmlError):
                break
    unfinished = [str(artifact.path) for artifact, _ in folders if not artifact.finished]
    return StageReport(
        stage=stage,
        n_folders=len(folders) - len(unfinished),
        answers=dict(Counter(answer for answer in answers if isinstance(answer, str) and answer)),
        failed=[answer for answer in answers if isinstance(answer, VixmlError)],
        absent=list(dict.fromkeys(str(answer) for answer in answers if isinstance(answer, Absent))),
        unfinished=unfinished,
    )


def line(report: StageReport) -> str:
    """Return the line of one stage, and below it every failure."""
    word = "FAILED" if report.failed else "ok" if report.n_folders else "not there"
    parts = [f"{report.n_folders} folder{'' if report.n_folders == 1 else 's'}"] if report.n_folders else []
    if not report.failed:
        parts += [f"{text} ({n} times)" if n > 1 else text for text, n in report.answers.items()]
    if report.unfinished:
        parts.append(f"{len(report.unfinished)} unfinished")
    if report.absent:
        more = f" and {len(report.absent) - SHOWN} more" if len(report.absent) > SHOWN else ""
        parts.append("not compared: " + ", ".join(report.absent[:SHOWN]) + more)
    lines = [f"{report.stage:<12} {word:<10} {'; '.join(parts)}".rstrip()]
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
    later = list(CHECKS)[list(CHECKS).index(failed) + 1 :]
    rest = f"; not looked at: {', '.join(later)}" if later else ""
    return f"the stage {failed} failed{rest}. Run snakemake again; if it finds nothing to do, delete the folder first"
