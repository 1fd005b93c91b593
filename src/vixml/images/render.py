"""Stage ``render-images``: draw or prepare every image of a corpus and keep it in the image store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from vixml.data.archive import LocalFiles, SourceReader
from vixml.data.catalogue import SOURCE
from vixml.data.corpus import URLS, Corpus, table_writer
from vixml.errors import VixmlError
from vixml.images.store import write_store
from vixml.images.workers import Attempt, File, Workers
from vixml.manifest import holds
from vixml.progress import bar
from vixml.provenance import describe_input, stage
from vixml.runtime import map_in_order

MISSING = "missing.parquet"
MISSING_SCHEMA = pa.schema([("image", pa.int32()), ("source", pa.string()), ("reason", pa.string())])


def render_images(
    corpus_dir: Path | str,
    reader: SourceReader,
    size: int,
    n_shards: int,
    out: Path | str,
    threads: int = 1,
    catalogue: Path | None = None,
) -> None:
    """Draw the svg, or prepare the bitmap, of every row of the corpus's ``images.parquet`` and write an image store.

    An image that cannot be made (broken, hostile, too large) is missing: ``missing.parquet`` lists it with its reason, and
    the manifest counts the reasons.
    An archive that is absent, altered or lacks a named member stops the stage, because the corpus was built from other inputs.

    Args:
        size: side of the drawings in pixels.
        threads: processes that draw; the result does not depend on it.
        catalogue: folder of the local images, if the corpus has any. A file that does not exist is a missing image.

    Raises:
        VixmlError: see above; or every image failed.
    """
    corpus_dir = Path(corpus_dir)
    describe_input(corpus_dir)  # verified before it is read for the other inputs
    corpus = Corpus.load(corpus_dir)
    if holds(corpus_dir, URLS):
        what, hint = "this corpus names its images by URL", "fetch them into the image store instead"
        raise VixmlError(what, where=corpus_dir / URLS, expected="files to draw or prepare", hint=hint)
    keys, references = corpus.image_keys(), corpus.image_sources()
    local = LocalFiles(catalogue) if catalogue is not None else None
    used = sorted({SourceReader.split(reference)[0] for reference in references} - ({SOURCE} if local else set()))
    inputs = {"corpus": corpus_dir} | {name: reader.path(name) for name in used}
    config = {"image_size": size, "shards": n_shards, "sources": {name: reader.sources[name].sha256 for name in used}}
    facts: dict[str, object] = {}
    with stage(out, "render-images", config=config, inputs=inputs, facts=facts) as work:
        reasons: Counter[str] = Counter()

        def items() -> Iterator[tuple[int, str, bytes | None]]:
            svgs = ((local or reader).read(reference) for reference in references)
            for image, (key, (png, reason)) in enumerate(zip(keys, draw_all(svgs, size, threads), strict=True)):
                advance(1)
                if reason is not None:
                    reasons[reason.split(":")[0]] += 1
                    list_missing(image, references[image], reason)
                yield image, key, png

        missing = table_writer(work / MISSING, MISSING_SCHEMA)
        with missing as list_missing, bar("drawing images", len(keys)) as advance:
            header = write_store(work, items(), len(keys), n_shards)
        if local is not None:
            # Local files have no declared hash; this one identifies what was read.
            facts["sha256_of_images"] = local.digest.hexdigest()
        facts |= {"n_images": len(keys), "n_missing": len(header["missing"]), "missing_reasons": dict(reasons)}
        if keys and len(header["missing"]) == len(keys):
            found = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
            hint = "is resvg_py installed correctly? try `python -c 'import resvg_py'`"
            if local is not None and "no such file" in reasons:
                hint = f"are the images in {catalogue}? correct catalogue.folder (`vixml new --image-folder FOLDER`)"
            raise VixmlError("no image could be drawn", where=corpus_dir / "images.parquet", found=found, hint=hint)


def draw_all(files: Iterable[File], size: int, processes: int) -> Iterator[Attempt]:
    """Yield ``(png, None)`` or ``(None, reason)`` for each file, in order.

    Only a few files wait at any time, so memory does not grow with the number of images.
    """
    with Workers(processes, size) as workers:
        yield from map_in_order(workers.threads, workers.attempt, files, 2 * max(1, processes))
