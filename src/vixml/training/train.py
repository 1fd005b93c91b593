"""The stage ``train``: a run's configuration and inputs in, a model folder out.

Read it top to bottom:

    train              the stage: set-up, training, the model's folder
    open_training      what stays the same while a run trains (Training), from configuration and inputs
    new_state          what changes (State): optimizer, stored vectors, position
    fit                resume or initialise, then epochs: groups, steps, centroids, diagnostics, checkpoints
    train_step         one batch: encode, score, loss, gradients, update
    initialise, update_groups, refresh_centroids, epoch_report    the start, and between epochs
"""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.config.registry import Propensity
from vixml.config.run import RunConfig
from vixml.data.propensity import inverse_propensity
from vixml.digest import stage_digest
from vixml.files import save_array, sha256_json, write_json, write_text
from vixml.memory import enough_memory
from vixml.models.encode import all_prototypes, encode_items, fewer_items
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.siamese import Siamese, build_model, save_model
from vixml.progress import Quiet, bar
from vixml.provenance import describe_input, machine, stage
from vixml.ragged import Ragged
from vixml.runtime import CLUSTER, DROPOUT, INIT, autocast, batch_workers, choose_precision, generator, send
from vixml.training import diagnostics
from vixml.training.batches import Batch, EpochBatches, Gather, TrainingSet, draw_positives, iterate, query_order
from vixml.training.checkpoint import SaveClock, load_checkpoint, save_checkpoint
from vixml.training.clustering import balanced_groups, group_means
from vixml.training.distributed import SINGLE, ProcessGroup, join, leave, lost_processes
from vixml.training.losses import total_loss
from vixml.training.optimizer import make_optimizer, set_learning_rates
from vixml.training.vectors import EncodedBatch, StoredVectors, label_means

SCHEMA_VERSION = 1
VALIDATION_SEED = 20251117  # one held-out set for all runs and seeds, so that tuning compares like with like


# --- The stage.


def train(
    dataset: str,
    run: str,
    seed: int,
    config: RunConfig,
    propensity: Propensity,
    inputs: RunInputs,
    out: Path,
    device: torch.device,
) -> None:
    """Train one run and publish its model; resume from ``checkpoint/`` beside ``out`` if an earlier try was interrupted.

    Args:
        dataset: for the record.
        run: for the record.
        seed: of everything random.
        config: the resolved run.
        propensity: constants of the data set, for drawing positives.
        inputs: where the inputs lie.
        out: folder to write.
        device: where to train.
    """
    name, checkpoint, facts = f"{run} seed {seed}", out.parent / "checkpoint", {}
    resolved = {"dataset": dataset, "run": run, "seed": seed, **config.model_dump()}
    group = join(device)
    # One process writes files and speaks to the user: those of the others would be the same.
    first = group.rank == 0
    with stage(out, "train", config=resolved, inputs=inputs.named(), facts=facts) if first else nullcontext() as work:
        training = open_training(config, seed, propensity, inputs, device, group)
        config, model, data = training.config, training.model, training.data
        identity = run_identity(config, seed, inputs, training.precision, propensity)
        with bar(name, len(data.rows) * config.training.epochs) if first else nullcontext(Quiet()) as advance:
            with enough_memory(lambda: f"train {name}: the model does not fit", lambda: fewer_items(config, 0)):
                model.to(device)
            state = new_state(training)
            with (
                lost_processes(group),
                enough_memory(
                    lambda: f"train {name}, {position(training, state)}",
                    lambda: fewer_items(config, model.encoding, model.training),
                ),
            ):
                fit(training, state, checkpoint, identity, TrainingView(advance, name, config.training.epochs))
        leave()
        if not first:
            return
        last = state.history[-1] if state.history else {}
        precision, kernels = training.precision, model.backbone.kernels
        facts |= {"precision": precision, "device": str(device), "kernels": kernels, "last_epoch": last}
        save_model(work, model)
        save_array(work / "validation_rows.npy", training.held_out)
        write_text(work / "log.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))
        write_json(
            work / "training.json",
            {
                "schema_version": SCHEMA_VERSION,
                "dataset": dataset,
                "run": run,
                "seed": seed,
                "epochs": config.training.epochs,
                "steps": training.total_steps,
                "seconds": round(state.seconds, 3),
                "hours": state.seconds / 3600,
                "samples_per_second": last.get("samples_per_second"),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["processor"],
                "processes": group.size,
                "threads": torch.get_num_threads(),
                "precision": precision,
                "kernels": kernels,
                "n_train": len(data.rows),
                "n_validation": len(training.held_out),
                "parameters": sum(p.numel() for p in model.parameters()) + model.backbone.left_out,
                "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "last_epoch": last,
            },
        )
    # The checkpoint has done its work once the model is published.
    for leftover in sorted(checkpoint.glob("*")):
        leftover.unlink()
    if checkpoint.exists():
        checkpoint.rmdir()


def run_identity(config: RunConfig, seed: int, inputs: RunInputs, precision: str, propensity: Propensity) -> str:
    """Return the digest that a checkpoint must share to be resumed."""
    described = {name: describe_input(path)["sha256"] for name, path in inputs.named().items()}
    # Another way to the same result does not part a run from its past, the less so where it is the way out of an error:
    # after running out of memory with smaller parts, after a machine without liger-kernel with it. Workers and saving lead
    # to the same bytes; parts and kernels to the same gradient up to rounding, and parts draw their own dropout masks.
    # The propensities shape what is drawn, and the code what is learned: another of either leads elsewhere.
    return sha256_json(
        {
            "config": config.settings("train"),
            "seed": seed,
            "inputs": described,
            "precision": precision,
            "propensity": propensity.model_dump(),
            "code": stage_digest("train"),
        }
    )


# --- Set-up: what stays the same while a run trains, and what changes.


@dataclass(frozen=True)
class Training:
    """One run, ready to train: all that stays the same while it does, but for the values of the model's tensors.

    Attributes:
        config: the run.
        model: on its device by the time it is trained.
        data: the training set.
        held_out: (n_val,) int64 rows of train, for diagnostics.
        gather: image rows -> (n_images, image_dim) vectors, or None for text only.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        seed: of the run.
        group: the processes that train it together.
    """

    config: RunConfig
    model: Siamese
    data: TrainingSet
    held_out: np.ndarray
    gather: Gather | None
    precision: str
    seed: int
    group: ProcessGroup = SINGLE

    @property
    def device(self) -> torch.device:
        """Return where the model lies."""
        return next(self.model.parameters()).device

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(len(self.data.rows) / self.config.training.batch_size)

    @property
    def total_steps(self) -> int:
        """Return the number of batches in all epochs."""
        return self.steps_per_epoch * self.config.training.epochs

    @property
    def stored_only(self) -> bool:
        """Return whether text vectors never change (a frozen encoder): encode once, train on the stored vectors."""
        return self.model.frozen and self.model.projection is None

    def autocast(self) -> AbstractContextManager:
        """Return a fresh context of the run's precision."""
        return autocast(self.precision, self.device)


def open_training(
    config: RunConfig,
    seed: int,
    propensity: Propensity,
    inputs: RunInputs,
    device: torch.device,
    group: ProcessGroup = SINGLE,
) -> Training:
    """Open a run's inputs and build its model, which is still on the CPU."""
    precision = choose_precision(config.training.precision, device, config.encoder.weights)
    config = config.at_precision(precision)
    opened = open_inputs(inputs, config, seed)
    truth, prompt = opened.corpus.labels("train"), opened.prompts["train"]
    held_out = validation_rows(len(truth), config.training.validation, config.training.validation_split)
    rows = np.setdiff1d(np.arange(len(truth)), held_out)
    rows = rows[truth.lengths[rows] > 0]
    weights = np.ones(truth.n_cols)
    if config.training.positives == "inverse-propensity":
        weights = inverse_propensity(truth.counts(), len(truth), propensity.a, propensity.b)
    tokens, images = opened.tokens, opened.images
    data = TrainingSet(tokens["train"], tokens["label"], images["train"], images["label"], truth, rows, weights, prompt)
    model = build_model(
        config, inputs.model_dir, truth.n_cols, opened.image_dim, seed, prompt, opened.vocabulary(), device
    )
    return Training(config, model, data, held_out, opened.gather, precision, seed, group)


def validation_rows(n_train: int, share: float, split: int = 0) -> np.ndarray:
    """Return the rows of train held out: (n,) int64, ascending; the same for every run of a data set with that split."""
    rng = np.random.default_rng(VALIDATION_SEED + split)
    return np.sort(rng.permutation(n_train)[: round(share * n_train)]).astype(np.int64)


@dataclass
class State:
    """All that changes while a run trains, beside the model's tensors; a checkpoint holds both.

    Random numbers are no part of it: those of a step follow from the seed and the step's position.

    Attributes:
        optimizer: AdamW.
        scaler: of gradients, at work in ``fp16``.
        stored: (n_train, dim) unit query vectors as last seen.
        query_u: (n_train, dim) float32 query vectors of a frozen encoder, not normalised.
        label_u: (n_labels, dim) float32 text vectors of a frozen encoder, not normalised.
        groups: (n,) int64 group of each training query in a mined epoch, or None.
        epoch: from 0.
        step_in_epoch: steps done in this epoch.
        sums: of each loss term over the epoch's queries.
        seconds: of training, diagnostics and saving left out.
        history: the reports of finished epochs.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stored: StoredVectors = field(default_factory=lambda: StoredVectors(torch.zeros(0)))
    query_u: Tensor | None = None
    label_u: Tensor | None = None
    groups: np.ndarray | None = None
    epoch: int = 0
    step_in_epoch: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


SAVED_AS_THEY_ARE = ("query_u", "label_u", "epoch", "step_in_epoch", "seconds", "history")


def new_state(training: Training) -> State:
    """Return the state before the first step; the model must be on its device."""
    optimizer = make_optimizer(training.model, training.config.optimizer)
    return State(optimizer, torch.amp.GradScaler(training.device.type, enabled=training.precision == "fp16"))


def save_state(training: Training, state: State, folder: Path, identity: str) -> None:
    """Write a checkpoint, in the first process."""
    if training.group.rank != 0:
        return
    saved = {name: getattr(state, name) for name in SAVED_AS_THEY_ARE}
    saved |= {
        "model": training.model.learned_state(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "stored": state.stored.read(),
        "groups": None if state.groups is None else torch.from_numpy(state.groups),
        "sums": {name: float(value) for name, value in state.sums.items()},
    }
    save_checkpoint(folder, identity, saved)


def restore_state(training: Training, state: State, saved: dict[str, Any]) -> None:
    """Set the model and the state to what :func:`save_state` wrote."""
    training.model.load_learned_state(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.stored, state.sums = StoredVectors(saved["stored"]), saved["sums"]
    state.groups = None if saved["groups"] is None else saved["groups"].numpy()
    for name in SAVED_AS_THEY_ARE:
        setattr(state, name, saved[name])


# --- The loop: epochs, and the steps in each.


def fit(training: Training, state: State, folder: Path, identity: str, view: TrainingView) -> None:
    """Train to the last epoch, from the checkpoint if there is one.

    Args:
        training: the run, its model on its device.
        state: new; afterwards that of the finished run.
        folder: where checkpoints go.
        identity: digest of configuration, inputs and code; a checkpoint of another one is not resumed.
        view: shows a person how far it is.
    """
    model, settings, device = training.model, training.config.training, training.device
    n = len(training.data.rows)
    saved = load_checkpoint(folder, identity)
    if saved is not None:
        restore_state(training, state, saved)
    step = state.epoch * training.steps_per_epoch + state.step_in_epoch
    training.group.require_equal(step, "the step to go on from")
    if saved is not None:
        view.resume(state.epoch * n + min(state.step_in_epoch * settings.batch_size, n), state.epoch)
    elif model.prototypes is not None or model.centred or settings.epochs:
        torch.manual_seed(int(generator(training.seed, INIT, 1).integers(2**31)))
        initialise(training, state)

    saving = SaveClock(settings.checkpoint_minutes)
    while state.epoch < settings.epochs:
        if state.step_in_epoch == 0:
            update_groups(training, state, view)
            state.sums = {}
        model.train()
        clock = time.perf_counter()
        workers, pin = batch_workers(settings.workers, device), device.type == "cuda"
        for batch in iterate(epoch_batches(training, state), state.step_in_epoch, workers, pin):
            loss = train_step(training, state, batch)
            view.step(len(batch.queries), loss)
            state.step_in_epoch += 1
            if saving.due(epoch_ended=False):
                state.seconds += time.perf_counter() - clock
                saving.run(lambda: save_state(training, state, folder, identity))
                clock = time.perf_counter()
        model.refresh_centre()
        if model.has_centroids:
            last = state.epoch + 1 == settings.epochs
            refresh_centroids(training, state, last and training.config.prototype.last_centroids == "encoded")
        state.seconds += time.perf_counter() - clock
        report = epoch_report(training, state)
        warning = diagnostics.collapse_warning(report, training.config.loss, model.has_centroids)
        if warning is not None:
            view.warn(warning)
        state.history.append(report)
        view.epoch(report)
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        if saving.due(epoch_ended=True):
            saving.run(lambda: save_state(training, state, folder, identity))


def position(training: Training, state: State) -> str:
    """Return where the training is, for a reader."""
    if not training.model.training:
        return f"epoch {state.epoch + 1}, encoding queries and labels"
    return f"epoch {state.epoch + 1}, step {state.step_in_epoch + 1} of {training.steps_per_epoch}"


def epoch_batches(training: Training, state: State) -> EpochBatches:
    """Return the batches of the state's epoch."""
    data, seed, epoch = training.data, training.seed, state.epoch
    order = query_order(data.rows, state.groups, seed, epoch)
    positives = draw_positives(data.truth, data.rows, data.weights, seed, epoch)
    return EpochBatches(
        data, training.config, order, positives, seed, epoch, training.gather, training.group,
        with_text=not training.stored_only,
    )  # fmt: skip


def train_step(training: Training, state: State, batch: Batch) -> Tensor:
    """Take one optimizer step; return the loss, which stays on its device."""
    config, model, device = training.config, training.model, training.device
    optimizer, scaler = state.optimizer, state.scaler
    step = state.epoch * training.steps_per_epoch + state.step_in_epoch
    set_learning_rates(optimizer, step, training.total_steps)
    stream = (training.seed, DROPOUT, state.epoch, state.step_in_epoch)
    n, m = len(batch.queries), len(batch.labels)
    encoded = None
    if training.stored_only:
        u_queries = send(state.query_u[torch.from_numpy(batch.queries)], device)
        u_labels = send(state.label_u[torch.from_numpy(batch.labels)], device)
    else:
        encoded = EncodedBatch(model, batch, training.group, training.autocast, stream)
        u_queries, u_labels = model.centred_vectors(encoded.vectors).split([n, m])
    # Scores, margins and norms in float32: half precision would round margins of 0.1.
    queries, texts = F.normalize(u_queries.float(), dim=1), F.normalize(u_labels.float(), dim=1)
    labels, pairs, *drawn = (
        torch.from_numpy(x).to(device, non_blocking=True)
        for x in (batch.labels, batch.pairs, batch.drawn_label, batch.drawn_query)
    )
    prototypes = None
    if model.prototypes is not None:
        # What is dropped follows from the step alone, whatever the encoder drew in whichever process.
        torch.manual_seed(int(generator(*stream, n + m).integers(2**31)))
        with training.autocast():
            prototypes = model.prototype(u_labels, labels)
    is_positive = torch.zeros(n, m, dtype=torch.bool, device=device)
    is_positive[pairs[:, 0], pairs[:, 1]] = True
    loss, terms = total_loss(queries, texts, prototypes, is_positive, *drawn, config.loss, config.method)
    optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:
        scaler.scale(loss).backward()
        if encoded is not None:
            encoded.backward()
        sum_gradients(training, batch)
        if config.optimizer.clip_norm is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        scaler.step(optimizer)
        scaler.update()
    state.stored.put(batch.queries, queries.detach())
    for name, value in {"loss": loss, **terms}.items():
        state.sums[name] = state.sums.get(name, 0.0) + value.detach().double() * n
    return loss.detach()


def sum_gradients(training: Training, batch: Batch) -> None:
    """Sum gradients over processes: prototypes saw the whole batch, the encoder this process's share."""
    model = training.model
    whole = list(model.prototypes.parameters()) if model.prototypes is not None else []
    known = {id(parameter) for parameter in whole}
    if not batch.has_images and model.projection is not None:
        # No process uses it: it has no gradient, not one of zero, which AdamW would let decay.
        known |= {id(parameter) for parameter in model.projection.parameters()}
    share = [] if training.stored_only else [p for p in model.parameters() if id(p) not in known]
    training.group.sum_gradients(share, whole)


# --- At the start and between epochs.


def encode_shared(training: Training, tokens: Ragged, images: Ragged | None, rows: np.ndarray | None = None) -> Tensor:
    """Encode items, all or ``rows``: (n, dim) float32 on the CPU, not normalised. Each process encodes its share."""
    n = len(tokens) if rows is None else len(rows)
    if rows is not None or training.group.size > 1:
        share = (np.arange(n) if rows is None else rows)[training.group.share(n)]
        tokens, images = tokens.take(share), None if images is None else images.take(share)
    vectors = encode_items(
        training.model, tokens, images, training.gather, training.autocast, prompt=training.data.prompt,
        at_once=training.config.training.items_at_once,
    )  # fmt: skip
    return training.group.gather(vectors, n)


@torch.no_grad()
def initialise(training: Training, state: State) -> None:
    """Encode everything once: first centroids, label clusters for the free vectors, stored vectors."""
    model, data, init = training.model, training.data, training.config.prototype.init
    queries = encode_shared(training, data.query_tokens, data.query_images)
    labels = encode_shared(training, data.label_tokens, data.label_images)
    if model.centred:
        # As in a batch: as many queries as labels, about. The stored centre is zero until here.
        used = queries[torch.from_numpy(data.rows)]
        centre = (used.mean(dim=0) + labels.mean(dim=0)) / 2
        model.centre.copy_(centre)
        queries, labels = queries - centre, labels - centre
    state.stored = StoredVectors(F.normalize(queries, dim=1))
    if training.stored_only:
        state.query_u, state.label_u = queries, labels
    if model.prototypes is not None:
        free, unit = model.prototypes.free, F.normalize(labels, dim=1)
        seed = int(generator(training.seed, CLUSTER).integers(2**31))
        clusters = balanced_groups(unit.to(free.weight.device), free.num_embeddings, seed)
        model.cluster.copy_(torch.from_numpy(clusters))
        if init == "label-mean":
            free.weight.copy_(group_means(unit, clusters, free.num_embeddings))
        elif init == "zeros":
            free.weight.zero_()
        # else "xavier": they stay as the model was built
    if model.has_centroids:
        refresh_centroids(training, state)


def update_groups(training: Training, state: State, view: TrainingView) -> None:
    """Cluster the stored query vectors when the curriculum asks for it (NGAME)."""
    mining, epoch = training.config.mining, state.epoch
    # Vectors at the start of an epoch are those at the end of the one before.
    at = epoch - 1 if mining is not None and mining.cluster == "end" else epoch
    if mining is None or at < mining.start:
        state.groups = None
    elif state.groups is None or (at - mining.start) % mining.update == 0:
        rows = training.data.rows
        seed = int(generator(training.seed, CLUSTER, epoch + 1).integers(2**31))
        vectors, n_groups = state.stored.read()[torch.from_numpy(rows)], mining.n_groups(len(rows), at)
        try:
            groups = balanced_groups(vectors.to(training.device), n_groups, seed)
        except torch.OutOfMemoryError:  # no batch is in memory here, so there is nothing to make smaller
            view.warn("the GPU has no room to group all queries: the processor does it, which takes longer")
            groups = balanced_groups(vectors, n_groups, seed)
        state.groups = training.group.first(groups)


def refresh_centroids(training: Training, state: State, encode_again: bool = False) -> None:
    """Set each label's centroid to the mean of its training queries' vectors (no moving average).

    Args:
        training: the run.
        state: with the stored vectors.
        encode_again: encode the queries as the model is now, without dropout, in place of reading their stored vectors.
    """
    model, data, rows = training.model, training.data, training.data.rows
    if encode_again and not training.stored_only:
        queries = F.normalize(encode_shared(training, data.query_tokens, data.query_images, rows), dim=1)
    else:
        queries = state.stored.read()[torch.from_numpy(rows)]
    means, has = label_means(queries, data.truth.take(rows))
    model.centroid.copy_(means)
    model.has_centroid.copy_(has)


def epoch_report(training: Training, state: State) -> dict[str, Any]:
    """Return the finished epoch's losses and diagnostics, on labels and on the held-out training queries.

    Raises:
        VixmlError: the run has diverged.
    """
    model, data, held_out, rows = training.model, training.data, training.held_out, training.data.rows
    means = {name: round(float(total) / len(rows), 6) for name, total in state.sums.items()}
    stored = state.stored.read()[torch.from_numpy(rows)]
    diagnostics.require_finite(means["loss"], stored, state.epoch)
    labels = diagnostics.watched(len(data.label_tokens), len(held_out))
    if training.stored_only:
        label_u, validation = state.label_u[torch.from_numpy(labels)], state.query_u[torch.from_numpy(held_out)]
    else:
        label_u = encode_shared(training, data.label_tokens, data.label_images, labels)
        validation = encode_shared(training, data.query_tokens, data.query_images, held_out)
    label_z = all_prototypes(model, label_u, labels=labels) if model.prototypes is not None else None
    diagnosed = diagnostics.evaluate(
        model, labels, label_u, label_z, F.normalize(validation, dim=1), data.truth.take(held_out), stored,
        data.truth.take(rows),
    )  # fmt: skip
    return {
        "epoch": state.epoch,
        "steps": state.step_in_epoch,
        "seconds": round(state.seconds, 3),
        "samples_per_second": round(len(rows) * (state.epoch + 1) / max(state.seconds, 1e-9), 1),
        "lr": state.optimizer.param_groups[0]["lr"],
        **{("loss" if name == "loss" else f"loss/{name}"): value for name, value in means.items()},
        **diagnosed,
    }


class TrainingView:
    """Show a person how a training proceeds: a bar with loss, speed and time left, and a line for each epoch.

    Args:
        advance: the bar, counting queries.
        name: run and seed, for the epochs' lines.
        epochs: of the run.
    """

    def __init__(self, advance: Quiet, name: str, epochs: int) -> None:
        self.advance, self.name, self.epochs = advance, name, epochs
        self.seen, self.started = 0, time.monotonic()

    def step(self, n: int, loss: Tensor) -> None:
        """Count ``n`` queries. The loss is fetched from the device only when it is about to be shown."""
        self.seen += n
        speed = self.seen / max(time.monotonic() - self.started, 1e-9)
        self.advance(n, lambda: f"loss {float(loss):.3f}, {speed:.0f} samples/s")

    def resume(self, n: int, epoch: int) -> None:
        """Say where an interrupted run resumes: after ``n`` queries, in ``epoch``."""
        self.advance.skip(n)
        self.advance.say(f"{self.name}: resumes in epoch {epoch + 1}/{self.epochs}, from its checkpoint")

    def epoch(self, report: dict[str, Any]) -> None:
        """Print the epoch's loss and, where queries are held out, its P@1 by text vector and prototype."""
        shown = [f"{self.name}: epoch {report['epoch'] + 1}/{self.epochs}", f"loss {report['loss']:.4f}"]
        shown += [f"{report['samples_per_second']:.0f} samples/s"]
        shown += [f"validation P@1 {k[-1]} {report[k]:.1f}" for k in ("P@1/u", "P@1/z") if k in report]
        self.advance.say(", ".join(shown))

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self.advance.say(f"WARNING {self.name}: {sentence}")
