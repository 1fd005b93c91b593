"""Drawings and photographs become square PNG files; hostile ones are refused; the stage writes an image store."""

from __future__ import annotations

import socket

import numpy as np
import pyarrow.parquet as pq
import pytest
import resvg_py
from helpers import zipped
from images_helpers import corpus, encoded, pixels, svg, wheel
from PIL import Image

from vixml.data.archive import SourceReader
from vixml.errors import VixmlError
from vixml.files import sha256_file
from vixml.images.decode import MAX_BYTES, Undrawable, draw, prepare
from vixml.images.render import draw_all, render_images
from vixml.images.store import ImageStore, shard_name
from vixml.provenance import read_manifest

# -- drawings ---------------------------------------------------------------------------------------------------------


def test_current_color_is_black_on_white():
    image = pixels(draw(svg('<rect width="12" height="24" fill="currentColor"/>', attributes='color="red"'), 24))
    assert image.shape == (24, 24, 3)
    assert (image[:, :12] == 0).all() and (image[:, 12:] == 255).all()


@pytest.mark.parametrize("box", ["0 0 40 20", "0 0 20 40"])
def test_a_drawing_keeps_its_aspect_ratio_and_is_centred(box):
    ink = pixels(draw(svg('<rect width="40" height="40"/>', box), 32))[:, :, 0] == 0
    covered = np.zeros((32, 32), bool)
    covered[8:24] = True
    assert (ink == (covered if box == "0 0 40 20" else covered.T)).all()


def test_gradients_inside_the_document_are_drawn():
    body = (
        '<defs><linearGradient id="a"><stop stop-color="red"/></linearGradient></defs>'
        '<rect width="24" height="24" fill="url(\'#a\')"/>'
    )
    assert (pixels(draw(svg(body), 16)) == [255, 0, 0]).all()


def _entities() -> bytes:
    lines = ['<!ENTITY a0 "ha">'] + [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)]
    return b"<!DOCTYPE svg [" + "".join(lines).encode() + b"]>" + svg("<text>&a9;</text>")


def _uses(n: int) -> bytes:
    groups = "".join(f'<g id="a{i + 1}"><use href="#a{i}"/></g>' for i in range(n))
    return svg(f'<defs><g id="a0"><rect width="1" height="1"/></g>{groups}</defs><use href="#a{n}"/>')


HOSTILE = {
    "empty": (b"", "not an svg"),
    "broken": (b"<svg", "not an svg"),
    "another format": (b"<html/>", "not an svg"),
    "not text": (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
    "utf-16": (svg("").decode().encode("utf-16"), "not UTF-8"),
    "too large": (svg("<!--" + "x" * MAX_BYTES + "-->"), "too large"),
    "too many elements": (svg("<g/>" * 5000), "too large"),
    "billion laughs": (_entities(), "declares entities"),
    "external entity": (b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg("&x;"), "declares entities"),
    "file": (svg('<image href="/etc/passwd" width="9" height="9"/>'), "refers to something outside"),
    "network": (svg("<image xlink:href = 'http://127.0.0.1:9/x.png' width=\"9\"/>"), "refers to something outside"),
    "scheme in disguise": (svg('<image href="&#104;ttp://127.0.0.1:9/x.png"/>'), "refers to something outside"),
    "embedded": (svg('<image href="data:image/svg+xml;base64,AAAA"/>'), "refers to something outside"),
    "style": (svg('<rect style="fill:url(http://127.0.0.1:9/#a)"/>'), "refers to something outside"),
    "style in disguise": (svg('<rect fill="u&#114;l(x.svg#a)"/>'), "refers to something outside"),
    "import": (svg("<style>@import 'http://127.0.0.1:9/a.css';</style>"), "refers to something outside"),
    "style sheet": (b'<?xml-stylesheet href="a.css"?>' + svg(""), "refers to something outside"),
    # Both end the renderer's process, with a segmentation fault, if they reach it.
    "deep": (svg("<g>" * 900 + "</g>" * 900), "nested too deeply"),
    "deep by reference": (_uses(300), "nested too deeply"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_drawings_are_refused_without_access(name, monkeypatch):
    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", touched)
    data, reason = HOSTILE[name]
    with pytest.raises(Undrawable, match=reason):
        draw(data, 16)


@pytest.mark.parametrize("size", ['width="1e9" height="1e9"', 'width="100000" height="1"'])
def test_the_canvas_size_does_not_depend_on_the_file(size):
    data = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect width="99999999" height="9"/></svg>'.encode()
    assert pixels(draw(data, 16)).shape == (16, 16, 3)


def test_a_panic_of_the_renderer_is_a_reason_but_an_interrupt_passes(monkeypatch):
    def fail(kind: type[BaseException]) -> None:
        def raise_it(**_: object) -> bytes:
            raise kind("inside")

        monkeypatch.setattr(resvg_py, "svg_to_bytes", raise_it)

    fail(type("PanicException", (BaseException,), {}))
    with pytest.raises(Undrawable, match="gave up"):
        draw(svg(""), 16)
    fail(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        draw(svg(""), 16)


# -- photographs ------------------------------------------------------------------------------------------------------


def test_an_image_fits_the_square_and_keeps_its_aspect_ratio():
    made = pixels(prepare(encoded(Image.new("RGB", (400, 100), (200, 0, 0))), 64))
    assert made.shape == (64, 64, 3)
    red = (made == (200, 0, 0)).all(-1)
    assert red[24:40].all() and red.sum() == 16 * 64 and (made[~red] == 255).all()


def test_a_small_image_is_not_enlarged():
    made = pixels(prepare(encoded(Image.new("RGB", (8, 8), "black")), 16))
    assert (made[4:12, 4:12] == 0).all() and (made == 0).all(-1).sum() == 64


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"plain text", "not an image"),
        (encoded(Image.effect_noise((90, 90), 50))[:2000], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
    ],
)
def test_a_file_that_is_not_an_image_gives_a_stable_reason(data, reason):
    found = []
    for _ in range(2):
        with pytest.raises(Undrawable, match=reason) as caught:
            prepare(data, 16)
        found.append(str(caught.value))
    assert found[0] == found[1]


# -- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path):
    """A corpus of four drawings, one broken and one hostile, from two wheels, one of them with a zip inside."""
    raw = tmp_path / "raw"
    flat = {"a.svg": svg('<rect width="24" height="24" fill="currentColor"/>')}
    flat |= {"broken.svg": b"<svg", "spy.svg": svg('<image href="/etc/passwd"/>')}
    deep = {"p/icons.zip": zipped({"b.svg": svg('<rect width="12" height="24"/>')})}
    sources = {"flat": wheel(raw, "flat", flat), "deep": wheel(raw, "deep", deep)}
    references = ["flat:a.svg", "flat:broken.svg", "deep:p/icons.zip!b.svg", "flat:spy.svg"]
    return corpus(tmp_path / "corpus", references), SourceReader(raw, sources)


def test_a_corpus_becomes_a_store(inputs, tmp_path):
    folder, reader = inputs
    render_images(folder, reader, 16, 2, tmp_path / "images")
    store = ImageStore.open(tmp_path / "images")
    assert [(image, key) for image, key, _ in store] == [(0, "image-0"), (2, "image-2")]
    assert (pixels(store.read(0)) == 0).all()
    assert (pixels(store.read(2))[:, :8] == 0).all() and (pixels(store.read(2))[:, 8:] == 255).all()
    listed = pq.read_table(tmp_path / "images" / "missing.parquet").to_pylist()
    assert [(row["image"], row["source"]) for row in listed] == [(1, "flat:broken.svg"), (3, "flat:spy.svg")]
    assert listed[1]["reason"] == "refers to something outside itself"
    manifest = read_manifest(tmp_path / "images")
    assert manifest["facts"]["n_missing"] == 2
    reasons = ("not an svg that can be drawn", "refers to something outside itself")
    assert manifest["facts"]["missing_reasons"] == dict.fromkeys(reasons, 1)
    assert set(manifest["inputs"]) == {"corpus", "flat", "deep"}


def test_the_store_does_not_depend_on_the_number_of_processes(inputs, tmp_path):
    folder, reader = inputs
    hashes = []
    for processes in (1, 2):
        render_images(folder, reader, 16, 2, tmp_path / f"images{processes}", processes)
        hashes.append([sha256_file(tmp_path / f"images{processes}" / shard_name(s)) for s in range(2)])
    assert hashes[0] == hashes[1]


def test_the_order_is_kept():
    n = 321
    svgs = [svg(f'<rect width="{i % 24}" height="24"/>') if i % 7 else b"" for i in range(n)]
    alone, shared = list(draw_all(svgs, 8, 1)), list(draw_all(iter(svgs), 8, 2))
    assert len(alone) == n and alone == shared
    assert all((png is None) == (i % 7 == 0) for i, (png, _) in enumerate(alone))


def test_drawing_reads_its_input_lazily():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield svg("")

    drawn = draw_all(endless(), 8, 1)
    next(drawn)
    assert len(taken) == 3
    drawn.close()


def test_inputs_that_differ_from_those_of_the_corpus_stop_the_stage(inputs, tmp_path):
    folder, reader = inputs
    less = SourceReader(reader.raw_dir, {"flat": reader.sources["flat"]})
    with pytest.raises(VixmlError, match="not in the registry") as caught:
        render_images(folder, less, 16, 1, tmp_path / "images")
    assert "deep" in str(caught.value)
    wheel(reader.raw_dir, "flat", {"other.svg": svg("")})
    with pytest.raises(VixmlError, match="no such member"):
        render_images(folder, reader, 16, 1, tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_a_corpus_without_any_valid_drawing_is_an_error(tmp_path):
    sources = {"flat": wheel(tmp_path / "raw", "flat", {"broken.svg": b"<svg"})}
    folder = corpus(tmp_path / "corpus", ["flat:broken.svg"])
    with pytest.raises(VixmlError, match="no image could be drawn"):
        render_images(folder, SourceReader(tmp_path / "raw", sources), 16, 1, tmp_path / "images")
