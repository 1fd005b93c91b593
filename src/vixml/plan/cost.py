"""Cost of a run before anybody runs it: operations and bytes, and hours at a stated speed (docs/cost.md). No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from vixml.config.published import TrainingRun, read_csv
from vixml.config.registry import Counts, VisionModel, World
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.plan.assumptions import HARDWARE, TEXTS, UNKNOWN, VISION, WATCHED, Hardware
from vixml.plan.shapes import Item, Shape, clustering_flop, items_of, layer_weights, shape_of

# --- One run, counted from its configuration: operations, memory, files.


TABLES = 8  # tables of queries x labels that losses and their gradients hold at once
RESERVE = 1.5e9  # what a process holds before any work: libraries, a GPU's context


@dataclass(frozen=True)
class Job:
    """One run of one dataset.

    Attributes:
        config: the run.
        counts: sizes of the dataset.
        shape: of its language model.
        causal: whether that is a decoder.
        query: the average query.
        label: the average label.
        image_dim: length of an image vector.
        pairs: true pairs of the training queries.
    """

    config: RunConfig
    counts: Counts
    shape: Shape
    causal: bool
    query: Item
    label: Item
    image_dim: int
    pairs: float

    @classmethod
    def of(cls, world: World, dataset: str, config: RunConfig) -> Job:
        """Look up what a run needs.

        Raises:
            VixmlError: a dataset without counts, or a language model whose architecture is not known.
        """
        entry, model = world.datasets[dataset], world.text_models[config.encoder.model]
        if entry.expect is None:
            raise VixmlError(
                "the cost of a dataset without counts cannot be told",
                where=f"datasets.{dataset}.expect",
                found="nothing",
                hint="give n_train, n_test and n_labels: after build-corpus, counts.json in its folder has them",
            )
        causal = model.attention == "causal"
        query, label = items_of(dataset, entry, config, causal)
        shape = shape_of(config.encoder.model, model, config.encoder.layers)
        each = TEXTS.get(dataset, UNKNOWN).labels_per_query or float(entry.facts.get("avg_labels_per_query", 1.0))
        dim = world.vision_models[config.images.vision].dim
        return cls(config, entry.expect, shape, causal, query, label, dim, each * entry.expect.n_train)

    # -- sizes ----------------------------------------------------------------------------------------------------

    @cached_property
    def trained_queries(self) -> int:
        """Return how many training queries are not held out."""
        return self.counts.n_train - self.held_out

    @cached_property
    def held_out(self) -> int:
        """Return how many training queries are held out."""
        return round(self.counts.n_train * self.config.training.validation)

    @cached_property
    def batch(self) -> int:
        """Return the queries of a batch: fewer than configured only where there are no more."""
        return min(self.config.training.batch_size, self.trained_queries)

    @cached_property
    def batch_labels(self) -> float:
        """Return the mean labels of a full batch: one per query, or the distinct ones (docs/deviations.md D1).

        As if drawn evenly from all; a draw that favours some has fewer distinct ones.
        """
        n = self.counts.n_labels
        if self.config.training.label_copies == "kept":
            return float(self.batch)
        return n * -math.expm1(self.batch * math.log1p(-1 / n)) if n > 1 else 1.0

    @cached_property
    def stored_only(self) -> bool:
        """Return whether training reads stored vectors: the encoder is frozen and nothing in front of it learns."""
        return self.config.encoder.train == "frozen" and not self.config.uses_images

    @cached_property
    def free_vectors(self) -> int:
        """Return the parameters of the free vectors."""
        rows = min(self.config.prototype.free_vectors, self.counts.n_labels) if self.config.has_prototypes else 0
        return rows * self.shape.hidden

    @cached_property
    def rank(self) -> int:
        """Return the rank of the adapters; 0 without."""
        return self.config.encoder.lora.r if self.config.encoder.train == "lora" else 0

    @cached_property
    def trainable(self) -> int:
        """Return the parameters that learn."""
        d, found = self.shape.hidden, self.free_vectors
        if self.config.encoder.train == "full":
            found += self.shape.parameters
        found += self.shape.layers * self.shape.adapters(self.rank)
        if self.config.method == "PRIME":
            found += layer_weights(d, self.config.prototype.feedforward)
        if self.config.uses_images:
            found += self.image_dim * d
            if self.config.images.fusion == "late":
                found += layer_weights(d, self.config.images.late.feedforward)
        return found

    # -- operations -----------------------------------------------------------------------------------------------

    def encode(self, item: Item, *, train: bool = False) -> float:
        """Return the operations of encoding one item, with its share of a training step's backward pass.

        A forward pass takes 2 operations a weight and token. Going back takes 2 for the gradient of what entered and 2
        for that of the weight: the latter for what learns only. Gradient checkpointing adds a forward pass.
        """
        shape, encoder, late = self.shape, self.config.encoder, self.config.images.fusion == "late"
        linear = 2 * shape.layers * shape.linear * item.own
        adapters = 2 * shape.layers * shape.adapters(self.rank) * item.own
        attention = shape.layers * shape.attention(item.own, item.seen)
        projection = 2 * self.image_dim * shape.hidden * item.images
        fusion = 0.0
        if self.config.uses_images and late:
            tokens = 1 + item.images
            fusion = 2 * layer_weights(shape.hidden, self.config.images.late.feedforward) * tokens
            fusion += 4 * shape.hidden * tokens**2
        if not train:
            return linear + adapters + attention + projection + fusion
        again = 1 if encoder.gradient_checkpointing else 0
        if encoder.train == "full":
            passes, others = 3 + again, 3 + again
        elif encoder.train == "lora" or (self.config.uses_images and not late):
            passes, others = 2 + again, 3 + again
        else:
            passes, others = 1, 1
        return passes * linear + others * (adapters + attention) + 2 * projection + 3 * fusion

    @cached_property
    def prototype(self) -> float:
        """Return the operations of one label's prototype: a layer over three tokens."""
        if self.config.method != "PRIME":
            return 0.0
        return 6 * layer_weights(self.shape.hidden, self.config.prototype.feedforward) + 36 * self.shape.hidden

    @cached_property
    def all_labels(self) -> float:
        """Return the operations of encoding all labels."""
        return self.counts.n_labels * self.encode(self.label)

    @cached_property
    def step_flop(self) -> float:
        """Return the operations of all training steps: queries, labels, prototypes, table of scores."""
        batches = self.trained_queries / max(1, self.batch)  # the last one may be a part
        text = 0.0 if self.stored_only else 1.0
        one = self.batch * self.encode(self.query, train=True) * text
        one += self.batch_labels * (self.encode(self.label, train=True) * text + 3 * self.prototype)
        one += (2 if self.config.has_prototypes else 1) * 6 * self.batch * self.batch_labels * self.shape.hidden
        return self.config.training.epochs * batches * one

    @cached_property
    def watch_flop(self) -> float:
        """Return the operations around the steps: all items once at the start; labels and held-out queries each epoch;
        the training queries once more for the last centroids."""
        if not self.config.training.epochs:
            return 0.0
        start = self.counts.n_train * self.encode(self.query) + self.all_labels
        held, vectors = self.held_out, self.counts.n_labels * (3 if self.config.method == "PRIME" else 2)
        labels = self.counts.n_labels if held else min(self.counts.n_labels, WATCHED)
        each = labels * self.prototype
        each += 2 * held * (vectors + self.trained_queries) * self.shape.hidden
        if not self.stored_only:
            each += labels * self.encode(self.label) + held * self.encode(self.query)
        encoded = self.config.method == "PRIME" and self.config.prototype.last_centroids == "encoded"
        end = self.trained_queries * self.encode(self.query) if encoded and not self.stored_only else 0.0
        return start + self.config.training.epochs * each + end

    @cached_property
    def centroid_flop(self) -> float:
        """Return the operations of the centroids, before the first epoch and after each."""
        epochs = self.config.training.epochs
        return 2.0 * self.pairs * self.shape.hidden * (epochs + 1) if epochs and self.config.method == "PRIME" else 0.0

    @cached_property
    def cluster_flop(self) -> float:
        """Return the operations of balanced 2-means: groups for mining, clusters for free vectors."""
        training, mining, d = self.config.training, self.config.mining, self.shape.hidden
        if not training.epochs:
            return 0.0
        found = 0.0
        if self.config.has_prototypes:
            found += clustering_flop(self.counts.n_labels, self.free_vectors // d, d)
        if mining is not None:
            last = training.epochs - (mining.cluster == "end")  # nothing is clustered behind the last epoch
            for epoch in range(mining.start, last, mining.update):
                found += clustering_flop(self.trained_queries, mining.n_groups(self.trained_queries, epoch), d)
        return found

    @cached_property
    def host_flop(self) -> float:
        """Return what is bound by memory: centroids and 2-means."""
        return self.centroid_flop + self.cluster_flop

    @cached_property
    def index_flop(self) -> float:
        """Return the operations of encoding all queries and labels, once trained."""
        queries = self.counts.n_train + self.counts.n_test
        return queries * self.encode(self.query) + self.all_labels + self.counts.n_labels * self.prototype

    @cached_property
    def search_flop(self) -> float:
        """Return the operations of searching every test query's neighbours."""
        how, counts, width = self.config.inference, self.counts, self.shape.hidden
        among = {
            "label-search": counts.n_labels,
            "retrieval-augmented": counts.n_labels + counts.n_train,
            "knn": counts.n_train,
            "popularity": 0,
        }[how.method]
        width += self.image_dim if how.image_weight else 0
        return 2.0 * counts.n_test * among * width

    # -- memory ---------------------------------------------------------------------------------------------------

    @cached_property
    def weight_bytes(self) -> float:
        """Return what the language model's own weights take on the device."""
        wide = self.config.encoder.train == "full" or self.config.encoder.weights == "float32"
        kept = 4.0 * self.shape.parameters if wide else 2.0 * self.shape.parameters
        # Autocast keeps a half-precision copy of the wide weights that it multiplies with.
        half = wide and self.config.training.precision != "fp32"
        return kept + (2.0 * self.shape.layers * self.shape.linear if half else 0.0)

    @cached_property
    def label_buffers(self) -> float:
        """Return what is kept of every label beside the model: centroid, cluster."""
        each = 4 * self.shape.hidden + 1 if self.config.method == "PRIME" else 0
        return float(self.counts.n_labels * (each + (8 if self.config.has_prototypes else 0)))

    @cached_property
    def activation_bytes(self) -> float:
        """Return what a training step keeps for its backward pass."""
        late_frozen = self.config.encoder.train == "frozen" and self.config.images.fusion == "late"
        if self.stored_only or late_frozen or not self.config.training.epochs:
            return 0.0
        total = 0.0
        for item, n in ((self.query, self.batch), (self.label, self.batch_labels)):
            one, layers = self.shape.saved(item.seen, self.rank), self.shape.layers
            kept = layers * self.shape.hidden + one if self.config.encoder.gradient_checkpointing else layers * one
            total += n * item.own * kept
        return total * (4 if self.config.training.precision == "fp32" else 2)

    @cached_property
    def device_bytes(self) -> float:
        """Return the peak on the device: weights, what learns (with gradient and AdamW's two moments), activations, scores."""
        own = self.shape.parameters if self.config.encoder.train == "full" else 0
        found = RESERVE + self.weight_bytes + self.label_buffers + 4.0 * (self.trainable - own)
        if self.config.training.epochs:
            scores = 4.0 * TABLES * self.batch * self.batch_labels
            found += 12.0 * self.trainable + self.activation_bytes + scores
        return found

    @cached_property
    def host_bytes(self) -> float:
        """Return the peak in main memory: vectors of all queries and labels, raw and normalised; tokens; true pairs."""
        vectors = 8.0 * self.shape.hidden * (self.counts.n_train + self.counts.n_labels)
        loading = 4.0 * self.shape.parameters
        return RESERVE + max(loading, vectors + 16 * self.pairs) + self.token_bytes

    # -- files ----------------------------------------------------------------------------------------------------

    @cached_property
    def token_bytes(self) -> float:
        """Return the size of the tokens of all texts: int32 ids, int64 offsets."""
        queries = self.counts.n_train + self.counts.n_test
        return queries * (4 * self.query.text + 8) + self.counts.n_labels * (4 * self.label.text + 8)

    @cached_property
    def model_bytes(self) -> float:
        """Return the size of a trained model: what learned, and what is kept of every label."""
        return 4.0 * self.trainable + self.label_buffers

    @cached_property
    def checkpoint_bytes(self) -> float:
        """Return the size of the checkpoint that lies beside the model until it is trained."""
        return self.model_bytes + 8.0 * self.trainable + 4.0 * self.shape.hidden * self.counts.n_train

    @cached_property
    def index_bytes(self) -> float:
        """Return the size of the vectors of all queries and labels (twice, with prototypes), float32."""
        labels = self.counts.n_labels * (2 if self.config.has_prototypes else 1)
        return 4.0 * self.shape.hidden * (self.counts.n_train + self.counts.n_test + labels)

    @cached_property
    def prediction_bytes(self) -> float:
        """Return the size of the predictions: an int32 id and a float32 score each."""
        return 8.0 * self.counts.n_test * self.config.inference.top_k


# Where no run of ours repeats a published one: operations a second of one modern accelerator, in round numbers.
SUSTAINED = 1e14
PEAKS = {"gpu_memory_bytes", "host_memory_bytes", "scratch_bytes"}


@dataclass(frozen=True)
class Cost:
    """The cost of a stage, a run or many; ``a + b`` adds what adds up and keeps the larger peak.

    Attributes:
        flop_train: operations of training steps.
        flop_encode: of other passes through networks: set-up, diagnostics, the index, images.
        flop_search: of searches.
        flop_host: of clustering and centroids, on the processor.
        hours: of one device, these in turn.
        disk_bytes: files that stay.
        scratch_bytes: a checkpoint, until its model is trained (peak).
        gpu_memory_bytes: on the device (peak).
        host_memory_bytes: in main memory (peak).

    Example:
        >>> both = Cost(hours=2.0, gpu_memory_bytes=5e9) + Cost(hours=1.0, gpu_memory_bytes=7e9)
        >>> both.hours, both.gpu_memory_bytes
        (3.0, 7000000000.0)
    """

    flop_train: float = 0.0
    flop_encode: float = 0.0
    flop_search: float = 0.0
    flop_host: float = 0.0
    hours: float = 0.0
    disk_bytes: float = 0.0
    scratch_bytes: float = 0.0
    gpu_memory_bytes: float = 0.0
    host_memory_bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        values = {}
        for field in fields(self):
            a, b = getattr(self, field.name), getattr(other, field.name)
            values[field.name] = max(a, b) if field.name in PEAKS else a + b
        return Cost(**values)

    @property
    def flop(self) -> float:
        """Return all operations."""
        return self.flop_train + self.flop_encode + self.flop_search + self.flop_host


@dataclass(frozen=True)
class Missing:
    """Cost of what was not run: by table, and for all tables together (what they share counts once)."""

    by_table: dict[str, Cost]
    total: Cost


def train_cost(job: Job, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``train``: steps, and the passes and clusterings around them."""
    speed = hardware.decoder if job.causal else hardware.encoder
    return Cost(
        flop_train=job.step_flop,
        flop_encode=job.watch_flop,
        flop_host=job.host_flop,
        hours=(
            (job.step_flop + job.watch_flop) / speed
            + job.centroid_flop / hardware.host
            + job.cluster_flop / hardware.clusters
        )
        / 3600,
        disk_bytes=job.model_bytes,
        scratch_bytes=job.checkpoint_bytes if job.config.training.epochs else 0.0,
        gpu_memory_bytes=job.device_bytes,
        host_memory_bytes=job.host_bytes,
    )


def index_cost(job: Job, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``build-index``: every query and label encoded once."""
    speed = hardware.decoder if job.causal else hardware.encoder
    return Cost(
        flop_encode=job.index_flop,
        hours=job.index_flop / speed / 3600,
        disk_bytes=job.index_bytes,
        gpu_memory_bytes=RESERVE + job.weight_bytes + job.model_bytes,
        host_memory_bytes=job.host_bytes,
    )


def predict_cost(job: Job, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``predict``: exact search; all that a run costs which reuses a model."""
    return Cost(
        flop_search=job.search_flop,
        hours=job.search_flop / hardware.float32 / 3600,
        disk_bytes=job.prediction_bytes,
        gpu_memory_bytes=RESERVE if job.config.needs_encoder else 0.0,
        host_memory_bytes=RESERVE + 2 * job.prediction_bytes,
    )


def run_cost(world: World, dataset: str, config: RunConfig, hardware: Hardware) -> Cost:
    """Return the cost of one run with one seed, without what runs share (models, tokens, images).

    Args:
        world: the registry.
        dataset: an entry of it.
        config: the run; with ``reuse`` nothing is trained or encoded.
        hardware: where.
    """
    job = Job.of(world, dataset, config)
    cost = predict_cost(job, hardware)
    if config.needs_encoder and config.reuse is None:
        cost = train_cost(job, hardware) + index_cost(job, hardware) + cost
    return cost


def model_cost(world: World, name: str) -> Cost:
    """Return the disk that a language model takes: float32, but for decoders of the hub, published in bfloat16."""
    entry = world.text_models[name]
    shape = shape_of(name, entry)
    half = entry.kind == "hub" and entry.attention == "causal"
    return Cost(disk_bytes=shape.parameters * (2.0 if half else 4.0))


def tokens_cost(job: Job) -> Cost:
    """Return the disk that the tokens of a dataset take, for one tokenizer and length."""
    return Cost(disk_bytes=job.token_bytes)


def n_images(world: World, dataset: str, most: int) -> float:
    """Return how many images a dataset has: as counted, else ``most`` for each item that has any."""
    entry, texts = world.datasets[dataset], TEXTS.get(dataset, UNKNOWN)
    counts = entry.expect
    if counts is None:
        raise VixmlError("a dataset without counts", where=f"datasets.{dataset}.expect", hint="give them")
    if counts.n_images is not None:
        return float(counts.n_images)

    def share(key: str) -> float:
        return entry.facts.get(key, 100.0) / 100

    return (
        counts.n_train * (texts.query_images or most * share("pct_train_queries_with_images"))
        + counts.n_test * (texts.query_images or most * share("pct_test_queries_with_images"))
        + counts.n_labels * (texts.label_images or most * share("pct_labels_with_images"))
    )


def images_cost(world: World, dataset: str, most: int) -> Cost:
    """Return the disk that a dataset's images take."""
    return Cost(disk_bytes=n_images(world, dataset, most) * TEXTS.get(dataset, UNKNOWN).image_bytes)


def embeddings_cost(world: World, dataset: str, vision: str, most: int, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``embed-images``: each image once through the vision encoder."""
    entry: VisionModel = world.vision_models[vision]
    if vision not in VISION:
        raise VixmlError(
            "the cost of a vision encoder is not known",
            where="VISION in src/vixml/plan/assumptions.py",
            found=vision,
            expected=", ".join(VISION),
        )
    n, network = n_images(world, dataset, most), VISION[vision]
    return Cost(
        flop_encode=n * network.flop,
        hours=n * network.flop / hardware.encoder / 3600,
        disk_bytes=2.0 * n * entry.dim,
        gpu_memory_bytes=RESERVE + 4 * network.parameters,
        host_memory_bytes=RESERVE + 4 * network.parameters,
    )


def imported_cost(world: World, dataset: str, vision: str, most: int) -> Cost:
    """Return the disk of vectors that are imported as published: float32 as fetched, float16 as kept."""
    return Cost(disk_bytes=(4.0 + 2.0) * n_images(world, dataset, most) * world.vision_models[vision].dim)


# -- what stands in a cell that was not run --------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """A predicted training cost, as a cell prints it.

    Attributes:
        flop: floating point operations.
        hours: at ``speed``.
        speed: as printed.
        bound: whether every text was counted at full length, so that the operations are an upper bound.
        note: what is not in it.

    Example:
        >>> print(Prediction(3e18, 8.333))
        predicted: at most 3.0e+18 FLOP, 8.3 h at 100 TFLOP/s
    """

    flop: float
    hours: float
    speed: str = "100 TFLOP/s"
    bound: bool = True
    note: str = ""

    def __str__(self) -> str:
        value, unit = (self.hours, "h") if self.hours >= 0.1 else (self.hours * 3600, "s")
        time = f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
        note = f"; {self.note}" if self.note else ""
        return f"predicted: {'at most ' if self.bound else ''}{self.flop:.1e} FLOP, {time} at {self.speed}{note}"


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


def load_train_sizes(config_dir: Path | str) -> dict[str, int]:
    """Return the number of training queries of each of the paper's datasets (Table 8)."""
    path = Path(config_dir) / "reported" / "datasets.csv"
    return {row["dataset"]: int(row["n_train"]) for _, row in read_csv(path)}


def predict(run: TrainingRun, params: str, sizes: dict[str, int]) -> Prediction:
    """Predict the cost of one of the paper's runs from what the paper prints of it, where no run of ours repeats it.

    ``6 x parameters x tokens`` operations a sequence (forward and backward; with LoRA the weight gradients saved are
    spent on recomputing activations), two sequences (a query and its label) for each training query and epoch, each
    counted at its full length: ``max_len`` text tokens and one token an image.

    Example:
        >>> run = TrainingRun("run01", "D", "text", "MiniLM-L3", 0, 300, 32, ("T1",))
        >>> f"{predict(run, '17.4M', {'D': 294_805}).flop:.1e}"
        '5.9e+17'
    """
    flop = 6 * count(params) * (run.max_len + run.n_images) * 2 * sizes[run.dataset] * run.epochs
    return Prediction(flop, flop / SUSTAINED / 3600)


def predict_run(world: World, dataset: str, config: RunConfig, hardware: Hardware) -> Prediction:
    """Predict the cost of a run of ours: training, index and search as :func:`run_cost` counts them."""
    cost = run_cost(world, dataset, config, hardware)
    if config.reuse is not None:
        speed = f"{hardware.float32 / 1e12:.3g} TFLOP/s"
        return Prediction(cost.flop, cost.hours, speed, False, f"beside the model of {config.reuse}")
    causal = world.text_models[config.encoder.model].attention == "causal"
    speed = f"{(hardware.decoder if causal else hardware.encoder) / 1e12:.3g} TFLOP/s"
    return Prediction(cost.flop, cost.hours, speed, TEXTS.get(dataset, UNKNOWN).query_tokens is None)


# --- What a job asks of a batch system: memory and time, from the same counts as the plan, with room to spare. No
# torch.


Stage = Literal["train", "index", "predict"]
COSTS: dict[Stage, Callable[[Job, Hardware], Cost]] = {
    "train": train_cost, "index": index_cost, "predict": predict_cost,
}  # fmt: skip
# A prediction is not a promise: a job that is killed for its memory or its time costs more than one that asked for more.
MEMORY_MARGIN, TIME_MARGIN = 1.5, 2.0
LEAST_MB, LEAST_MINUTES = 4000, 60


@dataclass(frozen=True)
class Needs:
    """Memory and time to request.

    Attributes:
        mem_mb: main memory, in 10^6 bytes; without a GPU it holds what would lie on one, too.
        minutes: of wall time.
    """

    mem_mb: int
    minutes: int


# Where nothing can be counted, for example with a data set whose entry gives no sizes.
DEFAULT_NEEDS: dict[Stage, Needs] = {
    "train": Needs(16000, 2880),
    "index": Needs(16000, 480),
    "predict": Needs(16000, 240),
}


def needs(world: World, dataset: str, config: RunConfig, stage: Stage, *, gpu: bool, attempt: int = 1) -> Needs:
    """Return what a stage of a run asks for: half as much memory again as predicted, and twice the time.

    Args:
        world: the registry.
        dataset: an entry of it.
        config: the run.
        stage: of it.
        gpu: whether it runs on a GPU.
        attempt: 1, 2, ... of a job that a batch system had to kill: each asks for as much again.

    Example:
        >>> from vixml.config.load import load_world
        >>> from vixml.config.load import load_runs
        >>> world, runs = load_world("config"), load_runs("config")
        >>> needs(world, "picto", runs["picto", "text-minilm-l3"], "train", gpu=False)
        Needs(mem_mb=6000, minutes=60)
    """
    hardware = HARDWARE["gpu" if gpu else "cpu"]
    try:
        cost = COSTS[stage](Job.of(world, dataset, config), hardware)
    except VixmlError:
        found = DEFAULT_NEEDS[stage]
        return Needs(found.mem_mb * attempt, found.minutes * attempt)
    memory = cost.host_memory_bytes + (0.0 if gpu else cost.gpu_memory_bytes)
    mem_mb = max(LEAST_MB, math.ceil(MEMORY_MARGIN * memory / 1e9) * 1000)
    minutes = max(LEAST_MINUTES, math.ceil(TIME_MARGIN * 60 * cost.hours))
    return Needs(mem_mb * attempt, minutes * attempt)
