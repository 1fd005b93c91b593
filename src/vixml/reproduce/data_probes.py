"""Look into the files in front of a training: raw files, counts, tokens, pictures, their vectors. One function a question."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vixml.config.world import World
from vixml.data.corpus import SPLITS, Corpus, verify_counts
from vixml.files import read_json, sha256_file
from vixml.images.bank import ImageBank
from vixml.images.scattered import take_rows
from vixml.ragged import Ragged
from vixml.reproduce.sampled import PIECE, ROWS, pieces, sample
from vixml.reproduce.sealed import BIG, Failed, NotThere, Ok, Outcome, Sealed, same

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
