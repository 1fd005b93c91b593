"""The gallery: its sample is drawn blind, its extremes are the extremes, and it says which is which."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_page import COMPARE
from result_files import METRICS, png, write_corpus, write_predictions, write_result

from vixml.errors import VixmlError
from vixml.files import load_array, save_array
from vixml.report.report import N_EXTREMES, PIXELS, _data_uri, extremes, gallery, gallery_rows
from vixml.report.results import load


def test_the_sample_does_not_depend_on_results():
    assert gallery_rows(1123).tolist() == gallery_rows(1123).tolist()
    assert len(gallery_rows(1123)) == 12 == len(set(gallery_rows(1123).tolist()))
    assert sorted(gallery_rows(5).tolist()) == [0, 1, 2, 3, 4]


def test_gallery_marks_true_labels_and_skips_missing_images(everything):
    options = everything.options
    found = gallery(options.corpus, options.images, (*COMPARE, "absent"), load(everything.folders))
    assert found.runs == ((COMPARE[0], 0), (COMPARE[1], 0), ("absent", None))
    assert [q.row for q in found.parts[0].queries] == gallery_rows(30).tolist()
    for query in found.parts[0].queries:
        text, image = query.answers
        # ViXML answers row, row + 1, ...; text starts one later. True are row and row + 3.
        assert [hit for _, hit in image.labels] == [True, False, False, True, False]
        assert [hit for _, hit in text.labels] == [False, False, True, False, False]
        assert len(query.images) == (0 if query.row < 2 else 1)
        assert len(query.truth) == 2 and image.hits == 2
    rule = found.parts[0].rule
    assert "seed 0" in rule and "12 of 30" in rule and not found.parts[0].by_outcome


def test_predictions_of_another_corpus(results):
    score = write_result(results, "picto", "text-minilm-l3", 0, METRICS)
    corpus, images = write_corpus(results)
    write_predictions(score)
    save_array(score.parent / "predictions" / "labels.npy", np.full((30, 8), 99, dtype=np.int32))
    with pytest.raises(VixmlError, match="a predicted label does not exist"):
        gallery(corpus, images, COMPARE, load([score]))


def test_extremes_are_the_largest_with_ties_by_row():
    random = np.random.default_rng(0)
    for _ in range(50):
        gain = random.integers(-3, 4, size=40)
        up, down = extremes(gain)
        by_hand = sorted((row for row in range(40) if gain[row] > 0), key=lambda row: (-gain[row], row))
        assert up.tolist() == by_hand[:N_EXTREMES]
        by_hand = sorted((row for row in range(40) if gain[row] < 0), key=lambda row: (gain[row], row))
        assert down.tolist() == by_hand[:N_EXTREMES]
    assert [rows.tolist() for rows in extremes(np.zeros(4, dtype=int))] == [[], []]


@pytest.fixture
def changed(results):
    """Return scores, corpus and images where ViXML loses query 7 wholly and text alone wins it."""
    folders = [write_result(results, "picto", run, 0, METRICS) for run in COMPARE]
    corpus, images = write_corpus(results)
    for folder in folders:
        write_predictions(folder)
    for folder, first in zip(folders, (True, False), strict=True):
        path = folder.parent / "predictions" / "labels.npy"
        labels = np.array(load_array(path))
        # True for query 7 are 7 and 2.
        labels[7] = [7, 2, 0, 1, 3, 4, 5, 6] if first else [0, 1, 3, 4, 5, 2, 6, 7]
        # And ViXML finds one more for query 9: true are 1 and 4.
        labels[9] = [0, 2, 3, 5, 6, 1, 4, 7] if first else [1, 2, 3, 5, 6, 0, 4, 7]
        save_array(path, labels)
    return folders, corpus, images


def test_gains_and_losses_are_marked_as_picked_by_outcome(changed):
    folders, corpus, images = changed
    blind, gains, losses = gallery(corpus, images, COMPARE, load(folders)).parts
    assert [query.row for query in gains.queries] == [9] and [query.row for query in losses.queries] == [7]
    assert [answer.hits for answer in losses.queries[0].answers] == [2, 0]
    assert gains.by_outcome and losses.by_outcome and not blind.by_outcome
    for part in (gains, losses):
        assert part.rule.startswith("Picked by outcome") and "ties in the order of the file" in part.rule
    # What was drawn blind does not depend on how they went.
    assert [query.row for query in blind.queries] == gallery_rows(30).tolist()


def test_the_balance_counts_every_query(changed):
    folders, corpus, images = changed
    found = gallery(corpus, images, COMPARE, load(folders))
    assert "Of all 30 test queries" in found.balance
    assert "in 1, fewer in 1, and as many in 28" in found.balance


def test_one_run_alone_has_no_gains(changed):
    folders, corpus, images = changed
    found = gallery(corpus, images, COMPARE, load(folders[:1]))
    assert [part.key for part in found.parts] == ["sample"] and found.balance == ""
    assert found.runs[1] == (COMPARE[1], None)


def test_small_images_are_kept_as_they_are_and_large_ones_made_smaller():
    assert _data_uri(png(9)) == "data:image/png;base64," + base64.b64encode(png(9)).decode()
    stream = io.BytesIO()
    Image.new("RGBA", (640, 320), (10, 200, 30, 0)).save(stream, format="PNG")
    uri = _data_uri(stream.getvalue())
    small = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert small.size == (PIXELS, PIXELS // 2) and small.mode == "RGBA" and small.getpixel((5, 5))[3] == 0
