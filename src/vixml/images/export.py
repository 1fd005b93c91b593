"""Stage ``export-dataset``: a corpus with its images and vectors as a folder that others can load and share.

The folder holds Parquet tables, with the images inside, a dataset card and checksums. ``datasets.load_dataset(folder)`` reads
it, as does any reader of Parquet. Row numbers are the only ids: label 7 is row 7 of the labels, image 12 is row 12 of the
images, missing or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vixml import __version__
from vixml.config.registry import Dataset, Source, World
from vixml.data.corpus import QUERY_SPLITS, SPLITS, Corpus, reading_parquet
from vixml.errors import VixmlError
from vixml.files import read_json, write_text
from vixml.images.embeddings import ImageEmbeddings, coverage, share_with_images
from vixml.images.import_vectors import RowFile
from vixml.images.store import GROUP, ImageStore, shard_range
from vixml.progress import bar
from vixml.provenance import describe_outputs, read_manifest, stage
from vixml.ragged import Ragged
from vixml.text import markdown

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

    Memory holds one batch of rows, and the lists of labels and images.

    Args:
        world: the registry, for titles, origins and licences.
        dataset_id: entry of its ``datasets``.
        corpus_dir: the corpus.
        images_dir: its image store; None exports where the images come from, without them.
        embeddings_dirs: folders of image embeddings, each of another vision encoder.
        out: folder to write.

    Raises:
        VixmlError: a part missing or damaged, or parts that do not belong together.
    """
    corpus = Corpus.load(corpus_dir)
    store = None if images_dir is None else _open_store(images_dir, corpus)
    parts = Parts(world, dataset_id, corpus, store, _open_embeddings(embeddings_dirs, corpus))
    inputs: dict[str, Path | str] = {"corpus": corpus_dir}
    inputs |= {} if images_dir is None else {"images": images_dir}
    inputs |= {f"embeddings_{encoder}": embeddings.folder for encoder, embeddings in parts.embeddings.items()}
    entry = world.datasets[dataset_id]
    config = {"id": dataset_id}
    config |= entry.model_dump(mode="json", include={"title", "sources", "stand_in", "facts", "published_vectors"})
    config |= {"licences": {name: world.sources[name].licence for name in entry.sources}}
    facts: dict[str, Any] = {}
    with stage(out, "export-dataset", config=config, inputs=inputs, facts=facts) as work:
        tables = _tables(parts)
        for table in tables:
            table.write(work)
        files = describe_outputs(work)
        write_text(work / SUMS, "".join(f"{file['sha256']}  {name}\n" for name, file in files.items()))
        card = Card(parts, tables, files)
        write_card(work / "README.md", card)
        facts |= {"rows": {f"{t.config}/{t.split}": t.n_rows for t in tables}, "pct_with_images": card.shares}
        facts |= {"n_files": len(files), "bytes": sum(file["bytes"] for file in files.values())}


@dataclass(frozen=True)
class Parts:
    """The parts of a dataset that are exported.

    Attributes:
        world: the registry.
        dataset: entry of its ``datasets``.
        corpus: its corpus.
        store: its images, or None.
        embeddings: vision encoder -> its image embeddings.
    """

    world: World
    dataset: str
    corpus: Corpus
    store: ImageStore | None
    embeddings: Mapping[str, ImageEmbeddings]

    @property
    def listed(self) -> dict[str, Mapping[str, Ragged]]:
        """Return vision encoder -> split -> rows of each item, for embeddings with item lists of their own."""
        return {name: found.item_lists for name, found in self.embeddings.items() if found.item_lists}


def _open_store(folder: Path | str, corpus: Corpus) -> ImageStore:
    store = ImageStore.open(folder)
    if len(store) != corpus.n_images:
        raise VixmlError(
            "the image store belongs to another corpus",
            where=folder,
            found=f"{len(store)} images",
            expected=f"{corpus.n_images}, as in {corpus.folder}",
            hint="build corpus and images of one dataset again; snakemake keeps them consistent",
        )
    return store


def _open_embeddings(folders: Sequence[Path | str], corpus: Corpus) -> dict[str, ImageEmbeddings]:
    """Return vision encoder -> image embeddings."""
    opened: dict[str, ImageEmbeddings] = {}
    for folder in folders:
        embeddings = ImageEmbeddings.open(folder)
        if embeddings.vision in opened:
            raise VixmlError(
                "image embeddings of one vision encoder were given twice",
                where=folder,
                found=embeddings.vision,
                hint="give one of them",
            )
        if any(embeddings.images_of(corpus, split).n_cols != len(embeddings) for split in SPLITS):
            raise VixmlError(
                "the image embeddings belong to another corpus",
                where=folder,
                found=f"{len(embeddings)} rows",
                expected=f"{corpus.n_images}",
                hint="build corpus, images and embeddings of one dataset again; snakemake keeps them consistent",
            )
        opened[embeddings.vision] = embeddings
    return opened


# -- tables -----------------------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
    "string": (pa.string(), {"dtype": "string"}),
    "ids": (pa.list_(pa.int32()), {"list": "int32"}),
    "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"dtype": "image"}),
}


@dataclass(frozen=True)
class Column:
    """A column of an exported table.

    Attributes:
        name: its name.
        kind: ``string``, ``ids`` (a list of row numbers), ``image`` (a PNG, or null), or ``vector`` (float16, or null).
        about: its contents, for the card.
        dim: length of a ``vector``.
    """

    name: str
    kind: str
    about: str
    dim: int = 0

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field."""
        kind = pa.list_(pa.float16(), self.dim) if self.kind == "vector" else TYPES[self.kind][0]
        return pa.field(self.name, kind)

    @property
    def feature(self) -> dict[str, Any]:
        """Return the feature as the header of a card names it."""
        if self.kind == "vector":
            return {"name": self.name, "list": "float16", "length": self.dim}
        return {"name": self.name, **TYPES[self.kind][1]}


@dataclass
class Table:
    """One split of one configuration: its rows and its files.

    Attributes:
        config: configuration, the second argument of ``load_dataset``.
        split: its split.
        prefix: path of its files below the exported folder, without their numbers.
        columns: its columns.
        batches: arrays of rows, one array per column; of any length.
        n_rows: number of rows.
        per_file: rows per file; the last may have fewer.
        n_bytes: size of the rows written so far in memory, as ``datasets`` counts it.
    """

    config: str
    split: str
    prefix: str
    columns: tuple[Column, ...]
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
        schema = pa.schema([column.field for column in self.columns])
        # Images are compressed already, and vectors do not shrink.
        compression = "none" if any(column.kind in ("image", "vector") for column in self.columns) else "zstd"
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


def _tables(parts: Parts) -> list[Table]:
    """Return the tables to write: queries, labels, images and one of vectors per vision encoder."""
    corpus, store = parts.corpus, parts.store
    items = [
        Column("id", "string", "the publisher's id"),
        Column("text", "string", "as the models read it"),
        Column("images", "ids", "rows of `images`, the best first"),
        *(
            Column(f"rows_{encoder}", "ids", f"rows of `vectors-{encoder}`, where its rows are not images")
            for encoder in parts.listed
        ),
    ]
    queries = [*items[:2], Column("labels", "ids", "rows of `labels`, ascending: the right answers"), *items[2:]]
    if any(corpus.filter(split) is not None for split in QUERY_SPLITS):
        queries.append(Column("not_scored", "ids", "rows of `labels` that are taken out before scoring"))
    tables = []
    for config, split, columns in [*(("queries", s, queries) for s in QUERY_SPLITS), ("labels", "label", items)]:
        rows = _item_rows(parts, split, [column.name for column in columns])
        tables.append(Table(config, split, f"{config}/{split}", tuple(columns), rows, corpus.n(split), ROWS_PER_FILE))
    if corpus.n_images:
        columns = [
            Column("key", "string", "the image's name, or its address on the web"),
            Column("source", "string", "where it comes from"),
        ]
        if store is not None:
            about = "the image, prepared for the vision encoder; null where it is missing"
            columns.append(Column("image", "image", about))
        per_file = corpus.n_images if store is None else len(shard_range(0, len(store), store.n_shards))
        rows = _image_rows(corpus, store)
        tables.append(Table("images", "image", "images/image", tuple(columns), rows, corpus.n_images, per_file))
    for encoder, embeddings in parts.embeddings.items():
        row = f"row: see `rows_{encoder}`" if embeddings.item_lists else "row = row of `images`"
        column = Column("vector", "vector", f"vector of an image ({row}); null where it is missing", embeddings.dim)
        config, prefix, n = f"vectors-{encoder}", f"vectors/{encoder}", len(embeddings)
        tables.append(Table(config, "vector", prefix, (column,), _vector_rows(embeddings), n, VECTORS_PER_FILE))
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
                if current[1] != key:
                    raise VixmlError(
                        "the image store belongs to another corpus",
                        where=f"{store.folder}, image {image}",
                        found=current[1],
                        expected=key,
                        hint="run the stage that writes the store again",
                    )
                pngs.append(current[2])
                current = next(stored, None)
            columns.append(image_column(pngs))
        yield columns


def _vector_rows(embeddings: ImageEmbeddings) -> Iterator[list[pa.Array]]:
    absent = np.zeros(len(embeddings), dtype=bool)
    absent[embeddings.missing] = True
    matrix = RowFile.open(
        embeddings.folder / "vectors.npy", "float16", hint="run the stage that writes the embeddings again"
    )
    for first, block in matrix.blocks(min(BATCH, 4096)):
        yield [vector_column(block, absent[first : first + len(block)])]


def strings(path: Path, columns: Sequence[str], size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield ``(first row, batch)`` of columns of a corpus's table.

    Raises:
        VixmlError: unreadable, or a value that is missing.
    """
    first = 0
    with reading_parquet(path, REBUILD), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=size, columns=list(columns)):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if column.null_count:
                    raise VixmlError("a value is missing", where=f"{path}: {name}", found="null", hint=REBUILD)
            yield first, batch.select(columns).cast(pa.schema([(name, pa.string()) for name in columns]))
            first += batch.num_rows


REBUILD = "build the corpus again: vixml build-corpus"


def id_lists(ragged: Ragged, first: int, n: int) -> pa.ListArray:
    """Return rows of a :class:`Ragged` as an Arrow column of lists."""
    offsets = np.asarray(ragged.offsets[first : first + n + 1])
    values = np.asarray(ragged.values[offsets[0] : offsets[-1]], dtype=np.int32)
    return pa.ListArray.from_arrays((offsets - offsets[0]).astype(np.int32), values)


def image_column(pngs: Sequence[bytes | None]) -> pa.StructArray:
    """Return PNG files as an Arrow column that ``datasets`` decodes; null where there is none."""
    there = pa.array([png is None for png in pngs])
    nothing = pa.nulls(len(pngs), pa.string())
    return pa.StructArray.from_arrays(
        [pa.array(pngs, pa.binary()), nothing], fields=list(TYPES["image"][0]), mask=there
    )


def vector_column(rows: np.ndarray, absent: np.ndarray) -> pa.FixedSizeListArray:
    """Return vectors as an Arrow column, null where ``absent``.

    Args:
        rows: (n, dim) float16.
        absent: (n,) bool.
    """
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(absent))


# -- the card ---------------------------------------------------------------------------------------------------------

# Split -> its key of Table 8 in the registry's facts, and its name.
COVERAGE = {
    "train": ("pct_train_queries_with_images", "training queries"),
    "test": ("pct_test_queries_with_images", "test queries"),
    "label": ("pct_labels_with_images", "labels"),
}


@dataclass(frozen=True)
class Card:
    """The contents of a dataset card.

    Attributes:
        parts: the parts that were exported.
        tables: the tables that were written.
        files: path below the folder -> ``sha256`` and ``bytes``.
    """

    parts: Parts
    tables: Sequence[Table]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def entry(self) -> Dataset:
        """Return the dataset's entry in the registry."""
        return self.parts.world.datasets[self.parts.dataset]

    @property
    def sources(self) -> dict[str, Source]:
        """Return the dataset's sources, and those of imported vectors."""
        imported = [encoder for encoder in self.parts.listed if encoder in self.entry.published_vectors]
        names = [*self.entry.sources, *(name for v in imported for name in self.entry.published_vectors[v].sources)]
        return {name: self.parts.world.sources[name] for name in dict.fromkeys(names)}

    @cached_property
    def shares(self) -> dict[str, dict[str, float]]:
        """Return ``images`` or vision encoder -> split -> percentage of items that have any."""
        corpus, store = self.parts.corpus, self.parts.store
        shares = {} if store is None else {"images": coverage(corpus, store.missing)}
        for encoder, found in self.parts.embeddings.items():
            shares[encoder] = {s: share_with_images(found.images_of(corpus, s), found.missing) for s in SPLITS}
        return shares

    def size(self, prefix: str) -> int:
        """Return the bytes of a table's files."""
        return sum(file["bytes"] for name, file in self.files.items() if name.startswith(f"{prefix}-"))


def write_card(path: Path, card: Card) -> None:
    """Write the card."""
    header = yaml.safe_dump(header_of(card), sort_keys=False, allow_unicode=True, width=120)
    parts = (_about, _use, _sizes, _coverage, _columns, _origin, _licence, _checksums)
    sections = [section for part in parts if (section := part(card).strip())]
    write_text(path, f"---\n{header}---\n\n" + "\n\n".join(sections) + "\n")


def header_of(card: Card) -> dict[str, Any]:
    """Return the YAML header of the card: configurations with their files, features and sizes."""
    configs: dict[str, list[Table]] = {}
    for table in card.tables:
        configs.setdefault(table.config, []).append(table)
    return {
        "pretty_name": card.entry.title,
        "license": "other",
        "license_name": "see-licence-notes",
        "task_categories": ["text-classification"],
        "tags": ["extreme-multi-label-classification", "multi-modal", "image"],
        "size_categories": [size_category(sum(card.parts.corpus.n(split) for split in QUERY_SPLITS))],
        "configs": [
            {"config_name": config}
            | ({"default": True} if tables[0] is card.tables[0] else {})
            | {"data_files": [{"split": table.split, "path": f"{table.prefix}-*.parquet"} for table in tables]}
            for config, tables in configs.items()
        ],
        "dataset_info": [
            {
                "config_name": config,
                "features": [column.feature for column in tables[0].columns],
                "splits": [{"name": t.split, "num_bytes": t.n_bytes, "num_examples": t.n_rows} for t in tables],
                "download_size": sum(card.size(table.prefix) for table in tables),
                "dataset_size": sum(table.n_bytes for table in tables),
            }
            for config, tables in configs.items()
        ],
    }


def size_category(n: int) -> str:
    """Return the hub's name for a size.

    Example:
        >>> size_category(999), size_category(5647), size_category(3_218_856)
        ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    reached = sum(n >= 10 ** (3 + i) for i in range(len(names)))
    if reached == 0:
        return "n<1K"
    return f"n>{names[-1]}" if reached == len(names) else f"{names[reached - 1]}<n<{names[reached]}"


def _about(card: Card) -> str:
    entry, corpus = card.entry, card.parts.corpus
    text = (
        f"# {entry.title}\n\nA dataset for extreme multi-label classification with text and images: {corpus.n('train'):,} "
        f"training and {corpus.n('test'):,} test queries, {corpus.n_labels:,} labels, {corpus.n_images:,} images. "
        f"Text: {entry.text}. Written by `vixml export-dataset` {__version__}."
    )
    if entry.stand_in:
        text += (
            "\n\nA stand-in for the data of the ViXML paper, not that data: no result on it compares with the paper's."
        )
    return text


USE = """## Use

```python
from pathlib import Path

from datasets import load_dataset

folder = str(Path.cwd())  # the folder of this file
queries = load_dataset(folder, "queries")  # train and test
labels = load_dataset(folder, "labels", split="label")
query = queries["test"][0]
print(query["text"], [labels[row]["text"] for row in query["labels"]])
{more}```

Row numbers are the ids: label 7 is row 7 of `labels`."""


def _use(card: Card) -> str:
    lines = []
    if card.parts.store is not None and card.parts.corpus.n_images:
        lines += [
            'images = load_dataset(folder, "images", split="image")\n',
            'shown = [images[row]["image"] for row in query["images"]]  # None where one is missing\n',
        ]
    for encoder in card.parts.embeddings:
        lines.append(f'vectors = load_dataset(folder, "vectors-{encoder}", split="vector")\n')
    return USE.replace("{more}", "".join(lines))


def _sizes(card: Card) -> str:
    counts = read_json(card.parts.corpus.folder / "counts.json")
    rows = [
        (f"{t.config}, {t.split}", f"{t.n_rows:,}", f"{t.n_files:,}", f"{card.size(t.prefix) / 1e6:,.2f}")
        for t in card.tables
    ]
    return (
        "## Sizes\n\n"
        + markdown(("table", "rows", "files", "MB"), rows)
        + f"\n{counts['n_train_pairs']:,} pairs in train and {counts['n_test_pairs']:,} pairs in test; "
        f"{counts['labels_per_train_query']:.2f} labels per training query, median frequency of a label "
        f"{counts['median_label_frequency']:g}."
    )


def _coverage(card: Card) -> str:
    if not card.shares:
        return ""
    published = [card.entry.facts.get(key) for key, _ in COVERAGE.values()]
    head, rows = ["items with", *card.shares], []
    for (split, (_, name)), value in zip(COVERAGE.items(), published, strict=True):
        rows.append([name, *(f"{shares[split]:.2f} %" for shares in card.shares.values())])
        if any(share is not None for share in published):
            rows[-1].append(f"{value:.2f} %" if value is not None else "-")
    if len(rows[0]) > len(head):
        head.append("published (Table 8)")
    text, store = "## Coverage\n\n" + markdown(head, rows), card.parts.store
    if store is not None and store.missing:
        text += f"\n{len(store.missing):,} of {len(store):,} images are missing: their rows hold null."
    return text


def _columns(card: Card) -> str:
    about = {(table.config, column.name): column.about for table in card.tables for column in table.columns}
    rows = [(f"`{config}`", f"`{name}`", text) for (config, name), text in about.items()]
    return "## Columns\n\n" + markdown(("configuration", "column", "contents"), rows, range(4))


def _origin(card: Card) -> str:
    parts = card.parts
    inputs = read_manifest(parts.corpus.folder)["inputs"]
    rows = []
    for name, source in card.sources.items():
        version = "" if source.version == "-" else f" {source.version}"
        known = inputs.get(name, {}).get("sha256") or source.sha256 or "-"
        rows.append((f"{source.name}{version}", source.used_for, source.licence, f"`{known[:16]}`"))
    for encoder in parts.embeddings:
        if (model := parts.world.vision_models.get(encoder)) is not None:
            rows.append((model.checkpoint, f"the vectors of {encoder}", model.licence, "-"))
    folders = {"corpus": parts.corpus.folder} | ({"images": parts.store.folder} if parts.store is not None else {})
    folders |= {f"vectors-{encoder}": embeddings.folder for encoder, embeddings in parts.embeddings.items()}
    made_by = []
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        commit = (manifest["source"].get("commit") or "-")[:12]
        made_by.append((name, f"`vixml {manifest['stage']}`", commit, f"`{manifest['outputs_sha256'][:16]}`"))
    text = "## Origin\n\n"
    if rows:
        text += markdown(("source", "used for", "licence", "sha256"), rows, range(4)) + "\n"
    return text + markdown(("part", "made by", "commit", "sha256 of its list of files"), made_by, range(4))


def _licence(card: Card) -> str:
    licences: dict[str, list[str]] = {}
    for source in card.sources.values():
        licences.setdefault(source.licence, []).append(source.name)
    if not licences:
        return "## Licence notes\n\nThe registry names no source: state the licence before you pass this folder on."
    text = "The parts keep the licences of their publishers; this folder adds none."
    if "not stated" in licences:
        text += (
            " Some publishers state none: then there is no permission to pass their texts or images on. Ask them, or export "
            "without images."
        )
    if any("BY" in licence.split() or "BY-SA" in licence for licence in licences):
        text += " Attribution: `source` of an image names its pack."
    lines = [f"- {licence}: {', '.join(dict.fromkeys(names))}" for licence, names in licences.items()]
    return "## Licence notes\n\n" + text + "\n\n" + "\n".join(lines)


def _checksums(card: Card) -> str:
    rows = [(f"`{name}`", f"{f['bytes']:,}", f"`{f['sha256']}`") for name, f in card.files.items()]
    return (
        "## Checksums\n\n`sha256sum --check SHA256SUMS` compares every file.\n\n<details><summary>All files</summary>\n\n"
        + markdown(("file", "bytes", "sha256"), rows, range(4))
        + "\n</details>"
    )
