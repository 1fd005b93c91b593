"""Stage ``export-dataset``: a corpus with its images and vectors as a folder that others can load and pass on.

Parquet tables, images inside them, a dataset card and checksums: ``datasets.load_dataset(folder)`` reads it, and so does
anything that reads Parquet. Row numbers are the only ids: label 7 is row 7 of the labels, image 12 row 12 of the images,
whether or not there is an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vixml import __version__
from vixml.config.registry import Source, World
from vixml.data.corpus import QUERY_SPLITS, SPLITS, Corpus
from vixml.errors import VixmlError
from vixml.files import read_json, write_text
from vixml.images.embeddings import ImageEmbeddings, coverage, share_with_images
from vixml.images.import_vectors import RowFile
from vixml.images.store import GROUP, ImageStore, shard_range
from vixml.progress import bar
from vixml.provenance import describe_outputs, read_manifest, stage
from vixml.ragged import Ragged

BATCH = 1 << 14
# Rows a file: some hundred megabytes of texts, or of vectors.
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
    store = None if images_dir is None else _store(images_dir, corpus)
    all_embeddings = _all_embeddings(embeddings_dirs, corpus)
    inputs: dict[str, Path | str] = {"corpus": corpus_dir}
    inputs |= {} if images_dir is None else {"images": images_dir}
    inputs |= {f"embeddings_{vision}": embeddings.folder for vision, embeddings in all_embeddings.items()}
    entry = world.datasets[dataset_id]
    said = entry.model_dump(mode="json", include={"title", "sources", "stand_in", "facts", "published_vectors"})
    said |= {"licences": {name: world.sources[name].licence for name in entry.sources}}
    facts: dict[str, Any] = {}
    with stage(out, "export-dataset", config={"id": dataset_id, **said}, inputs=inputs, facts=facts) as work:
        tables = [_queries(corpus, split, all_embeddings) for split in QUERY_SPLITS] + [_labels(corpus, all_embeddings)]
        with bar("writing texts", sum(corpus.n(split) for split in SPLITS)) as advance:
            for table, split in zip(tables, SPLITS, strict=True):
                rows = _items(corpus, split, table, all_embeddings)
                table.write(work, _told(rows, advance), corpus.n(split), ROWS_PER_FILE)
        if corpus.n_images:
            tables.append(table := _images(store))
            per_file = corpus.n_images if store is None else len(shard_range(0, len(store), store.n_shards))
            with bar("writing images", corpus.n_images) as advance:
                table.write(work, _told(_image_rows(corpus, store), advance), corpus.n_images, per_file)
        for vision, embeddings in all_embeddings.items():
            tables.append(table := _vectors(vision, embeddings))
            with bar(f"writing vectors of {vision}", len(embeddings)) as advance:
                table.write(work, _told(_rows(embeddings, table), advance), len(embeddings), VECTORS_PER_FILE)
        shares = {} if store is None else {"images": coverage(corpus, store.missing)}
        for vision, embeddings in all_embeddings.items():
            shares[vision] = {s: share_with_images(embeddings.images_of(corpus, s), embeddings.missing) for s in SPLITS}
        files = describe_outputs(work)
        write_text(work / SUMS, "".join(f"{file['sha256']}  {name}\n" for name, file in files.items()))
        contents = Contents(world, dataset_id, corpus, store, all_embeddings, tuple(tables), shares, files)
        write_card(work / "README.md", contents)
        facts |= {"rows": {f"{t.config}/{t.split}": t.n_rows for t in tables}, "pct_with_images": shares}
        facts |= {"n_files": len(files), "bytes": sum(file["bytes"] for file in files.values())}


def _store(folder: Path | str, corpus: Corpus) -> ImageStore:
    store = ImageStore.open(folder)
    if len(store) != corpus.n_images:
        raise VixmlError(
            "an image store is not that of the corpus",
            where=folder,
            found=f"{len(store)} images",
            expected=f"{corpus.n_images}, as {corpus.folder} names",
            hint="build corpus and images of one dataset again; snakemake keeps them in step",
        )
    return store


def _all_embeddings(folders: Sequence[Path | str], corpus: Corpus) -> dict[str, ImageEmbeddings]:
    all_embeddings: dict[str, ImageEmbeddings] = {}
    for folder in folders:
        embeddings = ImageEmbeddings.open(folder)
        if embeddings.vision in all_embeddings:
            raise VixmlError(
                "image embeddings of one vision encoder were given twice",
                where=folder,
                found=embeddings.vision,
                hint="give one of them",
            )
        for split in SPLITS:
            if embeddings.images_of(corpus, split).n_cols != len(embeddings):
                raise VixmlError(
                    "image embeddings are not those of the corpus",
                    where=folder,
                    found=f"{len(embeddings)} rows",
                    expected=f"{corpus.n_images}",
                    hint="build corpus, images and embeddings of one dataset again; snakemake keeps them in step",
                )
        all_embeddings[embeddings.vision] = embeddings
    return all_embeddings


# -- tables -----------------------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
    "string": (pa.string(), {"dtype": "string"}),
    "ids": (pa.list_(pa.int32()), {"list": "int32"}),
    "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"dtype": "image"}),
}


@dataclass(frozen=True)
class Column:
    """A column of a published table.

    Attributes:
        name: of the column.
        kind: ``string``, ``ids`` (a list of row numbers), ``image`` (a PNG, or null), or ``vector`` (float16, or null).
        about: what it holds, for the card.
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
    """One split of one configuration: where its files lie, and what was written.

    Attributes:
        config: configuration, the second argument of ``load_dataset``.
        split: of it.
        prefix: of its files, below the published folder.
        columns: what it holds.
        n_rows: written so far.
        n_bytes: of the columns in memory, as ``datasets`` counts them.
        n_files: that were written.
    """

    config: str
    split: str
    prefix: str
    columns: tuple[Column, ...]
    n_rows: int = 0
    n_bytes: int = 0
    n_files: int = 0

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema."""
        return pa.schema([column.field for column in self.columns])

    def write(self, folder: Path, batches: Iterator[pa.RecordBatch], n_rows: int, per_file: int) -> None:
        """Write all rows, ``per_file`` a file and a row group a batch; memory holds one batch.

        Args:
            folder: the published folder.
            batches: of any length; each is cut where a file ends.
            n_rows: how many rows there are in all.
            per_file: rows a file, the last but one.
        """
        n_files = max(1, -(-n_rows // per_file))
        waiting = _cut(batches, per_file)
        for number in range(n_files):
            path = folder / f"{self.prefix}-{number:05d}-of-{n_files:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            room = min(per_file, n_rows - number * per_file)
            # Images are compressed already, and vectors do not shrink.
            packed = any(column.kind in ("image", "vector") for column in self.columns)
            with pq.ParquetWriter(path, self.schema, compression="none" if packed else "zstd") as writer:
                while room > 0:
                    batch = next(waiting, None)
                    if batch is None:
                        raise VixmlError("a table ended too early", where=path, found=self.n_rows, expected=n_rows)
                    writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
                    room -= batch.num_rows
                    self.n_rows += batch.num_rows
                    self.n_bytes += batch.nbytes
        self.n_files = n_files
        if next(waiting, None) is not None:
            raise VixmlError("a table has more rows than it should", where=folder / self.prefix, expected=n_rows)


def _cut(batches: Iterator[pa.RecordBatch], per_file: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``batches`` so that none crosses a multiple of ``per_file``."""
    done = 0
    for batch in batches:
        while batch.num_rows:
            n = min(batch.num_rows, per_file - done % per_file)
            yield batch.slice(0, n)
            batch, done = batch.slice(n), done + n


def strings(path: Path, columns: Sequence[str], size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield ``(first row, batch)`` of columns of a corpus's table.

    Raises:
        VixmlError: unreadable, or a value that is missing.
    """
    first = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size, columns=list(columns)):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    if column.null_count:
                        raise VixmlError("a value is missing", where=f"{path}: {name}", found="null", hint=REBUILD)
                yield first, batch.select(columns).cast(pa.schema([(name, pa.string()) for name in columns]))
                first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise VixmlError(
            "not a readable parquet file", where=path, found=str(error).splitlines()[0], hint=REBUILD
        ) from error


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


def vectors(rows: np.ndarray, absent: np.ndarray) -> pa.FixedSizeListArray:
    """Return vectors as an Arrow column, null where ``absent``.

    Args:
        rows: (n, dim) float16.
        absent: (n,) bool.
    """
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(absent))


# -- the card ---------------------------------------------------------------------------------------------------------

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
        store: its images, or None.
        all_embeddings: vision encoder -> vectors.
        tables: what was written.
        shares: of what (``images``, or a vision encoder) -> split -> items that have any, in percent.
        files: path below the folder -> ``sha256`` and ``bytes``.
    """

    world: World
    dataset: str
    corpus: Corpus
    store: ImageStore | None
    all_embeddings: Mapping[str, ImageEmbeddings]
    tables: Sequence[Table]
    shares: Mapping[str, Mapping[str, float]]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def sources(self) -> dict[str, Source]:
        """Return where it comes from: the dataset's sources, and those of vectors that were imported."""
        entry = self.world.datasets[self.dataset]
        imported = [
            v for v, embeddings in self.all_embeddings.items() if embeddings.own and v in entry.published_vectors
        ]
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
        f"A dataset for extreme multi-label classification with text and images: {c.corpus.n('train'):,} training and "
        f"{c.corpus.n('test'):,} test queries, {c.corpus.n_labels:,} labels, {c.corpus.n_images:,} images. Text: {entry.text}. "
        f"Written by `vixml export-dataset` {__version__}.",
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
            'shown = [images[row]["image"] for row in query["images"]]  # None where one is missing',
        ]
    for vision in c.all_embeddings:
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
        said += f"\n\n{len(c.store.missing):,} of {len(c.store):,} images could not be had: their rows hold null."
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
    parts |= {f"vectors-{vision}": embeddings.folder for vision, embeddings in c.all_embeddings.items()}
    made_by = []
    for name, folder in parts.items():
        manifest = read_manifest(folder)
        commit = (manifest["source"].get("commit") or "-")[:12]
        made_by.append((name, f"`vixml {manifest['stage']}`", commit, f"`{manifest['outputs_sha256'][:16]}`"))
    for vision in c.all_embeddings:
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
            " Some publishers state none: then there is no permission to pass their texts or images on. Ask them, or publish "
            "without images."
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


# -- what the tables hold ---------------------------------------------------------------------------------------------

ID = Column("id", "string", "the publisher's id")
TEXT = Column("text", "string", "as the models read it")
IMAGES = Column("images", "ids", "rows of `images`, the best first")


def _own(all_embeddings: dict[str, ImageEmbeddings]) -> list[Column]:
    """Return a column for each vision encoder whose embeddings say which rows an item has."""
    return [
        Column(f"rows_{vision}", "ids", f"rows of `vectors-{vision}`, where its rows are not images")
        for vision, embeddings in all_embeddings.items()
        if embeddings.own
    ]


def _queries(corpus: Corpus, split: str, all_embeddings: dict[str, ImageEmbeddings]) -> Table:
    columns = [
        ID,
        TEXT,
        Column("labels", "ids", "rows of `labels`, ascending: the right answers"),
        IMAGES,
        *_own(all_embeddings),
    ]
    if any(corpus.filter(name) is not None for name in QUERY_SPLITS):
        columns.append(Column("not_scored", "ids", "rows of `labels` that are taken out before scoring"))
    return Table("queries", split, f"queries/{split}", tuple(columns))


def _labels(corpus: Corpus, all_embeddings: dict[str, ImageEmbeddings]) -> Table:
    return Table("labels", "label", "labels/label", (ID, TEXT, IMAGES, *_own(all_embeddings)))


def _images(store: ImageStore | None) -> Table:
    columns = [
        Column("key", "string", "the image's name, or its address on the web"),
        Column("source", "string", "where it comes from"),
    ]
    if store is not None:
        columns.append(Column("image", "image", "the image, prepared for the vision encoder; null where it is missing"))
    return Table("images", "image", "images/image", tuple(columns))


def _vectors(vision: str, embeddings: ImageEmbeddings) -> Table:
    row = "a row of its own, see `rows_" + vision + "`" if embeddings.own else "row = row of `images`"
    about = f"what {vision} makes of an image ({row}); null where there is none"
    return Table(
        f"vectors-{vision}", "vector", f"vectors/{vision}", (Column("vector", "vector", about, embeddings.dim),)
    )


# -- their rows -------------------------------------------------------------------------------------------------------


def _items(
    corpus: Corpus, split: str, table: Table, all_embeddings: dict[str, ImageEmbeddings]
) -> Iterator[pa.RecordBatch]:
    lists = {"images": corpus.images(split)}
    lists |= {
        f"rows_{vision}": embeddings.own[split] for vision, embeddings in all_embeddings.items() if embeddings.own
    }
    if split in QUERY_SPLITS:
        lists["labels"] = corpus.labels(split)
        if (left_out := corpus.filter(split)) is not None:
            lists["not_scored"] = left_out
    for first, batch in strings(corpus.folder / f"{split}.parquet", ("id", "text"), BATCH):
        n = batch.num_rows
        columns = {"id": batch["id"], "text": batch["text"]}
        columns |= {name: id_lists(ragged, first, n) for name, ragged in lists.items()}
        # Where one split has a filter and the other none.
        nothing = pa.array([[]] * n, pa.list_(pa.int32()))
        yield pa.record_batch([columns.get(c.name, nothing) for c in table.columns], schema=table.schema)


def _image_rows(corpus: Corpus, store: ImageStore | None) -> Iterator[pa.RecordBatch]:
    """Yield every image id in turn; one without an image has a row with null, so that row = image id."""
    schema = _images(store).schema
    there = iter(()) if store is None else iter(store)
    held = next(there, None)
    for first, batch in strings(corpus.folder / "images.parquet", ("key", "source"), GROUP):
        columns = [batch["key"], batch["source"]]
        if store is not None:
            pngs: list[bytes | None] = []
            for image, key in enumerate(batch["key"].to_pylist(), start=first):
                if held is None or held[0] != image:
                    pngs.append(None)
                    continue
                if held[1] != key:
                    raise VixmlError(
                        "an image store is not that of the corpus",
                        where=f"{store.folder}, image {image}",
                        found=held[1],
                        expected=key,
                        hint="run the stage that writes the store again",
                    )
                pngs.append(held[2])
                held = next(there, None)
            columns.append(image_column(pngs))
        yield pa.record_batch(columns, schema=schema)


def _rows(embeddings: ImageEmbeddings, table: Table) -> Iterator[pa.RecordBatch]:
    absent = np.zeros(len(embeddings), dtype=bool)
    absent[embeddings.missing] = True
    matrix = RowFile.open(
        embeddings.folder / "vectors.npy", "float16", hint="run the stage that writes the embeddings again"
    )
    for first, block in matrix.blocks(min(BATCH, 4096)):
        yield pa.record_batch([vectors(block, absent[first : first + len(block)])], schema=table.schema)


def _told(batches: Iterator[pa.RecordBatch], advance) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        advance(batch.num_rows)
