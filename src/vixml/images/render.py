"""Stage ``render-images``: draw or prepare every image of a corpus and keep it in the image store."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from xml.parsers import expat

from PIL import Image, UnidentifiedImageError

from vixml.data.archive import LocalFiles, SourceReader
from vixml.data.catalogue import SOURCE
from vixml.data.corpus import URLS, Corpus
from vixml.errors import VixmlError
from vixml.images.store import write_store
from vixml.progress import track
from vixml.provenance import stage
from vixml.runtime import map_in_order

# Drawings passed to a process at once: enough that passing costs little compared with 1.5 ms per drawing.
PORTION = 64


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

    An image that cannot be made (broken, hostile, too large) is recorded as missing and counted by reason in the manifest.
    An archive that is absent, altered or lacks a named member stops the stage, because the corpus was built from other
    inputs.

    Args:
        corpus_dir: a corpus.
        reader: reads the downloaded wheels of the registry's sources.
        size: side of the drawings in pixels.
        n_shards: files of the store.
        out: folder to write.
        threads: processes that draw; the result does not depend on it.
        catalogue: folder of the local images, if the corpus has any. A file that does not exist is a missing image.

    Raises:
        VixmlError: see above; or every image failed.
    """
    corpus_dir = Path(corpus_dir)
    corpus = Corpus.load(corpus_dir)
    if (corpus_dir / URLS).exists():
        raise VixmlError(
            "this corpus names its images by URL",
            where=corpus_dir / URLS,
            expected="files to draw or prepare",
            hint="fetch them into the image store instead",
        )
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
            drawn = track(draw_all(svgs, size, threads), total=len(keys), text="drawing images")
            for image, (key, (png, reason)) in enumerate(zip(keys, drawn, strict=True)):
                if reason is not None:
                    reasons[reason.split(":")[0]] += 1
                yield image, key, png

        header = write_store(work, items(), len(keys), n_shards)
        if local is not None:
            # Local files have no declared hash; this one identifies what was read.
            facts["sha256_of_images"] = local.digest.hexdigest()
        facts |= {"n_images": len(keys), "n_missing": len(header["missing"]), "missing_reasons": dict(reasons)}
        if keys and len(header["missing"]) == len(keys):
            raise VixmlError(
                "no image could be drawn",
                where=corpus_dir / "images.parquet",
                found="; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)),
                hint="is resvg_py installed correctly? try `python -c 'import resvg_py'`",
            )


def draw_all(svgs: Iterable[bytes | None], size: int, processes: int) -> Iterator[Attempt]:
    """Yield ``(png, None)`` or ``(None, reason)`` for each file (None: no file), in order.

    Processes, because the renderer holds the interpreter's lock: two threads draw no faster than one. Only a few portions
    wait at any time, so memory does not grow with the number of images.
    """
    portions = iter(lambda svgs=iter(svgs): list(islice(svgs, PORTION)), [])
    if processes <= 1:
        for portion in portions:
            yield from attempt_all(draw_or_prepare, portion, size)
        return
    # spawn: a fork of a process that already runs threads (progress bar, arrow) may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            for made in map_in_order(pool, partial(attempt_all, draw_or_prepare, size=size), portions, 2 * processes):
                yield from made
        except BrokenProcessPool as error:
            raise VixmlError(
                "a process that draws images died",
                where="render-images",
                found=str(error),
                hint="out of memory? run again with --threads 1: the crash report then shows the image",
            ) from error


Attempt = tuple[bytes | None, str | None]


def attempt_all(make: Callable[[Any, int], bytes], files: Sequence[bytes | None], size: int) -> list[Attempt]:
    """Return ``(png, None)`` or ``(None, reason)`` for each file."""
    made: list[Attempt] = []
    for file in files:
        try:
            made.append((make(file, size), None))
        except Undrawable as error:
            made.append((None, str(error)))
    return made


def draw_or_prepare(file: bytes | None, size: int) -> bytes:
    """Return an svg drawn or a bitmap prepared, as PNG.

    Raises:
        Undrawable: no such file (None), or as :func:`draw` and :func:`prepare`.
    """
    if file is None:
        raise Undrawable("no such file")
    return draw(file, size) if is_svg(file) else prepare(file, size)


# -- photographs ------------------------------------------------------------------------------------------------------

# Accepted formats and size: a small file may decode to more memory than the machine has.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 1 << 26


def prepare(data: bytes, size: int) -> bytes:
    """Return an image as PNG of ``size`` x ``size`` pixels; a smaller image is not enlarged but gets a wider margin.

    Args:
        data: the file.
        size: side in pixels.

    Raises:
        Undrawable: not an image, cut short, or of too many pixels; the reason has a few fixed beginnings.

    Example:
        >>> written = io.BytesIO()
        >>> Image.new("RGB", (40, 20), "red").save(written, "JPEG")
        >>> Image.open(io.BytesIO(prepare(written.getvalue(), 16))).size
        (16, 16)
    """
    try:
        with warnings.catch_warnings():
            # The library warns of decompression bombs at a higher limit than ours below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise Undrawable(f"too large: {opened.width} x {opened.height} pixels")
                image = _on_white(opened)
    except UnidentifiedImageError as error:  # its message holds an address in memory, which varies
        raise Undrawable("not an image that can be read: of no known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Undrawable(f"not an image that can be read: {error}") from error
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return centred(image, size)


def _on_white(opened: Image.Image) -> Image.Image:
    """Return an opened image as RGB, white where it is transparent."""
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    layer = opened.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


# -- drawings ---------------------------------------------------------------------------------------------------------

# The largest icon of the packs used here takes 34 kB, holds 75 elements and is nested 8 deep; a harmless drawing needs
# little more. The renderer recurses: 300 levels overflow its stack, which ends the process instead of raising an error,
# and each reference (`use`, a pattern inside a pattern) may add as many levels as the file is deep.
MAX_BYTES = 1 << 19
MAX_ELEMENTS = 2_000
MAX_LEVELS = 100
# Possessive, or backtracking would find a way around the '#'.
_OUTWARD = re.compile(r"url\(\s*+[\"']?+\s*+(?!#)|@import", re.IGNORECASE)


class Undrawable(Exception):
    """The reason why a file gives no image; the caller counts it."""


def is_svg(data: bytes) -> bool:
    """Return whether a file begins like XML; no bitmap format does."""
    return data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def draw(svg: bytes, size: int) -> bytes:
    """Return the drawing as PNG: ``size`` x ``size`` pixels, white background, black ``currentColor``, aspect ratio kept.

    A drawing that is not square is centred. System fonts are not used: an image must not depend on the machine.

    Args:
        svg: the file, UTF-8.
        size: side in pixels.

    Raises:
        Undrawable: broken, hostile, too large or empty; the reason has a few fixed beginnings, suitable for counting.

    Example:
        >>> draw(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path d="M0 0h2v1h-2z"/></svg>', 16)[:4]
        b'\\x89PNG'
    """
    import resvg_py

    text = re.sub("currentColor", "#000000", checked(svg), flags=re.IGNORECASE)
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=text, width=size, height=size, background="#ffffff", skip_system_fonts=True
        )
    except ValueError as error:
        raise Undrawable(f"not an svg that can be drawn: {error}") from error
    except BaseException as error:
        # A panic inside the renderer is not an Exception; Ctrl-C must still pass.
        if type(error).__name__ != "PanicException":
            raise
        raise Undrawable(f"the renderer gave up: {error}") from error
    with Image.open(io.BytesIO(png)) as drawn:
        return centred(drawn.convert("RGB"), size)


def checked(svg: bytes) -> str:
    """Return the text of an svg that has no outside references and is within the limits.

    Raises:
        Undrawable: as :func:`draw`.
    """
    if len(svg) > MAX_BYTES:
        raise Undrawable(f"too large: {len(svg)} bytes")
    try:
        text = svg.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Undrawable("not UTF-8") from error
    reader = _Reader()
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.EntityDeclHandler, parser.CharacterDataHandler = reader.entity, reader.styles.append
    parser.ProcessingInstructionHandler = reader.instruction
    try:
        parser.Parse(text.encode("utf-8"), True)
    except expat.ExpatError as error:
        raise Undrawable(f"not an svg that can be drawn: {error}") from error
    reader.check("".join(reader.styles))
    if reader.deepest * (1 + reader.references) > MAX_LEVELS:
        raise Undrawable(f"nested too deeply: {reader.deepest} levels, {reader.references} references")
    return text


class _Reader:
    """Handlers of an XML parser that raise at the first thing that is not allowed."""

    def __init__(self) -> None:
        self.elements = self.depth = self.deepest = self.references = 0
        self.styles: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements, self.depth = self.elements + 1, self.depth + 1
        self.deepest = max(self.deepest, self.depth)
        if self.elements > MAX_ELEMENTS:
            raise Undrawable(f"too large: more than {MAX_ELEMENTS} elements")
        for key, value in attributes.items():
            if key.rpartition(":")[2].lower() == "href":
                # Only '#name' is allowed: a list of forbidden schemes would be incomplete.
                if not value.lstrip().startswith("#"):
                    raise Undrawable("refers to something outside itself")
                self.references += 1
            else:
                self.check(value)

    def check(self, value: str) -> None:
        """Check an attribute or a style sheet, with character references resolved."""
        if _OUTWARD.search(value):
            raise Undrawable("refers to something outside itself")
        self.references += value.lower().count("url(")

    def end(self, name: str) -> None:
        self.depth -= 1

    def entity(self, *_: object) -> None:
        raise Undrawable("declares entities")

    def instruction(self, target: str, data: str) -> None:
        if target.lower() == "xml-stylesheet":
            raise Undrawable("refers to something outside itself")


def centred(image: Image.Image, size: int) -> bytes:
    """Return an RGB image centred on a white square, as PNG."""
    if image.size != (size, size):
        canvas = Image.new("RGB", (size, size), "white")
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        image = canvas
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()
