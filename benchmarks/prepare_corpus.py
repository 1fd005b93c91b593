"""Time the preparation of a corpus of LF-AmazonTitles-1.3M's shape, at several shares of its size, and its peak memory.

A synthetic archive in the true format (2,248,619 + 970,237 queries and 1,305,265 labels at share 1, 22 labels per query,
titles of about ten words) is written for each share, then built by the stage `build-corpus` and tokenized by the stage
`tokenize`, each in a process of its own. The straightforward way, in another process: unpack the archive and parse each line,
and keep nothing; no preparation that reads the archive can be faster without another parser.

    python benchmarks/prepare_corpus.py --shares 0.0625 0.25 1
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from origin import record

from vixml.config.registry import Dataset, Source
from vixml.files import read_json

MODEL = Path("results/models/minilm-l3")
WAYS = ("straightforward", "ours", "tokens")
RESULT = Path("benchmarks/results/prepare_corpus.json")
FULL = {"label": 1_305_265, "train": 2_248_619, "test": 970_237}
SHORT = {"train": "trn", "test": "tst", "label": "lbl"}
LABELS_PER_QUERY = 22
PORTION = 20_000


def write_archive(path: Path, sizes: dict[str, int]) -> None:
    """Write a synthetic archive: random words, label lists of 1 to 43, a filter of one pair in a hundred queries."""
    rng = np.random.default_rng(0)
    words = _words(rng)
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    with zipfile.ZipFile(path, "w") as archive:
        for split, n in sizes.items():
            packed = folder / f"{SHORT[split]}.json.gz"
            with gzip.open(packed, "wt", compresslevel=1, encoding="utf-8") as stream:
                for start in range(0, n, PORTION):
                    stream.write("".join(_records(rng, words, split, start, min(PORTION, n - start), sizes["label"])))
            archive.write(packed, f"synthetic/{packed.name}")
        for split in ("train", "test"):
            rows = np.arange(0, sizes[split], 100)
            pairs = zip(rows, rng.integers(0, sizes["label"], len(rows)), strict=True)
            text = "".join(f"{row} {label}\n" for row, label in pairs)
            archive.writestr(f"synthetic/filter_labels_{split}.txt", text)
    shutil.rmtree(folder)


def _words(rng: np.random.Generator) -> list[str]:
    """Return 20,000 words; three in four are one token of the tokenizer, the others, like names and codes, are several."""
    known = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    whole = sorted(word for word in known if word.isalpha() and len(word) > 2)
    made = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(4, 10))) for _ in range(5_000)]
    return [*rng.choice(whole, 15_000), *made]


def _records(rng: np.random.Generator, words: list[str], split: str, start: int, n: int, n_labels: int) -> list[str]:
    titles = rng.integers(0, len(words), (n, 16))
    lengths = rng.integers(4, 17, n)
    counts = rng.integers(1, 2 * LABELS_PER_QUERY, n)
    lines = []
    for i in range(n):
        record: dict[str, Any] = {
            "uid": f"B{split[1].upper()}{start + i:08d}",
            "title": " ".join(words[word] for word in titles[i, : lengths[i]]),
            "content": "",
        }
        if split != "label":
            labels = np.unique(rng.integers(0, n_labels, counts[i])).tolist()
            record |= {"target_ind": labels, "target_rel": [1.0] * len(labels)}
        lines.append(json.dumps(record) + "\n")
    return lines


def straightforward(path: Path) -> None:
    """Unpack and parse every line."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".gz"):
                with archive.open(name) as packed, gzip.GzipFile(fileobj=packed) as stream:
                    for line in stream:
                        json.loads(line)


def ours(path: Path, out: Path) -> None:
    """Build the corpus, as the stage does."""
    from vixml.data.build import build_corpus

    fields = {"name": "synthetic", "version": "-", "licence": "none", "used_for": "timing"}
    source = Source(kind="place", filename=path.name, **fields)
    dataset = Dataset(title="Synthetic", builder="xc-repository", sources=["s"], filter_required=True)
    build_corpus("synthetic", dataset, {"s": source}, path.parent, out)


def tokens(corpus: Path) -> None:
    """Tokenize the corpus, as the stage does."""
    from vixml.data.tokens import tokenize_corpus

    tokenize_corpus(corpus, MODEL, 32, corpus.with_name("tokens"))


def timed(way: str, path: Path, out: Path) -> dict[str, float]:
    """Run one way in a process of its own; return its seconds and its peak memory."""
    command = [sys.executable, __file__, "--only", way, "--archive", str(path), "--corpus", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"VIXML_PROGRESS": "0"})
    return json.loads(done.stdout.splitlines()[-1])


def measure(share: float, folder: Path, repeats: int) -> dict[str, Any]:
    """Return what one share took."""
    sizes = {split: round(n * share) for split, n in FULL.items()}
    path, out = folder / "synthetic.zip", folder / "corpus"
    write_archive(path, sizes)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    # In turns, so that a busy machine slows all.
    for _ in range(repeats):
        for way in WAYS:
            found[way].append(timed(way, path, out))
    rows = sum(sizes.values())
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["ours"], found["straightforward"], strict=True)]
    result = {
        "share": share,
        "rows": rows,
        "pairs": read_json(out / "counts.json")["n_train_pairs"] + read_json(out / "counts.json")["n_test_pairs"],
        "archive_mb": path.stat().st_size / 1e6,
        "corpus_mb": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6,
        "ratio_to_straightforward": ratios,
    }
    for way, runs in found.items():
        result[way] = {
            "seconds": [run["seconds"] for run in runs],
            "seconds_per_million_rows": min(run["seconds"] for run in runs) / rows * 1e6,
            "processor_seconds_per_million_rows": min(run["processor_seconds"] for run in runs) / rows * 1e6,
            "peak_mb": max(run["peak_mb"] for run in runs),
        }
    shutil.rmtree(out)
    shutil.rmtree(out.with_name("tokens"))
    path.unlink()
    return result


def main() -> None:
    """Print a line for each share and write them with their origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[1 / 16, 1 / 4, 1])
    parser.add_argument("--repeats", type=int, default=1, help="How often each share is prepared.")
    parser.add_argument("--folder", type=Path, default=None, help="Where archives and corpora are written.")
    parser.add_argument("--busy", action="store_true", help="Say in the result that the machine did other work.")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        start, worked = time.perf_counter(), time.process_time()
        if given.only == "straightforward":
            straightforward(given.archive)
        elif given.only == "ours":
            ours(given.archive, given.corpus)
        else:
            tokens(given.corpus)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - worked}
        print(json.dumps(spent | {"peak_mb": peak}))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for share in given.shares:
            row = measure(share, Path(folder), given.repeats)
            rows.append(row)
            print(
                f"share {share:.4f}: {row['rows']:,} rows; seconds per million rows: "
                + ", ".join(f"{way} {row[way]['seconds_per_million_rows']:.0f}" for way in WAYS)
                + "; peak MiB: "
                + ", ".join(f"{way} {row[way]['peak_mb']:.0f}" for way in WAYS),
                flush=True,
            )
    about = {"full_size": FULL, "labels_per_query": LABELS_PER_QUERY, "machine_busy": given.busy}
    record(given.out, {**about, "shares": rows})


if __name__ == "__main__":
    main()
