"""Stage ``export-dataset``: a corpus with its images and vectors as a folder that others can load and share.

The folder holds Parquet tables, with the images inside, a dataset card and checksums. ``datasets.load_dataset(folder)`` reads
it, as does any reader of Parquet. Row numbers are the only ids: label 7 is row 7 of the labels, image 12 is row 12 of the
images, missing or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, StrictUndefined

from vixml import __version__
from vixml.config.registry import Source, World
from vixml.data.corpus import QUERY_SPLITS, SPLITS, Corpus, expect_no_null, reading_parquet
from vixml.errors import VixmlError, expect_equal
from vixml.files import read_json, write_text
from vixml.images.embeddings import MIXED, ImageEmbeddings, coverage, share_with_images
from vixml.images.import_vectors import RowFile
from vixml.images.store import GROUP, ImageStore, shard_range
from vixml.progress import bar
from vixml.provenance import describe_input, describe_outputs, read_manifest, stage
from vixml.ragged import Ragged
from vixml.text import markdown, plain

BATCH = 1 << 14
# Rows per file: some hundred megabytes of texts, or of vectors.
ROWS_PER_FILE = 500_000
VECTORS_PER_FILE = 200_000
SUMS = "SHA256SUMS"


def export_dataset(
    world: World,
    dataset_id: str,
    corpus_dir: Path | str,
    images_dir: Path | str | None,
    embeddings_dirs: Sequence[Path | str],
    out: Path | str,
) -> None:
    """Write the folder: tables, images, vectors, ``README.md`` (the card) and ``SHA256SUMS``.

    Memory holds one batch of rows, and the lists of labels and images. ``images_dir`` None exports where the images come from,
    without them; each of ``embeddings_dirs`` is of another vision encoder.

    Raises:
        VixmlError: a part missing or damaged, or parts that do not belong together.
    """
    for path in (corpus_dir, *embeddings_dirs):
        describe_input(path)  # verified before they are read for the other inputs
    corpus = Corpus.load(corpus_dir)
    store = None if images_dir is None else ImageStore.open(images_dir)
    if store is not None:
        found, expected = f"{len(store)} images", f"{corpus.n_images} images"
        expect_equal(found, expected, "the image store belongs to another corpus", where=images_dir, hint=MIXED)
    parts = Parts(world, dataset_id, corpus, store, _open_embeddings(embeddings_dirs, corpus))
    inputs: dict[str, Path | str] = {"corpus": corpus_dir}
    inputs |= {} if images_dir is None else {"images": images_dir}
    inputs |= {f"embeddings_{encoder}": embeddings.folder for encoder, embeddings in parts.embeddings.items()}
    config = {"id": dataset_id, **world.export_settings(dataset_id, parts.embeddings)}
    facts: dict[str, Any] = {}
    with stage(out, "export-dataset", config=config, inputs=inputs, facts=facts, as_read=["images"]) as work:
        tables = _tables(parts)
        for table in tables:
            table.write(work)
        files = describe_outputs(work)
        write_text(work / SUMS, "".join(f"{file['sha256']}  {name}\n" for name, file in files.items()))
        shares = shares_with_images(parts)
        write_text(work / "README.md", card(parts, tables, files, shares))
        facts |= {"rows": {f"{t.config}/{t.split}": t.n_rows for t in tables}, "pct_with_images": shares}
        facts |= {"n_files": len(files), "bytes": sum(file["bytes"] for file in files.values())}


@dataclass(frozen=True)
class Parts:
    """The parts of a dataset that are exported."""

    world: World
    dataset: str
    corpus: Corpus
    store: ImageStore | None
    embeddings: Mapping[str, ImageEmbeddings]

    @property
    def listed(self) -> dict[str, Mapping[str, Ragged]]:
        """Return vision encoder -> split -> rows of each item, for embeddings with item lists."""
        return {name: found.item_lists for name, found in self.embeddings.items() if found.item_lists}


def _open_embeddings(folders: Sequence[Path | str], corpus: Corpus) -> dict[str, ImageEmbeddings]:
    """Return vision encoder -> image embeddings."""
    opened: dict[str, ImageEmbeddings] = {}
    for folder in folders:
        embeddings = ImageEmbeddings.open(folder)
        if embeddings.vision in opened:
            what = "image embeddings of one vision encoder were given twice"
            raise VixmlError(what, where=folder, found=embeddings.vision, hint="give one of them")
        for split in SPLITS:
            n, what = embeddings.images_of(corpus, split).n_cols, "the image embeddings belong to another corpus"
            expect_equal(f"{len(embeddings)} rows", f"{n} rows", what, where=folder, hint=MIXED)
        opened[embeddings.vision] = embeddings
    return opened


# -- tables -----------------------------------------------------------------------------------------------------------

# Kinds of columns: the type in Arrow, and how the header of a card names it.
STRING = pa.string(), {"dtype": "string"}
IDS = pa.list_(pa.int32()), {"list": "int32"}  # row numbers
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"dtype": "image"}  # PNG or null


@dataclass(frozen=True)
class ExportedColumn:
    """A column of an exported table; ``about`` is for the card."""

    name: str
    kind: tuple[pa.DataType, dict[str, Any]]
    about: str


@dataclass
class ExportedTable:
    """One split of one configuration: its rows and its files.

    Attributes:
        config: configuration, the second argument of ``load_dataset``.
        prefix: path of its files below the exported folder, without their numbers.
        batches: arrays of rows, one array per column; of any length.
        per_file: rows per file; the last may have fewer.
        n_bytes: size of the rows written so far in memory, as ``datasets`` counts it.
    """

    config: str
    split: str
    prefix: str
    columns: tuple[ExportedColumn, ...]
    batches: Iterable[Sequence[pa.Array]]
    n_rows: int
    per_file: int
    n_bytes: int = 0

    @property
    def n_files(self) -> int:
        """Return the number of files."""
        return max(1, -(-self.n_rows // self.per_file))

    def write(self, folder: Path) -> None:
        """Write all rows, one row group per batch; memory holds one batch.

        Raises:
            VixmlError: fewer or more rows than ``n_rows``.
        """
        schema = pa.schema([(column.name, column.kind[0]) for column in self.columns])
        # Images are compressed already, and vectors do not shrink.
        compression = "zstd" if all(column.kind in (STRING, IDS) for column in self.columns) else "none"
        batches, written = self._cut(schema), 0
        with bar(f"writing {self.config}, {self.split}", self.n_rows) as advance:
            for number in range(self.n_files):
                path = folder / f"{self.prefix}-{number:05d}-of-{self.n_files:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                with pq.ParquetWriter(path, schema, compression=compression) as writer:
                    while written < min((number + 1) * self.per_file, self.n_rows):
                        batch = next(batches, None)
                        if batch is None:
                            raise VixmlError("a table ended too early", where=path, found=written, expected=self.n_rows)
                        writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
                        written += batch.num_rows
                        self.n_bytes += batch.nbytes
                        advance(batch.num_rows)
        if next(batches, None) is not None:
            raise VixmlError("a table has too many rows", where=folder / self.prefix, expected=self.n_rows)

    def _cut(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the batches, cut so that none continues in the next file."""
        done = 0
        for columns in self.batches:
            batch = pa.record_batch(columns, schema=schema)
            while batch.num_rows:
                n = min(batch.num_rows, self.per_file - done % self.per_file)
                yield batch.slice(0, n)
                batch, done = batch.slice(n), done + n


# -- their rows -------------------------------------------------------------------------------------------------------


def _tables(parts: Parts) -> list[ExportedTable]:
    """Return the tables to write: queries, labels, images and one of vectors per vision encoder."""
    corpus, store = parts.corpus, parts.store
    items = [
        ExportedColumn("id", STRING, "the publisher's id"),
        ExportedColumn("text", STRING, "as the models read it"),
        ExportedColumn("images", IDS, "rows of `images`, the best first"),
    ]
    for name in parts.listed:
        items.append(ExportedColumn(f"rows_{name}", IDS, f"rows of `vectors-{name}`, where its rows are not images"))
    queries = [*items[:2], ExportedColumn("labels", IDS, "rows of `labels`, ascending: the right answers"), *items[2:]]
    if any(corpus.filter(split) is not None for split in QUERY_SPLITS):
        queries.append(ExportedColumn("not_scored", IDS, "rows of `labels` that are taken out before scoring"))
    tables = []
    for config, split, columns in [*(("queries", s, queries) for s in QUERY_SPLITS), ("labels", "label", items)]:
        rows = _item_rows(parts, split, [column.name for column in columns])
        tables.append(
            ExportedTable(config, split, f"{config}/{split}", tuple(columns), rows, corpus.n(split), ROWS_PER_FILE)
        )
    if corpus.n_images:
        columns = [
            ExportedColumn("key", STRING, "the image's name, or its address on the web"),
            ExportedColumn("source", STRING, "where it comes from"),
        ]
        if store is not None:
            about = "the image, prepared for the vision encoder; null where it is missing"
            columns.append(ExportedColumn("image", IMAGE, about))
        per_file = corpus.n_images if store is None else len(shard_range(0, len(store), store.n_shards))
        rows = _image_rows(corpus, store)
        tables.append(ExportedTable("images", "image", "images/image", tuple(columns), rows, corpus.n_images, per_file))
    for encoder, embeddings in parts.embeddings.items():
        row = f"row: see `rows_{encoder}`" if embeddings.item_lists else "row = row of `images`"
        kind = pa.list_(pa.float16(), embeddings.dim), {"list": "float16", "length": embeddings.dim}
        column = ExportedColumn("vector", kind, f"vector of an image ({row}); null where it is missing")
        config, prefix, n = f"vectors-{encoder}", f"vectors/{encoder}", len(embeddings)
        tables.append(ExportedTable(config, "vector", prefix, (column,), _vector_rows(embeddings), n, VECTORS_PER_FILE))
    return tables


def _item_rows(parts: Parts, split: str, columns: Sequence[str]) -> Iterator[list[pa.Array]]:
    corpus = parts.corpus
    lists = {"images": corpus.images(split)}
    lists |= {f"rows_{encoder}": item_lists[split] for encoder, item_lists in parts.listed.items()}
    if split in QUERY_SPLITS:
        lists["labels"] = corpus.labels(split)
        if (left_out := corpus.filter(split)) is not None:
            lists["not_scored"] = left_out
    for first, batch in strings(corpus.folder / f"{split}.parquet", ("id", "text"), BATCH):
        n = batch.num_rows
        found = {"id": batch["id"], "text": batch["text"]}
        found |= {name: id_lists(ragged, first, n) for name, ragged in lists.items()}
        # Where one split has a filter and the other none.
        empty = pa.array([[]] * n, pa.list_(pa.int32()))
        yield [found.get(name, empty) for name in columns]


def _image_rows(corpus: Corpus, store: ImageStore | None) -> Iterator[list[pa.Array]]:
    """Yield every image id in turn; one without an image has a row with null, so that row = image id."""
    stored = iter(()) if store is None else iter(store)
    current = next(stored, None)
    for first, batch in strings(corpus.folder / "images.parquet", ("key", "source"), GROUP):
        columns = [batch["key"], batch["source"]]
        if store is not None:
            pngs: list[bytes | None] = []
            for image, key in enumerate(batch["key"].to_pylist(), start=first):
                if current is None or current[0] != image:
                    pngs.append(None)
                    continue
                what, where = "the image store belongs to another corpus", f"{store.folder}, image {image}"
                expect_equal(current[1], key, what, where=where, hint="run the stage that writes the store again")
                pngs.append(current[2])
                current = next(stored, None)
            absent, no_path = pa.array([png is None for png in pngs]), pa.nulls(len(pngs), pa.string())
            parts, fields = [pa.array(pngs, pa.binary()), no_path], list(IMAGE[0])
            columns.append(pa.StructArray.from_arrays(parts, fields=fields, mask=absent))
        yield columns


def _vector_rows(embeddings: ImageEmbeddings) -> Iterator[list[pa.Array]]:
    absent = np.zeros(len(embeddings), dtype=bool)
    absent[embeddings.missing] = True
    matrix = RowFile.open(
        embeddings.folder / "vectors.npy", "float16", hint="run the stage that writes the embeddings again"
    )
    for first, block in matrix.blocks(min(BATCH, 4096)):
        flat = pa.array(np.ascontiguousarray(block).reshape(-1), pa.float16())
        mask = pa.array(absent[first : first + len(block)])
        yield [pa.FixedSizeListArray.from_arrays(flat, embeddings.dim, mask=mask)]


def strings(path: Path, columns: Sequence[str], size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield ``(first row, batch)`` of columns of a corpus's table.

    Raises:
        VixmlError: unreadable, or a value that is missing.
    """
    first = 0
    with reading_parquet(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=size, columns=list(columns)):
            for name in columns:
                expect_no_null(batch[name], f"{path}: {name}", first=first)
            yield first, batch.select(columns).cast(pa.schema([(name, pa.string()) for name in columns]))
            first += batch.num_rows


def id_lists(ragged: Ragged, first: int, n: int) -> pa.ListArray:
    """Return rows of a :class:`Ragged` as an Arrow column of lists."""
    offsets = np.asarray(ragged.offsets[first : first + n + 1])
    values = np.asarray(ragged.values[offsets[0] : offsets[-1]], dtype=np.int32)
    return pa.ListArray.from_arrays((offsets - offsets[0]).astype(np.int32), values)


# -- the card ---------------------------------------------------------------------------------------------------------

# Split -> its key of Table 8 in the registry's facts, and its name.
COVERAGE = {
    "train": ("pct_train_queries_with_images", "training queries"),
    "test": ("pct_test_queries_with_images", "test queries"),
    "label": ("pct_labels_with_images", "labels"),
}


# A template of Jinja; `n` separates thousands.
CARD = """\
---
{{ header }}---

# {{ entry.title | plain }}

A dataset for extreme multi-label classification with text and images: {{ corpus.n("train") | n }} training and
{{- " " }}{{ corpus.n("test") | n }} test queries, {{ corpus.n_labels | n }} labels, {{ corpus.n_images | n }} images. Text:
{{- " " }}{{ entry.text | plain }}. Written by `vixml export-dataset` {{ version }}.
{% if entry.stand_in %}

A stand-in for the data of the ViXML paper, not that data: no result on it compares with the paper's.
{% endif %}

## Use

```python
from pathlib import Path

from datasets import load_dataset

folder = str(Path.cwd())  # the folder of this file
queries = load_dataset(folder, "queries")  # train and test
labels = load_dataset(folder, "labels", split="label")
query = queries["test"][0]
print(query["text"], [labels[row]["text"] for row in query["labels"]])
{% if store and corpus.n_images %}
images = load_dataset(folder, "images", split="image")
shown = [images[row]["image"] for row in query["images"]]  # None where one is missing
{% endif %}
{% for encoder in embeddings %}
vectors = load_dataset(folder, "vectors-{{ encoder }}", split="vector")
{% endfor %}
```

Row numbers are the ids: label 7 is row 7 of `labels`.

## Sizes

{{ sizes }}
{{ counts.n_train_pairs | n }} pairs in train and {{ counts.n_test_pairs | n }} pairs in test;
{{- " %.2f" | format(counts.labels_per_train_query) }} labels per training query, median frequency of a label
{{- " %g" | format(counts.median_label_frequency) }}.
{% if coverage %}

## Coverage

{{ coverage -}}
{% if store and store.missing %}

{{ store.missing | length | n }} of {{ store | length | n }} images are missing: their rows hold null.
{% endif %}
{% endif %}

## Columns

{{ columns }}
## Origin
{% if origin %}

{{ origin -}}
{% endif %}

{{ parts }}
## Licence notes

{% if licences %}
The parts keep the licences of their publishers; this folder adds none.
{%- if "not stated" in licences %} Some publishers state none: then there is no permission to pass their texts or images on.
{{- " " }}Ask them, or export without images.{% endif %}
{%- if attribution %} Attribution: `source` of an image names its pack.{% endif %}


{% for licence, names in licences.items() %}
- {{ licence | plain }}: {{ names | unique | join(", ") | plain }}
{% endfor %}
{% else %}
The registry names no source: state the licence before you pass this folder on.
{% endif %}

## Checksums

`sha256sum --check SHA256SUMS` compares every file.

<details><summary>All files</summary>

{{ checksums }}
</details>
"""


def shares_with_images(parts: Parts) -> dict[str, dict[str, float]]:
    """Return ``images`` or vision encoder -> split -> percentage of items that have any."""
    corpus, store = parts.corpus, parts.store
    shares = {} if store is None else {"images": coverage(corpus, store.missing)}
    for encoder, found in parts.embeddings.items():
        shares[encoder] = {s: share_with_images(found.images_of(corpus, s), found.missing) for s in SPLITS}
    return shares


def card(
    parts: Parts,
    tables: Sequence[ExportedTable],
    files: Mapping[str, Mapping[str, Any]],
    shares: Mapping[str, Mapping[str, float]],
) -> str:
    """Return the dataset card; ``files``: path below the folder -> ``sha256`` and ``bytes``."""
    corpus, store, entry = parts.corpus, parts.store, parts.world.datasets[parts.dataset]
    size = {t.prefix: sum(f["bytes"] for name, f in files.items() if name.startswith(f"{t.prefix}-")) for t in tables}
    sizes = [
        (f"{t.config}, {t.split}", f"{t.n_rows:,}", f"{t.n_files:,}", f"{size[t.prefix] / 1e6:,.2f}") for t in tables
    ]
    columns = {(f"`{t.config}`", f"`{column.name}`"): column.about for t in tables for column in t.columns}
    checksums = [(f"`{name}`", f"{file['bytes']:,}", f"`{file['sha256']}`") for name, file in files.items()]

    published = [entry.facts.get(key) for key, _ in COVERAGE.values()]
    head, covered = ["items with", *shares], []
    for (split, (_, name)), value in zip(COVERAGE.items(), published, strict=True):
        covered.append([name, *(f"{share[split]:.2f} %" for share in shares.values())])
        if published != [None] * 3:
            covered[-1].append("-" if value is None else f"{value:.2f} %")
    head += ["published (Table 8)"] * (len(covered[0]) > len(head))

    imported = [entry.published_vectors[name] for name in parts.listed if name in entry.published_vectors]
    names = [*entry.sources, *(name for vectors in imported for name in vectors.sources)]
    sources = {name: parts.world.sources[name] for name in names}
    origin, made_by = _origin(parts, sources)
    licences: dict[str, list[str]] = {}
    for source in sources.values():
        licences.setdefault(source.licence, []).append(source.name)

    text, blocks = range(4), {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(undefined=StrictUndefined, **blocks)
    environment.filters |= {"n": "{:,}".format, "plain": plain}
    return environment.from_string(CARD).render(
        header=yaml.safe_dump(header_of(parts, tables, size), sort_keys=False, allow_unicode=True, width=120),
        version=__version__,
        entry=entry,
        corpus=corpus,
        store=store,
        embeddings=parts.embeddings,
        counts=read_json(corpus.folder / "counts.json"),
        sizes=markdown(("table", "rows", "files", "MB"), sizes),
        coverage=markdown(head, covered) if shares else "",
        columns=markdown(
            ("configuration", "column", "contents"), [(*key, about) for key, about in columns.items()], text
        ),
        origin=markdown(("source", "used for", "licence", "sha256"), origin, text) if origin else "",
        parts=markdown(("part", "made by", "commit", "sha256 of its list of files"), made_by, text),
        licences=licences,
        attribution=any("BY" in licence.split() or "BY-SA" in licence for licence in licences),
        checksums=markdown(("file", "bytes", "sha256"), checksums, text),
    )


def _origin(parts: Parts, sources: Mapping[str, Source]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the rows of two tables: the sources of the data, and the stages that wrote the parts."""
    corpus, store = parts.corpus, parts.store
    inputs, origin = read_manifest(corpus.folder)["inputs"], []
    for name, source in sources.items():
        version = "" if source.version == "-" else f" {source.version}"
        known = inputs.get(name, {}).get("sha256") or source.sha256 or "-"
        origin.append((*map(plain, (f"{source.name}{version}", source.used_for, source.licence)), f"`{known[:16]}`"))
    for encoder in parts.embeddings:
        if (model := parts.world.vision_models.get(encoder)) is not None:
            origin.append((*map(plain, (model.checkpoint, f"the vectors of {encoder}", model.licence)), "-"))
    folders = {"corpus": corpus.folder} | ({"images": store.folder} if store is not None else {})
    folders |= {f"vectors-{encoder}": embeddings.folder for encoder, embeddings in parts.embeddings.items()}
    made_by = []
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        commit = (manifest["source"].get("commit") or "-")[:12]
        made_by.append((name, f"`vixml {manifest['stage']}`", commit, f"`{manifest['outputs_sha256'][:16]}`"))
    return origin, made_by


def header_of(parts: Parts, tables: Sequence[ExportedTable], size: Mapping[str, int]) -> dict[str, Any]:
    """Return the YAML header of the card: configurations with their files, features and sizes."""
    configs: dict[str, list[ExportedTable]] = {}
    for table in tables:
        configs.setdefault(table.config, []).append(table)
    return {
        "pretty_name": parts.world.datasets[parts.dataset].title,
        "license": "other",
        "license_name": "see-licence-notes",
        "task_categories": ["text-classification"],
        "tags": ["extreme-multi-label-classification", "multi-modal", "image"],
        "size_categories": [size_category(sum(parts.corpus.n(split) for split in QUERY_SPLITS))],
        "configs": [
            {"config_name": config}
            | ({"default": True} if group[0] is tables[0] else {})
            | {"data_files": [{"split": table.split, "path": f"{table.prefix}-*.parquet"} for table in group]}
            for config, group in configs.items()
        ],
        "dataset_info": [
            {
                "config_name": config,
                "features": [{"name": column.name, **column.kind[1]} for column in group[0].columns],
                "splits": [{"name": t.split, "num_bytes": t.n_bytes, "num_examples": t.n_rows} for t in group],
                "download_size": sum(size[table.prefix] for table in group),
                "dataset_size": sum(table.n_bytes for table in group),
            }
            for config, group in configs.items()
        ],
    }


def size_category(n: int) -> str:
    """Return the hub's name for a size.

    Example:
        >>> size_category(999), size_category(5647), size_category(3_218_856)
        ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    names = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B"]
    return names[min(max(len(str(n)) - 3, 0), 7)]
