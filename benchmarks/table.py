"""Print one table of all benchmarks: path, size, ours, straightforward, ratio, limit, share of the limit, device, date.

It reads benchmarks/results/*.json; what still wants a GPU is listed with the command that would measure it.

    python benchmarks/table.py
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
HEAD = ["path", "size", "ours", "straightforward", "ratio", "limit", "of limit", "device", "date"]
# What nobody has timed on a GPU yet: path, size, the file that it would be in, and the command that writes it.
KIT = "python benchmarks/gpu_kit.py --parts"
OWED = [
    ("training step, decoder", "Qwen2.5-0.5B-I; to reach: 45 % of the peak", "kit-decoder-0.5b-*.json", f"{KIT} decoder-0.5b decoder-0.5b-liger"),
    ("training step, decoder", "Qwen2.5-3B-I; to reach: 55 % of the peak", "kit-decoder-3b-*.json", f"{KIT} decoder-3b decoder-3b-liger"),
    ("memory of a training step", "Gemma-3-4B, Qwen3-4B, Qwen2.5-7B", "kit-memory-*.json", f"{KIT} memory-gemma-3-4b memory-qwen3-4b memory-qwen2.5-7b"),
    ("training step, encoder", "to reach: 4 times the straightforward", "kit-encoder-*.json", f"{KIT} encoder-minilm encoder-distilbert encoder-e5"),
    ("balanced 2-means", "2,250,000 x 2048, groups of 16, beside 27 GB", "kit-mining-*.json", f"{KIT} mining"),
    ("exact search", "970,000 x 1,305,265 x 768; to reach: 3 times the product", "kit-search-*.json", f"{KIT} search"),
    ("images to vectors", "SigLIP2 so400m", "kit-pooling-*.json", f"{KIT} pooling"),
    ("centroids of labels", "2,250,000 x 2048", "kit-centroids-*.json", f"{KIT} centroids"),
    ("projected training", "Qwen2.5-3B on LF-AmazonTitles-1.3M; to reach: 60 h (the paper: 178)", "kit-projection-*.json", f"{KIT} projection"),
    (
        "approximate search, ivf",
        "10,000 x 1,305,265 x 384",
        "index-gpu.json",
        "python benchmarks/index.py --device cuda --kinds ivf --queries 10000 --labels 1305265",
    ),
    (
        "local ridge votes",
        "32,768 queries, 100 neighbours x 384",
        "ridge-gpu.json",
        "python benchmarks/ridge.py --device cuda --queries 32768 --voters 1305265",
    ),
]  # fmt: skip


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one result file, whatever its form, each with its processor and date."""
    origin = {"processor": processor(document["machine"].get("processor") or ""), "date": document.get("date", "–")}
    return [row | origin for row in _rows_of(document)]


def _rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    threads = document["machine"].get("threads") or document.get("threads", 1)
    about = {"threads": threads, "device": document.get("device", "cpu")}
    for key, form in OTHER_FORMS.items():
        if key in document:
            return [about | row for row in form(document)]
    if "cases" in document:  # benchmarks/training_step.py, which the cost plan reads as well
        found = []
        for case, result in document["cases"].items():
            speeds, own = result["samples_per_second"], result["ratio_to_straightforward"]
            way = next(name for name in ("ours, bf16", "ours, fp16", "ours, fp32") if name in speeds)
            size = f"MiniLM-L3, batch {document['batch_size']}, {way.removeprefix('ours, ')}"
            limit = result.get("limit")
            found.append(
                about
                | {"path": f"training step, {case}", "size": size, "unit": "samples/s", "ours": speeds[way]}
                | {"straightforward": speeds["straightforward"], "ratio": own[way], "limit": limit}
                | {"share_of_limit": speeds[way]["median"] / limit if limit else None}
            )
        return found
    rows = document.get("rows") or [{}]
    if "fused_ms" in rows[0]:  # benchmarks/attention.py
        return [
            about
            | {"path": "attention, both ways", "size": f"{row['size']}, {document['precision']}", "unit": "ms"}
            | {
                "ours": {"median": row["ours_ms"]},
                "straightforward": {"median": row["fused_ms"]},
                "ratio": row["ratio"],
                "limit": row.get("limit_ms"),
                "share_of_limit": row["limit_ms"] / row["ours_ms"] if "limit_ms" in row else None,
            }
            for row in rows
        ]
    return rows if "path" in rows[0] else []


def _of_values(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _entry_points(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per entry point (benchmarks/workflow_overhead.py): its allowed seconds are the limit."""
    found = {f"up to date: {name}": entry_point for name, entry_point in document["entry_points"].items()}
    found[f"the paper's {document['paper']['jobs']} jobs planned"] = document["paper"]
    for name, entry_point in found.items():
        size = document["tree"] if name.startswith("up to date") else "config/paper.yaml"
        yield {"path": name, "size": size, "unit": "s", "ours": entry_point, "straightforward": None, "ratio": None} | {
            "limit": entry_point["limit"]
        }


def _fetching(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per delay of the server (benchmarks/fetch.py), ours beside the HTTP client alone."""
    for row in document["without_faults"]:
        speeds = {way: _of_values(values) for way, values in row["images_a_second"].items()}
        size = (
            f"{row['images']:,} images, {document['concurrency']} connections, {1e3 * row['delay_seconds']:.0f} ms away"
        )
        yield {"path": "fetching images", "size": size, "unit": "images/s", "ours": speeds["ours"]} | {
            "straightforward": speeds["alone"],
            "ratio": _of_values(row["ratio_ours_to_alone"]),
        }


def _shards(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per image size (benchmarks/image_shards.py), ours beside PIL alone on bytes in memory."""
    for row in document["sizes"]:
        ours, alone = row["ways"]["store, read and decoded"], row["ways"]["PIL alone, from memory"]
        yield {"path": "stored images read and decoded", "size": f"{row['images']:,} of {row['size']} pixels"} | {
            "unit": "images/s",
            "ours": {"median": ours["images_a_second"]},
            "straightforward": {"median": alone["images_a_second"]},
            "ratio": {"median": ours["ratio_to_pil_alone"], "min": ours["smallest"], "max": ours["largest"]},
        }


def _corpora(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per size (benchmarks/prepare_corpus.py), ours beside unpacking and parsing every line."""
    for row in document["shares"]:
        ratio = {key: 1 / value for key, value in _of_values(row["ratio_to_straightforward"]).items()}
        yield {"path": "corpus from its archive", "size": f"{row['rows']:,} rows", "unit": "s", "ratio": ratio} | {
            way: {"median": statistics.median(row[way]["seconds"])} for way in ("ours", "straightforward")
        }
        tokens = {"median": statistics.median(row["tokens"]["seconds"])}
        yield {"path": "corpus tokenized", "size": f"{row['rows']:,} rows", "unit": "s", "ours": tokens} | {
            "straightforward": None,
            "ratio": None,
        }


def _imports(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per size of the published files (benchmarks/import_vectors.py)."""
    for row in document["imports"]:
        yield {"path": "image vectors imported", "size": f"{row['input_mb']:,.0f} MB", "unit": "MB/s"} | {
            "ours": {"median": row["mb_per_second"]},
            "straightforward": None,
            "ratio": None,
        }


def _rehearsal(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield nothing: docs/cost.md has the table of benchmarks/scale.py."""
    yield from ()


OTHER_FORMS = {
    "entry_points": _entry_points,
    "without_faults": _fetching,
    "sizes": _shards,
    "shares": _corpora,
    "imports": _imports,
    "parts": _rehearsal,
}


def number(value: float | None) -> str:
    """Print three digits.

    Example:
        >>> number(0.01234), number(12345.6), number(None)
        ('0.0123', '12,346', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def processor(name: str) -> str:
    """Return a processor's name without what every name has.

    Example:
        >>> processor("Intel(R) Xeon(R) Processor"), processor("AMD EPYC"), processor("")
        ('Xeon', 'EPYC', 'cpu')
    """
    words = re.sub(r"\(R\)|\(TM\)|Intel|AMD|Processor|CPU|@.*", " ", name).split()
    return " ".join(words) or "cpu"


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one row."""
    unit = row["unit"]
    plain, ratio = row["straightforward"], row["ratio"]
    threads = f"{row['threads']} thread{'s'[: row['threads'] > 1]}"
    device = f"{row.get('processor', 'cpu')}, {threads}" if row["device"] == "cpu" else row["device"]
    limit = row.get("limit")
    share = row.get("share_of_limit")
    return [
        row["path"],
        row["size"],
        f"{number(row['ours']['median'])} {unit}",
        f"{number(plain['median'])} {unit}" if plain else "–",
        f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "–",
        f"{number(limit)} {unit}" if limit else "–",
        f"{share:.0%}" if share else "–",
        device,
        row.get("date", "–"),
    ]


def show(rows: list[dict[str, Any]], owed: list[list[str]] | None = None) -> None:
    """Print rows as a table in Markdown."""
    lines = [HEAD, *(cells(row) for row in rows), *(owed or [])]
    # A command is longer than any figure: it may stand out of its column.
    widths = [max(len(line[column]) for line in lines[: len(rows) + 1]) for column in range(len(HEAD))]
    for place, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if not place:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def main() -> None:
    """Print everything that was measured, and what is owed."""
    documents = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    rows = [row for document in documents for row in rows_of(document)]
    rows.sort(key=lambda row: (row["path"], row["device"]))
    owed = [
        [
            path,
            size,
            f"owed: `{command} --out benchmarks/results{'' if '*' in name else '/' + name}`",
            "–",
            "–",
            "–",
            "–",
            "cuda",
            "–",
        ]
        for path, size, name, command in OWED
        if not any(RESULTS.glob(name))
    ]
    show(rows, owed)


if __name__ == "__main__":
    main()
