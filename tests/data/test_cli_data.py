"""The verbs of the data room do what its functions do."""

from __future__ import annotations

import picto_wheels
import pytest
import typer
import yaml
from test_tokens import make_decoder_tokenizer, make_tokenizer
from typer.testing import CliRunner

from vixml.cli import stages
from vixml.data.tokens import tokenize_corpus
from vixml.errors import VixmlError
from vixml.files import read_json


@pytest.fixture
def app():
    app = typer.Typer(pretty_exceptions_enable=False)
    stages.register(app)
    return app


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


def run(app, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)
    if isinstance(result.exception, VixmlError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_three_verbs_in_order(app, picto, config_dir, tmp_path):
    corpus, raw, sources = picto
    out = run(app, "download", "tablerpy", "--raw", raw, "--config-dir", config_dir)
    assert sources["tablerpy"].filename in out
    built = tmp_path / "corpus"
    run(app, "build-corpus", "picto", "--raw", raw, "--out", built, "--config-dir", config_dir)
    assert read_json(built / "counts.json") == read_json(corpus / "counts.json")
    folder = make_tokenizer(tmp_path / "model")
    arguments = ["picto", "tiny", "--corpus", built, "--model-dir", folder, "--max-len", 9]
    run(app, "tokenize", *arguments, "--config-dir", config_dir, "--out", tmp_path / "tokens")
    tokenize_corpus(built, folder, 9, tmp_path / "direct", model="tiny")
    one, two = (read_json(tmp_path / name / "manifest.json")["outputs_sha256"] for name in ("tokens", "direct"))
    assert one == two


def test_a_decoders_entry_decides_how_it_is_tokenized(app, picto, config_dir, tmp_path):
    folder = make_decoder_tokenizer(tmp_path / "model", bos=True)
    arguments = ["--corpus", picto[0], "--model-dir", folder, "--max-len", 5, "--config-dir", config_dir]
    run(app, "tokenize", "picto", "tiny-decoder", *arguments, "--out", tmp_path / "tokens")
    tokenize_corpus(picto[0], folder, 5, tmp_path / "direct", model="tiny-decoder", attention="causal", eos="<end>")
    one, two = (read_json(tmp_path / name / "manifest.json")["outputs_sha256"] for name in ("tokens", "direct"))
    assert one == two
    with pytest.raises(VixmlError, match="did you mean 'tiny-decoder'"):
        run(app, "tokenize", "picto", "tiny-decodr", *arguments, "--out", tmp_path / "tokens")


def test_unknown_names_get_the_nearest(app, picto, config_dir, tmp_path):
    with pytest.raises(VixmlError, match="did you mean 'tablerpy'"):
        run(app, "download", "tablerp", "--raw", tmp_path, "--config-dir", config_dir)
    with pytest.raises(VixmlError, match="did you mean 'picto'"):
        run(app, "build-corpus", "pict", "--raw", tmp_path, "--out", "x", "--config-dir", config_dir)


def test_help_teaches(app):
    for verb in ("download", "build-corpus", "tokenize"):
        assert "Example" in run(app, verb, "--help")
