"""Predicted costs: counts by hand, those of torch, Table 9, what raises a cost and what is free; requests to a batch system."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from vixml.config.load import load_runs, load_world
from vixml.config.registry import Counts
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.plan.assumptions import ARCHITECTURES, CONTEXT, HARDWARE, TEXTS, UNKNOWN, VISION, WATCHED
from vixml.plan.cost import (
    DEFAULTS,
    LEAST_MB,
    LEAST_MINUTES,
    RESERVE,
    WORKER,
    WORKERS,
    Cost,
    PlannedRun,
    count,
    index_cost,
    predict_cost,
    predicted,
    request,
    run_cost,
    stage_cost,
    train_cost,
)
from vixml.plan.plan import n_images, parts_of_run
from vixml.plan.shapes import MeanItem, Shape, clustering_flop, mean_items, shape_of
from vixml.training.mining import ITERATIONS, LARGE, MORE

REPO = Path(__file__).resolve().parents[2]
WORLD, RUNS = load_world(REPO / "config"), load_runs(REPO / "config")
GPU, CPU = HARDWARE["gpu"], HARDWARE["cpu"]
SMALL = "LF-AmazonTitles-131K"
# Two layers of width 4, two heads of 2 with one head of keys and values, feed-forward 8 with a gate, 10 words.
TINY = Shape(layers=2, hidden=4, heads=2, kv_heads=1, head_dim=2, intermediate=8, gated=True, embeddings=40)
PROTOTYPE_LAYER = 4 * 16 + 2 * 4 * 6
TRAINING = {"epochs": 3, "batch_size": 4, "precision": "bf16"}


def job_of(images: float = 0.0, **changes) -> PlannedRun:
    """Return a job on 8 + 2 queries and 10 labels with the tiny network."""
    base = {
        "modality": "text",
        "mining": None,
        "prototype": {"free_vectors": 5, "feedforward": 6},
        "training": TRAINING,
    }
    config = RunConfig.model_validate(base | changes)
    inside = images if config.images.fusion == "early" else 0.0
    query, label = MeanItem(5, 5 + inside, 7 + inside, images), MeanItem(3, 3 + inside, 5 + inside, images)
    return PlannedRun(config, Counts(n_train=8, n_test=2, n_labels=10), {}, TINY, True, query, label, 6, 20.0)


def cost_of(dataset: str, run: str | RunConfig, hardware=GPU) -> Cost:
    return run_cost(PlannedRun.of(WORLD, dataset, RUNS[dataset, run] if isinstance(run, str) else run), hardware)


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes_of_a_tiny_network():
    # q 4x4, k and v 4x2, o 4x4, gate, up and down 4x8.
    assert TINY.linear == 16 + 8 + 8 + 16 + 32 + 32 + 32 == 144
    assert TINY.parameters == 40 + 2 * 144
    assert TINY.adapters(3) == 3 * (8 + 6 + 6 + 8 + 12 + 12 + 12)
    # Each of 5 tokens has a score with 7 positions in 2 heads of width 2, then a sum over them: 2 + 2 operations each.
    assert TINY.attention(5, 7) == 5 * 7 * 2 * 2 * 4
    assert TINY.saved(7) == 6 * 4 + (2 * 2 + 2 * 1) * 2 + 2 * 2 * 7 + 4 * 8


@pytest.mark.parametrize("name", WORLD.text_models)
def test_operations_are_those_that_torch_counts(name):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModel

    architecture = WORLD.text_models[name].architecture or ARCHITECTURES[name]
    config = AutoConfig.for_model(**{"model_type": "bert"} | architecture)
    config.num_hidden_layers = 2
    without_pooler = {"add_pooling_layer": False} if config.model_type == "bert" else {}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = AutoModel.from_config(config, attn_implementation="eager", **without_pooler)
        network(inputs_embeds=torch.empty(1, 64, config.hidden_size))
    shape = shape_of(name, WORLD.text_models[name], 2)
    assert counter.get_total_flops() == pytest.approx(2 * (2 * shape.linear * 64 + shape.attention(64, 64)), rel=1e-3)


@pytest.mark.parametrize("name", WORLD.text_models)
def test_parameters_are_those_of_table_9(name):
    model = WORLD.text_models[name]
    found, given = shape_of(name, model).parameters, model.architecture
    if given.get("tie_word_embeddings") is False:
        found += given["vocab_size"] * given["hidden_size"]  # the output matrix, which an embedder leaves out
    if name == "gemma-3-4b":
        found += 417e6  # the vision tower
    assert found == pytest.approx(count(model.parameters), rel=0.011)
    assert shape_of(name, model).hidden == model.hidden_size


def test_a_run_may_keep_the_first_layers_only():
    model = WORLD.text_models["smollm2-135m"]
    assert shape_of("smollm2-135m", model, 6).layers == 6
    assert shape_of("smollm2-135m", model).layers == ARCHITECTURES["smollm2-135m"]["num_hidden_layers"] == 30


def test_an_unknown_architecture_is_refused():
    model = WORLD.text_models["bert"].model_copy(update={"architecture": {"model_type": "mamba"}})
    with pytest.raises(VixmlError, match="cannot be counted") as caught:
        shape_of("bert", model)
    assert caught.value.found == "mamba"


def test_the_tokens_of_an_item():
    query, label = mean_items(UNKNOWN, WORLD.datasets[SMALL], RUNS[SMALL, "vixml-qwen2.5-3b"], causal=True)
    # "This product text" is the prefix of a batch; "and its image" and the end token are in each sequence.
    assert query.text == 32 and query.images == pytest.approx(3 * 0.7945) and label.images == pytest.approx(3 * 0.9572)
    assert query.computed == pytest.approx(32 + 3 + 1 + query.images)
    assert query.attended == pytest.approx(query.computed + 3)
    # Counted lengths, two special tokens in an encoder, never more than max_len.
    picto = mean_items(TEXTS["picto"], WORLD.datasets["picto"], RUNS["picto", "text-minilm-l3"], causal=False)
    assert picto[0].computed == pytest.approx(TEXTS["picto"].query_tokens + 2) and picto[1].computed < 5
    short = RunConfig.model_validate({"encoder": {"max_len": 3}, "modality": "text"})
    assert mean_items(TEXTS["picto"], WORLD.datasets["picto"], short, causal=False)[0].computed == 3


# -- operations -------------------------------------------------------------------------------------------------------


def test_a_forward_pass_and_its_training_by_hand():
    item = MeanItem(5, 5, 7, 0)
    linear, attention = 2 * 2 * 144 * 5, 2 * TINY.attention(5, 7)
    assert job_of().encode(item) == linear + attention
    assert job_of().encode(item, train=True) == 3 * (linear + attention)
    again = job_of(encoder={"gradient_checkpointing": True})
    assert again.encode(item, train=True) == 4 * (linear + attention)

    lora = job_of(encoder={"train": "lora", "lora": {"r": 3, "alpha": 3}})
    adapters = 2 * 2 * TINY.adapters(3) * 5
    assert lora.encode(item) == linear + attention + adapters
    assert lora.encode(item, train=True) == 2 * linear + 3 * (attention + adapters)


def test_images_cost_their_positions_and_their_projection():
    images = {"images": 2, "modality": "text+image"}
    item, job = MeanItem(5, 7, 9, 2), job_of(**images)
    assert job.encode(item) == 2 * 2 * 144 * 7 + 2 * TINY.attention(7, 9) + 2 * 6 * 4 * 2
    frozen = job_of(**images, encoder={"train": "frozen"})
    # The projection's gradient passes through the network, whose weights have none.
    assert frozen.encode(item, train=True) == 2 * 2016 * 2 + 3 * 2 * TINY.attention(7, 9) + 2 * 96
    config = RunConfig.model_validate(frozen.config.model_dump() | {"images": {"fusion": "late"}})
    late = replace(frozen, config=config)
    assert (
        late.encode(MeanItem(5, 5, 7, 2), train=True) < frozen.encode(item, train=True) + 3 * 2 * (64 + 8192) * 3 + 432
    )


def test_an_epoch_by_hand():
    job = job_of()
    labels = 10 * (1 - 0.9**4)
    assert job.batch_labels == pytest.approx(labels)
    prototype = 3 * 2 * PROTOTYPE_LAYER + 4 * 9 * 4
    one = 4 * job.encode(job.query, train=True) + labels * (job.encode(job.label, train=True) + 3 * prototype)
    one += 3 * 2 * 2 * 4 * labels * 4  # scores by u and by z
    cost, query, label = train_cost(job, GPU), job.encode(job.query), job.encode(job.label)
    assert cost.flop_train == pytest.approx(3 * 2 * one)
    assert cost.flop_encode == pytest.approx(8 * query + 10 * label + 3 * 10 * (prototype + label))
    assert index_cost(job, GPU).flop_encode == pytest.approx(10 * query + 10 * (label + prototype))
    assert predict_cost(job, GPU).flop_search == 2 * 2 * 10 * 4


def test_centroids_and_clusters_by_hand():
    job = job_of(mining={"start": 0, "update": 2, "size": 2, "double_at": [2]})
    centroids, clusters = 2 * 20 * 4 * 4, 4 * ITERATIONS * 10 * 4 * math.ceil(math.log2(5))
    # Epoch 0: four groups, two levels; epoch 2: two groups, one level.
    assert train_cost(job, GPU).flop_host == centroids + clusters + 4 * ITERATIONS * 8 * 4 * (2 + 1)


def test_the_sample_of_labels_is_that_of_training():
    # Read as text: the module itself needs torch.
    assert f"\nWATCHED = {WATCHED}\n" in (REPO / "src/vixml/training/diagnostics.py").read_text(encoding="utf-8")


def test_diagnostics_encode_all_labels_only_if_queries_are_held_out():
    counts = Counts(n_train=8, n_test=2, n_labels=10**6)
    many, few = (replace(job_of(training=TRAINING | {"validation": v}), counts=counts) for v in (0.0, 0.25))
    query, label = many.encode(many.query), many.encode(many.label)
    assert many.diagnostics_flop == pytest.approx(8 * query + 10**6 * label + 3 * WATCHED * (label + many.prototype))
    assert few.diagnostics_flop > 4 * 10**6 * few.encode(few.label) > 2 * many.diagnostics_flop


def test_large_groups_are_counted_with_more_iterations():
    assert clustering_flop(LARGE, 64, 10) == 4 * ITERATIONS * LARGE * 10 * 6
    # Two levels of groups above the limit, then four below.
    assert clustering_flop(4 * LARGE, 64, 10) == 4 * 4 * LARGE * 10 * (2 * MORE + 4 * ITERATIONS)
    assert clustering_flop(100, 1, 10) == 0


@pytest.mark.parametrize(
    ("inference", "flop"),
    [
        ({"method": "retrieval-augmented"}, 2 * 2 * (10 + 8) * 4),
        ({"method": "knn", "image_weight": 0.5}, 2 * 2 * 8 * (4 + 6)),
        ({"method": "local-ridge", "ridge": {"text_weight": 0.2}}, 2 * 2 * (20 + 8) * 4 + 2 * (2 * 8**2 * 4 + 8**3 / 3)),
        ({"method": "popularity"}, 0),
    ],
)  # fmt: skip
def test_vectors_compared_by_a_search(inference, flop):
    assert predict_cost(job_of(inference=inference), GPU).flop_search == flop


def test_a_frozen_encoder_encodes_once():
    frozen, full = (job_of(encoder={"train": train}) for train in ("frozen", "full"))
    assert frozen.stored_only and not full.stored_only
    assert frozen.step_flop < full.step_flop / 3
    more = job_of(encoder={"train": "frozen"}, training={"epochs": 6, "batch_size": 4})
    start = 8 * frozen.encode(frozen.query) + 10 * frozen.encode(frozen.label)
    assert more.diagnostics_flop - start == pytest.approx(2 * (frozen.diagnostics_flop - start))


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_memory_and_files_by_hand():
    job = job_of()
    cost, buffers = train_cost(job, GPU), 10 * (4 * 4 + 1 + 8)
    assert job.trainable == TINY.parameters + 5 * 4 + PROTOTYPE_LAYER
    assert cost.disk_bytes == 4 * job.trainable + buffers
    assert cost.scratch_bytes == 12 * job.trainable + buffers + 4 * 4 * 8
    assert index_cost(job, GPU).disk_bytes == 4 * 4 * (8 + 2 + 2 * 10)
    assert predict_cost(job, GPU).disk_bytes == 2 * 100 * 8
    assert job.token_bytes == 10 * (4 * 5 + 8) + 10 * (4 * 3 + 8)
    tokens = 4 * 5 * TINY.saved(7) + job.batch_labels * 3 * TINY.saved(5)
    assert job.activation_bytes == pytest.approx(2 * 2 * tokens)
    assert job.counted is None
    weights = 4 * TINY.parameters + 2 * 2 * 144  # float32, and autocast's copy
    new = 16 * job.trainable - 4 * TINY.parameters
    scores = 4 * 8 * 4 * job.batch_labels
    assert cost.gpu_memory_bytes == pytest.approx(CONTEXT + weights + buffers + new + job.activation_bytes + scores)


def test_a_softmax_over_all_labels_by_hand():
    """Queries alone are encoded; each label has a vector with gradient and moments, and each query a score of each label."""
    job = job_of(method="all-labels")
    assert job.batch_labels == 0 and job.candidates == 10 and job.free_vectors == 0
    assert job.trainable == TINY.parameters + 10 * 4 and job.label_bytes == 10
    assert job.step_flop == pytest.approx(3 * 2 * (4 * job.encode(job.query, train=True) + 6 * 4 * 10 * 4))
    softmax = 4 * 10 * (4 * 4 + 2 * 4)
    state = 16 * job.trainable + job.label_bytes + 2 * 2 * 144
    assert job.step_bytes == pytest.approx(state + job.activation_bytes + softmax)
    sampled = job_of(method="all-labels", loss={"sampled_labels": 2, "text_weight": 0.5})
    assert sampled.candidates == 10, "the positives of four queries and two more: as many as there are"
    assert sampled.batch_labels > 0 and sampled.step_flop > job.step_flop
    many = Counts(n_train=8, n_test=2, n_labels=10**6)
    few, whole = replace(sampled, counts=many), replace(job, counts=many)
    assert few.candidates == 2 + 4 * 20 / 8 and few.step_bytes < whole.step_bytes / 2


def test_a_refit_by_hand():
    plain, job = job_of(), job_of(training=TRAINING | {"refit_epochs": 5})
    softmax = 6 * 4 * 10 * 4
    assert job.step_flop == pytest.approx(plain.step_flop + 5 * 2 * softmax)
    encoded = 8 * job.encode(job.query) + 10 * job.encode(job.label)
    assert job.diagnostics_flop == pytest.approx(plain.diagnostics_flop + encoded)
    assert job.label_bytes == plain.label_bytes + 10 * (4 * 4 + 1)
    assert plain.refit_bytes == 0 and job.refit_bytes > job.model_device_bytes + 12 * job.trainable
    untrained = job_of(method="none", training=TRAINING | {"epochs": 0, "refit_epochs": 5})
    assert train_cost(untrained, GPU).flop_train == pytest.approx(5 * 2 * softmax)
    assert index_cost(untrained, GPU).disk_bytes == index_cost(plain, GPU).disk_bytes, "with vectors z"


def test_main_memory_by_hand():
    job, one = job_of(), 4 * 4
    read = RESERVE + WORKERS * WORKER + job.token_bytes + 16 * 20
    # Stored vectors of 8 queries, beside those of all queries and labels; the language model is smaller.
    many = replace(job, counts=Counts(n_train=800, n_test=2, n_labels=1000))
    base = RESERVE + WORKERS * WORKER + many.token_bytes + 16 * 20
    assert many.host_bytes == pytest.approx(base + one * (800 * 2 + 1000))
    assert job.host_bytes == pytest.approx(read + 4 * TINY.parameters), "the language model is larger"
    # The end of an epoch: with 80 queries held out, the stored vectors of the others and the labels' u, unit u, z and centroids.
    held = replace(many, config=job_of(training=TRAINING | {"validation": 0.1}).config)
    others = many.host_bytes - one * (800 * 2 + 1000)
    assert held.host_bytes == pytest.approx(others + one * (800 + 720 + 2 * 80 + 5 * 1000))
    dexa = replace(held, config=held.config.model_copy(update={"method": "DEXA"}))
    assert dexa.host_bytes == pytest.approx(others + one * (800 + 720 + 2 * 80 + 3 * 1000))
    # Before a refit: the queries' vectors once more, and u, unit u and centroids of the labels.
    refit = replace(many, config=job_of(training=TRAINING | {"refit_epochs": 5}).config)
    assert refit.host_bytes == pytest.approx(others + one * (800 + 800 + 3 * 1000))
    index = RESERVE + many.token_bytes + one * (2 + 3 * 1000)
    assert many.index_host_bytes == pytest.approx(index)
    assert train_cost(many, GPU).host_memory_bytes == many.host_bytes


def test_settings_that_save_memory():
    full, lora = job_of(), job_of(encoder={"train": "lora", "lora": {"r": 1, "alpha": 1}, "weights": "bfloat16"})
    again = job_of(encoder={"gradient_checkpointing": True})
    assert lora.weight_bytes == 2 * TINY.parameters < full.weight_bytes
    assert lora.trainable < full.trainable and lora.model_bytes < full.model_bytes
    assert again.activation_bytes < full.activation_bytes and again.step_flop > full.step_flop
    assert job_of(encoder={"train": "frozen"}).activation_bytes == 0


def test_images_are_counted_or_bounded():
    assert n_images(WORLD, "picto", 3) == WORLD.datasets["picto"].expect.n_images
    found = n_images(WORLD, SMALL, 3)
    assert found == pytest.approx(3 * (294_805 * 0.7945 + 134_835 * 0.7850 + 131_073 * 0.9572))

    def parts(vectors: dict) -> dict[str, Cost]:
        entry = WORLD.datasets[SMALL].model_copy(update={"published_vectors": vectors})
        world = WORLD.model_copy(update={"datasets": WORLD.datasets | {SMALL: entry}})
        return dict(parts_of_run(world, RUNS, (SMALL, "vixml-distilbert", 0), GPU))

    pooled, imported = parts({}), parts({"siglip2": None})
    name = f"embeddings/{SMALL}/siglip2"
    assert pooled[f"images/{SMALL}"].disk_bytes == pytest.approx(25e3 * found)
    assert pooled[name].disk_bytes == pytest.approx(2 * 1152 * found)
    assert pooled[name].hours == pytest.approx(found * VISION["siglip2"].flop / GPU.speed(1152) / 3600)
    assert imported[name] == Cost(disk_bytes=pytest.approx(3 * pooled[name].disk_bytes))
    assert f"images/{SMALL}" not in imported


def test_a_vision_encoder_of_unknown_cost_is_refused(monkeypatch):
    monkeypatch.delitem(VISION, "efficientnet-lite0")
    with pytest.raises(VixmlError, match="vision encoder"):
        dict(parts_of_run(WORLD, RUNS, ("picto", "vixml-minilm-l3", 0), GPU))


@pytest.mark.parametrize(
    ("dataset", "run", "size"),
    [
        (SMALL, "text-distilbert", 4 * 66.4e6),
        (SMALL, "text-qwen2.5-3b", 2 * 3.09e9),
        ("picto", "vixml-smollm2", 541e6),  # as prepared
    ],
)
def test_models_on_disk(dataset, run, size):
    model = RUNS[dataset, run].encoder.model
    parts = dict(parts_of_run(WORLD, RUNS, (dataset, run, 0), GPU))
    assert parts[f"model/{model}"].disk_bytes == pytest.approx(size, rel=0.01)


# -- costs of runs ----------------------------------------------------------------------------------------------------


def test_a_run_is_its_stages():
    job = PlannedRun.of(WORLD, SMALL, RUNS[SMALL, "vixml-distilbert"])
    stages = train_cost(job, GPU) + index_cost(job, GPU) + predict_cost(job, GPU)
    assert run_cost(job, GPU) == stages
    assert stages.flop == stages.flop_train + stages.flop_encode + stages.flop_search + stages.flop_host
    assert stages.gpu_memory_bytes == train_cost(job, GPU).gpu_memory_bytes


def test_epochs_and_tokens_cost():
    def cost(**changes) -> Cost:
        values = RUNS[SMALL, "text-qwen2.5-0.5b"].model_dump()
        return cost_of(SMALL, RunConfig.model_validate(values | {key: values[key] | v for key, v in changes.items()}))

    base, longer, wider = cost(), cost(training={"epochs": 60}), cost(encoder={"max_len": 64})
    assert longer.flop_train == pytest.approx(2 * base.flop_train) and longer.hours > base.hours
    assert wider.flop_train > 1.8 * base.flop_train and wider.gpu_memory_bytes > base.gpu_memory_bytes
    assert wider.disk_bytes == base.disk_bytes  # tokens are shared and not part of a run's cost


def test_a_run_that_reuses_a_model_costs_its_search():
    cost = cost_of("LF-AmazonTitles-1.3M", "vixml-distilbert--augmented")
    assert cost.flop_train == cost.flop_encode == cost.flop_host == cost.scratch_bytes == 0
    assert cost.flop_search == 2 * 970_237 * (1_305_265 + 2_248_619) * 768
    assert cost.disk_bytes == 970_237 * 100 * 8


def test_untrained_runs_train_nothing():
    cost, popularity = cost_of("picto", "knn-text-minilm-l3", CPU), cost_of("picto", "popularity", CPU)
    assert cost.flop_train == cost.flop_host == 0 < cost.flop_encode
    assert popularity.flop == popularity.hours == 0 < popularity.disk_bytes


def test_every_run_can_be_counted():
    for dataset, run in RUNS:
        cost = cost_of(dataset, run)
        assert math.isfinite(cost.hours) and cost.hours >= 0 and cost.disk_bytes > 0


def test_what_is_no_number_of_parameters_is_refused():
    with pytest.raises(VixmlError, match="not a number of parameters"):
        count("many")


def test_the_cell_of_a_run_that_was_not_run():
    whole = predicted(WORLD, SMALL, RUNS[SMALL, "text-minilm-l3"], GPU)
    cost = cost_of(SMALL, "text-minilm-l3")
    assert whole == f"predicted: at most {cost.flop:.1e} FLOP, {cost.hours:.1f} h at 127 TFLOP/s"
    search = predicted(WORLD, SMALL, RUNS[SMALL, "text-distilbert--augmented"], GPU)
    assert "at most" not in search and search.endswith("; beside the model of text-distilbert")


# -- requests to a batch system ---------------------------------------------------------------------------------------


def needs(world, dataset, run, stage, *, gpu, attempt=1):
    return request(stage_cost(world, dataset, run, stage, gpu=gpu), stage, gpu=gpu, attempt=attempt)


@pytest.mark.parametrize("key", sorted(key for key, run in RUNS.items() if run.needs_encoder and run.reuse is None))
def test_every_run_requests_more_than_predicted(key):
    cost = train_cost(PlannedRun.of(WORLD, key[0], RUNS[key]), GPU)
    first, second = (needs(WORLD, key[0], RUNS[key], "train", gpu=True, attempt=attempt) for attempt in (1, 2))
    assert first.mem_mb * 1e6 >= max(LEAST_MB * 1e6, 1.5 * cost.host_memory_bytes)
    assert first.minutes >= max(LEAST_MINUTES, 2 * 60 * cost.hours)
    assert (second.mem_mb, second.minutes) == (2 * first.mem_mb, 2 * first.minutes)


def test_the_largest_run_requests_much():
    dataset = "LF-AmazonTitles-1.3M"
    found = needs(WORLD, dataset, RUNS[dataset, "vixml-qwen2.5-3b"], "train", gpu=True)
    assert found.mem_mb > 70_000 and found.minutes > 178 * 60


def test_without_a_gpu_main_memory_includes_device_memory():
    run = RUNS[SMALL, "vixml-distilbert"]
    on_gpu, without = (needs(WORLD, SMALL, run, "train", gpu=gpu) for gpu in (True, False))
    assert without.mem_mb > on_gpu.mem_mb and without.minutes > on_gpu.minutes


def test_a_dataset_without_sizes_has_a_default_request():
    entry = WORLD.datasets["picto"].model_copy(update={"expect": None})
    world = WORLD.model_copy(update={"datasets": {"mine": entry}})
    assert needs(world, "mine", RunConfig(), "train", gpu=True) == DEFAULTS["train"]
    with pytest.raises(VixmlError, match="without counts"):
        PlannedRun.of(world, "mine", RunConfig())
