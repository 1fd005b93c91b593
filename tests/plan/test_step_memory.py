"""Memory of a training step, counted on fake tensors: the committed counts, what they are of, and what takes their place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vixml.config.load import load_runs, load_world
from vixml.files import write_json
from vixml.plan.assumptions import CONTEXT, HARDWARE, TEXTS, UTILISATION
from vixml.plan.cost import PlannedRun, train_cost
from vixml.plan.shapes import texts_of
from vixml.plan.step_memory import key_of, load_counts

REPO = Path(__file__).resolve().parents[2]
WORLD, RUNS = load_world(REPO / "config"), load_runs(REPO / "config")
GPU, LARGE = HARDWARE["gpu"], "LF-AmazonTitles-1.3M"


def job_of(dataset: str, run: str, results: Path | None = None, **encoder) -> PlannedRun:
    config = RUNS[dataset, run]
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update=encoder)})
    return PlannedRun.of(WORLD, dataset, config, results)


def write_tokens(results: Path, dataset: str, job: PlannedRun, lengths: dict[str, list[int]]) -> None:
    """Write the part of a folder of tokens that a plan reads."""
    encoder = job.config.encoder
    folder = results / "data" / dataset / "tokens" / f"{encoder.model}-{encoder.max_len}"
    for split, rows in lengths.items():
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "offsets.npy", np.append(0, np.cumsum(rows)))
    write_json(folder / "manifest.json", {})


@pytest.mark.parametrize(
    ("dataset", "run"),
    [
        ("picto", "text-minilm-l3--ngame"),
        ("picto", "text-minilm-l3--all-labels"),
        (LARGE, "vixml-minilm-l3"),
        ("picto", "text-smollm2--paper-recipe"),
    ],
)
def test_committed_counts_are_those_of_the_real_step(dataset, run):
    """If this fails: delete the line of the run in step_memory.csv, and python -m vixml.plan.count_memory."""
    from vixml.plan.count_memory import count_deep_step

    job = job_of(dataset, run)
    tokens, peak = count_deep_step(job, job.config.encoder.max_len)
    assert job.counted.bytes_at(tokens) + job.label_bytes == pytest.approx(peak, rel=1e-2)
    assert train_cost(job, GPU).gpu_memory_bytes == pytest.approx(
        CONTEXT + max(job.step_bytes, job.cluster_bytes), rel=1e-9
    )


def test_a_step_is_counted_like_torch_on_a_small_example():
    import torch

    from vixml.plan.count_memory import LiveBytes

    with LiveBytes() as counter:
        x = torch.zeros(1000)
        y = x + 1  # both are alive
        del x
        z = y.view(10, 100)[0]  # the same storage
        del y
        assert counter.live == 4000
        del z
    assert (counter.live, counter.peak) == (0, 8000)


@pytest.mark.parametrize(("text", "expected"), [(32, 78.8e9), (12, 51.5e9)])
def test_the_largest_run_at_two_lengths(tmp_path, text, expected):
    job = job_of(LARGE, "vixml-qwen2.5-3b")
    write_tokens(tmp_path, LARGE, job, {"train": [text] * 3, "label": [text] * 2})
    found = job_of(LARGE, "vixml-qwen2.5-3b", tmp_path)
    assert found.step_bytes == pytest.approx(expected, rel=0.01) and not found.bound


def test_what_changes_no_step_changes_no_count():
    job, counts = job_of(LARGE, "vixml-distilbert"), load_counts()
    assert key_of(job) in counts
    for same in ({"pooling": "last"}, {"kernels": "liger"}, {"max_len": 16}):
        assert key_of(job_of(LARGE, "vixml-distilbert", **same)) == key_of(job)
    for other in ({"gradient_checkpointing": True}, {"layers": 3}, {"train": "frozen"}):
        changed = job_of(LARGE, "vixml-distilbert", **other)
        assert changed.counted is None and changed.step_bytes > 0, "by formula"


def test_mining_counts_beside_what_is_resident():
    job = job_of(LARGE, "vixml-qwen2.5-0.5b")
    vectors = 4 * job.counts.n_train * 896
    assert job.cluster_bytes > 2 * vectors + 16 * job.trainable
    without = replace(job, config=job.config.model_copy(update={"mining": None}))
    assert without.cluster_bytes < job.cluster_bytes


def test_lengths_are_those_of_the_tokens_once_there_are_any(tmp_path):
    run = ("LF-AmazonTitles-131K", "text-distilbert")
    job, rng = job_of(*run), np.random.default_rng(0)
    lengths = {split: rng.integers(4, 20, 1000).tolist() for split in ("train", "label")}
    assert job.bound and job.query.text == 32
    write_tokens(tmp_path, run[0], job, lengths)
    found = job_of(*run, tmp_path)
    assert not found.bound and found.query.text == pytest.approx(np.mean(lengths["train"]))
    assert found.step_flop < job.step_flop / 2.5 and 0 < found.query.more < 12
    assert found.step_bytes < job.step_bytes
    assert texts_of("picto", job.config, False, tmp_path) == TEXTS["picto"], "none of that dataset"


def test_utilisation_rises_with_width_through_the_papers_latencies():
    from vixml.config.published import read_csv

    facts = [
        row for _, row in read_csv(REPO / "config/reported/other_facts.csv") if row["topic"] == "latency per query"
    ]
    seen = {}
    for run in ("text-bert", "text-qwen2.5-3b"):
        [seconds] = [float(row["value"]) / 1e3 for row in facts if row["run"] == run]
        job = job_of("LF-AmazonTitles-131K", run)
        seen[job.shape.hidden] = job.encode(job.query) / seconds / 989e12
    (narrow, a), (wide, b) = seen.items()
    slope = (1 / a - 1 / b) / (1 / narrow - 1 / wide)
    for width, share in UTILISATION.items():
        assert share == pytest.approx(1 / (1 / b + slope * (1 / width - 1 / wide)), rel=0.03)
    assert GPU.speed(64) == GPU.speed(384) < GPU.speed(1024) < GPU.speed(4096) == GPU.speed(3584)
