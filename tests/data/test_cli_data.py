"""The commands of the data package do what its functions do."""

from __future__ import annotations

import picto_wheels
import pytest
import yaml
from helpers import run_stage
from test_tokens import make_decoder_tokenizer, make_tokenizer

from vixml.data.tokens import tokenize_corpus
from vixml.errors import VixmlError
from vixml.files import read_json


@pytest.fixture
def config_dir(picto, tmp_path):
    registry = {
        "sources": {name: source.model_dump() for name, source in picto[2].items()},
        "datasets": {"picto": picto_wheels.dataset().model_dump()},
    }
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump(registry, allow_unicode=True), encoding="utf-8")
    tiny = dict(title="Tiny", checkpoint="none", kind="hub", hidden_size=8, parameters="1", licence="none")
    causal = tiny | {"attention": "causal", "eos": "<end>"}
    models = {"sources": {}, "text_models": {"tiny": tiny, "tiny-decoder": causal}, "vision_models": {}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")
    return tmp_path


def test_the_three_commands_in_order(picto, config_dir, tmp_path):
    corpus, raw, sources = picto
    out = run_stage("download", "tablerpy", "--raw", raw, "--config-dir", config_dir)
    assert sources["tablerpy"].filename in out
    built = tmp_path / "corpus"
    run_stage("build-corpus", "picto", "--raw", raw, "--out", built, "--config-dir", config_dir)
    assert read_json(built / "counts.json") == read_json(corpus / "counts.json")
    folder = make_tokenizer(tmp_path / "model")
    arguments = ["picto", "tiny", "--corpus", built, "--model-dir", folder, "--max-len", 9]
    run_stage("tokenize", *arguments, "--config-dir", config_dir, "--out", tmp_path / "tokens")
    tokenize_corpus(built, folder, 9, tmp_path / "direct", model="tiny")
    one, two = (read_json(tmp_path / name / "manifest.json")["outputs_sha256"] for name in ("tokens", "direct"))
    assert one == two


def test_a_decoders_entry_decides_how_it_is_tokenized(picto, config_dir, tmp_path):
    folder = make_decoder_tokenizer(tmp_path / "model", bos=True)
    arguments = ["--corpus", picto[0], "--model-dir", folder, "--max-len", 5, "--config-dir", config_dir]
    run_stage("tokenize", "picto", "tiny-decoder", *arguments, "--out", tmp_path / "tokens")
    tokenize_corpus(picto[0], folder, 5, tmp_path / "direct", model="tiny-decoder", attention="causal", eos="<end>")
    one, two = (read_json(tmp_path / name / "manifest.json")["outputs_sha256"] for name in ("tokens", "direct"))
    assert one == two
    with pytest.raises(VixmlError, match="did you mean 'tiny-decoder'"):
        run_stage("tokenize", "picto", "tiny-decodr", *arguments, "--out", tmp_path / "tokens")


def test_unknown_names_get_the_nearest(picto, config_dir, tmp_path):
    with pytest.raises(VixmlError, match="did you mean 'tablerpy'"):
        run_stage("download", "tablerp", "--raw", tmp_path, "--config-dir", config_dir)
    with pytest.raises(VixmlError, match="did you mean 'picto'"):
        run_stage("build-corpus", "pict", "--raw", tmp_path, "--out", "x", "--config-dir", config_dir)
