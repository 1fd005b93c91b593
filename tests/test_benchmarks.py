"""The benchmarks run, their straightforward ways agree with ours, and one table shows them all. No timing is asserted."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from vixml.config.load import load_runs
from vixml.config.run import RunConfig
from vixml.files import read_json
from vixml.models.packing import Sequences
from vixml.plan.assumptions import ARCHITECTURES
from vixml.ragged import Ragged
from vixml.training.all_labels import Candidates
from vixml.training.batches import EpochBatches, TrainingSet
from vixml.training.train import train_step

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let a test import benchmarks by name; names like `metrics` are taken for this test only."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(BENCHMARKS.parent)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Return a function that runs a benchmark's `main` in this process and returns what it wrote."""

    def run(name: str, *arguments: str) -> dict:
        out = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--out", str(out)])
        __import__(name).main()
        return read_json(out)

    return run


def rows(found: dict) -> list[dict]:
    assert {"benchmark", "machine", "versions", "source"} <= set(found)
    for row in found["rows"]:
        assert row["ours"]["median"] > 0 and row["limit"] > 0 and row["limit_by"]
    return found["rows"]


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_every_script_can_be_imported(script):
    __import__(script)


def test_the_page_shows_the_measured_forms_of_training():
    """docs/results.md has the table that benchmarks/label_vectors.py prints."""
    import label_vectors

    rows = read_json(label_vectors.OUT)["forms"]
    assert len(rows) >= 7 and label_vectors.table(rows) in Path("docs/results.md").read_text(encoding="utf-8")


def test_the_page_shows_the_trials_of_training():
    """docs/results.md has the table that benchmarks/training_trials.py prints; a difference from itself is 0."""
    import label_vectors
    import training_trials

    rows = training_trials.compared()
    assert label_vectors.paired_table(rows) in Path("docs/results.md").read_text(encoding="utf-8")
    (base,) = (row for row in rows if label_vectors.key_of(row) == ("text", "all-labels", 0, 0))
    assert not label_vectors.gains(base, base, "z").any()
    pairs = [row for row in rows if label_vectors.key_of(row)[::3] == ("text", 0) and row["form"] == "minilm-l6"]
    gained = label_vectors.gains(pairs[0], base, "precise").mean(axis=1)
    found = [pairs[0]["found"]["precise"][name] - base["found"]["precise"][name] for name in ("P@1", "P@5")]
    np.testing.assert_allclose(gained, [*found, sum(found)])


def test_gains_of_a_linear_weight_are_paired_by_query():
    import linear_weight

    hits = np.random.default_rng(0).random((len(linear_weight.WEIGHTS), 5, 2))
    order = {weights: number for number, weights in enumerate(linear_weight.WEIGHTS)}
    found = linear_weight.gains(lambda how: hits[order[how.lexical_weight, how.ridge.linear_weight]], 0.3)
    for (p1, p5, gain, error), of in zip(found, hits, strict=True):
        differences = [100 * (sum(one) - sum(base)) for one, base in zip(of, hits[0], strict=True)]
        assert (p1, p5) == pytest.approx((100 * np.mean(of[:, 0]), 100 * np.mean(of[:, 1])))
        assert gain == pytest.approx(statistics.mean(differences))
        assert error == pytest.approx(statistics.stdev(differences) / 5**0.5)


def test_a_binary_loss_equals_a_double_loop():
    import training_trials

    rng = np.random.default_rng(0)
    queries, vectors = (rng.standard_normal((n, 3)).astype(np.float32) for n in (2, 5))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    labels, pairs = np.array([0, 2, 4]), np.array([[0, 0], [1, 1], [1, 2]])
    batch = SimpleNamespace(candidates=Candidates(labels, pairs))
    training = SimpleNamespace(
        model=SimpleNamespace(vectors=torch.from_numpy(vectors)), config=RunConfig(method="all-labels")
    )
    expected = 0.0
    for row, query in enumerate(queries):
        for column, label in enumerate(labels):
            score = query @ vectors[label] / np.linalg.norm(vectors[label]) / 0.1 + np.log(3 / 3)
            true = [row, column] in pairs.tolist()
            expected += np.log1p(np.exp(-score if true else score)) / 3
    found, _ = training_trials.binary_loss(training, batch, torch.from_numpy(queries), None)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("folds", [False, True])
def test_votes_of_others_leave_the_query_out(monkeypatch, folds):
    """Against a ridge regression solved query by query among all others; a duplicate of the query may vote."""
    import training_trials
    from torch.nn import functional as F

    rng = np.random.default_rng(0)
    unit = F.normalize(torch.from_numpy(rng.standard_normal((150, 6)).astype(np.float32)), dim=1)
    unit[7] = unit[3]
    truth = Ragged.from_rows([sorted(rng.choice(9, 2, replace=False)) for _ in unit], n_cols=9)
    monkeypatch.setattr(training_trials, "encode_items", lambda *_: unit)
    data = SimpleNamespace(rows=np.arange(2, 149), truth=truth, queries=None)
    rows, voters = (data.rows[::40], np.setdiff1d(data.rows, data.rows[::40])) if folds else (data.rows, data.rows)
    training = SimpleNamespace(data=data, model=None, precision="fp32", device=torch.device("cpu"))
    found = training_trials.votes_of_others(training, rows, voters).double().numpy()
    kernel = np.exp((unit.double().numpy() @ unit.double().numpy().T - 1) / 0.2)
    expected = np.zeros(found.shape)
    for row in rows:
        near = [other for other in voters[np.argsort(-kernel[row, voters], kind="stable")] if other != row][:100]
        weights = np.linalg.solve(kernel[np.ix_(near, near)] + 0.2 * np.eye(100), kernel[near, row])
        for other, weight in zip(near, weights, strict=True):
            expected[row, truth.row(other)] += weight
        expected[row] = np.maximum(expected[row], 0) / np.maximum(expected[row], 0).sum()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_averages_are_means_over_steps(monkeypatch):
    import training_trials

    model, values = torch.nn.Linear(2, 1, bias=False), torch.randn(6, 1, 2, generator=torch.Generator().manual_seed(0))
    steps = iter(values)
    monkeypatch.setattr(training_trials.train, "train_step", lambda *_: model.weight.data.copy_(next(steps)))
    means = training_trials.Averages(SimpleNamespace(model=model, total_steps=6))
    for _ in values:
        means.train_step(None, None, None)
    weights = {"averaged-0.95": 0.95 ** np.arange(5, -1, -1), "averaged-last-half": np.repeat([0.0, 1.0], 3)}
    for name, weight in weights.items():
        means.use(name)
        np.testing.assert_allclose(model.weight.detach(), np.average(values, axis=0, weights=weight), atol=1e-6)


def test_images_of_some_queries_are_left_out():
    """Of about the share that was asked for, others in each epoch; an item keeps all of its images or none."""
    import training_trials

    images = Ragged.from_rows([[1, 2]] * 200 + [[]] * 50, n_cols=3)
    truth = Ragged.from_rows([[0]] * 250, n_cols=1)
    data = TrainingSet(Sequences(truth, images), Sequences(truth), truth, np.arange(250), np.ones(1))
    training = SimpleNamespace(data=data, config=RunConfig(), seed=0)
    epochs = [training_trials.without_images(0.3)(training, SimpleNamespace(epoch=epoch)) for epoch in (0, 0, 1)]
    first, again, other = (epoch.data.queries.images.lengths for epoch in epochs)
    assert set(first[:200]) == {0, 2} and not first[200:].any() and 40 < (first[:200] == 0).sum() < 80
    assert (first == again).all() and (first != other).any() and data.queries.images is images


def test_clustering(benchmark):
    found = rows(benchmark("clustering", "--points", "600", "--dim", "16", "--rounds", "1"))
    assert [row["threads"] for row in found] == [1, 2]
    for row in found:
        assert row["same_whatever_the_threads"]
        assert row["objective"]["ours"] > row["objective"]["straightforward"] - 0.02


def test_search(benchmark):
    sizes = ("--queries", "40", "--labels", "900", "--dim", "16")
    (row,) = rows(benchmark("search", *sizes, "--rounds", "1", "--threads", "1"))
    assert row["agrees"]["ours"] == 1.0 and row["agrees"]["straightforward"] > 0.99


def test_ridge(benchmark):
    sizes = ("--queries", "20", "--voters", "300", "--dim", "16", "--neighbours", "30")
    (row,) = rows(benchmark("ridge", *sizes, "--rounds", "1", "--threads", "1"))
    assert row["largest_difference"] < 1e-9


def test_metrics(benchmark):
    sizes = ("--queries", "400", "--paired", "300", "--labels", "5000")
    first, second = rows(benchmark("metrics", *sizes, "--rounds", "1"))
    assert first["largest_difference"] < 1e-9 and second["process_mb"] > 100 and second["straightforward"] is None


def test_index(benchmark):
    found = rows(benchmark("index", "--queries", "30", "--labels", "800", "--dim", "16", "--k", "10", "--rounds", "1"))
    assert len(found) == 2 and all(row["recall"] > 0.95 and row["bytes"] > 800 * 64 for row in found)


@pytest.fixture
def small_decoder(monkeypatch):
    """Return `decoder_step` with a decoder of one narrow layer and few labels."""
    import decoder_step

    narrow = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 256}
    monkeypatch.setitem(ARCHITECTURES, "smollm2-135m", {"model_type": "llama", **narrow, "num_attention_heads": 4})
    given = decoder_step.Project("config").run("picto", "vixml-smollm2")
    run = given.model_copy(update={"encoder": given.encoder.model_copy(update={"layers": 1})})
    monkeypatch.setattr(decoder_step.Project, "run", lambda *names: run)
    monkeypatch.setattr(decoder_step, "LABELS", 2500)
    monkeypatch.setattr(decoder_step, "VECTORS", 50)
    monkeypatch.setattr(decoder_step.measure, "product_speed", lambda *size: 1e10)
    return decoder_step


@pytest.mark.parametrize("options", [(), ("--checkpointing", "--items-at-once", "5")])
def test_decoder_step(small_decoder, benchmark, options):
    (row,) = rows(benchmark("decoder_step", "--precision", "fp32", "--batch-size", "12", "--rounds", "1", *options))
    assert row["relative_difference_of_vectors"] < 1e-5 and row["relative_difference_of_gradients"] < 1e-3
    assert (row["done_flop"] > row["useful_flop"]) == bool(options)
    assert row["peak_memory_gb"]["ours"] > 0 and row["straightforward"]["median"] > 0


@pytest.mark.parametrize("checkpointing, at_once", [(False, None), (True, 150)])
def test_a_decoders_operations_are_those_of_its_products(small_decoder, checkpointing, at_once):
    """torch counts every product of a step as it is carried out: fillers and what a mask hides come on top."""
    given = {"size": "smollm2-6-layers", "batch_size": 300, "rounds": 0, "kernels": "plain", "precision": "fp32"}
    chosen = argparse.Namespace(**given, checkpointing=checkpointing, items_at_once=at_once)
    (training, state), job = small_decoder.make_ready(chosen, torch.device("cpu"))
    data = training.data
    batch = EpochBatches(data, training.config, 0, 0)[0]
    added = {torch.ops.aten.addmm_: lambda y, a, b, **_: 2 * a[0] * a[1] * b[1]}  # torch forgot this one
    with FlopCounterMode(display=False, custom_mapping=added) as counter:
        train_step(training, state, batch)
    _, done = small_decoder.operations(training, job, batch)
    assert counter.get_total_flops() == pytest.approx(done, rel=0.06)


def test_attention_has_a_limit(monkeypatch):
    import attention
    import table

    assert attention.operations(1, 1, 2, 0, 1) == 6 * 2 * 4 and attention.operations(1, 1, 2, 1, 1) == 6 * 2 * 5
    monkeypatch.setattr(attention, "SIZES", [("small", 3, 4, 2, 5, 2, 8)])
    row = attention.compare(attention.SIZES[0], torch.float32, 1, 1e9)
    assert row["relative_difference"] < 1e-5 and row["limit_ms"] == 6 * 2 * 3 * 4 * 8 * 25 / 1e6
    (shown,) = table.rows_of({"rows": [row], "precision": "fp32", "machine": {"threads": 1}})
    assert shown["limit"] == row["limit_ms"] and shown["share_of_limit"] == row["limit_ms"] / row["ours_ms"]


def test_the_table_shows_every_result_and_what_is_owed(capsys):
    import table

    table.main()
    shown = capsys.readouterr().out.splitlines()
    for path in sorted((BENCHMARKS / "results").glob("*.json")):
        for row in table.rows_of(read_json(path)):
            cells = table.cells(row)
            assert len(cells) == len(table.HEAD)
            assert any(all(cell in line for cell in cells) for line in shown), path
    for _, _, name, command in table.OWED:
        assert (BENCHMARKS / command.split()[1].removeprefix("benchmarks/")).exists()
        owed = any(f"owed: `{command} --out benchmarks/results" in line for line in shown)
        assert owed == (not any((BENCHMARKS / "results").glob(name)))


def test_growth_is_a_power_of_the_rows():
    import scale

    sizes = [{"rows": n, "seconds": 1e-3 * n**1.5} for n in (10, 100, 1000)]
    assert scale.growth(sizes) == pytest.approx(1.5)
    made = scale.lists(2000, 50, 4.0)
    made.check("made up")
    assert all((np.diff(made.row(i)) > 0).all() for i in range(2000)), "ascending, no value twice"
    assert 3 < made.lengths.mean() < 5


def test_the_demo_can_shorten_every_training(tmp_path):
    config_dir = Path(shutil.copytree(BENCHMARKS.parent / "config", tmp_path / "config"))
    import demo

    demo.set_epochs(config_dir.parent, 1)
    runs, targets = load_runs(config_dir), yaml.safe_load((config_dir / "config.yaml").read_text())["targets"]
    trained = [run for name in targets[0]["runs"] if (run := runs["picto", name]).training.epochs]
    assert {run.training.epochs for run in trained} == {1}
    with pytest.raises(SystemExit, match="exactly once"):
        demo.set_epochs(config_dir.parent, 1)
