"""A training that starts from a packed model: the same networks, free vectors of labels with the same text, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from vixml.cli import fitting
from vixml.cli.fitting import _write_start
from vixml.config.project import Project
from vixml.config.run import SeededRun, Start
from vixml.errors import VixmlError
from vixml.files import sha256_file
from vixml.manifest import MANIFEST
from vixml.models.inputs import RunInputs
from vixml.stages import Job
from vixml.tagging.pack import pack
from vixml.training.train import initialise, new_state, open_training


def start_of(folder) -> Start:
    return Start(folder=str(folder), sha256=sha256_file(folder / "model.json"))


def opened(shop, run: str, start: Start, **encoder):
    """Return the training of a run of the shop that starts from a folder; ``encoder`` changes settings of the run."""
    job = Job(shop.project, "train", {"dataset": "shop", "run": run, "seed": 3})
    reads = job.finished()
    inputs = RunInputs(reads["corpus"], reads["tokens"], reads.get("embeddings"), reads["model"])
    changed = job.run.encoder.model_copy(update=encoder)
    config = job.run.model_copy(update={"start": start, "encoder": changed})
    seeded = SeededRun("shop", run, 3, config)
    return open_training(seeded, job.dataset.propensity, inputs, torch.device("cpu"))


@pytest.mark.parametrize("run", ["text", "images", "adapters", "all-labels"])
def test_the_networks_are_those_of_the_folder(shop, packed, run):
    folder = packed(run)
    training = opened(shop, run, start_of(folder))
    model, head = training.model, load_file(folder / "head.safetensors")
    state = model.learned_state()
    for name in head.keys() - {"cluster", "prototypes.free.weight", "centre"}:
        assert torch.equal(state[name], head[name]), name
    if run == "adapters":
        return
    language, rows = load_file(folder / "language/model.safetensors"), model.backbone.row_of
    for name, tensor in model.backbone.network.state_dict().items():
        if "word_embeddings" in name:  # only the tokens that the corpus has
            kept = rows >= 0
            assert torch.equal(tensor[rows[kept]], language[name][: len(rows)][kept])
        else:
            assert torch.equal(tensor, language[name]), name


def test_labels_with_the_same_text_keep_their_free_vectors(shop, packed, capsys):
    folder = packed("text")
    training = opened(shop, "text", start_of(folder))
    known = dict(training.earlier.labels)
    new = sorted(known)[0]
    del training.earlier.labels[new]  # as if it had been added since
    state = new_state(training)
    initialise(training, state)
    assert f"{len(known) - 1} labels keep their vectors, 1 are new" in capsys.readouterr().err
    model, head = training.model, load_file(folder / "head.safetensors")
    old, texts = head["prototypes.free.weight"][head["cluster"]], training.label_texts
    for group in range(model.prototypes.free.num_embeddings):
        rows = [row for row, text in enumerate(texts) if model.cluster[row] == group and text != new]
        if rows:
            expected = torch.stack([old[known[texts[row]]] for row in rows]).mean(dim=0)
            torch.testing.assert_close(model.prototypes.free.weight[group], expected)


@pytest.mark.parametrize("before", ["all-labels", "text"])
def test_labels_with_the_same_text_keep_their_own_vectors(shop, packed, capsys, before):
    folder = packed(before)
    training = opened(shop, "all-labels", start_of(folder))
    known = dict(training.earlier.labels)
    new = sorted(known)[0]
    del training.earlier.labels[new]
    initialise(training, new_state(training))
    assert f"{len(known) - 1} labels keep their vectors, 1 are new" in capsys.readouterr().err
    old, vectors = torch.from_numpy(np.load(folder / "labels/z.npy")), training.model.vectors.detach()
    for row, text in enumerate(training.label_texts):
        assert torch.equal(vectors[row], old[known[text]]) == (text != new)


def test_what_cannot_be_continued_is_refused(shop, packed, tmp_path):
    folder = shutil.copytree(packed("text"), tmp_path / "shop.model")
    good = start_of(folder)
    with pytest.raises(VixmlError, match="another language model"):
        opened(shop, "adapters", good)
    with pytest.raises(VixmlError, match="another one now"):
        opened(shop, "text", good.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(VixmlError, match="no model folder"):
        opened(shop, "text", good.model_copy(update={"folder": str(tmp_path / "none")}))
    content = bytearray((folder / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "head.safetensors").write_bytes(content)
    with pytest.raises(VixmlError, match="was altered"):
        opened(shop, "text", good)


@pytest.mark.parametrize(("before", "now", "encoder"), [
    ("text", "frozen", {}), ("adapters", "adapters", {"train": "frozen"}), ("adapters", "adapters", {"train": "full"}),
    ("frozen", "text", {"train": "lora"}), ("adapters", "adapters", {"layers": 1}),
    ("frozen", "frozen", {"model": "tiny-llama", "layers": 2}),
])  # fmt: skip
def test_what_the_language_model_learned_is_never_dropped_in_silence(shop, packed, before, now, encoder):
    with pytest.raises(VixmlError, match="another language model, or one that was trained in another way") as caught:
        opened(shop, now, start_of(packed(before)), **encoder)
    assert "train: " in caught.value.found and caught.value.expected != caught.value.found


def test_a_frozen_model_is_a_start_for_all_weights(shop, packed):
    folder = packed("frozen")
    network = opened(shop, "text", start_of(folder)).model.backbone.network
    language = load_file(folder / "language/model.safetensors")
    assert all(torch.equal(tensor, language[name]) for name, tensor in network.state_dict().items() if "layer" in name)


def test_the_mean_vector_is_that_of_the_items_there_are_now(shop, packed):
    training = opened(shop, "adapters", start_of(packed("adapters")))
    model = training.model
    assert not model.centre.any()
    initialise(training, new_state(training))
    # Centred with the mean of the raw vectors, they are centred; with the earlier one subtracted first, the mean is about zero.
    assert model.centre.norm() > 0.1


def test_only_a_whole_model_folder_is_written_into_a_catalogue_s_file(packed, tmp_path):
    file = tmp_path / "shop.yaml"
    file.write_text("base:\n  start: null   # an earlier model\n", encoding="utf-8")
    folder = Path(shutil.copytree(packed("text"), tmp_path / "m"))
    _write_start(file, folder)
    written = yaml.safe_load(file.read_text(encoding="utf-8"))["base"]["start"]
    assert written == {"folder": str(folder), "sha256": sha256_file(folder / "model.json")}
    before = file.read_bytes()
    (folder / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(VixmlError, match="cut short or altered"):
        _write_start(file, folder)
    with pytest.raises(VixmlError, match="not a model folder"):
        _write_start(file, tmp_path / "none")
    assert file.read_bytes() == before


def test_the_model_to_start_from_is_not_overwritten(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(packed("text"), "shop.model")
    Path("linked.model").symlink_to("shop.model")
    Path("Snakefile").touch()
    file = Path("shop.yaml")
    file.write_text("base:\n  start: null\n", encoding="utf-8")
    for start, out in (("shop.model", None), (tmp_path / "shop.model", None), ("linked.model", "shop.model")):
        with pytest.raises(VixmlError, match="would be overwritten") as caught:
            fitting.fit(file, out and Path(out), Path(start))
        assert "--out next.model" in caught.value.hint and "null" in file.read_text(encoding="utf-8")
    # Nor by a later call without --from: the file names it.
    target = SimpleNamespace(runs=[fitting.TAGGER], split="test", dataset="shop", seeds=[0])
    workflow = SimpleNamespace(targets=[target], config_dir=tmp_path, results=tmp_path)
    monkeypatch.setattr(fitting, "read_yaml", lambda path: {})
    monkeypatch.setattr(fitting, "load_workflow", lambda *given: workflow)
    job = SimpleNamespace(run=SimpleNamespace(start=start_of(Path("shop.model"))))
    monkeypatch.setattr(fitting, "Job", lambda *given: job)
    with pytest.raises(VixmlError, match="would be overwritten"):
        fitting.fit(file)


@pytest.mark.parametrize("run", ["chosen", "late"])
def test_what_packing_reads_is_made_again_where_it_was_deleted(shop, packed, tmp_path, run):
    packed(run)
    job = Job(shop.project, "predict", {"dataset": "shop", "run": run, "seed": 0, "split": "test"})
    needed = fitting._needed(job, [run], False)
    for path in needed:
        target = tmp_path / path.relative_to(shop.project.results)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == MANIFEST:
            shutil.copytree(path.parent, target.parent, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, target)
    pack(Project(shop.project.config_dir, tmp_path), "shop", run, 0, tmp_path / "again")
    for name in ("model.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (packed(run) / name).read_bytes()
    # The printed table reads the predictions of baselines.
    baseline = Job(shop.project, "predict", {"dataset": "shop", "run": "knn", "seed": 0, "split": "test"})
    assert baseline.out / MANIFEST in fitting._needed(job, ["knn", run], False)
