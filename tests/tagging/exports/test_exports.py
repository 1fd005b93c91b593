"""Exports give the model's vectors in other programs, or are not written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import faiss
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, normalizers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from vixml import Tagger, cli
from vixml.data.corpus import Corpus
from vixml.data.texts import repaired
from vixml.errors import VixmlError
from vixml.files import read_json
from vixml.models.encode import encode_items
from vixml.models.packing import Sequences
from vixml.models.prompt import PLAIN, Prompt
from vixml.ragged import Ragged
from vixml.stages import place
from vixml.tagging.exports import export as export_module
from vixml.tagging.exports import text_encoder
from vixml.tagging.exports.export import MARKER, export
from vixml.tagging.exports.text_encoder import TextEncoder, exact_tagger
from vixml.tagging.model_folder import ModelFolder

RUNS = ["text", "images", "decoder", "adapters", "frozen", "knn"]
TEXTS = ["box river", "toy diamond", "  ember\n kite ", "Ünseen [SEP] x", "gem " * 60]


@pytest.fixture(scope="module")
def exported(packed, shared):
    """Return a function that exports a run once and returns the folder; nobody changes it."""

    def of(to: str, run: str) -> Path:
        out = shared / "exports" / to / run
        if not out.exists():
            export(packed(run), to, out)
        return out

    return of


def expected(packed, run: str) -> np.ndarray:
    return Tagger.load(packed(run), precision="fp32").encode(TEXTS)


def by_onnx(folder: Path, texts: list[str]) -> np.ndarray:
    rows = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    given = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return session.run(None, {name: np.array(value) for name, value in given.items()})[0]


def test_line_breaks_are_cleaned_as_by_our_rules_and_in_linear_time():
    clean = normalizers.Sequence([normalizers.Replace(Regex(text_encoder.BREAKS), " "), normalizers.Strip()])
    for text in map("".join, product("a \t\n\x1c\x85\u00a0", repeat=5)):
        assert clean.normalize_str(text) == repaired(text)
    long = f"a{chr(0xA0) * (1 << 18)}b"
    assert clean.normalize_str(long) == long


@pytest.mark.parametrize("run", ["text", "decoder", "adapters"])
def test_sentence_transformers_and_auto_model_give_the_models_vectors(packed, exported, run):
    from sentence_transformers import SentenceTransformer

    folder, vectors = exported("sentence-transformers", run), expected(packed, run)
    model = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), vectors, atol=1e-5)
    assert np.abs(vectors - vectors[0]).max(axis=1)[1:].min() > 1e-3  # a constant would pass, too
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    given = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = network(**given).last_hidden_state, given["attention_mask"]
    last = hidden[torch.arange(len(TEXTS)), mask.sum(dim=1) - 1]
    mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    kinds = [name.__class__.__name__ for name in model]
    pooled = torch.nn.functional.normalize(last if run in ("decoder", "adapters") else mean, dim=1)
    if kinds == ["Transformer", "Pooling", "Normalize"]:
        np.testing.assert_allclose(pooled.numpy(), vectors, atol=1e-5)
    else:  # centred
        assert run in ("decoder", "adapters") and kinds[2:] == ["Normalize", "Dense", "Normalize"]
        shift = load_file(folder / "3_Dense/model.safetensors")["linear.bias"]
        np.testing.assert_allclose(torch.nn.functional.normalize(pooled + shift, dim=1).numpy(), vectors, atol=1e-5)
    assert not list(folder.rglob("*.py")) and not list(folder.rglob("*.bin"))


@pytest.mark.parametrize("run", ["decoder", pytest.param("text", marks=pytest.mark.slow)])
def test_onnxruntime_gives_the_models_vectors_for_any_batch_and_length(packed, exported, run):
    folder, vectors = exported("onnx", run), expected(packed, run)
    np.testing.assert_allclose(by_onnx(folder, TEXTS), vectors, atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(by_onnx(folder, [text])[0], vectors[row], atol=1e-5)


def by_encoder(tagger: Tagger, encoder: TextEncoder, work: Path) -> np.ndarray:
    """Return what is exported to ONNX, before it is."""
    encoder.write_tokenizer(tagger.folder.folder / "language", work, ready=True)
    rows = Tokenizer.from_file(str(work / "tokenizer.json")).encode_batch(TEXTS)
    given = (torch.tensor([getattr(row, name) for row in rows]) for name in ("ids", "attention_mask"))
    with torch.no_grad():
        return encoder(*given).numpy()


@pytest.mark.parametrize("run", [*RUNS, "late"])
def test_the_encoder_of_each_kind_of_run_gives_its_vectors(packed, tmp_path, run):
    tagger = exact_tagger(ModelFolder.open(packed(run)))
    np.testing.assert_allclose(by_encoder(tagger, TextEncoder.of(tagger), tmp_path), tagger.encode(TEXTS), atol=1e-5)


FAMILIES = {**dict.fromkeys(tiny_models.DECODERS, True), "bert": False, "distilbert": False, "roberta": False}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_language_models_gives_its_vectors_padded_and_with_its_own_positions(tmp_path, family):
    if FAMILIES[family]:
        tiny_models.write_decoder(tmp_path, family)
    elif family == "roberta":  # its positions begin at 2, ours at 0
        sizes = tiny_models.SMALL | {"max_position_embeddings": 50}
        tiny_models._write(AutoModel.from_config(AutoConfig.for_model(family, **sizes, pad_token_id=1)), tmp_path)
    else:
        {"bert": tiny_models.write_bert, "distilbert": tiny_models.write_distilbert}[family](tmp_path)
    prompt = Prompt(((7, 8), "text", (9,)), causal=True) if FAMILIES[family] else PLAIN
    pooling = "last" if prompt.causal else "mean"
    model = tiny_models.make_model(tmp_path, prompt, image_dim=None, encoder={"pooling": pooling})
    rows = np.random.default_rng(0).integers(2, tiny_models.VOCABULARY, (4, 12)).tolist()  # 1 is RoBERTa's padding
    items = Sequences(Ragged.from_rows([rows[n][:size] for n, size in enumerate((3, 7, 1, 12))], 60), prompt=prompt)
    expected = torch.nn.functional.normalize(encode_items(model, items, "fp32"), dim=1)
    encoder = TextEncoder(model, pooling, prompt, ([], []), 12)
    ids = [[*encoder.before, *items.tokens.row(row).tolist(), *encoder.after] for row in range(4)]
    length = max(map(len, ids))
    padded = torch.tensor([row + [1] * (length - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    with torch.no_grad():
        torch.testing.assert_close(encoder(padded, mask), expected, atol=1e-5, rtol=0)
        # As AutoModel is called: with a mask of two dimensions, and the positions that it counts by itself.
        hidden = encoder.network(input_ids=padded, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(4), mask.sum(dim=1) - 1]
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        alone = torch.nn.functional.normalize(last if prompt.causal else mean, dim=1)
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


def test_the_same_model_gives_the_same_bytes(packed, exported, tmp_path):
    first = exported("sentence-transformers", "text")
    export(packed("text"), "sentence-transformers", tmp_path / "again")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) > 8
    assert all((first / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_what_is_lost_is_printed_and_in_the_card(packed, tmp_path, capsys):
    export(packed("images--augmented"), "sentence-transformers", tmp_path / "out")
    said, card = capsys.readouterr().err, (tmp_path / "out/README.md").read_text(encoding="utf-8")
    for part in ("2 images per item", "the export reads none", "training items vote"):
        assert part in said and part in card
    for part in ("text of an item is name + more, joined", "Licences", "Training items are left out"):
        assert part in card
    export(packed("text"), "faiss", tmp_path / "labels")
    assert capsys.readouterr().err == "" and "Nothing: nearest labels" in (tmp_path / "labels/README.md").read_text()


def test_late_fusion_has_no_modules_in_sentence_transformers(packed, tmp_path):
    with pytest.raises(VixmlError, match="cannot express") as caught:
        export(packed("late"), "sentence-transformers", tmp_path / "out")
    assert "--to onnx" in caught.value.hint and not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", ["text", "decoder"])
def test_positions_left_for_images_are_in_the_table_or_refused(packed, tmp_path, run):
    """With `text_position: fixed`, a text stands behind the positions of absent images."""
    folder = ModelFolder.open(packed("images" if run == "text" else "decoder"))
    encoder = {"text_position": "fixed", "template": "{images}{text}" if run == "text" else "red {images}{text}{eos}"}
    settings = folder.run.encoder.model_copy(update=encoder)
    tagger = exact_tagger(replace(folder, run=folder.run.model_copy(update={"encoder": settings})))
    found = TextEncoder.of(tagger)
    assert found.gap == (None if run == "text" else (len(found.before), 2))
    vectors = by_encoder(tagger, found, tmp_path)
    np.testing.assert_allclose(vectors, tagger.encode(TEXTS), atol=1e-5)
    plain = exact_tagger(folder).encode(TEXTS)
    assert np.abs(plain - vectors).max() > 1e-3


@pytest.mark.parametrize("to", ["sentence-transformers", "onnx"])
def test_an_export_that_gives_other_vectors_is_not_written(packed, exported, tmp_path, monkeypatch, to):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text('{"format": "vixml-export-1"}')
    if to == "onnx":
        graph = exported(to, "decoder") / "model.onnx"
        monkeypatch.setattr(torch.onnx, "export", lambda model, given, path, **_: shutil.copyfile(graph, path))
    else:
        words = TextEncoder.write_tokenizer

        def shorter(self, *args, **options):
            self.most -= 2  # long texts are cut too early
            words(self, *args, **options)

        monkeypatch.setattr(TextEncoder, "write_tokenizer", shorter)
    with pytest.raises(VixmlError, match="does not give the model's vectors"):
        export(packed("frozen"), to, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", MARKER]


def test_parquet_has_the_labels_and_if_asked_the_items(packed, shop, tmp_path):
    folder = packed("text")
    export(folder, "parquet", tmp_path / "out", items=True)
    corpus = Corpus.load(place("build-corpus", shop.project.results, dataset="shop"))
    for name, split, kind in (("labels", "label", "labels/z.npy"), ("items", "train", "neighbours/vectors.npy")):
        table = pq.read_table(tmp_path / f"out/{name}.parquet")
        assert table["id"].to_pylist() == corpus.ids(split)
        named = zip(corpus.texts(split), corpus.ids(split), strict=True)
        assert table["name"].to_pylist() == [text or key for text, key in named]
        assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[32]"
        assert (np.stack(table["vector"].to_numpy()) == np.load(folder / kind)).all()
    export(folder, "parquet", tmp_path / "labels.parquet")
    assert pq.read_table(tmp_path / "labels.parquet").equals(pq.read_table(tmp_path / "out/labels.parquet"))


def test_a_table_that_is_no_export_is_kept(packed, tmp_path):
    table, text, out = tmp_path / "shop.parquet", tmp_path / "text.parquet", tmp_path / "labels.parquet"
    pq.write_table(pa.table({"id": ["B1"], "name": ["box"]}), table)
    text.write_text("id,name,vector\n")
    for path in (table, text):
        before = path.read_bytes()
        with pytest.raises(VixmlError, match="no export of vixml"):
            export(packed("text"), "parquet", path)
        assert path.read_bytes() == before
    for _ in range(2):
        export(packed("text"), "parquet", out)
    assert pq.read_schema(out).names == ["id", "name", "vector"]


def test_items_whose_images_vote_have_the_vectors_of_their_texts(packed, shop, tmp_path):
    folder = packed("knn")
    assert np.load(folder / "neighbours/vectors.npy").shape[1] > 32
    export(folder, "parquet", tmp_path / "out", items=True)
    corpus = Corpus.load(place("build-corpus", shop.project.results, dataset="shop"))
    found = np.stack(pq.read_table(tmp_path / "out/items.parquet")["vector"].to_numpy())
    np.testing.assert_allclose(found, exact_tagger(ModelFolder.open(folder)).encode(corpus.texts("train")), atol=1e-5)


def test_faiss_finds_the_models_tags(packed, tmp_path):
    export(packed("text"), "faiss", tmp_path / "out", items=True)
    tagger, names = Tagger.load(packed("text"), precision="fp32"), pq.read_table(tmp_path / "out/labels.parquet")
    _, rows = faiss.read_index(str(tmp_path / "out/labels.faiss")).search(tagger.encode(TEXTS), 3)
    tags = tagger.tag(TEXTS, k=3, voters=1)
    assert [[names["name"][i].as_py() for i in row] for row in rows] == [[tag.label for tag in found] for found in tags]
    items = pq.read_table(tmp_path / "out/items.parquet")
    assert faiss.read_index(str(tmp_path / "out/items.faiss")).ntotal == len(items) == 42


def test_an_index_that_finds_others_is_not_written(packed, tmp_path, monkeypatch):
    read = faiss.read_index

    def shuffled(path: str):
        index = read(path)
        vectors = index.reconstruct_n(0, index.ntotal)[::-1].copy()
        other = faiss.IndexFlatIP(index.d)
        other.add(vectors)
        return other

    monkeypatch.setattr(faiss, "read_index", shuffled)
    with pytest.raises(VixmlError, match="does not find the nearest"):
        export(packed("text"), "faiss", tmp_path / "out")
    assert not list(tmp_path.iterdir())


DATABASES = """
import sys, tempfile, numpy as np, pyarrow.parquet as pq
import lancedb
from qdrant_client import QdrantClient, models

table = pq.read_table(sys.argv[1])
vectors, names = np.stack(table["vector"].to_numpy()), table["name"].to_pylist()
labels = lancedb.connect(tempfile.mkdtemp()).create_table("labels", table)
client = QdrantClient(":memory:")
how = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
client.create_collection("labels", vectors_config=how)
client.upload_collection("labels", vectors, payload=table.drop_columns("vector").to_pylist(), ids=range(len(names)))
for row, vector in enumerate(vectors):
    nearest = [names[i] for i in np.argsort(-(vectors @ vector), kind="stable")[:3]]
    assert [one["name"] for one in labels.search(vector).metric("cosine").limit(3).to_list()] == nearest
    assert [one.payload["name"] for one in client.query_points("labels", vector, limit=3).points] == nearest
print("loaded", labels.count_rows(), client.count("labels").count)
"""


def test_lancedb_and_qdrant_load_the_vectors(packed, tmp_path):
    """Needs both packages: in this environment, or in that of the Python named by VIXML_DATABASES_PYTHON."""
    python = os.environ.get("VIXML_DATABASES_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import lancedb, qdrant_client"], capture_output=True).returncode:
        pytest.skip("lancedb and qdrant-client are not installed")
    export(packed("text"), "parquet", tmp_path / "labels.parquet")
    command = [python, "-c", DATABASES, str(tmp_path / "labels.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    n = len(pq.read_table(tmp_path / "labels.parquet"))
    assert done.stdout == f"loaded {n} {n}\n", done.stderr


def test_a_missing_package_is_one_error_that_names_the_extra(packed, tmp_path, monkeypatch):
    monkeypatch.setitem(export_module.PACKAGES, "onnx", ["onnxruntime", "no_such_package"])
    with pytest.raises(VixmlError, match="not installed") as caught:
        export(packed("text"), "onnx", tmp_path / "out")
    assert "vixml[export]" in caught.value.hint and caught.value.found == "no no-such-package"


def test_what_cannot_be_exported_is_one_clear_error(packed, tmp_path):
    without = Path(shutil.copytree(packed("text"), tmp_path / "m"))
    (without / "model.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    for model, to, out, items, what in (
        (packed("text"), "onnx", "out", True, "holds no training items"),
        (packed("text"), "faiss", "mine", False, "no export of vixml"),
        (packed("text"), "parquet", "a.parquet", True, "two tables"),
        (without, "faiss", "out", False, "not the header"),
    ):
        with pytest.raises(VixmlError, match=what):
            export(model, to, tmp_path / out, items)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "mine"]


def test_the_command_line_exports(packed, tmp_path, capsys):
    arguments = ["export", "--to", "parquet", "--model", str(packed("text")), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0 and cli.main([*arguments, "--items"]) == 0  # in place of the first
    assert "items.parquet: 42 items" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / MARKER)["to"] == "parquet"
    assert cli.main([*arguments, "--public"]) == 2
    assert "belong to --to hub" in capsys.readouterr().err


def test_the_sample_has_long_and_odd_texts(packed):
    tagger = exact_tagger(ModelFolder.open(packed("text")))
    texts = text_encoder.sample_texts(tagger)
    assert max(map(len, texts)) > 12 * 10 and any("\n" in text for text in texts) and len(texts) > 20
