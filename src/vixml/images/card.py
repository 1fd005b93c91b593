"""Write the card of a published dataset: a README.md whose header tells ``datasets`` what there is, and the rest people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vixml import __version__
from vixml.config.world import Source, World
from vixml.data.corpus import SPLITS, Corpus
from vixml.files import read_json, write_text
from vixml.images.bank import ImageBank
from vixml.images.hub_tables import Table
from vixml.images.store import ImageStore
from vixml.provenance import read_manifest

# The keys of Table 8 in the registry's facts.
PUBLISHED = {
    "train": "pct_train_queries_with_images",
    "test": "pct_test_queries_with_images",
    "label": "pct_labels_with_images",
}
NAMES = {"train": "training queries", "test": "test queries", "label": "labels"}


@dataclass(frozen=True)
class Contents:
    """What was published.

    Attributes:
        world: the registry.
        dataset: entry of its ``datasets``.
        corpus: of it.
        store: its pictures, or None.
        banks: vision encoder -> vectors.
        tables: what was written.
        shares: of what (``pictures``, or a vision encoder) -> split -> items that have any, in percent.
        files: path below the folder -> ``sha256`` and ``bytes``.
    """

    world: World
    dataset: str
    corpus: Corpus
    store: ImageStore | None
    banks: Mapping[str, ImageBank]
    tables: Sequence[Table]
    shares: Mapping[str, Mapping[str, float]]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def sources(self) -> dict[str, Source]:
        """Return where it comes from: the dataset's sources, and those of vectors that were imported."""
        entry = self.world.datasets[self.dataset]
        imported = [v for v, bank in self.banks.items() if bank.own and v in entry.published_vectors]
        names = [*entry.sources, *(name for v in imported for name in entry.published_vectors[v].sources)]
        return {name: self.world.sources[name] for name in dict.fromkeys(names)}


def write_card(path: Path, contents: Contents) -> None:
    """Write the card."""
    header = yaml.safe_dump(header_of(contents), sort_keys=False, allow_unicode=True, width=120)
    parts = (_about, _use, _sizes, _coverage, _columns, _origin, _licence, _checksums)
    sections = [section for section in (part(contents) for part in parts) if section]
    write_text(path, f"---\n{header}---\n\n" + "\n\n".join(sections) + "\n")


def header_of(contents: Contents) -> dict[str, Any]:
    """Return what stands between the lines of dashes: configurations with their files, features and sizes."""
    configs = list(dict.fromkeys(table.config for table in contents.tables))
    n_queries = sum(contents.corpus.n(split) for split in ("train", "test"))
    return {
        "pretty_name": contents.world.datasets[contents.dataset].title,
        "license": "other",
        "license_name": "see-licence-notes",
        "task_categories": ["text-classification"],
        "tags": ["extreme-multi-label-classification", "multi-modal", "image"],
        "size_categories": [size_category(n_queries)],
        "configs": [_config(contents, config, first=config == configs[0]) for config in configs],
        "dataset_info": [_info(contents, config) for config in configs],
    }


def _config(contents: Contents, config: str, *, first: bool) -> dict[str, Any]:
    files = [{"split": t.split, "path": f"{t.prefix}-*.parquet"} for t in contents.tables if t.config == config]
    return {"config_name": config, **({"default": True} if first else {}), "data_files": files}


def _info(contents: Contents, config: str) -> dict[str, Any]:
    own = [table for table in contents.tables if table.config == config]
    sizes = [f["bytes"] for name, f in contents.files.items() if name.startswith(tuple(f"{t.prefix}-" for t in own))]
    return {
        "config_name": config,
        "features": [column.feature for column in own[0].columns],
        "splits": [{"name": t.split, "num_bytes": t.n_bytes, "num_examples": t.n_rows} for t in own],
        "download_size": sum(sizes),
        "dataset_size": sum(table.n_bytes for table in own),
    }


def size_category(n: int) -> str:
    """Return the hub's name for a size.

    Example:
        >>> size_category(999), size_category(5647), size_category(3_218_856)
        ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    steps = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    place = sum(n >= 10 ** (3 + i) for i in range(len(steps)))
    if place == 0:
        return "n<1K"
    return f"n>{steps[-1]}" if place == len(steps) else f"{steps[place - 1]}<n<{steps[place]}"


# -- for people -------------------------------------------------------------------------------------------------------


def _about(c: Contents) -> str:
    entry = c.world.datasets[c.dataset]
    said = [
        f"# {entry.title}",
        "",
        f"A dataset for extreme multi-label classification with text and pictures: {c.corpus.n('train'):,} training and "
        f"{c.corpus.n('test'):,} test queries, {c.corpus.n_labels:,} labels, {c.corpus.n_images:,} images. Text: {entry.text}. "
        f"Written by `vixml publish-dataset` {__version__}.",
    ]
    if entry.stand_in:
        said += [
            "",
            "A stand-in for the data of the ViXML paper, not that data: no result on it compares with the paper's.",
        ]
    return "\n".join(said)


def _use(c: Contents) -> str:
    lines = [
        "from pathlib import Path",
        "",
        "from datasets import load_dataset",
        "",
        "folder = str(Path.cwd())  # where this file lies",
        'queries = load_dataset(folder, "queries")  # train and test',
        'labels = load_dataset(folder, "labels", split="label")',
        'query = queries["test"][0]',
        'print(query["text"], [labels[row]["text"] for row in query["labels"]])',
    ]
    if c.store is not None and c.corpus.n_images:
        lines += [
            'images = load_dataset(folder, "images", split="image")',
            'pictures = [images[row]["image"] for row in query["images"]]  # None where one is missing',
        ]
    for vision in c.banks:
        lines.append(f'vectors = load_dataset(folder, "vectors-{vision}", split="vector")')
    return (
        "## Use\n\n```python\n" + "\n".join(lines) + "\n```\n\nRow numbers are the ids: label 7 is row 7 of `labels`."
    )


def _sizes(c: Contents) -> str:
    counts = read_json(c.corpus.folder / "counts.json")
    keys = ("train_pairs", "test_pairs")
    rows = [(f"{t.config}, {t.split}", f"{t.n_rows:,}", f"{t.n_files:,}", _size(c, t)) for t in c.tables]
    pairs = " and ".join(f"{counts[f'n_{key}']:,} pairs in {key.split('_')[0]}" for key in keys)
    return (
        "## Sizes\n\n"
        + _table(("table", "rows", "files", "size"), rows)
        + f"\n\n{pairs[0].upper()}{pairs[1:]}; {counts['labels_per_train_query']:.2f} labels a training query, median frequency of a "
        f"label {counts['median_label_frequency']:g}."
    )


def _size(c: Contents, table: Table) -> str:
    total = sum(f["bytes"] for name, f in c.files.items() if name.startswith(f"{table.prefix}-"))
    return f"{total / 1e6:,.1f} MB" if total >= 1e6 else f"{total / 1e3:,.1f} kB"


def _coverage(c: Contents) -> str:
    if not c.shares:
        return ""
    facts = c.world.datasets[c.dataset].facts
    printed = any(key in facts for key in PUBLISHED.values())
    head = ("items with", *c.shares, *(["published (Table 8)"] if printed else []))
    rows = []
    for split in SPLITS:
        own = [f"{shares[split]:.2f} %" for shares in c.shares.values()]
        known = facts.get(PUBLISHED[split])
        rows.append((NAMES[split], *own, *([f"{known:.2f} %" if known is not None else "-"] if printed else [])))
    said = "## Coverage\n\n" + _table(head, rows)
    if c.store is not None and c.store.missing:
        said += f"\n\n{len(c.store.missing):,} of {len(c.store):,} pictures could not be had: their rows hold null."
    return said


def _columns(c: Contents) -> str:
    rows: dict[tuple[str, str], str] = {}
    for table in c.tables:
        rows |= {(table.config, column.name): column.about for column in table.columns}
    lines = [(f"`{config}`", f"`{name}`", about) for (config, name), about in rows.items()]
    return "## Columns\n\n" + _table(("configuration", "column", "holds"), lines)


def _origin(c: Contents) -> str:
    made = read_manifest(c.corpus.folder)
    rows = []
    for name, source in c.sources.items():
        version = "" if source.version == "-" else f" {source.version}"
        known = made["inputs"].get(name, {}).get("sha256") or source.sha256 or "-"
        rows.append((f"{source.name}{version}", source.used_for, source.licence, f"`{known[:16]}`"))
    parts = {"corpus": c.corpus.folder} | ({"images": c.store.folder} if c.store is not None else {})
    parts |= {f"vectors-{vision}": bank.folder for vision, bank in c.banks.items()}
    made_by = []
    for name, folder in parts.items():
        manifest = read_manifest(folder)
        commit = (manifest["source"].get("commit") or "-")[:12]
        made_by.append((name, f"`vixml {manifest['stage']}`", commit, f"`{manifest['outputs_sha256'][:16]}`"))
    for vision in c.banks:
        if (model := c.world.vision_models.get(vision)) is not None:
            rows.append((model.checkpoint, f"the vectors of {vision}", model.licence, "-"))
    said = "## Where it comes from\n\n"
    if rows:
        said += _table(("source", "what of it", "licence", "sha256"), rows) + "\n\n"
    return said + _table(("part", "made by", "commit", "sha256 of its list of files"), made_by)


def _licence(c: Contents) -> str:
    found: dict[str, list[str]] = {}
    for source in c.sources.values():
        found.setdefault(source.licence, []).append(source.name)
    lines = [f"- {licence}: {', '.join(dict.fromkeys(names))}" for licence, names in found.items()]
    said = "The parts keep the licences of their publishers; this folder adds none." if lines else (
        "The registry names no source: whoever passes this folder on says under which licence."
    )  # fmt: skip
    if "not stated" in found:
        said += (
            " Some publishers state none: then there is no permission to pass their texts or pictures on. Ask them, or publish "
            "without pictures."
        )
    if any("BY" in licence.split() or "BY-SA" in licence for licence in found):
        said += " Attribution: `source` of an image names the pack that it is from."
    return "## Licence notes\n\n" + said + ("\n\n" + "\n".join(lines) if lines else "")


def _checksums(c: Contents) -> str:
    rows = [(f"`{name}`", f"{f['bytes']:,}", f"`{f['sha256']}`") for name, f in c.files.items()]
    return (
        "## Checksums\n\n`sha256sum --check SHA256SUMS` compares every file.\n\n<details><summary>All files</summary>\n\n"
        + _table(("file", "bytes", "sha256"), rows)
        + "\n\n</details>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
