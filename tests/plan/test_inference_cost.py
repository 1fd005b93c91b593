"""What ranking labels takes, by hand, and as counted while the real functions run at a small size."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vixml.config.registry import Counts
from vixml.config.run import Inference, RunConfig, SeededRun
from vixml.plan import inference
from vixml.plan.assumptions import CONTEXT, HARDWARE, VOTES
from vixml.plan.cost import RESERVE, WORKER, WORKERS, PlannedRun, predict_cost
from vixml.plan.inference import Ranking
from vixml.plan.shapes import MeanItem, Shape

REPO = Path(__file__).resolve().parents[2]
GPU, CPU = HARDWARE["gpu"], HARDWARE["cpu"]
WIDTH, IMAGE = 32, 96
SHAPE = Shape(layers=1, hidden=WIDTH, heads=2, kv_heads=2, head_dim=16, intermediate=8, gated=False, embeddings=40)
TEXT = MeanItem(5, 5, 5, 0.0)


def ranking(n_train=3000, n_test=4000, n_labels=2000, labels=3.0, training=None, **how) -> Ranking:
    """Return what a run of these sizes takes."""
    config = RunConfig.model_validate({"modality": "text", "training": training or {}, "inference": how})
    counts = Counts(n_train=n_train, n_test=n_test, n_labels=n_labels)
    return Ranking(PlannedRun(config, counts, {}, SHAPE, False, TEXT, TEXT, IMAGE, labels * n_train))


def peak(work) -> int:
    """Return the most bytes that numpy held while a function ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def unit(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    vectors = rng.standard_normal((n, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_up(rng: np.random.Generator, n: int, n_labels: int, each: int = 3):
    from vixml.ragged import Ragged

    steps = rng.integers(1, n_labels // each, (n, each))
    return Ragged.from_rows(list(np.cumsum(steps, axis=1) % n_labels), n_labels)


BALANCED = {"method": "local-ridge", "top_k": 50, "ridge": {"neighbours": 20, "text_weight": 0.2}}


@pytest.mark.parametrize(("module", "line"), [
    ("linear", "COEFFICIENTS = 1 << 25 "), ("linear", "PANEL = 1 << 11 "), ("ridge", "ON_CPU, ON_GPU = 4 << 20, 1 << 30\n"),
    ("approximate", "GPU_MB = 8192\n"), ("approximate", "    memory_mb: float = 512\n"),
])  # fmt: skip
def test_constants_are_those_of_retrieval(module, line):
    # Read as text: the module itself needs torch.
    assert f"\n{line}" in (REPO / f"src/vixml/retrieval/{module}.py").read_text(encoding="utf-8")


def test_a_choice_tries_each_method_and_two_values_of_each_constant():
    from vixml.evaluation.choose import LADDERS, candidates

    preset = Inference(method="chosen", image_weight=0.3, ridge={"linear_weight": 0.5})
    assert len(candidates(preset, True)) + 2 * len(LADDERS) == inference.TRIALS


def test_votes_are_the_processors():
    plain, votes = ranking(), ranking(**BALANCED)
    assert plain.n_votes == 0 and votes.n_votes == 4000 * 20 * 3
    cost = predict_cost(votes.job, GPU)
    assert cost.hours * 3600 == pytest.approx(cost.flop_search / GPU.float32 + 4000 * 20 * 3 / VOTES)
    assert ranking(method="retrieval-augmented", retrieved_queries=7).n_votes == 4000 * 7 * 3
    assert ranking(method="knn", neighbours=9).n_votes == 4000 * 9 * 3


def test_a_linear_model_is_the_processors_too():
    both = ranking(method="local-ridge", ridge={"linear_weight": 0.5})
    alone = ranking(method="linear")
    assert both.system == alone.system == 3000, "as many texts, which are fewer than terms"
    solved = 3000**3 / 3 + 2 * 3000**2 * 2000 + 2 * (3000 + 4000) * 100 * 2000
    assert both.linear_flop == alone.linear_flop == solved
    seconds = alone.linear_flop / CPU.float32
    assert predict_cost(alone.job, GPU).hours == predict_cost(alone.job, CPU).hours == pytest.approx(seconds / 3600)
    assert predict_cost(alone.job, GPU).flop_host == solved
    many = ranking(n_train=50_000, n_labels=65_536, method="linear")
    assert many.system == many.terms == 512, "as docs/config.md says"


def test_operations_of_a_ridge_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from vixml.retrieval.ridge import _solve

    rng, k, n = np.random.default_rng(0), 20, 10
    voters, ids = unit(rng, 50, WIDTH), rng.integers(0, 50, (n, k)).astype(np.int32)
    ridge = Inference.model_validate(BALANCED).ridge
    with FlopCounterMode(display=False) as counter:
        _solve(voters, ids, np.full((n, k), 0.5), ridge, torch.device("cpu"), 0)
    one = ranking(n_test=n, **BALANCED)
    without = 2 * n * (2 * 2000 + 3000) * WIDTH  # both label searches, and that of neighbours
    assert one.search_flop - without - n * k**3 / 3 == pytest.approx(counter.get_total_flops())


def test_operations_of_a_softmax_over_label_vectors_are_those_that_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from vixml.training.all_labels import draw_candidates, label_loss

    rng, n, m = np.random.default_rng(0), 8, 60
    truth = made_up(rng, n, m)
    for sampled, expected in ((None, m), (10, None)):
        candidates = draw_candidates(truth, np.arange(m), sampled, rng)
        queries, vectors = (torch.randn(size, WIDTH, requires_grad=True) for size in (n, m))
        with FlopCounterMode(display=False) as counter:
            label_loss(queries, vectors, candidates, 0.1).backward()
        labels = expected or len(candidates.labels)
        assert counter.get_total_flops() == 6 * n * labels * WIDTH
        base = ranking().job
        config = {"method": "all-labels", "modality": "text", "loss": {"sampled_labels": sampled}}
        job = replace(base, config=RunConfig.model_validate(config | {"training": {"epochs": 1, "batch_size": n}}))
        job = replace(job, counts=Counts(n_train=n, n_test=1, n_labels=m), pairs=3.0 * n)
        softmax = job.step_flop - n * job.encode(job.query, train=True)
        # Positives that two queries share are drawn once; the plan counts them twice.
        assert counter.get_total_flops() <= softmax <= 6 * n * min(m, labels + 3 * n) * WIDTH


@pytest.mark.parametrize(("n", "n_labels", "each"), [(800, 200, 4), (1000, 40_000, 2)])
def test_memory_of_a_linear_model(n, n_labels, each):
    from vixml.retrieval.linear import LinearModel

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrst"), 5)) for _ in range(4000)]
    texts = [" ".join(words[i] for i in rng.zipf(1.3, each) % 4000) for _ in range(n)]
    labels = made_up(rng, n, n_labels, 1)
    one = ranking(n_train=n, n_labels=n_labels, method="linear")
    assert (one.system == n) == (n == 800), "fewer texts than terms, and more"
    LinearModel.fit(texts[:3], labels.take(np.arange(3)))  # imports, whose memory is no part of it
    found = peak(lambda: LinearModel.fit(texts, labels))
    assert 0.8 * one.linear_bytes < found < 1.1 * one.linear_bytes
    assert predict_cost(one.job, CPU).host_memory_bytes > one.linear_bytes


def test_memory_of_votes_grows_with_queries_as_predicted():
    from vixml.retrieval.approximate import Searcher
    from vixml.retrieval.ridge import LabelTerm, local_ridge

    rng, how = np.random.default_rng(0), Inference.model_validate(BALANCED)
    voters, z, u, labels = unit(rng, 300, WIDTH), unit(rng, 200, WIDTH), unit(rng, 200, WIDTH), made_up(rng, 300, 200)

    def ranked(n: int) -> int:
        queries = unit(rng, n, WIDTH)
        terms = [LabelTerm(0.3, queries, z), LabelTerm(0.2, queries, u)]
        return peak(lambda: local_ridge(queries, voters, labels, terms, how, search=Searcher(memory_mb=1)))

    few, many = (ranked(n) for n in (1000, 4000))
    of_few, of_many = (ranking(n_train=300, n_labels=200, n_test=n, **BALANCED) for n in (1000, 4000))
    # Half of the results is the copy that is written.
    grown = of_many.host_bytes - of_few.host_bytes - (of_many.result_bytes - of_few.result_bytes)
    assert many - few == pytest.approx(grown, rel=0.1)
    assert many < of_many.host_bytes


def test_label_vectors_start_from_three_vectors_of_each():
    """Text vectors, their unit vectors and centroids, beside the stored queries; the model's own are on the device."""
    import torch

    from vixml.plan.count_memory import LiveBytes
    from vixml.training.train import start_vectors

    n, m, rng = 60, 3000, np.random.default_rng(0)
    one, queries, texts = 4 * m * WIDTH, torch.from_numpy(unit(rng, n, WIDTH)), torch.randn(m, WIDTH)
    model = SimpleNamespace(vectors=torch.zeros(m, WIDTH), has_vector=torch.zeros(m, dtype=torch.bool))
    training = SimpleNamespace(
        model=model,
        group=SimpleNamespace(rank=0, broadcast=lambda *tensors: None),
        data=SimpleNamespace(used_truth=made_up(rng, n, m)),
        config=SimpleNamespace(prototype=SimpleNamespace(text_start=0.5)),
    )
    with LiveBytes() as counter:
        for tensor in (texts, model.vectors):
            counter.add(tensor)
        start_vectors(training, queries, np.arange(n), texts)
    assert counter.peak - one == pytest.approx(3 * one, rel=0.05)
    config = RunConfig.model_validate({"method": "all-labels", "modality": "text"})
    job = replace(ranking(n_train=n, n_labels=m).job, config=config)
    read = RESERVE + WORKERS * WORKER + job.token_bytes + 16 * job.pairs
    assert job.host_bytes == pytest.approx(read + 4 * WIDTH * (n + 3 * m))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders of 12,000 training queries with images, as their stages would leave them."""
    from corpus_data import CorpusData, Items

    from vixml.files import save_array, write_json
    from vixml.images.embeddings import FORMAT
    from vixml.provenance import stage
    from vixml.ragged import Ragged

    root, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    sizes, n_labels, names = {"train": 12_000, "test": 500, "label": 50}, 50, {"dataset": "d", "run": "r", "seed": 0}
    no_pairs = {split: Ragged.from_rows([[]] * sizes[split], n_labels) for split in ("train", "test")}
    data = CorpusData(
        items={split: Items.of([f"{split} {i}" for i in range(n)]) for split, n in sizes.items()},
        labels={split: made_up(rng, sizes[split], n_labels) for split in ("train", "test")},
        image_keys=[str(i) for i in range(40)],
        image_sources=["nowhere"] * 40,
        images={split: Ragged.from_rows(list(rng.integers(0, 40, (n, 1))), 40) for split, n in sizes.items()},
        filters=no_pairs,
    )
    with stage(root / "corpus", "build-corpus", config={}, inputs={}) as work:
        data.write(work)
    with stage(root / "index", "build-index", config=names, inputs={}) as work:
        for name, n in (("train", 12_000), ("test", 500), ("label_u", n_labels), ("label_z", n_labels)):
            save_array(work / f"{name}.npy", unit(rng, n, WIDTH))
    with stage(root / "embeddings", "embed-images", config={}, inputs={}) as work:
        save_array(work / "vectors.npy", rng.standard_normal((40, IMAGE)).astype(np.float16))
        about = {"format": FORMAT, "n_images": 40, "dim": IMAGE, "vision": "x", "missing": []}
        write_json(work / "embeddings.json", about)
    return {name: root / name for name in ("corpus", "index", "embeddings")}


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_vectors_that_a_prediction_and_a_choice_hold(folders, weight):
    from vixml.data.corpus import Corpus
    from vixml.evaluation.choose import HeldOutPrecision, Split, choose
    from vixml.retrieval.approximate import Searcher
    from vixml.retrieval.opened import OpenedRun
    from vixml.retrieval.predict import _ready

    how = {"ridge": {"neighbours": 25}, "image_weight": weight}
    sizes = {"n_train": 12_000, "n_test": 500, "n_labels": 50, "training": {"validation": 0.05}}
    corpus, search, run = Corpus.load(folders["corpus"]), Searcher(memory_mb=1), RunConfig(modality="text")
    run = SeededRun("d", "r", 0, run).config

    def opened(rows: np.ndarray | None) -> OpenedRun:
        return OpenedRun(corpus, folders, run.images, 0, rows, 1)

    predicted = ranking(**sizes, method="local-ridge", **how)
    asked = predicted.job.config.inference
    found = peak(lambda: _ready(opened(None), asked, search)())
    others = 4e6  # tables of bounded size
    assert predicted.voting_bytes <= found < predicted.host_bytes - inference.TABLES + 3 * others

    rows = np.arange(600)
    chosen = ranking(**sizes, method="chosen", **how)
    assert chosen.job.held_out == len(rows) and chosen.repeated == 1 + inference.TRIALS * 600 / 500
    trials = []
    how, held = chosen.job.config.inference, HeldOutPrecision([Split(opened(rows), search)])
    found = peak(lambda: trials.extend(choose(held, how, len(rows), True).trials))
    assert len(trials) > 10
    assert chosen.voting_bytes <= found < chosen.voting_bytes + 6e6, "less than another set"
    assert (chosen.voting_bytes > 20e6) == (weight > 0)


def test_memory_of_a_gpu():
    """Vectors that fit into half of it, a search's tables, and with votes label vectors beside training queries."""
    labels, voters, tables = 4.0 * 2000 * WIDTH, 4.0 * 3000 * (WIDTH + IMAGE), inference.GPU_TABLES
    assert ranking().device_bytes(1e12) == labels + tables
    votes = ranking(**BALANCED, image_weight=0.3)
    assert votes.device_bytes(1e12) == max(voters, 3 * labels) + tables
    assert votes.device_bytes(2 * voters - 1) == 3 * labels + tables, "training queries stay in main memory"
    assert ranking(method="popularity").device_bytes(1e12) == 0
    assert predict_cost(votes.job, GPU).gpu_memory_bytes == CONTEXT + votes.device_bytes(GPU.memory - CONTEXT)
    assert predict_cost(votes.job, CPU).gpu_memory_bytes == CONTEXT, "tables are counted in main memory"
