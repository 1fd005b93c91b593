"""The stage ``predict`` on a small corpus: each method, both splits, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from corpus_data import random_corpus

from vixml.config.run import Inference, RunConfig, SeededRun
from vixml.errors import VixmlError
from vixml.evaluation import choose
from vixml.files import read_json, save_array, write_json
from vixml.images.embeddings import FORMAT, ImageEmbeddings
from vixml.provenance import stage
from vixml.retrieval.calibration import Calibration, calibrate
from vixml.retrieval.predict import predict
from vixml.retrieval.ridge import LabelTerm, local_ridge
from vixml.retrieval.search import search
from vixml.retrieval.vote import knn_vote, popularity, retrieval_augmented, with_images, with_lexical

N_TRAIN, N_TEST, N_LABELS, N_IMAGES, DIM = 30, 12, 20, 15, 6
HELD = np.array([3, 4, 17, 29], dtype=np.int64)
ONE = {"dataset": "tiny", "run": "one", "seed": 5}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a folder with corpus, index, embeddings and model, as their stages would leave them."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    sizes = {"train": N_TRAIN, "test": N_TEST, "label": N_LABELS}
    data = random_corpus(rng, sizes, N_IMAGES, most=4)
    with stage(root / "corpus", "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    with stage(root / "index", "build-index", config=ONE, inputs={}) as work:
        for name, n in (("train", N_TRAIN), ("test", N_TEST), ("label_u", N_LABELS), ("label_z", N_LABELS)):
            save_array(work / f"{name}.npy", unit(rng.standard_normal((n, DIM)).astype(np.float32)))
    with stage(root / "embeddings", "embed-images", config={}, inputs={}) as work:
        save_array(work / "vectors.npy", rng.standard_normal((N_IMAGES, 4)).astype(np.float16))
        about = {"format": FORMAT, "n_images": N_IMAGES, "dim": 4, "vision": "x", "missing": []}
        write_json(work / "embeddings.json", about)
    with stage(root / "model", "train", config=ONE, inputs={}) as work:
        save_array(work / "validation_rows.npy", HELD)
    with stage(root / "lexical", "hash-texts", config={}, inputs={}) as work:
        for name, n in (("train", N_TRAIN), ("test", N_TEST)):
            save_array(work / f"{name}.npy", unit(rng.standard_normal((n, 5))).astype(np.float16))
    return root, data


def predicted(run, tmp_path: Path, split="test", images=None, name="one", reuse=None, **inference):
    root, _ = run
    config = RunConfig(inference={"top_k": 8} | inference, images=images or {}, reuse=reuse)
    inputs = {name: root / name for name in ("corpus", "index", "embeddings", "lexical", "choice")}
    inputs["trained"] = root / "model"
    predict(SeededRun("tiny", name, 5, config), split, inputs, tmp_path / "out")
    found = {path.stem: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    return found, read_json(tmp_path / "out" / "manifest.json")


def vectors(run, name: str) -> np.ndarray:
    return np.load(run[0] / "index" / f"{name}.npy")


@pytest.mark.parametrize("labels_as", ["u", "z"])
def test_label_search_on_test(run, tmp_path, labels_as):
    found, manifest = predicted(run, tmp_path, labels_as=labels_as)
    ids, scores = search(vectors(run, "test"), vectors(run, f"label_{labels_as}"), 8, filter=run[1].filters["test"])
    assert set(found) == {"labels", "scores"}
    assert np.array_equal(found["labels"], ids) and np.array_equal(found["scores"], scores)
    assert manifest["config"]["inference"]["labels_as"] == labels_as
    assert (manifest["config"]["split"], manifest["config"]["run"]) == ("test", "one")
    assert set(manifest["inputs"]) == {"corpus", "index"} and manifest["facts"]["milliseconds_per_query"] > 0


def test_label_search_on_validation_reads_held_out_rows_of_train(run, tmp_path):
    found, manifest = predicted(run, tmp_path, split="validation")
    filter = run[1].filters["train"].take(HELD)
    ids, _ = search(vectors(run, "train")[HELD], vectors(run, "label_z"), 8, filter=filter)
    assert np.array_equal(found["rows"], HELD)
    assert np.array_equal(found["labels"], ids)
    assert set(manifest["inputs"]) == {"corpus", "index", "trained"}


def test_held_out_queries_do_not_vote_on_validation_and_do_on_test(run, tmp_path):
    labels, others = run[1].labels["train"], np.setdiff1d(np.arange(N_TRAIN), HELD)
    train = vectors(run, "train")
    found, _ = predicted(run, tmp_path, split="validation", method="knn", neighbours=3)
    how = Inference(method="knn", neighbours=3, top_k=8)
    expected = knn_vote(train[HELD], train[others], labels.take(others), how, filter=run[1].filters["train"].take(HELD))
    assert np.array_equal(found["labels"], expected[0])
    found, _ = predicted(run, tmp_path, method="knn", neighbours=3)
    expected = knn_vote(vectors(run, "test"), train, labels, how, filter=run[1].filters["test"])
    assert np.array_equal(found["labels"], expected[0]) and np.array_equal(found["scores"], expected[1])


@pytest.mark.parametrize(("labels_as", "search_as", "split"), [
    ("z", "separate", "test"), ("u", "joint", "test"), ("z", "separate", "validation"),
])  # fmt: skip
def test_retrieval_augmented(run, tmp_path, labels_as, search_as, split):
    how = {"label_weight": 0.7, "retrieved_labels": 6, "retrieved_queries": 4, "temperature": 0.2}
    how |= {"method": "retrieval-augmented", "labels_as": labels_as, "search": search_as, "top_k": 8}
    found, manifest = predicted(run, tmp_path, split=split, **how)
    train, labels, filter = vectors(run, "train"), run[1].labels["train"], run[1].filters["test"]
    queries = vectors(run, "test")
    if split == "validation":  # held-out queries ask, and the others alone vote
        others = np.setdiff1d(np.arange(N_TRAIN), HELD)
        queries, filter = train[HELD], run[1].filters["train"].take(HELD)
        train, labels = train[others], labels.take(others)
    label_vectors = vectors(run, f"label_{labels_as}")
    expected = retrieval_augmented(queries, label_vectors, train, labels, Inference(**how), filter=filter)
    assert np.array_equal(found["labels"], expected[0]) and np.array_equal(found["scores"], expected[1])
    assert manifest["config"]["inference"]["search"] == search_as
    assert set(manifest["inputs"]) == {"corpus", "index", *(["trained"] if split == "validation" else [])}


@pytest.mark.parametrize(("split", "image_weight"), [("test", 0.0), ("validation", 0.0), ("test", 0.4)])
def test_local_ridge_searches_both_label_vectors_with_text_and_votes_with_images(run, tmp_path, split, image_weight):
    ridge = {"neighbours": 4, "frequency_power": 0.1, "text_weight": 0.2}
    how = {"method": "local-ridge", "ridge": ridge, "image_weight": image_weight, "top_k": 8}
    found, manifest = predicted(run, tmp_path, split=split, **how)
    text, train, labels = vectors(run, "test"), vectors(run, "train"), run[1].labels["train"]
    queries, filter = text, run[1].filters["test"]
    if image_weight:
        queries, train = (with_images_of(run, name, weight=image_weight) for name in ("test", "train"))
    if split == "validation":
        others = np.setdiff1d(np.arange(N_TRAIN), HELD)
        queries, filter = train[HELD], run[1].filters["train"].take(HELD)
        text, train, labels = queries, train[others], labels.take(others)
    terms = [LabelTerm(weight, text, vectors(run, f"label_{of}")) for weight, of in ((0.3, "z"), (0.2, "u"))]
    expected = local_ridge(queries, train, labels, terms, Inference(**how), filter=filter)
    assert np.array_equal(found["labels"], expected[0]) and np.array_equal(found["scores"], expected[1])
    assert ("embeddings" in manifest["inputs"]) == (image_weight > 0)


def test_a_lexical_vector_votes_beside_text_and_images(run, tmp_path):
    how = {"method": "knn", "image_weight": 0.4, "lexical_weight": 0.3, "top_k": 8}
    found, manifest = predicted(run, tmp_path, **how)
    lexical = {name: np.load(run[0] / "lexical" / f"{name}.npy") for name in ("test", "train")}
    queries, train = (with_lexical(with_images_of(run, name), lexical[name], 0.3) for name in ("test", "train"))
    expected = knn_vote(queries, train, run[1].labels["train"], Inference(**how), filter=run[1].filters["test"])
    assert np.array_equal(found["labels"], expected[0]) and np.array_equal(found["scores"], expected[1])
    assert set(manifest["inputs"]) == {"corpus", "index", "embeddings", "lexical"}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_chosen_inference_predicts_as_the_choice_says(run, tmp_path, split):
    choice = {"inference": Inference(method="knn", neighbours=3, top_k=50, index="hnsw").model_dump(), "trials": []}
    with stage(run[0] / "choice", "choose-inference", config={}, inputs={}) as work:
        write_json(work / "choice.json", choice)
    found, manifest = predicted(run, tmp_path, split=split, method="chosen")
    expected, _ = predicted(run, tmp_path / "given", split=split, method="knn", neighbours=3)
    assert np.array_equal(found["labels"], expected["labels"]) and np.array_equal(found["scores"], expected["scores"])
    assert "choice" in manifest["inputs"] and manifest["config"]["inference"]["method"] == "chosen"


def test_the_choice_measures_what_predict_does_on_held_out_rows(run, tmp_path, monkeypatch):
    """Every candidate's precisions are those of its predictions; the winner is what the stage writes."""
    monkeypatch.setattr(choose, "FEWEST_TO_CHOOSE", 1)
    monkeypatch.setattr(choose, "FEWEST_QUERIES", 1)
    config = RunConfig(inference={"method": "chosen", "image_weight": 0.3, "lexical_weight": 0.3, "top_k": 8})
    inputs = {name: run[0] / name for name in ("corpus", "index", "embeddings", "lexical")}
    seeded = SeededRun("tiny", "one", 5, config)
    choose.choose_inference(seeded, inputs | {"trained": run[0] / "model"}, tmp_path / "choice", torch.device("cpu"))
    record = read_json(tmp_path / "choice/choice.json")
    assert record["n_queries"] == len(HELD) and not record["restriction"]
    truth = [set(run[1].labels["train"].row(row).tolist()) for row in HELD]
    tried = {trial["value"]: trial["p1"] for trial in record["trials"] if trial["constant"] == "method"}
    for name, how in choose.candidates(config.inference, True).items():
        found, _ = predicted(run, tmp_path, split="validation", **how.model_dump(exclude_defaults=True) | {"top_k": 8})
        hits = [labels[0] in true for labels, true in zip(found["labels"].tolist(), truth, strict=True)]
        assert tried[name] == pytest.approx(100 * np.mean(hits)), name
    # What its scores are worth is learned from the predictions of what was chosen.
    found, _ = predicted(run, tmp_path, split="validation", **record["inference"] | {"top_k": 20})
    hits = np.array([np.isin(labels, list(true)) for labels, true in zip(found["labels"], truth, strict=True)])
    expected = calibrate(found["labels"], found["scores"], hits, [len(true) for true in truth], None)
    fitted = Calibration.model_validate(record["calibration"])
    assert fitted.model_copy(update={"alarms": []}) == expected and len(fitted.alarms) == 5
    with pytest.raises(VixmlError, match="belongs to another run"):
        other = SeededRun("tiny", "two", 5, config)
        choose.choose_inference(other, inputs | {"trained": run[0] / "model"}, tmp_path / "no", torch.device("cpu"))
    given = SeededRun("tiny", "one", 5, RunConfig())
    with pytest.raises(VixmlError, match="given, not chosen"):
        choose.choose_inference(given, inputs | {"trained": run[0] / "model"}, tmp_path / "no", torch.device("cpu"))


def test_the_choice_of_several_trainings_weighs_each_held_out_query_once(run, tmp_path, monkeypatch):
    """Two trainings with other vectors and held-out rows: trials and calibration are those of both sets of queries together."""
    monkeypatch.setattr(choose, "FEWEST_TO_CHOOSE", 1)
    monkeypatch.setattr(choose, "FEWEST_QUERIES", 1)
    inputs, parts, rng = {"corpus": run[0] / "corpus"}, [], np.random.default_rng(3)
    # The second holds out two queries of the first again, the third none: each query counts once.
    own = np.array([0, 9, 11])
    for number, rows in enumerate((HELD, np.sort([*own, *HELD[:2]]), np.zeros(0, dtype=np.int64)), 1):
        names, folder = ONE | {"run": f"split{number}"}, tmp_path / str(number)
        with stage(folder / "index", "build-index", config=names, inputs={}) as work:
            for name in ("train", "test", "label_u", "label_z"):
                found = vectors(run, name) + rng.standard_normal(vectors(run, name).shape).astype(np.float32)
                save_array(work / f"{name}.npy", unit(found))
        with stage(folder / "model", "train", config=names, inputs={}) as work:
            save_array(work / "validation_rows.npy", rows)
        inputs |= {f"index_{number}": folder / "index", f"trained_{number}": folder / "model"}
        if len(rows):
            if number == 2:  # alone, it is to be asked about its own
                with stage(folder / "own", "train", config=names, inputs={}) as work:
                    save_array(work / "validation_rows.npy", own)
            alone = SeededRun("tiny", names["run"], 5, RunConfig(inference={"method": "chosen"}))
            trained = folder / ("own" if number == 2 else "model")
            folders = {"corpus": inputs["corpus"], "index": folder / "index", "trained": trained}
            choose.choose_inference(alone, folders, folder / "choice", torch.device("cpu"))
            n_rows = len(np.load(trained / "validation_rows.npy"))
            parts.append((n_rows, read_json(folder / "choice/choice.json")))
    config = RunConfig(reuse="all", inference={"method": "chosen", "chosen_on": [f"split{n}" for n in (1, 2, 3)]})
    choose.choose_inference(SeededRun("tiny", "b", 5, config), inputs, tmp_path / "choice", torch.device("cpu"))
    record = read_json(tmp_path / "choice/choice.json")
    assert (record["n_queries"], record["inference"]["chosen_on"], record["caution"]) == (7, [], "")
    assert record["held_out_by"] == ["split1", "split2", "split3"]
    assert record["calibration"]["n_queries"] == 7
    for name in choose.candidates(config.inference, True):
        every = (record, *(one for _, one in parts))
        p1 = [next(t["p1"] for t in one["trials"] if t["value"] == name) for one in every]
        assert p1[0] == pytest.approx(np.average(p1[1:], weights=[n for n, _ in parts])), name
    with pytest.raises(VixmlError, match="belongs to another run") as error:
        swapped = inputs | {"trained_1": inputs["trained_2"]}
        choose.choose_inference(SeededRun("tiny", "b", 5, config), swapped, tmp_path / "no", torch.device("cpu"))
    assert "trained_1" in error.value.where


def test_a_run_may_reuse_the_index_of_another_that_it_names(run, tmp_path):
    found, manifest = predicted(run, tmp_path, name="two", reuse="one")
    expected, _ = predicted(run, tmp_path / "own")
    assert np.array_equal(found["labels"], expected["labels"])
    assert (manifest["config"]["run"], manifest["config"]["trained_as"]) == ("two", "one")
    predicted(run, tmp_path / "held", name="two", reuse="one", split="validation")
    for name, reuse in (("two", None), ("two", "three"), ("one", "two")):
        with pytest.raises(VixmlError, match="belongs to another run") as error:
            predicted(run, tmp_path / "no", name=name, reuse=reuse)
        assert "--index" in error.value.where and f"run {reuse or name} " in error.value.expected


def with_images_of(run, split: str, per_item=5, control="none", weight=0.4) -> np.ndarray:
    """Return the vectors of a split with those of its images appended."""
    embeddings = ImageEmbeddings.open(run[0] / "embeddings")
    lists = embeddings.lists(run[1].images[split], per_item, control, 5)
    return with_images(vectors(run, split), embeddings, lists, weight)


@pytest.mark.parametrize("control", ["none", "shuffled"])
def test_images_join_the_vote_and_can_be_shuffled_as_in_training(run, tmp_path, control):
    images = {"per_item": 2, "control": control}
    found, manifest = predicted(run, tmp_path, images=images, method="knn", image_weight=0.7)
    queries, voters = (with_images_of(run, split, 2, control, 0.7) for split in ("test", "train"))
    how = Inference(method="knn", top_k=8)
    expected = knn_vote(queries, voters, run[1].labels["train"], how, filter=run[1].filters["test"])
    assert np.array_equal(found["labels"], expected[0])
    assert manifest["config"]["images"]["control"] == control
    assert set(manifest["inputs"]) == {"corpus", "index", "embeddings"}


def test_popularity_reads_no_vectors(run, tmp_path):
    labels, others = run[1].labels["train"], np.setdiff1d(np.arange(N_TRAIN), HELD)
    found, manifest = predicted(run, tmp_path, method="popularity")
    assert np.array_equal(found["labels"], popularity(labels, N_TEST, 8, filter=run[1].filters["test"])[0])
    assert set(manifest["inputs"]) == {"corpus"}
    found, _ = predicted(run, tmp_path, method="popularity", split="validation")
    own = run[1].filters["train"].take(HELD)
    assert np.array_equal(found["labels"], popularity(labels.take(others), len(HELD), 8, filter=own)[0])


def test_more_positions_than_labels_are_padded(run, tmp_path):
    found, _ = predicted(run, tmp_path, top_k=N_LABELS + 5)
    assert found["labels"].shape == (N_TEST, N_LABELS + 5)
    assert (found["labels"][:, -5:] == -1).all()


def test_missing_inputs_and_those_of_other_runs_are_named(run, tmp_path):
    root, _ = run
    label_search, knn = RunConfig(), RunConfig(inference={"method": "knn", "image_weight": 0.5})

    def attempt(config, split="test", **folders):
        inputs = {"corpus": root / "corpus"} | folders
        predict(SeededRun("tiny", "one", 5, config), split, inputs, tmp_path / "out")

    with pytest.raises(VixmlError, match="needs the folder index") as error:
        attempt(label_search)
    assert error.value.where == "--index"
    with pytest.raises(VixmlError, match="needs the folder embeddings"):
        attempt(knn, index=root / "index")
    with pytest.raises(VixmlError, match="needs the folder trained"):
        attempt(label_search, "validation", index=root / "index")
    with stage(tmp_path / "bare", "build-index", config=ONE, inputs={}) as work:
        save_array(work / "test.npy", np.zeros((N_TEST, DIM), dtype=np.float32))
    with pytest.raises(VixmlError, match="no prototypes") as error:
        attempt(label_search, index=tmp_path / "bare")
    assert "labels_as" in error.value.hint
    with stage(tmp_path / "index", "build-index", config=ONE, inputs={}) as work:
        save_array(work / "test.npy", np.zeros((N_TEST + 1, DIM), dtype=np.float32))
        save_array(work / "label_z.npy", np.zeros((N_LABELS, DIM), dtype=np.float32))
    with pytest.raises(VixmlError, match="index does not belong"):
        attempt(label_search, index=tmp_path / "index")
    for rows, what in ((np.array([N_TRAIN]), "do not fit"), (np.array([], dtype=np.int64), "held out no queries")):
        with stage(tmp_path / "model", "train", config=ONE, inputs={}) as work:
            save_array(work / "validation_rows.npy", rows)
        with pytest.raises(VixmlError, match=what):
            attempt(label_search, "validation", index=root / "index", trained=tmp_path / "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["label-search", "retrieval-augmented", "knn"])
@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_through_an_index_that_looks_everywhere(run, tmp_path, method, index):
    exact, _ = predicted(run, tmp_path / "exact", method=method, labels_as="u")
    found, manifest = predicted(run, tmp_path / "index", method=method, labels_as="u", index=index, index_recall=1.0)
    # So few vectors are all proposed: nothing can be missed.
    assert np.array_equal(found["labels"], exact["labels"])
    assert np.allclose(found["scores"], exact["scores"])
    said = manifest["facts"]["indexes"]
    assert len(said) == (2 if method == "retrieval-augmented" else 1)
    assert all(one["kind"] == index and one["curve"][-1]["recall"] == 1.0 for one in said)
