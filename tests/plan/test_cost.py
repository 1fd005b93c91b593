"""Predicted costs: counts worked out by hand, Table 9, the speeds' sources, what must rise and what must be free."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from vixml.config.load import load_runs, load_world
from vixml.config.registry import Counts
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.plan.assumptions import ARCHITECTURES, HARDWARE, TEXTS, VISION, WATCHED
from vixml.plan.cost import (
    RESERVE,
    Cost,
    Job,
    count,
    embeddings_cost,
    imported_cost,
    index_cost,
    model_cost,
    n_images,
    predict_cost,
    predict_run,
    run_cost,
    train_cost,
)
from vixml.plan.shapes import LARGE, LLOYD, LLOYD_LARGE, Item, Shape, clustering_flop, items_of, shape_of

REPO = Path(__file__).resolve().parents[2]
WORLD, RUNS = load_world(REPO / "config"), load_runs(REPO / "config")
GPU = HARDWARE["gpu"]
# Two layers of width 4, two heads of 2 with one head of keys and values, feed-forward 8 with a gate, 10 words.
TINY = Shape(layers=2, hidden=4, heads=2, kv_heads=1, head_dim=2, intermediate=8, gated=True, embeddings=40)


def config_of(**changes) -> RunConfig:
    base = {
        "modality": "text",
        "mining": None,
        "prototype": {"free_vectors": 5, "feedforward": 6},
        "training": {"epochs": 3, "batch_size": 4, "precision": "bf16"},
    }
    return RunConfig.model_validate(base | changes)


def job_of(config: RunConfig, images: float = 0.0) -> Job:
    inside = images if config.images.fusion == "early" else 0.0
    query, label = Item(5, 5 + inside, 7 + inside, images), Item(3, 3 + inside, 5 + inside, images)
    return Job(config, Counts(n_train=8, n_test=2, n_labels=10), TINY, True, query, label, 6, 20.0)


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_a_tiny_network_by_hand():
    # q 4x4, k and v 4x2, o 4x4, gate, up and down 4x8.
    assert TINY.linear == 16 + 8 + 8 + 16 + 32 + 32 + 32 == 144
    assert TINY.parameters == 40 + 2 * 144
    assert TINY.adapters(3) == 3 * (8 + 6 + 6 + 8 + 12 + 12 + 12)
    # Each of 5 tokens has a score with 7 places in 2 heads of width 2, then a sum over them: 2 + 2 operations each.
    assert TINY.attention(5, 7) == 5 * 7 * 2 * 2 * 4
    assert TINY.saved(7) == 6 * 4 + (2 * 2 + 2 * 1) * 2 + 2 * 2 * 7 + 4 * 8


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
    dataset = "LF-AmazonTitles-131K"
    entry, config = WORLD.datasets[dataset], RUNS[dataset, "vixml-qwen2.5-3b"]
    query, label = items_of(dataset, entry, config, causal=True)
    # "This product text" stands once in front of a batch; "and its image" and the end token in each sequence.
    assert query.text == 32 and query.images == pytest.approx(3 * 0.7945) and label.images == pytest.approx(3 * 0.9572)
    assert query.own == pytest.approx(32 + 3 + 1 + query.images) and query.seen == pytest.approx(query.own + 3)
    # Counted lengths, two special tokens in an encoder, never more than max_len.
    picto = items_of("picto", WORLD.datasets["picto"], RUNS["picto", "text-minilm-l3"], causal=False)
    assert picto[0].own == pytest.approx(TEXTS["picto"].query_tokens + 2) and picto[1].own < 5
    short = RunConfig.model_validate({"encoder": {"max_len": 3}, "modality": "text"})
    assert items_of("picto", WORLD.datasets["picto"], short, causal=False)[0].own == 3


# -- operations -------------------------------------------------------------------------------------------------------


def test_a_forward_pass_and_its_training_by_hand():
    item = Item(5, 5, 7, 0)
    linear, attention = 2 * 2 * 144 * 5, 2 * TINY.attention(5, 7)
    assert job_of(config_of()).encode(item) == linear + attention
    assert job_of(config_of()).encode(item, train=True) == 3 * (linear + attention)
    again = job_of(config_of(encoder={"gradient_checkpointing": True}))
    assert again.encode(item, train=True) == 4 * (linear + attention)

    lora = job_of(config_of(encoder={"train": "lora", "lora": {"r": 3, "alpha": 3}}))
    adapters = 2 * 2 * TINY.adapters(3) * 5
    assert lora.encode(item) == linear + attention + adapters
    assert lora.encode(item, train=True) == 2 * linear + 3 * (attention + adapters)


def test_images_cost_their_places_and_their_projection():
    config = config_of(modality="text+image")
    item, job = Item(5, 7, 9, 2), job_of(config, images=2)
    assert job.encode(item) == 2 * 2 * 144 * 7 + 2 * TINY.attention(7, 9) + 2 * 6 * 4 * 2
    frozen = job_of(config_of(modality="text+image", encoder={"train": "frozen"}), images=2)
    # The projection's gradient passes through the network, whose weights have none.
    assert frozen.encode(item, train=True) == 2 * 2016 * 2 + 3 * 2 * TINY.attention(7, 9) + 2 * 96
    late = job_of(config_of(modality="text+image", images={"fusion": "late"}, encoder={"train": "frozen"}), images=2)
    assert late.encode(Item(5, 5, 7, 2), train=True) < frozen.encode(item, train=True) + 3 * 2 * (64 + 8192) * 3 + 432


def test_an_epoch_by_hand():
    job = job_of(config_of())
    labels = 10 * (1 - 0.9**4)
    assert job.batch_labels == pytest.approx(labels)
    layer = 4 * 16 + 2 * 4 * 6
    prototype = 3 * 2 * layer + 4 * 9 * 4
    one = 4 * job.encode(job.query, train=True) + labels * (job.encode(job.label, train=True) + 3 * prototype)
    one += 3 * 2 * 2 * 4 * labels * 4  # scores by u and by z
    assert job.step_flop == pytest.approx(3 * 2 * one)
    assert job.watch_flop == pytest.approx(
        8 * job.encode(job.query) + 10 * job.encode(job.label) + 3 * 10 * (prototype + job.encode(job.label))
    )
    assert job.index_flop == pytest.approx(10 * job.encode(job.query) + 10 * (job.encode(job.label) + prototype))
    assert job.search_flop == 2 * 2 * 10 * 4


def test_the_processors_share_by_hand():
    job = job_of(config_of(mining={"start": 0, "update": 2, "size": 2, "double_at": [2]}))
    centroids, clusters = 2 * 20 * 4 * 4, 4 * LLOYD * 10 * 4 * math.ceil(math.log2(5))
    # Epoch 0: four groups, two levels; epoch 2: two groups, one level.
    assert job.host_flop == centroids + clusters + 4 * LLOYD * 8 * 4 * (2 + 1)


def test_clusterings_iterate_as_often_as_counted():
    # Read as text: the module itself needs torch.
    text = (REPO / "src/vixml/training/clustering.py").read_text(encoding="utf-8")
    assert f"\nITERATIONS = {LLOYD} " in text
    assert f"\nLARGE, MORE, SETTLED = {LARGE}, {LLOYD_LARGE}, " in text


def test_diagnostics_look_at_as_many_labels_as_counted():
    assert f"\nWATCHED = {WATCHED}\n" in (REPO / "src/vixml/training/diagnostics.py").read_text(encoding="utf-8")
    none, some = (
        job_of(config_of(training={"epochs": 3, "batch_size": 4, "precision": "bf16", "validation": share}))
        for share in (0.0, 0.25)
    )
    many, few = (replace(job, counts=Counts(n_train=8, n_test=2, n_labels=10**6)) for job in (none, some))
    encoded = many.encode(many.label) + many.prototype
    assert many.watch_flop == pytest.approx(
        8 * many.encode(many.query) + 10**6 * many.encode(many.label) + 3 * WATCHED * encoded
    )
    assert few.watch_flop > 4 * 10**6 * few.encode(few.label) > 2 * many.watch_flop


def test_large_groups_are_counted_with_more_iterations():
    assert clustering_flop(LARGE, 64, 10) == 4 * LLOYD * LARGE * 10 * 6
    # Two levels of groups above the limit, then four below.
    assert clustering_flop(4 * LARGE, 64, 10) == 4 * 4 * LARGE * 10 * (2 * LLOYD_LARGE + 4 * LLOYD)
    assert clustering_flop(100, 1, 10) == 0


def test_retrieval_searches_queries_too():
    def searched(**how) -> float:
        return job_of(config_of(inference=how)).search_flop

    assert searched(method="retrieval-augmented") == 2 * 2 * (10 + 8) * 4
    assert searched(method="knn", image_weight=0.5) == 2 * 2 * 8 * (4 + 6)
    assert searched(method="popularity") == 0


def test_a_frozen_encoder_is_asked_once():
    frozen, full = (job_of(config_of(encoder={"train": train})) for train in ("frozen", "full"))
    assert frozen.stored_only and not full.stored_only
    assert frozen.step_flop < full.step_flop / 3
    more = job_of(config_of(encoder={"train": "frozen"}, training={"epochs": 6, "batch_size": 4}))
    start = 8 * frozen.encode(frozen.query) + frozen.all_labels
    assert more.watch_flop - start == pytest.approx(2 * (frozen.watch_flop - start))


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_memory_and_files_by_hand():
    job = job_of(config_of())
    layer, buffers = 4 * 16 + 2 * 4 * 6, 10 * (4 * 4 + 1 + 8)
    assert job.trainable == TINY.parameters + 5 * 4 + layer
    assert job.model_bytes == 4 * job.trainable + buffers
    assert job.checkpoint_bytes == 12 * job.trainable + buffers + 4 * 4 * 8
    assert job.index_bytes == 4 * 4 * (8 + 2 + 2 * 10)
    assert job.prediction_bytes == 2 * 100 * 8
    assert job.token_bytes == 10 * (4 * 5 + 8) + 10 * (4 * 3 + 8)
    tokens = 4 * 5 * TINY.saved(7) + job.batch_labels * 3 * TINY.saved(5)
    assert job.activation_bytes == pytest.approx(2 * 2 * tokens)
    weights = 4 * TINY.parameters + 2 * 2 * 144  # float32, and autocast's copy
    new = 16 * job.trainable - 4 * TINY.parameters
    assert job.device_bytes == pytest.approx(
        RESERVE + weights + buffers + new + job.activation_bytes + 4 * 8 * 4 * job.batch_labels
    )


def test_what_saves_memory():
    def bytes_of(**encoder) -> Job:
        return job_of(config_of(encoder=encoder))

    full, lora = bytes_of(), bytes_of(train="lora", lora={"r": 1, "alpha": 1}, weights="bfloat16")
    again = bytes_of(gradient_checkpointing=True)
    assert lora.weight_bytes == 2 * TINY.parameters < full.weight_bytes
    assert lora.trainable < full.trainable and lora.model_bytes < full.model_bytes
    assert again.activation_bytes < full.activation_bytes and again.step_flop > full.step_flop
    assert bytes_of(train="frozen").activation_bytes == 0


def test_pictures_are_counted_or_bounded():
    assert n_images(WORLD, "picto", 3) == WORLD.datasets["picto"].expect.n_images
    found = n_images(WORLD, "LF-AmazonTitles-131K", 3)
    assert found == pytest.approx(3 * (294_805 * 0.7945 + 134_835 * 0.7850 + 131_073 * 0.9572))
    embeddings = embeddings_cost(WORLD, "LF-AmazonTitles-131K", "siglip2", 3, GPU)
    assert embeddings.disk_bytes == pytest.approx(2 * 1152 * found)
    assert embeddings.hours == pytest.approx(found * VISION["siglip2"].flop / GPU.encoder / 3600)
    assert imported_cost(WORLD, "LF-AmazonTitles-131K", "siglip2", 3) == Cost(
        disk_bytes=pytest.approx(3 * embeddings.disk_bytes)
    )
    with pytest.raises(VixmlError, match="vision encoder"):
        embeddings_cost(
            WORLD.model_copy(update={"vision_models": {"new": WORLD.vision_models["vit"]}}), "picto", "new", 3, GPU
        )


def test_models_on_disk():
    assert model_cost(WORLD, "distilbert").disk_bytes == pytest.approx(4 * 66.4e6, rel=0.01)
    assert model_cost(WORLD, "qwen2.5-3b").disk_bytes == pytest.approx(2 * 3.09e9, rel=0.01)
    assert model_cost(WORLD, "smollm2-135m").disk_bytes == pytest.approx(541e6, rel=0.01)  # as prepared


# -- costs of runs ----------------------------------------------------------------------------------------------------


def test_a_run_is_its_stages():
    dataset, config = "LF-AmazonTitles-131K", RUNS["LF-AmazonTitles-131K", "vixml-distilbert"]
    job = Job.of(WORLD, dataset, config)
    stages = train_cost(job, GPU) + index_cost(job, GPU) + predict_cost(job, GPU)
    assert run_cost(WORLD, dataset, config, GPU) == stages
    assert stages.flop == stages.flop_train + stages.flop_encode + stages.flop_search + stages.flop_host
    assert stages.gpu_memory_bytes == train_cost(job, GPU).gpu_memory_bytes


def test_epochs_and_tokens_cost():
    def cost(**changes) -> Cost:
        values = RUNS["LF-AmazonTitles-131K", "text-qwen2.5-0.5b"].model_dump()
        for key, value in changes.items():
            values[key] = values[key] | value
        return run_cost(WORLD, "LF-AmazonTitles-131K", RunConfig.model_validate(values), GPU)

    base = cost()
    longer, wider = cost(training={"epochs": 60}), cost(encoder={"max_len": 64})
    assert longer.flop_train == pytest.approx(2 * base.flop_train) and longer.hours > base.hours
    assert wider.flop_train > 1.8 * base.flop_train and wider.gpu_memory_bytes > base.gpu_memory_bytes
    assert wider.disk_bytes == base.disk_bytes  # tokens are shared and not in a run's cost


def test_a_run_that_reuses_a_model_costs_its_search():
    dataset = "LF-AmazonTitles-1.3M"
    cost = run_cost(WORLD, dataset, RUNS[dataset, "vixml-distilbert--augmented"], GPU)
    assert cost.flop_train == cost.flop_encode == cost.flop_host == cost.scratch_bytes == 0
    assert cost.flop_search == 2 * 970_237 * (1_305_265 + 2_248_619) * 768
    assert cost.disk_bytes == 970_237 * 100 * 8


def test_untrained_runs_train_nothing():
    cost = run_cost(WORLD, "picto", RUNS["picto", "knn-text-minilm-l3"], HARDWARE["cpu"])
    assert cost.flop_train == cost.flop_host == 0 < cost.flop_encode
    popularity = run_cost(WORLD, "picto", RUNS["picto", "popularity"], HARDWARE["cpu"])
    assert popularity.flop == popularity.hours == 0 < popularity.disk_bytes


def test_every_run_can_be_counted():
    for (dataset, _), config in RUNS.items():
        cost = run_cost(WORLD, dataset, config, GPU)
        assert math.isfinite(cost.hours) and cost.hours >= 0 and cost.disk_bytes > 0


def test_what_a_cell_says_of_a_run_that_was_not_run():
    dataset = "LF-AmazonTitles-131K"
    whole = predict_run(WORLD, dataset, RUNS[dataset, "text-minilm-l3"], GPU)
    assert str(whole).startswith("predicted: at most ") and str(whole).endswith(" at 198 TFLOP/s")
    assert whole.hours == run_cost(WORLD, dataset, RUNS[dataset, "text-minilm-l3"], GPU).hours
    search = predict_run(WORLD, dataset, RUNS[dataset, "text-distilbert--augmented"], GPU)
    assert "at most" not in str(search) and str(search).endswith("; beside the model of text-distilbert")
