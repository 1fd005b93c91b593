"""The image store: every image of a dataset in a few Parquet shards, one row per image, by ascending image id.

Every source of images (svg files in a wheel, URLs) yields ``(id, key, png)``, so later stages need only one code path. An
unavailable image is *missing*: it has no row, and its id is listed in ``store.json``, so no stage takes it for a white square.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vixml.data.corpus import table_writer
from vixml.errors import VixmlError, expect_equal, expect_index
from vixml.files import read_header, write_json
from vixml.manifest import verify_file

FORMAT = "vixml-images-1"
SCHEMA = pa.schema([("image", pa.int32()), ("key", pa.string()), ("png", pa.binary())])
# Images per row group, which a reader holds in memory. 256 photos of 384 x 384 are about 60 MB, pictograms far less.
GROUP = 256
REBUILD = "delete the folder and run the stage that writes it again"


def shard_name(shard: int) -> str:
    """Return a shard's file name."""
    return f"shard-{shard:05d}.parquet"


def write_store(
    out_dir: Path | str, items: Iterable[tuple[int, str, bytes | None]], n_images: int, n_shards: int
) -> dict[str, object]:
    """Write the shards, then ``store.json``; memory holds one row group at a time.

    Shard s holds the ids ``[s * w, (s + 1) * w)`` with ``w = ceil(n_images / n_shards)``: the id
    determines the shard, and the bytes depend only on the images.

    ``items`` are ``(image_id, key, png)`` for every id from 0 to ``n_images - 1``, ascending; ``None`` for an image
    that is missing. The contents of ``store.json`` are returned: ``format``, ``n_images``, ``n_shards``, ``missing``.

    Raises:
        VixmlError: ids out of order, too few or too many items.
    """
    out_dir = Path(out_dir)
    numbered = _in_order(items, n_images, out_dir)
    missing: list[int] = []

    def present(n: int) -> Iterator[tuple[int, str, bytes]]:
        for image, key, png in islice(numbered, n):
            if png is None:
                missing.append(image)
            else:
                yield image, key, png

    for shard in range(n_shards):
        write_shard(out_dir / shard_name(shard), present(len(shard_range(shard, n_images, n_shards))))
    next(numbered, None)  # so that an extra item is an error
    header = {"format": FORMAT, "n_images": n_images, "n_shards": n_shards, "missing": missing}
    write_json(out_dir / "store.json", header)
    return header


def shard_range(shard: int, n_images: int, n_shards: int) -> range:
    """Return the ids of a shard."""
    width = _width(n_images, n_shards)
    return range(min(shard * width, n_images), min((shard + 1) * width, n_images))


def write_shard(path: Path, rows: Iterable[tuple[int, str, bytes]]) -> None:
    """Write one shard of ``(image_id, key, png)`` rows, ascending, atomically; memory holds one row group."""
    # PNG is compressed already, and a dictionary of images would only cost memory.
    with table_writer(path, SCHEMA, GROUP, compression="none", use_dictionary=False) as append:
        for row in rows:
            append(*row)


def _width(n_images: int, n_shards: int) -> int:
    return max(1, -(-n_images // n_shards))


def _in_order(
    items: Iterable[tuple[int, str, bytes | None]], n_images: int, where: Path
) -> Iterator[tuple[int, str, bytes | None]]:
    n, hint = 0, "yield every image id once, ascending, with None for a missing image"
    for n, item in enumerate(items, start=1):
        expected = f"image {n - 1}" if n <= n_images else f"{n_images} images in all"
        expect_equal(f"image {item[0]}", expected, "an image id out of order", where=where, hint=hint)
        yield item
    expect_equal(f"{n} images", f"{n_images} images", "too few images", where=where, hint=hint)


@dataclass
class ImageStore:
    """Read a store: one image by id, or all in order; ``n_images`` counts the ``missing`` ones, too.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = write_store(folder, [(0, "cat", b"c"), (1, "lost", None), (2, "dog", b"d")], n_images=3, n_shards=2)
        >>> store = ImageStore.open(folder)
        >>> len(store), sorted(store.missing), store.read(2), [image for image, _, _ in store]
        (3, [1], b'd', [0, 2])
    """

    folder: Path
    n_images: int
    n_shards: int
    missing: frozenset[int]
    _cached: dict[int, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path | str) -> ImageStore:
        """Open a store and check its shards against ``store.json``; each shard is hashed before its images are read.

        Raises:
            VixmlError: no store, another version, a shard that is absent, cut short or of another shape.
        """
        folder = Path(folder)
        verify_file(folder / "store.json")
        header = read_header(folder / "store.json", FORMAT, "an image store")
        store = cls(folder, int(header["n_images"]), int(header["n_shards"]), frozenset(header["missing"]))
        rows = 0
        for shard in range(store.n_shards):
            with store._file(shard) as file:
                rows += file.metadata.num_rows
        found, expected = f"{rows} images", f"{store.n_images - len(store.missing)} images"
        expect_equal(found, expected, "an image store does not match its store.json", where=folder, hint=REBUILD)
        return store

    def __len__(self) -> int:
        return self.n_images

    def __iter__(self) -> Iterator[tuple[int, str, bytes]]:
        """Yield ``(image_id, key, png)`` of every image that is not missing, ascending."""
        for shard in range(self.n_shards):
            yield from self.shard(shard)

    def images_from(self, position: int) -> Iterator[tuple[int, str, bytes]]:
        """Yield the same as iteration, without the first ``position`` images; their shards are skipped unread."""
        for shard in range(self.n_shards):
            with self._file(shard) as file:
                rows = file.metadata.num_rows
            if position < rows:
                yield from islice(self.shard(shard), position, None)
            position = max(0, position - rows)

    def shard(self, shard: int) -> Iterator[tuple[int, str, bytes]]:
        """Yield ``(image_id, key, png)`` of one shard, ascending; memory holds one row group.

        Raises:
            VixmlError: the shard is not the one that its stage wrote.
        """
        verify_file(self.folder / shard_name(shard))  # from here, its pages are in the system's cache
        with self._file(shard) as file:
            for batch in file.iter_batches(batch_size=GROUP):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def read(self, image_id: int) -> bytes:
        """Return one image's PNG bytes.

        Raises:
            VixmlError: no such id, or an image that is missing.
        """
        hint = "the ids belong to another dataset's store"
        expect_index(image_id, self.n_images, "an image id is out of range", where=self.folder, hint=hint)
        if image_id in self.missing:
            raise VixmlError("this image is missing", where=f"{self.folder}, image {image_id}", hint="see store.json")
        cached = self._cached
        if image_id not in cached:
            # A row group is read whole anyway, and its other images are often wanted next.
            cached = self._cached = self._group_of(image_id)
        return cached[image_id]

    def _group_of(self, image_id: int) -> dict[int, bytes]:
        shard = image_id // _width(self.n_images, self.n_shards)
        verify_file(self.folder / shard_name(shard))
        with self._file(shard) as file:
            for group in range(file.metadata.num_row_groups):
                known = file.metadata.row_group(group).column(0).statistics
                if known.min <= image_id <= known.max:
                    table = file.read_row_group(group, columns=["image", "png"])
                    cached = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
                    if image_id in cached:
                        return cached
        raise VixmlError(
            "a shard lacks an image that store.json does not list as missing",
            where=f"{self.folder / shard_name(shard)}, image {image_id}",
            hint=REBUILD,
        )

    def _file(self, shard: int) -> pq.ParquetFile:
        path = self.folder / shard_name(shard)
        try:
            file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise VixmlError(
                "a shard of the image store cannot be read", where=path, found=str(error).strip(), hint=REBUILD
            ) from error
        if file.schema_arrow.remove_metadata() != SCHEMA:
            found = ", ".join(f"{column.name} {column.type}" for column in file.schema_arrow)
            expected = ", ".join(f"{column.name} {column.type}" for column in SCHEMA)
            file.close()
            raise VixmlError("a shard with other columns", where=path, found=found, expected=expected, hint=REBUILD)
        return file
