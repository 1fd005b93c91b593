"""Tags of new items: those of the pipeline for its test split, unseen words, images of any kind, added labels."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vixml import Tagger
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.retrieval.ranking import rank_labels
from vixml.stages import place


def rows_of_test(shop) -> list[dict]:
    """Return the shop's test items as rows of its table."""
    rows = [json.loads(line) for line in (shop.folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    by_id = {row["id"]: row for row in rows}
    corpus = Corpus.load(place("build-corpus", shop.project.results, dataset="shop"))
    found = []
    for item in corpus.ids("test"):
        row = by_id[item]
        # The pipeline drops a file that is no image; `tag` refuses it.
        photos = [str(shop.folder / name) for name in row["photos"] if name != "ember-20.png"]
        found.append({"name": row["name"], "more": row["more"], "photos": photos})
    return found


TEXT = ["text", "text--augmented", "frozen", "all-labels", "refit", "adapters", "decoder"]


@pytest.mark.parametrize("run", [*TEXT, "images", "images--augmented", "late", "knn", "chosen"])
def test_tags_of_the_test_split_are_the_pipelines_predictions(shop, packed, run):
    tagger, rows = Tagger.load(packed(run)), rows_of_test(shop)
    folder = place("predict", shop.project.results, dataset="shop", run=run, seed=0, split="test")
    expected, scores = (np.load(folder / f"{name}.npy") for name in ("labels", "scores"))
    found = tagger.tag(rows, k=expected.shape[1])
    assert len(found) == len(expected) > 10
    for tags, labels, values in zip(found, expected, scores, strict=True):
        assert [tag.id for tag in tags] == [tagger.ids[label] for label in labels if label >= 0]
        np.testing.assert_allclose([tag.score for tag in tags], values[labels >= 0], atol=2e-6)
    # One at a time, another way through encoder and search leads to the same.
    for row, tags in zip(rows[:5], found, strict=False):
        (alone,) = tagger.tag([row], k=4, voters=0)
        assert [tag.label for tag in alone] == [tag.label for tag in tags[:4]]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_frozen_weights_are_as_wide_as_what_is_computed_with_them(packed, precision, dtype):
    tagger = Tagger.load(packed("adapters"), precision=precision)
    network = tagger._model.backbone.network.get_base_model()
    assert tagger.precision == precision and network.layers[0].input_layernorm.weight.dtype == dtype
    with pytest.raises(VixmlError, match="frozen weights in bfloat16"):
        Tagger.load(packed("adapters"), precision="fp16")
    assert Tagger.load(packed("text"), precision="fp16").precision == "fp16"


def test_fewer_or_more_tags_begin_with_the_pipelines_predictions(packed, monkeypatch):
    # Searches that disagree: which labels are compared depends on how many each of them proposes.
    tagger, random = Tagger.load(packed("chosen")), np.random.default_rng(2)
    shapes = {name: vectors.shape for name, vectors in tagger._searched.items()}
    z, coefficients = (random.normal(size=shapes[name]).astype(np.float32) for name in ("z", "linear"))
    searched = {"z": z / np.linalg.norm(z, axis=1, keepdims=True), "linear": coefficients}
    monkeypatch.setattr(tagger, "_searched", searched)
    how = tagger._run.inference
    weights = {"neighbours": 1, "prototype_weight": 1.0, "linear_weight": 1.0}
    how = how.model_copy(update={"top_k": 5, "ridge": how.ridge.model_copy(update=weights)})
    monkeypatch.setattr(tagger, "_run", tagger._run.model_copy(update={"inference": how}))
    texts = [f"{shape} {hue}" for shape in ("box", "toy", "gem") for hue in ("plum", "river")]
    queries = tagger.queries([tagger.read(text) for text in texts])
    given = (queries, searched, tagger._voters, tagger._voter_labels)
    expected, scores = rank_labels(*given, how, search=tagger._search)
    alone = [rank_labels(*given, how.model_copy(update={"top_k": k}), search=tagger._search)[0] for k in range(1, 9)]
    differ = [k for k, one in enumerate(alone, start=1) if (one[:, :5] != expected[:, :k]).any()]
    assert min(differ) < 5 < max(differ)
    for k in range(1, 9):
        found, values = tagger.rank(queries, k)
        assert found.shape == values.shape == (6, k)
        np.testing.assert_array_equal(found[:, :5], expected[:, :k])
        np.testing.assert_array_equal(values[:, :5], scores[:, :k])
    assert all(len(set(row)) == 8 and -1 not in row for row in found.tolist())
    ids = [[tagger.ids[one] for one in row] for row in found]
    assert [[tag.id for tag in tags] for tags in tagger.tags(queries, 8)] == ids


def test_a_word_that_the_corpus_lacks_has_its_pretrained_vector(shop, packed):
    tagger = Tagger.load(packed("text"))
    table = tagger._model.backbone.network.get_input_embeddings().weight
    base = load_file(place("prepare-model", shop.project.results, model="minilm-l3") / "model.safetensors")
    changed = (table != base["embeddings.word_embeddings.weight"]).any(dim=1)
    word = tagger._tokenizer.token_to_id
    assert changed[word("ember")] and not changed[word("diamond")] and not changed[word("toy")]
    one, other = tagger.encode(["diamond"]), tagger.encode(["toy"])
    assert np.abs(one - other).max() > 1e-3


def test_voters_are_the_nearest_training_items_with_the_label(shop, packed):
    tagger = Tagger.load(packed("text--augmented"))
    corpus = Corpus.load(place("build-corpus", shop.project.results, dataset="shop"))
    ids, labels, texts = corpus.ids("train"), corpus.labels("train"), corpus.texts("train")
    vectors = tagger.encode(texts)
    (tags,) = tagger.tag(["box river"], k=5, voters=2)
    similar = (vectors @ tagger.encode(["box river"])[0]).tolist()
    nearest = sorted(range(len(ids)), key=lambda row: -similar[row])[:9]
    assert any(tag.voters for tag in tags)
    for tag in tags:
        voted = [row for row in nearest if tagger.ids.index(tag.id) in labels.row(row)][:2]
        assert [voter.id for voter in tag.voters] == [ids[row] for row in voted]
        assert [voter.similarity for voter in tag.voters] == pytest.approx([similar[row] for row in voted], abs=1e-6)


@pytest.mark.parametrize("run", ["chosen", "knn", "images--augmented"])
def test_no_voter_is_named_that_did_not_vote(packed, run):
    tagger = Tagger.load(packed(run))
    how = tagger._run.inference
    most = {"chosen": how.ridge.neighbours, "knn": how.neighbours, "images--augmented": how.retrieved_labels}[run]
    assert most < tagger.folder.items("neighbours").num_rows
    (tags,) = tagger.tag(["box river"], k=20, voters=50)
    queries = tagger.queries([tagger.read("box river")])
    nearest = tagger._search(queries.voting, tagger._voters, most)[0][0].tolist()
    assert {voter.row for tag in tags for voter in tag.voters} == set(nearest)


def test_an_image_may_be_a_path_bytes_or_an_image_and_counts(shop, packed, tmp_path):
    tagger, path = Tagger.load(packed("images")), shop.folder / "plum-40.png"
    forms = [path, str(path), path.read_bytes(), Image.open(path), Image.open(path).convert("CMYK").convert("RGB")]
    vectors = tagger.encode([{"text": "box", "images": form} for form in forms])
    assert (vectors == vectors[0]).all()
    assert np.abs(vectors[0] - tagger.encode(["box"])[0]).max() > 1e-3
    # Turned by EXIF data, of 16 bits, and read twice.
    exif, grey = Image.Exif(), Image.fromarray(np.arange(0, 64000, 80, dtype=np.uint16).reshape(20, 40))
    exif[0x0112] = 6
    for image, options in ((Image.open(path), {"exif": exif}), (grey, {})):
        image.save(tmp_path / "odd.png", **options)
        opened = Image.open(tmp_path / "odd.png")
        pixels = [tagger.read({"images": form}).pixels[0] for form in (tmp_path / "odd.png", opened, opened)]
        assert (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all() and pixels[0].min() < pixels[0].max()
    only = tagger.encode([{"images": [path, path, "no such file, and not looked at"]}])
    assert np.isfinite(only).all()


@pytest.mark.parametrize(("changes", "item", "n"), [
    ({"images": "main + extra"}, {"main": "plum-40.png", "extra": ["coal-20.png"]}, 2),
    ({"images": "main + extra"}, {"main": None, "extra": "coal-20.png"}, 1),
    ({"images": "main + extra"}, {"main": "gone.png", "images": "coal-20.png"}, 1),
    ({"images": "photos"}, {"photos": "gone.png", "images": ["plum-40.png", "coal-20.png"]}, 2),
    ({"images": "images + extra"}, {"images": "plum-40.png", "extra": "coal-20.png"}, 2),
    ({"images": "sku", "images_are": "ids"}, {"sku": "A-17", "images": "plum-40.png"}, 1),
    ({"images": "sku", "images_are": "ids"}, {"sku": "A-17"}, 0),
])  # fmt: skip
def test_images_are_under_their_own_name_or_in_the_columns_of_the_training_table(
    packed, shop, monkeypatch, changes, item, n
):
    tagger = Tagger.load(packed("images"))
    dataset = tagger.folder.dataset
    dataset = dataset.model_copy(update={"catalogue": dataset.catalogue.model_copy(update=changes)})
    monkeypatch.setattr(tagger, "folder", replace(tagger.folder, dataset=dataset))
    monkeypatch.chdir(shop.folder)
    read = tagger.read({"text": "box", **item})
    assert (len(read.pixels), read.faults) == (n, ())


@pytest.mark.parametrize(("run", "item", "found"), [
    ("images", " ", "empty text"), ("images", {}, "nothing"), ("images", {"title": "x"}, "title"), ("images", 3, "int"),
    ("images", {"text": "x", "images": "gone.png"}, "gone.png"), ("images", {"text": 7}, "7"),
    ("images", {"text": "x", "images": b"no image"}, "image 1"), ("images", {"text": "x", "images": 5}, "int"),
    ("images", {"text": "x", "images": "https://example.com/a.png"}, "not fetched"),
    ("text", {"images": b"..."}, "empty text"),
])  # fmt: skip
def test_an_item_that_cannot_be_read_is_named(packed, run, item, found):
    with pytest.raises(VixmlError) as caught:
        Tagger.load(packed(run)).tag(["box", item])
    assert "item 1" in str(caught.value.where) and found in str(caught.value.found)


def test_one_item_in_place_of_a_list_is_refused(packed):
    for item in ("box", {"text": "box"}):
        with pytest.raises(VixmlError, match="one item"):
            Tagger.load(packed("text")).tag(item)


@pytest.mark.parametrize("run", ["text", "text--augmented", "frozen", "late", "all-labels", "refit"])
def test_added_labels_compete_and_an_offset_trades_them_for_the_known_ones(packed, run):
    tagger = Tagger.load(packed(run))
    texts = ["box river", "toy", "gem coal", "kite"] * 6  # more than are searched at once
    before = tagger.tag(texts, k=4)
    tagger.add_labels(["toy", {"id": "D1", "text": "diamond"}], offset=-3.0)
    assert (tagger.labels[-2:], tagger.ids[-1], len(tagger.labels) - tagger.n_known) == (["toy", "diamond"], "D1", 2)
    for tags, others in zip(tagger.tag(texts, k=4), before, strict=True):
        assert [(tag.id, tag.score, tag.voters) for tag in tags] == [(tag.id, tag.score, tag.voters) for tag in others]
    tagger.offset = 3.0
    assert all({tag.id for tag in tags[:2]} == {"toy", "D1"} for tags in tagger.tag(texts, k=4))
    if run in ("text", "frozen"):
        tagger.offset = 0.5
        assert tagger.tag(["toy"], k=20, voters=0)[0][0].score > 0.5
    for wrong in ("toy", "", {"id": "D1", "text": "new"}):
        with pytest.raises(VixmlError):
            tagger.add_labels([wrong])


def test_labels_cannot_be_added_where_training_items_alone_vote(packed):
    with pytest.raises(VixmlError, match="voted for"):
        Tagger.load(packed("knn")).add_labels(["new"])


def test_loading_imports_nothing_that_takes_seconds(packed):
    heavy = ["transformers", "pandas", "scipy", "sympy", "peft", "snakemake", "torch._dynamo", "onnx", "faiss"]
    code = (
        "import sys, vixml\nassert 'torch' not in sys.modules and 'pydantic' not in sys.modules\n"
        f"print(vixml.Tagger.load({str(packed('images'))!r}).tag(['box ember'], k=2)[0][1].label)\n"
        f"print('HEAVY', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "HEAVY []" in done.stdout
