"""Pushing to a local server that answers as the hub: one commit, private, no training items without a word."""

from __future__ import annotations

import pytest
from hub_server import PushedHub, serve_pushes, turn_away

from vixml import Tagger, cli
from vixml.errors import VixmlError
from vixml.tagging.exports import hub
from vixml.tagging.exports.hub import push

TEXTS = ["box river", "toy diamond"]


@pytest.fixture
def server(monkeypatch):
    with serve_pushes(monkeypatch) as found:
        yield found


def downloaded(name: str, folder) -> dict[str, bytes]:
    """Write what a repository holds, as who clones it has it."""
    files = {path: data for path, data in PushedHub.repositories[name]["files"].items() if path != ".gitattributes"}
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return files


def tags(folder) -> list:
    return [[(tag.id, tag.score) for tag in found] for found in Tagger.load(folder).tag(TEXTS, k=3)]


def test_a_pushed_model_gives_the_same_tags_and_holds_no_training_item(packed, server, tmp_path, monkeypatch):
    monkeypatch.delattr("huggingface_hub.HfApi.upload_folder")  # it may commit in parts
    lines = push(packed("text"), "me/shop", items=False)
    assert server.repositories["me/shop"]["private"] is True and server.commits == 1 and "private" in lines[-1]
    files = downloaded("me/shop", tmp_path)
    assert not any(path.startswith("neighbours") for path in files) and b"items are left out" in files["README.md"]
    assert not any(b"B0" in data for path, data in files.items() if path.endswith((".json", ".md")))  # no id of an item
    assert tags(tmp_path) == tags(packed("text"))


def test_with_items_the_copy_is_whole_and_a_second_push_removes_what_is_gone(packed, server, tmp_path):
    push(packed("text--augmented"), "me/shop", items=True)
    files = downloaded("me/shop", tmp_path)
    model = packed("text--augmented")
    assert files == {p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()}
    push(packed("frozen"), "me/shop", items=False)
    now = server.repositories["me/shop"]["files"]
    left = {name for name in files if not name.startswith("neighbours")} - {"labels/z.npy"}
    assert set(now) == left | {".gitattributes"}


def test_the_export_for_sentence_transformers_is_pushed(packed, server, tmp_path):
    from sentence_transformers import SentenceTransformer

    push(packed("text"), "me/encoder", form="sentence-transformers", public=True)
    assert server.repositories["me/encoder"]["private"] is False
    downloaded("me/encoder", tmp_path)
    found = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    assert abs(found - Tagger.load(packed("text"), precision="fp32").encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize(("run", "form", "items", "what"), [
    ("text", "model", None, "holds training items"), ("text--augmented", "model", False, "vote in this model"),
    ("text", "sentence-transformers", True, "holds no training items"),
])  # fmt: skip
def test_training_items_need_a_word(packed, server, run, form, items, what):
    with pytest.raises(VixmlError, match=what):
        push(packed(run), "me/shop", form, items)
    assert not server.repositories


def test_a_public_or_foreign_repository_is_left_as_it_is(packed, server):
    server.repositories["me/public"] = {"private": False, "files": {}}
    server.repositories["me/other"] = {"private": True, "files": {"thesis.pdf": b"x"}}
    tfjs = {"model.json": b'{"format": "layers-model"}', "weights.bin": b"x"}  # TensorFlow.js
    server.repositories["me/tfjs"] = {"private": True, "files": tfjs}
    for name, what in (("me/public", "is public"), ("me/other", "something else"), ("me/tfjs", "something else")):
        before = {**server.repositories[name]["files"]}
        with pytest.raises(VixmlError, match=what):
            push(packed("text"), name, items=False)
        assert server.repositories[name]["files"] == before
    push(packed("text"), "me/public", items=False, public=True)
    assert server.commits == 1


def test_the_token_is_never_printed(packed, server, monkeypatch, capsys):
    arguments = ["export", "--to", "hub", "--model", str(packed("text")), "--out", "me/shop", "--no-items"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert "me/shop: hub" in said.out and "hf_secret" not in said.out + said.err
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")  # the server repeats it in its answer
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "hf auth login" in said.err and "hf_of_another" not in said.out + said.err and "***" in said.err


def test_a_hub_that_is_not_there_or_holds_something_else_is_an_error(packed, server, monkeypatch):
    commit = server.do_POST

    def loses(self):
        commit(self)
        for repository in server.repositories.values():
            repository["files"].pop("head.safetensors", None)

    with monkeypatch.context() as patch, pytest.raises(VixmlError, match="does not hold what was pushed"):
        patch.setattr(server, "do_POST", loses)
        push(packed("text"), "me/shop", items=False)
    with pytest.raises(VixmlError, match="not a repository"):
        push(packed("text"), "shop", items=False)
    turn_away(monkeypatch)
    with pytest.raises(VixmlError, match="cannot be reached"):
        push(packed("text"), "me/shop", items=False)


def test_a_copy_that_tags_otherwise_is_not_pushed(packed, server, monkeypatch):
    opened = hub.exact_tagger

    def other(folder):
        tagger = opened(folder)
        tagger.ids = tagger.ids[::-1] if folder.folder != packed("text") else tagger.ids
        return tagger

    monkeypatch.setattr(hub, "exact_tagger", other)
    with pytest.raises(VixmlError, match="gives other tags"):
        push(packed("text"), "me/shop", items=False)
    assert not server.repositories
