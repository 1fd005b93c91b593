"""What a run costs before anybody runs it: operations and bytes, and hours at a stated speed (docs/cost.md). No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from vixml.config.run import RunConfig
from vixml.config.world import VisionModel, World
from vixml.errors import VixmlError
from vixml.reproduce.assumptions import TEXTS, UNKNOWN, VISION, Hardware
from vixml.reproduce.claims import TrainingRun, read_csv
from vixml.reproduce.job import RESERVE, Job
from vixml.reproduce.shapes import shape_of

# Where no run of ours repeats a published one: operations a second of one modern accelerator, in round numbers.
SUSTAINED = 1e14
PEAKS = {"gpu_memory_bytes", "host_memory_bytes", "scratch_bytes"}


@dataclass(frozen=True)
class Cost:
    """The cost of a stage, a run or many; ``a + b`` adds what adds up and keeps the larger peak.

    Attributes:
        flop_train: operations of training steps.
        flop_encode: of other passes through networks: set-up, diagnostics, the index, pictures.
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
    """What was not run would cost: by table, and for all tables together (what they share counts once)."""

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
    """Return the cost of one run with one seed, without what runs share (models, tokens, pictures).

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


def pictures(world: World, dataset: str, most: int) -> float:
    """Return how many pictures a dataset has: as counted, else ``most`` for each item that has any."""
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


def pictures_cost(world: World, dataset: str, most: int) -> Cost:
    """Return the disk that a dataset's pictures take."""
    return Cost(disk_bytes=pictures(world, dataset, most) * TEXTS.get(dataset, UNKNOWN).picture_bytes)


def bank_cost(world: World, dataset: str, vision: str, most: int, hardware: Hardware) -> Cost:
    """Return the cost of the stage ``embed-images``: each picture once through the vision encoder."""
    entry: VisionModel = world.vision_models[vision]
    if vision not in VISION:
        raise VixmlError(
            "the cost of a vision encoder is not known",
            where="VISION in src/vixml/reproduce/assumptions.py",
            found=vision,
            expected=", ".join(VISION),
        )
    n, network = pictures(world, dataset, most), VISION[vision]
    return Cost(
        flop_encode=n * network.flop,
        hours=n * network.flop / hardware.encoder / 3600,
        disk_bytes=2.0 * n * entry.dim,
        gpu_memory_bytes=RESERVE + 4 * network.parameters,
        host_memory_bytes=RESERVE + 4 * network.parameters,
    )


def imported_cost(world: World, dataset: str, vision: str, most: int) -> Cost:
    """Return the disk of vectors that are imported as published: float32 as fetched, float16 in the bank."""
    return Cost(disk_bytes=(4.0 + 2.0) * pictures(world, dataset, most) * world.vision_models[vision].dim)


# -- what stands in a cell that was not run --------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """A predicted training cost, as a cell prints it.

    Attributes:
        flop: floating point operations.
        hours: at ``speed``.
        speed: in words.
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
