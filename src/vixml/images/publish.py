"""Stage ``publish-dataset``: a corpus with its pictures and vectors as a folder that others can load and pass on.

Parquet tables, pictures inside them, a dataset card and checksums: ``datasets.load_dataset(folder)`` reads it, and so does
anything that reads Parquet. Row numbers are the only ids: label 7 is row 7 of the labels, image 12 row 12 of the images,
whether or not there is a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vixml.config.world import World
from vixml.data.corpus import QUERY_SPLITS, SPLITS, Corpus
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.images.bank import ImageBank
from vixml.images.card import Contents, write_card
from vixml.images.coverage import coverage, share_with_images
from vixml.images.hub_tables import Column, Table, id_lists, pictures, strings, vectors
from vixml.images.row_files import RowFile
from vixml.images.store import GROUP, ImageStore, shard_range
from vixml.progress import bar
from vixml.provenance import describe_outputs, stage

BATCH = 1 << 14
# Rows a file: some hundred megabytes of texts, or of vectors.
ROWS_PER_FILE = 500_000
VECTORS_PER_FILE = 200_000
SUMS = "SHA256SUMS"


def publish_dataset(
    world: World,
    dataset_id: str,
    corpus_dir: Path | str,
    images_dir: Path | str | None,
    bank_dirs: Sequence[Path | str],
    out: Path | str,
) -> None:
    """Write the folder: tables, pictures, vectors, ``README.md`` (the card) and ``SHA256SUMS``.

    Memory holds one batch of rows, and the lists of labels and images.

    Args:
        world: the registry, for titles, origins and licences.
        dataset_id: entry of its ``datasets``.
        corpus_dir: the corpus.
        images_dir: its image store; None publishes where the pictures come from, without them.
        bank_dirs: image banks of it.
        out: folder to publish.

    Raises:
        VixmlError: a part missing or damaged, or parts that do not belong together.
    """
    corpus = Corpus.load(corpus_dir)
    store = None if images_dir is None else _store(images_dir, corpus)
    banks = _banks(bank_dirs, corpus)
    inputs: dict[str, Path | str] = {"corpus": corpus_dir}
    inputs |= {} if images_dir is None else {"images": images_dir}
    inputs |= {f"bank_{vision}": bank.folder for vision, bank in banks.items()}
    entry = world.datasets[dataset_id]
    said = entry.model_dump(mode="json", include={"title", "sources", "stand_in", "facts", "published_vectors"})
    said |= {"licences": {name: world.sources[name].licence for name in entry.sources}}
    facts: dict[str, Any] = {}
    with stage(out, "publish-dataset", config={"id": dataset_id, **said}, inputs=inputs, facts=facts) as work:
        tables = [_queries(corpus, split, banks) for split in QUERY_SPLITS] + [_labels(corpus, banks)]
        with bar("writing texts", sum(corpus.n(split) for split in SPLITS)) as advance:
            for table, split in zip(tables, SPLITS, strict=True):
                rows = _items(corpus, split, table, banks)
                table.write(work, _told(rows, advance), corpus.n(split), ROWS_PER_FILE)
        if corpus.n_images:
            tables.append(table := _images(store))
            per_file = corpus.n_images if store is None else len(shard_range(0, len(store), store.n_shards))
            with bar("writing pictures", corpus.n_images) as advance:
                table.write(work, _told(_pictures(corpus, store), advance), corpus.n_images, per_file)
        for vision, bank in banks.items():
            tables.append(table := _vectors(vision, bank))
            with bar(f"writing vectors of {vision}", len(bank)) as advance:
                table.write(work, _told(_rows(bank, table), advance), len(bank), VECTORS_PER_FILE)
        shares = {} if store is None else {"pictures": coverage(corpus, store.missing)}
        for vision, bank in banks.items():
            shares[vision] = {s: share_with_images(bank.images_of(corpus, s), bank.missing) for s in SPLITS}
        files = describe_outputs(work)
        write_text(work / SUMS, "".join(f"{file['sha256']}  {name}\n" for name, file in files.items()))
        contents = Contents(world, dataset_id, corpus, store, banks, tuple(tables), shares, files)
        write_card(work / "README.md", contents)
        facts |= {"rows": {f"{t.config}/{t.split}": t.n_rows for t in tables}, "pct_with_images": shares}
        facts |= {"n_files": len(files), "bytes": sum(file["bytes"] for file in files.values())}


def _store(folder: Path | str, corpus: Corpus) -> ImageStore:
    store = ImageStore.open(folder)
    if len(store) != corpus.n_images:
        raise VixmlError(
            "an image store is not that of the corpus",
            where=folder,
            found=f"{len(store)} pictures",
            expected=f"{corpus.n_images}, as {corpus.folder} names",
            hint="build corpus and images of one dataset again; snakemake keeps them in step",
        )
    return store


def _banks(folders: Sequence[Path | str], corpus: Corpus) -> dict[str, ImageBank]:
    banks: dict[str, ImageBank] = {}
    for folder in folders:
        bank = ImageBank.open(folder)
        if bank.vision in banks:
            raise VixmlError(
                "two banks of one vision encoder", where=folder, found=bank.vision, hint="give one of them"
            )
        for split in SPLITS:
            if bank.images_of(corpus, split).n_cols != len(bank):
                raise VixmlError(
                    "a bank is not that of the corpus",
                    where=folder,
                    found=f"{len(bank)} rows",
                    expected=f"{corpus.n_images}",
                    hint="build corpus, images and bank of one dataset again; snakemake keeps them in step",
                )
        banks[bank.vision] = bank
    return banks


# -- what the tables hold ---------------------------------------------------------------------------------------------

ID = Column("id", "string", "the publisher's id")
TEXT = Column("text", "string", "as the models read it")
IMAGES = Column("images", "ids", "rows of `images`, the best first")


def _own(banks: dict[str, ImageBank]) -> list[Column]:
    """Return a column for each bank that says itself which rows an item has."""
    return [
        Column(f"rows_{vision}", "ids", f"rows of `vectors-{vision}`, where its rows are not images")
        for vision, bank in banks.items()
        if bank.own
    ]


def _queries(corpus: Corpus, split: str, banks: dict[str, ImageBank]) -> Table:
    columns = [
        ID,
        TEXT,
        Column("labels", "ids", "rows of `labels`, ascending: the right answers"),
        IMAGES,
        *_own(banks),
    ]
    if any(corpus.filter(name) is not None for name in QUERY_SPLITS):
        columns.append(Column("not_scored", "ids", "rows of `labels` that are taken out before scoring"))
    return Table("queries", split, f"queries/{split}", tuple(columns))


def _labels(corpus: Corpus, banks: dict[str, ImageBank]) -> Table:
    return Table("labels", "label", "labels/label", (ID, TEXT, IMAGES, *_own(banks)))


def _images(store: ImageStore | None) -> Table:
    columns = [
        Column("key", "string", "the picture's name, or its address on the web"),
        Column("source", "string", "where it comes from"),
    ]
    if store is not None:
        columns.append(
            Column("image", "image", "the picture, prepared for the vision encoder; null where it is missing")
        )
    return Table("images", "image", "images/image", tuple(columns))


def _vectors(vision: str, bank: ImageBank) -> Table:
    row = "a row of its own, see `rows_" + vision + "`" if bank.own else "row = row of `images`"
    about = f"what {vision} makes of a picture ({row}); null where there is none"
    return Table(f"vectors-{vision}", "vector", f"vectors/{vision}", (Column("vector", "vector", about, bank.dim),))


# -- their rows -------------------------------------------------------------------------------------------------------


def _items(corpus: Corpus, split: str, table: Table, banks: dict[str, ImageBank]) -> Iterator[pa.RecordBatch]:
    lists = {"images": corpus.images(split)}
    lists |= {f"rows_{vision}": bank.own[split] for vision, bank in banks.items() if bank.own}
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


def _pictures(corpus: Corpus, store: ImageStore | None) -> Iterator[pa.RecordBatch]:
    """Yield every image id in turn; one without a picture has a row with null, so that row = image id."""
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
            columns.append(pictures(pngs))
        yield pa.record_batch(columns, schema=schema)


def _rows(bank: ImageBank, table: Table) -> Iterator[pa.RecordBatch]:
    absent = np.zeros(len(bank), dtype=bool)
    absent[bank.missing] = True
    matrix = RowFile.open(bank.folder / "vectors.npy", "float16", hint="run the stage that writes the bank again")
    for first, block in matrix.blocks(min(BATCH, 4096)):
        yield pa.record_batch([vectors(block, absent[first : first + len(block)])], schema=table.schema)


def _told(batches: Iterator[pa.RecordBatch], advance) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        advance(batch.num_rows)
