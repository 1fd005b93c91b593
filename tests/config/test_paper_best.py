"""Rows of ours on the paper's data: what they train and search, and that they are in none of the paper's tables."""

from __future__ import annotations

import pytest
from paper_config import BEYOND, CONFIG, RUNS, TARGETS, WORLD

from vixml.check.fit import expect_fit
from vixml.config.project import Project
from vixml.config.tables import load_any_tables, load_tables, named_runs
from vixml.plan.cost import PlannedRun
from vixml.plan.plan import read_workflow

OURS = set(BEYOND)
TRAINED = sorted(key for key in OURS if RUNS[key].reuse is None)
WORKFLOW = read_workflow(CONFIG / "paper-best.yaml", CONFIG / "config.yaml")


def test_no_table_of_the_paper_has_a_row_of_ours():
    assert len(OURS) == 120 and not OURS & {target[:2] for target in TARGETS}
    for spec in load_any_tables(CONFIG):
        assert spec.paper_table and not {row[:2] for row in named_runs(spec.model_dump())} & OURS, spec.id
    [spec] = load_tables(CONFIG, WORKFLOW.tables)
    assert not spec.paper_table and not spec.blocks, "nothing published"
    shown = {row[:2] for row in named_runs(spec.model_dump())}
    assert shown == {(target.dataset, run) for target in WORKFLOW.targets for run in target.runs} and shown > OURS


def test_all_of_them_fit_their_data():
    expect_fit(Project(CONFIG, "none"), [(t.dataset, run, "test") for t in WORKFLOW.targets for run in t.runs])


@pytest.mark.parametrize("key", TRAINED, ids="-".join)
def test_a_training_differs_from_the_papers_in_its_loss_alone(key):
    """Model, texts, images, epochs, batches and the encoder's rate are the paper's; what is drawn fits the data."""
    dataset, run = key
    ours, theirs = RUNS[key], RUNS[dataset, run.removesuffix("--all-labels")]
    assert (ours.method, theirs.method) == ("all-labels", "PRIME")
    assert (ours.encoder, ours.images, ours.modality) == (theirs.encoder, theirs.images, theirs.modality)
    assert ours.optimizer == theirs.optimizer
    changed = {"validation", "label_copies"}
    assert ours.training.model_dump(exclude=changed) == theirs.training.model_dump(exclude=changed)
    job = PlannedRun.of(WORLD, dataset, ours)
    every = job.candidates == job.counts.n_labels
    assert every == (dataset != "LF-AmazonTitles-1.3M")
    assert 500 <= job.held_out < 0.01 * job.counts.n_train, "enough to choose on"


def test_inference_is_chosen_where_queries_are_held_out_and_without_a_linear_model():
    for dataset, run in OURS:
        config = RUNS[dataset, run]
        how = config.inference
        assert (how.method == "chosen") == run.endswith("-chosen") and not how.ridge.linear_weight
        assert how.method != "chosen" or config.training.validation > 0
        votes = how.method != "label-search"
        assert votes == (config.reuse is not None) and how.image_weight == (0.3 if votes and config.uses_images else 0)
