"""Cost of a run before it runs: operations and bytes, and hours at a stated speed (docs/cost.md). Without torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from vixml.config.published import TrainingRun
from vixml.config.registry import Counts, World
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.plan.assumptions import CONTEXT, HARDWARE, VOTES, WATCHED, Hardware
from vixml.plan.inference import Ranking
from vixml.plan.shapes import (
    MeanItem,
    Shape,
    architecture_of,
    clustering_flop,
    layer_weights,
    mean_items,
    shape_of,
    texts_of,
)
from vixml.plan.step_memory import Count, key_of, load_counts
from vixml.training.mining import n_groups

SCORE_TABLES = 8  # tables of queries x labels that losses and their gradients hold at once
SOFTMAX_TABLES = 4  # tables of queries x labels of a softmax over label vectors, counted at 1.3 million labels
RESERVE = 1.5e9  # bytes of main memory of a process before any work: libraries
WORKERS, WORKER = 4, 0.5e9  # processes that assemble batches for a GPU, and the bytes that each has of its own
PEAKS = {"gpu_memory_bytes", "host_memory_bytes", "scratch_bytes"}


@dataclass(frozen=True)
class Cost:
    """Cost of a stage, a run or several; ``a + b`` adds all fields but the peaks, of which it keeps the larger.

    Example:
        >>> both = Cost(hours=2.0, gpu_memory_bytes=5e9) + Cost(hours=1.0, gpu_memory_bytes=7e9)
        >>> both.hours, both.gpu_memory_bytes
        (3.0, 7000000000.0)
    """

    flop_train: float = 0.0  # operations of training steps
    flop_encode: float = 0.0  # of other passes through networks: set-up, diagnostics, the index, images
    flop_search: float = 0.0  # of searches
    flop_host: float = 0.0  # on the processor: clustering, centroids, a linear model
    hours: float = 0.0  # of one device, one stage after the other
    disk_bytes: float = 0.0  # files that stay
    scratch_bytes: float = 0.0  # a checkpoint, until its model is trained (peak)
    gpu_memory_bytes: float = 0.0  # on the device (peak)
    host_memory_bytes: float = 0.0  # in main memory (peak)

    def __add__(self, other: Cost) -> Cost:
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Cost(**{name: max(pair) if name in PEAKS else sum(pair) for name, pair in pairs.items()})

    @property
    def flop(self) -> float:
        """Return all operations."""
        return self.flop_train + self.flop_encode + self.flop_search + self.flop_host


@dataclass(frozen=True)
class PlannedRun:
    """One run of one dataset, and the sizes that its cost follows from."""

    config: RunConfig
    counts: Counts  # sizes of the dataset
    architecture: dict[str, Any]  # of its language model, as transformers' configuration names it
    shape: Shape  # of its language model
    causal: bool  # whether that is a decoder
    query: MeanItem  # the average query
    label: MeanItem  # the average label
    image_dim: int  # length of an image vector
    pairs: float  # true pairs of the training queries
    bound: bool = False  # whether texts count at full length, so that operations are an upper bound

    @classmethod
    def of(cls, world: World, dataset: str, config: RunConfig, results: Path | None = None) -> PlannedRun:
        """Look up the sizes of a run; ``results``: the folder whose tokens are counted if they are there.

        Raises:
            VixmlError: a dataset without counts, or a language model of an unknown architecture.
        """
        entry, model = world.datasets[dataset], world.text_models[config.encoder.model]
        if entry.expect is None:
            raise VixmlError(
                "the cost of a dataset without counts cannot be predicted",
                where=f"datasets.{dataset}.expect",
                found="nothing",
                hint="give n_train, n_test and n_labels: after build-corpus, counts.json in its folder has them",
            )
        causal = model.attention == "causal"
        texts = texts_of(dataset, config, causal, results)
        query, label = mean_items(texts, entry, config, causal)
        shape = shape_of(config.encoder.model, model, config.encoder.layers)
        each = texts.labels_per_query or float(entry.facts.get("avg_labels_per_query", 1.0))
        bound = texts.query_tokens is None
        dim = world.vision_models[config.images.vision].dim
        architecture = architecture_of(config.encoder.model, model)
        return cls(
            config, entry.expect, architecture, shape, causal, query, label, dim, each * entry.expect.n_train, bound
        )

    def speed(self, hardware: Hardware) -> float:
        """Return the operations per second that a machine sustains with this language model."""
        return hardware.speed(self.shape.hidden)

    # -- sizes ----------------------------------------------------------------------------------------------------

    @property
    def queries(self) -> int:
        """Return the number of queries, training and test."""
        return self.counts.n_train + self.counts.n_test

    @property
    def held_out(self) -> int:
        """Return the number of training queries that are held out."""
        return round(self.counts.n_train * self.config.training.validation)

    @property
    def trained_queries(self) -> int:
        """Return the number of training queries that are not held out."""
        return self.counts.n_train - self.held_out

    @property
    def batch(self) -> int:
        """Return the queries of a batch."""
        return min(self.config.training.batch_size, self.trained_queries)

    @cached_property
    def batch_labels(self) -> float:
        """Return the mean labels that a full batch encodes: one per query, or the distinct ones (docs/deviations.md D1).

        Assumes that labels are drawn evenly; otherwise a batch has fewer distinct ones.
        """
        n = self.counts.n_labels
        if self.config.method == "all-labels" and not self.config.loss.text_weight:
            return 0.0
        if self.config.training.label_copies == "kept":
            return float(self.batch)
        return n * -math.expm1(self.batch * math.log1p(-1 / n)) if n > 1 else 1.0

    @property
    def stored_only(self) -> bool:
        """Return whether training reads stored vectors: the encoder is frozen and nothing before it is trained."""
        return self.config.encoder.train == "frozen" and not self.config.uses_images

    @property
    def free_vectors(self) -> int:
        """Return the number of free vectors."""
        has = self.config.method in ("PRIME", "DEXA")
        return min(self.config.prototype.free_vectors, self.counts.n_labels) if has else 0

    @property
    def candidates(self) -> float:
        """Return the labels whose own vectors a step compares with its queries (docs/deviations.md D34)."""
        n, sampled = self.counts.n_labels, self.config.loss.sampled_labels
        positives = self.batch * self.pairs / self.counts.n_train
        return n if sampled is None else min(n, sampled + positives)

    @property
    def rank(self) -> int:
        """Return the rank of the adapters; 0 without."""
        return self.config.encoder.lora.r if self.config.encoder.train == "lora" else 0

    @cached_property
    def trainable(self) -> int:
        """Return the number of trained parameters."""
        d, images = self.shape.hidden, self.config.images
        found = self.free_vectors * d + self.shape.layers * self.shape.adapters(self.rank)
        if self.config.encoder.train == "full":
            found += self.shape.parameters
        if self.config.method == "all-labels":
            found += self.counts.n_labels * d
        if self.config.method == "PRIME":
            found += layer_weights(d, self.config.prototype.feedforward)
        if self.config.uses_images:
            found += self.image_dim * d + (layer_weights(d, images.late.feedforward) if images.fusion == "late" else 0)
        return found

    # -- operations -----------------------------------------------------------------------------------------------

    def encode(self, item: MeanItem, *, train: bool = False) -> float:
        """Return the operations of encoding one item, with its share of a training step's backward pass.

        A forward pass takes 2 operations per weight and token. The backward pass takes 2 for the gradient of the input
        and, for trained weights only, 2 for that of the weight. Gradient checkpointing adds a forward pass.
        """
        shape, encoder, images = self.shape, self.config.encoder, self.config.images
        late = self.config.uses_images and images.fusion == "late"
        linear = 2 * shape.layers * shape.linear * item.computed
        others = 2 * shape.layers * shape.adapters(self.rank) * item.computed
        others += shape.layers * shape.attention(item.computed, item.attended)
        projection = 2 * self.image_dim * shape.hidden * item.images
        fusion = 0.0
        if late:
            tokens = 1 + item.images
            fusion = 2 * layer_weights(shape.hidden, images.late.feedforward) * tokens + 4 * shape.hidden * tokens**2
        if not train:
            return linear + others + projection + fusion
        again = int(encoder.gradient_checkpointing)
        if encoder.train == "full":
            passes = 3 + again, 3 + again
        elif encoder.train == "lora" or (self.config.uses_images and not late):
            passes = 2 + again, 3 + again
        else:
            passes = 1, 1
        return passes[0] * linear + passes[1] * others + 2 * projection + 3 * fusion

    @property
    def prototype(self) -> float:
        """Return the operations of one label's prototype: a layer over three tokens."""
        if self.config.method != "PRIME":
            return 0.0
        return 6 * layer_weights(self.shape.hidden, self.config.prototype.feedforward) + 36 * self.shape.hidden

    @cached_property
    def step_flop(self) -> float:
        """Return the operations of all training steps: queries, labels, prototypes, table of scores."""
        batches = self.trained_queries / max(1, self.batch)  # the last one may be a part
        one = self.batch_labels * 3 * self.prototype
        if not self.stored_only:
            one += self.batch * self.encode(self.query, train=True)
            one += self.batch_labels * self.encode(self.label, train=True)
        one += (2 if self.free_vectors else 1) * 6 * self.batch * self.batch_labels * self.shape.hidden
        softmax = 6 * self.batch * self.candidates * self.shape.hidden
        one += softmax if self.config.method == "all-labels" else 0.0
        training = self.config.training
        return batches * (training.epochs * one + training.refit_epochs * softmax)

    @cached_property
    def diagnostics_flop(self) -> float:
        """Return the operations around the steps: all items once at the start; labels and held-out queries each epoch;
        the training queries once more for the last centroids, and with all labels for a refit."""
        prime, n_labels, held = self.config.method == "PRIME", self.counts.n_labels, self.held_out
        labels = n_labels if held else min(n_labels, WATCHED)
        query, label = self.encode(self.query), self.encode(self.label)
        each = labels * self.prototype
        each += 2 * held * (n_labels * (3 if prime else 2) + self.trained_queries) * self.shape.hidden
        total = self.counts.n_train * query + n_labels * label
        if not self.stored_only:
            each += labels * label + held * query
            if prime and self.config.prototype.last_centroids == "encoded":
                total += self.trained_queries * query
            if self.config.training.refit_epochs:
                total += self.trained_queries * query + n_labels * label
        return total + self.config.training.epochs * each

    @cached_property
    def cluster_flop(self) -> float:
        """Return the operations of balanced 2-means: groups for mining, clusters for free vectors."""
        training, mining, d = self.config.training, self.config.mining, self.shape.hidden
        found = clustering_flop(self.counts.n_labels, self.free_vectors, d)
        if mining is not None:
            last = training.epochs - (mining.cluster == "end")  # nothing is clustered after the last epoch
            for epoch in range(mining.start, last, mining.update):
                found += clustering_flop(self.trained_queries, n_groups(mining, self.trained_queries, epoch), d)
        return found

    # -- bytes ----------------------------------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> float:
        """Return the size of the language model on the device."""
        return (4.0 if self.float32 else 2.0) * self.shape.parameters

    @property
    def float32(self) -> bool:
        """Return whether the language model's weights are float32."""
        return self.config.encoder.train == "full" or self.config.encoder.weights == "float32"

    @property
    def copy_bytes(self) -> float:
        """Return the size of autocast's half-precision copy of float32 weights."""
        half = self.float32 and self.config.training.precision != "fp32"
        return 2.0 * self.shape.layers * self.shape.linear if half else 0.0

    @property
    def model_device_bytes(self) -> float:
        """Return what a model takes on the device: weights, what was trained beside them, centroids, clusters."""
        network = self.shape.parameters if self.config.encoder.train == "full" else 0
        return self.weight_bytes + self.label_bytes + 4.0 * (self.trainable - network)

    @cached_property
    def counted(self) -> Count | None:
        """Return the count of a training step's memory; None: it is not counted, and a formula takes its place."""
        return load_counts().get(key_of(self))

    @cached_property
    def step_bytes(self) -> float:
        """Return the device memory of a training step: counted on the real step, otherwise by formula.

        The formula holds weights, trained parameters with gradient and AdamW's two moments, activations and scores.
        """
        if self.counted is not None:
            tokens = self.batch * (self.query.computed + self.query.more)
            tokens += self.batch_labels * (self.label.computed + self.label.more)
            return self.label_bytes + self.counted.bytes_at(tokens)
        scores = 4.0 * SCORE_TABLES * self.batch * self.batch_labels
        scores += self.softmax_bytes if self.config.method == "all-labels" else 0.0
        return self.model_device_bytes + self.copy_bytes + 12.0 * self.trainable + self.activation_bytes + scores

    @property
    def softmax_bytes(self) -> float:
        """Return the device memory of a softmax over label vectors: tables of scores, unit vectors and their gradient."""
        return 4.0 * self.candidates * (SOFTMAX_TABLES * self.batch + 2 * self.shape.hidden)

    @property
    def refit_bytes(self) -> float:
        """Return the device memory of a refit beside the trained run: label vectors, their gradient and AdamW's moments."""
        if not self.config.training.refit_epochs:
            return 0.0
        own = 16.0 * self.shape.hidden * self.counts.n_labels
        return self.model_device_bytes + 12.0 * self.trainable + own + self.softmax_bytes

    @cached_property
    def cluster_bytes(self) -> float:
        """Return the device memory of 2-means beside what is resident: two copies of the vectors, two vectors per group.

        Queries are clustered beside gradients and moments, labels (for the free vectors) before there are any.
        """
        d, resident = self.shape.hidden, self.model_device_bytes
        found = [resident + 8.0 * d * (self.counts.n_labels + self.free_vectors / 2)] if self.free_vectors else [0.0]
        if self.config.mining is not None and self.config.mining.start < self.config.training.epochs:
            groups = n_groups(self.config.mining, self.trained_queries, self.config.mining.start)
            found.append(resident + 12.0 * self.trainable + 8.0 * d * (self.trained_queries + groups / 2))
        return max(found)

    @property
    def label_bytes(self) -> float:
        """Return the size of what is kept per label and not trained by steps: centroids, clusters, vectors of a refit."""
        config, vector = self.config, 4 * self.shape.hidden
        each = vector + 1 if config.method == "PRIME" else 0
        each += 8 if self.free_vectors else 0
        each += (vector if config.training.refit_epochs else 0) + config.learns_vectors
        return float(self.counts.n_labels * each)

    @cached_property
    def activation_bytes(self) -> float:
        """Return the size of the activations that a training step keeps for its backward pass."""
        late_frozen = self.config.encoder.train == "frozen" and self.config.images.fusion == "late"
        if self.stored_only or late_frozen:
            return 0.0
        total, layers = 0.0, self.shape.layers
        for item, n in ((self.query, self.batch), (self.label, self.batch_labels)):
            one = self.shape.saved(item.attended + item.more, self.rank)
            kept = layers * self.shape.hidden + one if self.config.encoder.gradient_checkpointing else layers * one
            total += n * (item.computed + item.more) * kept
        return total * (4 if self.config.training.precision == "fp32" else 2)

    @property
    def token_bytes(self) -> float:
        """Return the size of the tokens of all texts: int32 ids, int64 offsets."""
        return self.queries * (4 * self.query.text + 8) + self.counts.n_labels * (4 * self.label.text + 8)

    @property
    def host_bytes(self) -> float:
        """Return the peak of a training in main memory, largest at its start or at the end of an epoch.

        Stored query vectors are held throughout. Beside them, the largest of: the vectors of all queries and labels before the
        first epoch; three of each label, from which its own starts; what an epoch ends with. That is a copy of the centroids (the
        largest tensor of a checkpoint); or, with held-out queries, the stored vectors of the others, and the labels' vectors: raw,
        of length one, prototypes, centroids twice; or, before a refit, the vectors of its queries and three of each label. Or the
        language model while it is loaded.
        """
        d, n, m = 4.0 * self.shape.hidden, self.counts.n_train, self.counts.n_labels
        kept = d * (n if not self.stored_only else 2 * n + m)
        start = kept + (d * (n + m) if not self.stored_only else 0.0)
        three = d * (2 * m if self.stored_only else 3 * m)
        if self.config.method == "all-labels":
            start = max(start, kept + three)
        ends = [self.label_bytes]
        if self.held_out:
            tables = 2 + self.config.has_prototypes + 2 * (self.config.method == "PRIME")
            ends.append(d * (self.trained_queries + 2 * self.held_out + tables * m))
        if self.config.training.refit_epochs:
            ends.append(d * self.trained_queries + three)
        epoch = kept + max(ends)
        read = self.token_bytes + 16 * self.pairs + WORKERS * WORKER
        return RESERVE + read + max(4.0 * self.shape.parameters, start, epoch)

    @property
    def index_host_bytes(self) -> float:
        """Return the peak of an index in main memory: vectors of one split, raw and as unit vectors, beside the next."""
        n, m, test = self.counts.n_train, self.counts.n_labels, self.counts.n_test
        vectors = 4.0 * self.shape.hidden * max(2 * n + test, test + 3 * m)
        return RESERVE + self.token_bytes + max(4.0 * self.shape.parameters, vectors)

    @property
    def model_bytes(self) -> float:
        """Return the size of a trained model: trained parameters, centroids and clusters."""
        return 4.0 * self.trainable + self.label_bytes


def train_cost(job: PlannedRun, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``train``: steps, and the passes and clusterings around them.

    Device memory is the larger of a step and of a clustering beside what is resident.
    """
    epochs, d, trained = job.config.training.epochs, job.shape.hidden, job.trainable
    device = CONTEXT + max(job.model_device_bytes + job.copy_bytes, job.cluster_bytes)
    cost = Cost(disk_bytes=job.model_bytes, gpu_memory_bytes=device, host_memory_bytes=job.host_bytes)
    if not epochs and not job.config.training.refit_epochs:
        return cost
    # Centroids are computed before the first epoch and after each.
    centroids = 2.0 * job.pairs * d * (epochs + 1) if job.config.method == "PRIME" else 0.0
    seconds = (job.step_flop + job.diagnostics_flop) / job.speed(hardware)
    seconds += centroids / hardware.host + job.cluster_flop / hardware.clusters
    return cost + Cost(
        flop_train=job.step_flop,
        flop_encode=job.diagnostics_flop,
        flop_host=centroids + job.cluster_flop,
        hours=seconds / 3600,
        scratch_bytes=job.model_bytes + 8.0 * trained + 4.0 * d * job.counts.n_train,
        gpu_memory_bytes=CONTEXT + max(job.step_bytes, job.refit_bytes),
    )


def index_cost(job: PlannedRun, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``build-index``: every query and label encoded once, labels as ``u`` and ``z``."""
    labels = job.counts.n_labels
    flop = job.queries * job.encode(job.query) + labels * (job.encode(job.label) + job.prototype)
    return Cost(
        flop_encode=flop,
        hours=flop / job.speed(hardware) / 3600,
        disk_bytes=4.0 * job.shape.hidden * (job.queries + labels * (2 if job.config.has_prototypes else 1)),
        gpu_memory_bytes=CONTEXT + job.model_device_bytes + job.copy_bytes,
        host_memory_bytes=job.index_host_bytes,
    )


def predict_cost(job: PlannedRun, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``predict``, and of choosing how; the whole cost of a run that reuses a model.

    Votes and a linear model are the processor's.
    """
    ranking = Ranking(job)
    seconds = ranking.search_flop / hardware.float32 + ranking.n_votes / VOTES
    seconds += ranking.linear_flop / HARDWARE["cpu"].float32  # the system is solved with one thread
    on_gpu = ranking.device_bytes(hardware.memory - CONTEXT) if hardware.memory < math.inf else 0.0
    return Cost(
        flop_search=ranking.search_flop,
        flop_host=ranking.linear_flop,
        hours=seconds / 3600,
        disk_bytes=ranking.result_bytes,
        gpu_memory_bytes=CONTEXT + on_gpu if job.config.needs_encoder else 0.0,
        host_memory_bytes=RESERVE + ranking.host_bytes,
    )


def run_cost(job: PlannedRun, hardware: Hardware) -> Cost:
    """Return the cost of one run with one seed, without shared parts (models, tokens, images).

    A run that reuses a model trains and encodes nothing.
    """
    cost = predict_cost(job, hardware)
    if job.config.needs_encoder and job.config.reuse is None:
        cost = train_cost(job, hardware) + index_cost(job, hardware) + cost
    return cost


# -- cells of tables that were not run --------------------------------------------------------------------------------


SUSTAINED = 1e14  # operations per second of a modern accelerator, for published runs that no run of ours repeats


def predicted(world: World, dataset: str, config: RunConfig, hardware: Hardware) -> str:
    """Return what one of our runs would cost, as printed in a cell: what :func:`run_cost` counts, at which speed."""
    job = PlannedRun.of(world, dataset, config)
    cost = run_cost(job, hardware)
    if config.reuse is not None:
        return f"{_predicted(cost.flop, cost.hours, hardware.float32)}; beside the model of {config.reuse}"
    return _predicted(cost.flop, cost.hours, job.speed(hardware), job.bound)


def predicted_from_print(run: TrainingRun, params: str, n_train: int) -> str:
    """Return what a published run would cost that no run of ours repeats, from what the paper prints about it.

    ``6 x parameters x tokens`` operations per sequence (with LoRA, recomputing activations costs what the missing weight
    gradients save), two sequences (a query and its label) per training query and epoch, each counted at full length:
    ``max_len`` text tokens and one token per image.

    Example:
        >>> predicted_from_print(TrainingRun("run01", "D", "text", "MiniLM-L3", 0, 300, 32, ("T1",)), "17.4M", 294_805)
        'predicted: at most 5.9e+17 FLOP, 1.6 h at 100 TFLOP/s'
    """
    flop = 6 * count(params) * (run.max_len + run.n_images) * 2 * n_train * run.epochs
    return _predicted(flop, flop / SUSTAINED / 3600, SUSTAINED, bound=True)


def _predicted(flop: float, hours: float, speed: float, bound: bool = False) -> str:
    """Print a cost; ``bound``: texts were counted at full length, so that the operations are an upper bound."""
    value, unit = (hours, "h") if hours >= 0.1 else (hours * 3600, "s")
    time = f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"predicted: {'at most ' if bound else ''}{flop:.1e} FLOP, {time} at {speed / 1e12:.3g} TFLOP/s"


def count(printed: str) -> float:
    """Return a parameter count printed as ``17.4M`` or ``3.09B``.

    Example:
        >>> count("17.4M"), count("3.09B")
        (17400000.0, 3090000000.0)
    """
    match = re.fullmatch(r"([\d.]+)([MB])", printed)
    if match is None:
        raise VixmlError("not a number of parameters", found=printed, expected="such as 17.4M or 3.09B")
    return float(match[1]) * {"M": 1e6, "B": 1e9}[match[2]]


# -- memory and time that a job requests from a batch system -----------------------------------------------------------

# Generous, because a job killed at its limit costs more than a request that is too large.
MEMORY_MARGIN, TIME_MARGIN = 1.5, 2.0
LEAST_MB, LEAST_MINUTES = 4000, 60


@dataclass(frozen=True)
class Needs:
    """A request for memory and time."""

    mem_mb: int  # main memory in 10^6 bytes; without a GPU, device memory is part of it
    minutes: int  # wall time


COSTS = {"train": train_cost, "index": index_cost, "predict": predict_cost}
# Of a stage whose cost cannot be counted, for example on a dataset whose entry gives no sizes.
DEFAULTS = {
    "train": Needs(16000, 2880), "index": Needs(16000, 480), "predict": Needs(16000, 240), "images": Needs(8000, 720),
}  # fmt: skip


def stage_cost(world: World, dataset: str, config: RunConfig, stage: str, *, gpu: bool) -> Cost | None:
    """Return the cost of one stage of a run; None if it cannot be counted."""
    try:
        return COSTS[stage](PlannedRun.of(world, dataset, config), HARDWARE["gpu" if gpu else "cpu"])
    except VixmlError:
        return None


def request(cost: Cost | None, stage: str, *, gpu: bool, attempt: int = 1) -> Needs:
    """Return what a job asks a batch system for: 1.5 times the predicted memory and twice the time, or its stage's default.

    ``attempt`` (1, 2, ... of a job that a batch system killed) multiplies it.

    Example:
        >>> request(Cost(hours=10.0, host_memory_bytes=8e9, gpu_memory_bytes=2e9), "train", gpu=False)
        Needs(mem_mb=15000, minutes=1200)
    """
    asked = DEFAULTS[stage]
    if cost is not None:
        memory = cost.host_memory_bytes + (0.0 if gpu else cost.gpu_memory_bytes)
        asked = Needs(
            max(LEAST_MB, math.ceil(MEMORY_MARGIN * memory / 1e9) * 1000),
            max(LEAST_MINUTES, math.ceil(TIME_MARGIN * 60 * cost.hours)),
        )
    return Needs(asked.mem_mb * attempt, asked.minutes * attempt)
