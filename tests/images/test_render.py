"""The stage render-images: a corpus with sound, nested and hostile drawings becomes a store."""

from __future__ import annotations

import io
import zipfile

import pytest
from images_helpers import corpus, pixels, svg, wheel

from vixml.errors import VixmlError
from vixml.files import sha256_file
from vixml.images.render import PORTION, draw_all, render_images
from vixml.images.store import ImageStore, shard_name
from vixml.provenance import read_manifest


def nested(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return written.getvalue()


@pytest.fixture
def inputs(tmp_path):
    """A corpus of four drawings, one broken and one hostile, from two wheels, one of them with a zip inside."""
    raw = tmp_path / "raw"
    sources = {
        "flat": wheel(
            raw,
            "flat",
            {
                "a.svg": svg('<rect width="24" height="24" fill="currentColor"/>'),
                "broken.svg": b"<svg",
                "spy.svg": svg('<image href="/etc/passwd"/>'),
            },
        ),
        "deep": wheel(raw, "deep", {"p/icons.zip": nested({"b.svg": svg('<rect width="12" height="24"/>')})}),
    }
    references = ["flat:a.svg", "flat:broken.svg", "deep:p/icons.zip!b.svg", "flat:spy.svg"]
    return corpus(tmp_path / "corpus", references), raw, sources


def test_a_corpus_becomes_a_store(inputs, tmp_path):
    folder, raw, sources = inputs
    render_images(folder, raw, sources, 16, 2, tmp_path / "images")
    store = ImageStore.open(tmp_path / "images")
    assert [(image, key) for image, key, _ in store] == [(0, "image-0"), (2, "image-2")]
    assert (pixels(store.read(0)) == 0).all()
    assert (pixels(store.read(2))[:, :8] == 0).all() and (pixels(store.read(2))[:, 8:] == 255).all()
    manifest = read_manifest(tmp_path / "images")
    assert manifest["facts"]["n_missing"] == 2
    assert manifest["facts"]["missing_reasons"] == {
        "not an svg that can be drawn": 1,
        "refers to something outside itself": 1,
    }
    assert set(manifest["inputs"]) == {"corpus", "flat", "deep"}


def test_the_store_does_not_depend_on_the_number_of_processes(inputs, tmp_path):
    folder, raw, sources = inputs
    hashes = []
    for processes in (1, 2):
        render_images(folder, raw, sources, 16, 2, tmp_path / f"images{processes}", processes)
        hashes.append([sha256_file(tmp_path / f"images{processes}" / shard_name(s)) for s in range(2)])
    assert hashes[0] == hashes[1]


def test_the_order_is_kept_over_many_portions():
    n = 5 * PORTION + 1
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
    assert len(taken) == PORTION


def test_inputs_that_differ_from_those_of_the_corpus_stop_the_stage(inputs, tmp_path):
    folder, raw, sources = inputs
    with pytest.raises(VixmlError, match="not in the registry") as caught:
        render_images(folder, raw, {"flat": sources["flat"]}, 16, 1, tmp_path / "images")
    assert "deep" in str(caught.value)
    wheel(raw, "flat", {"other.svg": svg("")})
    with pytest.raises(VixmlError, match="no such member"):
        render_images(folder, raw, sources, 16, 1, tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_a_corpus_without_any_valid_drawing_is_an_error(tmp_path):
    sources = {"flat": wheel(tmp_path / "raw", "flat", {"broken.svg": b"<svg"})}
    folder = corpus(tmp_path / "corpus", ["flat:broken.svg"])
    with pytest.raises(VixmlError, match="no image could be drawn"):
        render_images(folder, tmp_path / "raw", sources, 16, 1, tmp_path / "images")
