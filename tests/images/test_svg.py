"""Drawings come out square, black on white; hostile ones do not come out at all."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import resvg_py
from images_helpers import pixels, svg

from vixml.images.render import MAX_BYTES, Undrawable, draw


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


def test_drawing_is_deterministic():
    drawing = svg('<circle cx="12" cy="12" r="7" stroke="currentColor" fill="none"/>')
    assert draw(drawing, 48) == draw(drawing, 48)


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
