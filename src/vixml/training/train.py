"""The stage ``train``: a run's configuration and inputs in, a model folder out.

Read it top to bottom:

    train              the stage: set-up, training, the model folder
    open_training      what stays the same while a run trains (Training)
    new_state          what changes (State), and how a checkpoint saves and restores it
    parameter_groups   the optimizer and its learning rates
    fit                resume or initialise, then epochs: groups, steps, centroids, diagnostics, checkpoints
    train_step         one batch: encode, score, loss, gradients, update; batch_loss chooses the loss
    initialise         encode everything once; then what happens between epochs
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from vixml.config.registry import Propensity
from vixml.config.run import Optimizer, RunConfig, SeededRun
from vixml.data.propensity import inverse_propensity
from vixml.digest import stage_modules
from vixml.errors import VixmlError
from vixml.files import save_array, write_json, write_text
from vixml.memory import enough_memory
from vixml.models.encode import all_prototypes, encode_items, fewer_items
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.packing import Sequences
from vixml.models.siamese import Siamese, at_precision, build_model, save_model
from vixml.progress import Quiet, bar, warn
from vixml.provenance import describe_input, machine, stage
from vixml.runtime import CLUSTER, DROPOUT, INIT, autocast, batch_workers, choose_precision, derived_seed, send
from vixml.training import diagnostics
from vixml.training.all_labels import decoupled_softmax, fewer_labels, label_loss, refit
from vixml.training.batches import Batch, EpochBatches, TrainingSet, iterate
from vixml.training.checkpoint import Checkpoint
from vixml.training.clustering import balanced_groups, group_means
from vixml.training.distributed import SINGLE, ProcessGroup, join, leave, lost_processes
from vixml.training.earlier import Earlier
from vixml.training.losses import Positives, total_loss
from vixml.training.mining import n_groups
from vixml.training.vectors import EncodedBatch, StoredVectors, label_means, shared_zeros

SCHEMA_VERSION = 1
VALIDATION_SEED = 20251117  # one held-out set for all runs and seeds, so that tuning compares like with like


# --- The stage.


def train(
    run: SeededRun,
    propensity: Propensity,
    inputs: RunInputs,
    out: Path,
    device: torch.device,
    accept_checkpoint: bool = False,
) -> None:
    """Train one run and write its model folder; resume from ``checkpoint/`` beside ``out`` after an interruption.

    Raises:
        VixmlError: an input is missing or belongs to another run, memory or disk ran out, the training diverged, a
            checkpoint is damaged or of other code, or another process of this training ended.
    """
    facts: dict[str, Any] = {}
    group = join(device)
    # Rank 0 alone writes files and shows progress: the other processes have the same results.
    first = group.rank == 0
    written = stage(out, "train", config=run.resolved, inputs=inputs.named(), facts=facts) if first else nullcontext()
    with written as work:
        training = open_training(run, propensity, inputs, device, group)
        config, model = training.config, training.model
        identity = run_identity(config, run.seed, inputs, training.precision, propensity)
        checkpoint = Checkpoint(
            out.parent / "checkpoint", identity, config.training.checkpoint_minutes, accept_checkpoint
        )
        state = new_state(training)
        n_queries = len(training.data.rows) * (config.training.epochs + config.training.refit_epochs)
        shown = bar(str(run), n_queries) if first else nullcontext(Quiet())
        enough = enough_memory(
            lambda: f"train {run}, {training_position(training, state)}", lambda: smaller(training, state)
        )
        with shown as advance, lost_processes(group), enough:
            fit(training, state, checkpoint, TrainingView(advance, str(run), config.training.epochs))
            leave()
        if first:
            save_model(work, model)
            save_array(work / "validation_rows.npy", training.held_out)
            write_text(work / "log.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))
            record = training_record(run, training, state)
            write_json(work / "training.json", record)
            noted = ("precision", "kernels", "last_epoch", "accepted_checkpoints")
            facts |= {name: record[name] for name in noted if name in record} | {"device": str(device)}
    if first:
        checkpoint.remove()


def training_record(run: SeededRun, training: Training, state: State) -> dict[str, Any]:
    """Return the content of ``training.json`` (docs/formats.md)."""
    model, device, last = training.model, training.device, state.history[-1] if state.history else {}
    return {
        "schema_version": SCHEMA_VERSION,
        **run.names,
        "epochs": training.config.training.epochs,
        "steps": training.total_steps,
        "seconds": round(state.seconds, 3),
        "hours": state.seconds / 3600,
        "samples_per_second": last.get("samples_per_second"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["processor"],
        "processes": training.group.size,
        "threads": torch.get_num_threads(),
        "precision": training.precision,
        "kernels": model.backbone.kernels,
        "n_train": len(training.data.rows),
        "n_validation": len(training.held_out),
        "parameters": sum(p.numel() for p in model.parameters()) + model.backbone.left_out,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "last_epoch": last,
        **({"accepted_checkpoints": state.accepted} if state.accepted else {}),
    }


def run_identity(
    config: RunConfig, seed: int, inputs: RunInputs, precision: str, propensity: Propensity
) -> dict[str, Any]:
    """Return what a checkpoint must share to be resumed, by name: everything that decides what is learned.

    ``config.settings("train")`` leaves out how a training is carried out, so that a user can resume after running out of
    memory with smaller parts, or with other kernels. Workers and saving do not change a byte. Parts and kernels change the
    gradient by rounding only, except that parts draw other dropout masks.
    """
    return {
        "config": config.settings("train"),
        "seed": seed,
        "inputs": {name: describe_input(path)["sha256"] for name, path in inputs.named().items()},
        "precision": precision,
        "propensity": propensity.model_dump(),
        "code": stage_modules("train"),
    }


# --- Set-up: what stays the same while a run trains, and what changes.


@dataclass(frozen=True)
class Training:
    """One run, ready to train: everything that stays the same, except the values of the model's tensors.

    Attributes:
        model: on the device that trains it.
        held_out: (n_val,) int64 rows of train, for diagnostics.
        group: the processes that train it together.
        earlier: the model to start from.
        label_texts: text of each label, for matching those of ``earlier``.
    """

    config: RunConfig
    model: Siamese
    data: TrainingSet
    held_out: np.ndarray
    precision: str
    seed: int
    group: ProcessGroup = SINGLE
    earlier: Earlier | None = None
    label_texts: Sequence[str] = ()

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return self.model.device

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
        """Return whether text vectors never change (a frozen encoder): they are encoded once, and training reads them."""
        return self.model.frozen and self.model.projection is None

    def autocast(self) -> AbstractContextManager:
        """Return a new context of the run's precision."""
        return autocast(self.precision, self.device)


def open_training(
    run: SeededRun, propensity: Propensity, inputs: RunInputs, device: torch.device, group: ProcessGroup = SINGLE
) -> Training:
    """Open a run's inputs and build its model on ``device``; arguments and errors are those of :func:`train`."""
    precision = choose_precision(run.config.training.precision, device, run.config.encoder.frozen_weights)
    config = at_precision(run.config, precision)
    opened = open_inputs(inputs, config, run.seed)
    truth = opened.corpus.labels("train")
    held_out = validation_rows(len(truth), config.training.validation, config.training.validation_split)
    rows = np.setdiff1d(np.arange(len(truth)), held_out)
    rows = rows[truth.lengths[rows] > 0]
    if not len(rows) and config.training.epochs:
        raise VixmlError(
            "no training query is left",
            where=f"training.validation, {inputs.corpus}",
            found=f"{len(truth)} queries, {len(held_out)} held out, none of the rest with a label",
            hint="lower training.validation",
        )
    weights = np.ones(truth.n_cols)
    if config.training.positives == "inverse-propensity":
        weights = inverse_propensity(truth.counts(), len(truth), propensity.a, propensity.b)
    data = TrainingSet(opened.sequences["train"], opened.sequences["label"], truth, rows, weights)
    model = build_model(config, opened, run.seed, device)
    earlier, texts = None, ()
    if config.start is not None:
        earlier, texts = Earlier.open(config.start, config.encoder), opened.corpus.texts("label")
        earlier.restore(model)
    with enough_memory(lambda: f"train {run}: the model does not fit", lambda: fewer_items(config, 0)):
        model.to(device)
    return Training(config, model, data, held_out, precision, run.seed, group, earlier, texts)


def validation_rows(n_train: int, share: float, split: int = 0) -> np.ndarray:
    """Return the held-out rows of train: (n,) int64, ascending; the same for all runs of a dataset with that split.

    Splits of one share follow each other in one random order, which begins again where it ends.
    """
    order, held_out = np.random.default_rng(VALIDATION_SEED).permutation(n_train), round(share * n_train)
    return np.sort(np.roll(order, -split * held_out)[:held_out]).astype(np.int64)


@dataclass
class State:
    """Everything that changes while a run trains, except the model's tensors; a checkpoint holds both.

    Random numbers are not part of it: those of a step follow from the seed and the step's position.

    Attributes:
        scaler: of gradients, enabled in ``fp16``.
        stored: (n_train, dim) unit query vectors as last seen; empty except in rank 0.
        query_u: (n_train, dim) float32 query vectors of a frozen encoder, not normalised, or None.
        label_u: (n_labels, dim) float32 text vectors of a frozen encoder, not normalised, or None.
        groups: (n,) int64 group of each training query in a mined epoch, or None.
        step_in_epoch: steps done in this epoch.
        sums: of each loss term over the epoch's queries.
        seconds: of training, without diagnostics and saving.
        history: the reports of finished epochs.
        refitting: whether label vectors are being fitted to the final encoder; for errors, and not saved.
        accepted: checkpoints of other code from which the run was resumed: position, old and new digest.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    stored: StoredVectors
    query_u: Tensor | None = None
    label_u: Tensor | None = None
    groups: np.ndarray | None = None
    epoch: int = 0
    step_in_epoch: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    refitting: bool = False


SAVED_AS_THEY_ARE = ("query_u", "label_u", "epoch", "step_in_epoch", "seconds", "history", "accepted")


def new_state(training: Training) -> State:
    """Return the state before the first step."""
    optimizer = make_optimizer(training.model, training.config.optimizer)
    scaler = torch.amp.GradScaler(training.device.type, enabled=training.precision == "fp16")
    # Rank 0 alone mines, averages, reports and saves them.
    n_stored = len(training.data.truth) if training.group.rank == 0 else 0
    return State(optimizer, scaler, StoredVectors(shared_zeros(n_stored, training.model.backbone.dim)))


def save_state(training: Training, state: State, checkpoint: Checkpoint) -> None:
    """Write a checkpoint."""
    saved = {name: getattr(state, name) for name in SAVED_AS_THEY_ARE}
    saved |= {
        "model": training.model.learned_state(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "stored": state.stored.read(),
        "groups": None if state.groups is None else torch.from_numpy(state.groups),
        "sums": {name: float(value) for name, value in state.sums.items()},
    }
    checkpoint.save(saved)


def restore_state(training: Training, state: State, saved: dict[str, Any]) -> None:
    """Set the model and the state to those that :func:`save_state` wrote."""
    # Copies: the tensors are mapped from a file that the next checkpoint replaces. A GPU's are copied by being sent there.
    saved["optimizer"] = deepcopy(saved["optimizer"]) if training.device.type == "cpu" else saved["optimizer"]
    training.model.load_learned_state(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.sums = saved["sums"]
    if training.group.rank == 0:
        state.stored.read().copy_(saved["stored"])
    state.groups = None if saved["groups"] is None else saved["groups"].numpy().copy()
    for name in SAVED_AS_THEY_ARE:
        value = saved[name]
        setattr(state, name, value.clone() if isinstance(value, Tensor) else value)


# --- The optimizer: AdamW with a linear schedule.


def parameter_groups(model: Siamese, config: Optimizer) -> list[dict]:
    """Return AdamW's groups: language model, new parts or label vectors, with or without weight decay (paper, appendix A).

    Free vectors, label vectors and all one-dimensional parameters (biases, norms) are not decayed; in the official form norms
    are, except those named ``LayerNorm.weight`` (docs/deviations.md D28). Parameters that do not train are left out.
    """
    groups: dict[tuple[bool, bool, float], list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_new = not name.startswith("backbone.")
        if config.weight_decay_on == "matrices":
            plain = parameter.ndim < 2
        else:
            plain = "bias" in name or name.endswith("LayerNorm.weight")
        plain = plain or name in ("prototypes.free.weight", "vectors")
        rate = config.lr_labels if name == "vectors" else config.lr_new if is_new else config.lr
        groups.setdefault((is_new, plain, rate), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "peak": rate,
            "weight_decay": 0.0 if plain else config.weight_decay,
            "warmup": config.warmup_steps if config.warmup_steps_new is None or not is_new else config.warmup_steps_new,
            "ahead": config.warmup_from == "first-step",
        }
        for (is_new, plain, rate), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def make_optimizer(model: Siamese, config: Optimizer) -> torch.optim.AdamW:
    """Return AdamW over :func:`parameter_groups`, in its fused form (one pass over the parameters)."""
    # A frozen encoder without parts on top has nothing to learn, but torch requires a group.
    empty = {"params": [], "lr": config.lr, "peak": config.lr, "warmup": 0, "ahead": True}
    return torch.optim.AdamW(parameter_groups(model, config) or [empty], eps=config.eps, fused=True)


def learning_rate_factor(step: int, warmup: int, total: int, ahead: bool = True) -> float:
    """Return the schedule's factor for step ``step`` (from 0): linear warm-up, then linear decay to zero.

    ``ahead``: whether the first step's rate is that of the ramp's first step; else it is 0 (D27).

    Example:
        >>> [learning_rate_factor(s, 2, 6) for s in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
        >>> [learning_rate_factor(s, 2, 6, ahead=False) for s in range(4)]
        [0.0, 0.5, 1.0, 0.75]
    """
    if step < warmup:
        return (step + ahead) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


# --- The loop: epochs and their steps.


def fit(training: Training, state: State, checkpoint: Checkpoint, view: TrainingView) -> None:
    """Train to the last epoch, from the checkpoint if there is one.

    Raises:
        VixmlError: the checkpoint is damaged, processes would resume from different steps, or the run has diverged.
    """
    model, settings, device = training.model, training.config.training, training.device
    first = training.group.rank == 0  # it alone writes checkpoints
    start_or_resume(training, state, checkpoint, view)
    if not settings.epochs:
        refit_labels(training, state, view)
    workers, pin = batch_workers(settings.workers if settings.epochs else 0, device), device.type == "cuda"
    while state.epoch < settings.epochs:
        if state.step_in_epoch == 0:
            update_groups(training, state, view)
            state.sums = {}
        model.train()
        started = time.perf_counter()
        for batch in iterate(epoch_batches(training, state), state.step_in_epoch, workers, pin):
            loss = train_step(training, state, batch)
            view.step(len(batch.queries), loss)
            state.step_in_epoch += 1
            if first and checkpoint.due(epoch_ended=False):
                state.seconds += time.perf_counter() - started
                save_state(training, state, checkpoint)
                started = time.perf_counter()
        model.refresh_centre()
        last = state.epoch + 1 == settings.epochs
        if model.has_centroids:
            refresh_centroids(training, state, last and training.config.prototype.last_centroids == "encoded")
        if last:
            refit_labels(training, state, view)
        state.seconds += time.perf_counter() - started
        report = epoch_report(training, state)
        if report is not None:
            warning = diagnostics.collapse_warning(report, training.config)
            if warning is not None:
                view.warn(warning)
            state.history.append(report)
            view.epoch(report)
        state.epoch, state.step_in_epoch = state.epoch + 1, 0
        if first and checkpoint.due(epoch_ended=True):
            save_state(training, state, checkpoint)


def start_or_resume(training: Training, state: State, checkpoint: Checkpoint, view: TrainingView) -> None:
    """Restore the checkpoint if there is one, else initialise what training and inference need."""
    model, settings, n = training.model, training.config.training, len(training.data.rows)
    saved = checkpoint.load()
    if saved is not None:
        restore_state(training, state, saved)
    step = state.epoch * training.steps_per_epoch + state.step_in_epoch
    training.group.require_equal(step, "the step to resume from")
    # Only now has every process looked at the file.
    if training.group.rank == 0 and (sentence := checkpoint.put_aside()) is not None:
        warn(sentence)
    if saved is not None:
        view.resume(state.epoch * n + min(state.step_in_epoch * settings.batch_size, n), state.epoch)
    elif model.has_prototypes or model.centred or settings.epochs:
        torch.manual_seed(derived_seed(training.seed, INIT, 1))
        initialise(training, state)


def training_position(training: Training, state: State) -> str:
    """Return a training's position, for an error."""
    if state.refitting:
        return "fitting label vectors (training.refit_epochs)"
    if not training.model.training:
        return f"epoch {state.epoch + 1}, encoding queries and labels"
    if state.step_in_epoch == training.steps_per_epoch:
        return f"epoch {state.epoch + 1}, after its last step"
    return f"epoch {state.epoch + 1}, step {state.step_in_epoch + 1} of {training.steps_per_epoch}"


def smaller(training: Training, state: State) -> str:
    """Return advice for a training that ran out of memory, as an imperative clause: fewer items or labels at a time."""
    config, model = training.config, training.model
    labels = fewer_labels(config, len(training.data.trained_labels))
    if state.refitting:
        return labels
    items = fewer_items(config, model.encoding, model.training)
    if config.method != "all-labels" or not model.training:
        return items
    # Whether a step's encoder or its softmax filled the memory is not known; on stored vectors there is no encoder.
    return labels if training.stored_only else f"{items}, or {labels}"


def epoch_batches(training: Training, state: State) -> EpochBatches:
    """Return the batches of the state's epoch."""
    data, config, with_text = training.data, training.config, not training.stored_only
    return EpochBatches(data, config, training.seed, state.epoch, state.groups, training.group, with_text)


def train_step(training: Training, state: State, batch: Batch) -> Tensor:
    """Take one optimizer step; return the loss, a scalar that stays on its device."""
    config, model, device = training.config, training.model, training.device
    optimizer, scaler = state.optimizer, state.scaler
    step = state.epoch * training.steps_per_epoch + state.step_in_epoch
    for group in optimizer.param_groups:  # rates follow from the step alone, so the schedule has no state
        factor = learning_rate_factor(step, group["warmup"], training.total_steps, group["ahead"])
        group["lr"] = group["peak"] * factor
    stream = (training.seed, DROPOUT, state.epoch, state.step_in_epoch)
    n, m = len(batch.queries), len(batch.labels)
    encoded = None
    if training.stored_only:
        u_queries = send(state.query_u[torch.from_numpy(batch.queries)], device)
        u_labels = send(state.label_u[torch.from_numpy(batch.labels)], device)
    else:
        encoded = EncodedBatch(model, batch, training.group, training.precision, stream)
        u_queries, u_labels = model.centred_vectors(encoded.vectors).split([n, m])
    # Scores, margins and norms in float32: half precision would round margins of 0.1.
    queries = F.normalize(u_queries.float(), dim=1)
    # Dropout of the prototypes follows from the step alone, however much the encoder drew in each process.
    torch.manual_seed(derived_seed(*stream, n + m))
    loss, terms = batch_loss(training, batch, queries, u_labels)
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


def batch_loss(training: Training, batch: Batch, queries: Tensor, u_labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its terms by name.

    ``queries``: (n, dim) float32 unit rows; ``u_labels``: (m, dim) float32, the labels' text vectors, not normalised.
    """
    config, model, device = training.config, training.model, training.device
    texts = F.normalize(u_labels.float(), dim=1)
    labels, pairs, *drawn = (
        torch.from_numpy(x).to(device, non_blocking=True)
        for x in (batch.labels, batch.pairs, batch.drawn_label, batch.drawn_query)
    )
    if batch.candidates is not None:
        terms = {"q_z": label_loss(queries, model.vectors, batch.candidates, config.loss.temperature)}
        if config.loss.text_weight:
            terms["q_u"] = decoupled_softmax(queries @ texts.T, pairs, config.loss.temperature)
        return terms["q_z"] + config.loss.text_weight * terms.get("q_u", 0.0), terms
    prototypes = None
    if model.prototypes is not None:
        with training.autocast():
            prototypes = model.prototype(u_labels, labels)
    is_positive = torch.zeros(len(queries), len(texts), dtype=torch.bool, device=device)
    is_positive[pairs[:, 0], pairs[:, 1]] = True
    return total_loss(queries, texts, prototypes, Positives(is_positive, *drawn), config.loss, config.method)


def sum_gradients(training: Training, batch: Batch) -> None:
    """Sum gradients over processes: prototypes saw the whole batch, the encoder this process's share."""
    model = training.model
    whole = list(model.prototypes.parameters()) if model.prototypes is not None else []
    whole += [model.vectors] if model.vectors is not None else []
    left_out = list(whole)
    if not batch.has_images and model.projection is not None:
        # No process uses it, so it has no gradient; with one of zero, AdamW would let it decay.
        left_out += model.projection.parameters()
    known = {id(parameter) for parameter in left_out}
    share = [] if training.stored_only else [p for p in model.parameters() if id(p) not in known]
    training.group.sum_gradients(share, whole)


# --- At the start and between epochs.


def encode_shared(training: Training, items: Sequences, rows: np.ndarray | None = None) -> Tensor:
    """Encode items, all or ``rows``: (n, dim) float32 on the CPU, not normalised. Each process encodes its share.

    Rank 0 gets all of them, another process (0, dim), except in training on stored vectors.
    """
    n = len(items) if rows is None else len(rows)
    if rows is not None or training.group.size > 1:
        items = items.take((np.arange(n) if rows is None else rows)[training.group.share(n)])
    vectors = encode_items(training.model, items, training.precision, training.config.training.items_at_once)
    return training.group.gather(vectors, n, to_all=training.stored_only)


@torch.no_grad()
def initialise(training: Training, state: State) -> None:
    """Encode everything once: first centroids, label clusters for the free vectors, stored vectors."""
    model, data, init = training.model, training.data, training.config.prototype.init
    first = training.group.rank == 0
    queries, labels = encode_shared(training, data.queries), encode_shared(training, data.labels)
    if model.centred:
        if first:
            # Queries and labels count alike, as in a batch. The stored centre is zero so far.
            used = slice(None) if len(data.rows) == len(queries) else torch.from_numpy(data.rows)
            model.centre.copy_((queries[used].mean(dim=0) + labels.mean(dim=0)) / 2)
        training.group.broadcast(model.centre)
        queries -= model.centre.cpu()
        labels -= model.centre.cpu()
    state.stored.fill(queries)
    if training.stored_only:
        state.query_u, state.label_u = queries, labels
    del queries  # at full size, as large as what is stored
    if model.prototypes is not None:
        free = model.prototypes.free
        if first:
            unit, seed = F.normalize(labels, dim=1), derived_seed(training.seed, CLUSTER)
            clusters = balanced_groups(unit.to(free.weight.device), free.num_embeddings, seed)
            model.cluster.copy_(torch.from_numpy(clusters))
            if init == "label-mean":
                free.weight.copy_(group_means(unit, clusters, free.num_embeddings))
            elif init == "zeros":
                free.weight.zero_()
            # With "xavier" they stay as the model drew them.
            if training.earlier is not None:
                say_what_was_kept(training, training.earlier.free_vectors(model, training.label_texts))
        training.group.broadcast(model.cluster, free.weight)
    if model.has_centroids:
        refresh_centroids(training, state)
    if training.config.method == "all-labels":
        start_vectors(training, state.stored.read(), training.data.rows, labels)
        if training.earlier is not None:
            n_known = training.earlier.label_vectors(model, training.label_texts)
            if first:
                say_what_was_kept(training, n_known)


def say_what_was_kept(training: Training, n_known: int) -> None:
    """Print how many labels keep the vectors that they had in the earlier model."""
    n_new = len(training.label_texts) - n_known
    warn(f"starts from {training.earlier.folder}: {n_known:,} labels keep their vectors, {n_new:,} are new")


def start_vectors(training: Training, queries: Tensor, rows: np.ndarray | None, label_u: Tensor) -> None:
    """Set each label's own vector to its centroid plus a share of its text vector.

    ``queries`` and ``rows`` are as in :func:`vixml.training.vectors.label_means`; ``label_u``, (n_labels, dim) float32 text
    vectors, is not normalised.
    """
    model = training.model
    if training.group.rank == 0:
        centroids, has = label_means(queries, training.data.used_truth, rows)
        centroids.add_(F.normalize(label_u, dim=1), alpha=training.config.prototype.text_start)
        model.vectors.detach().copy_(centroids)
        model.has_vector.copy_(has)
    training.group.broadcast(model.vectors, model.has_vector)


def refit_labels(training: Training, state: State, view: TrainingView) -> None:
    """Fit each label's own vector to the final vectors of the training queries (``training.refit_epochs``)."""
    model, data, config = training.model, training.data, training.config
    if not config.training.refit_epochs:
        return
    if training.stored_only:
        queries, label_u = state.query_u[torch.from_numpy(data.rows)], state.label_u
    else:
        queries, label_u = encode_shared(training, data.queries, data.rows), encode_shared(training, data.labels)
    F.normalize(queries, dim=1, out=queries)  # in place: at full size, as large as what is stored
    state.refitting = True
    start_vectors(training, queries, None, label_u)
    if training.group.rank == 0:
        refit(model.vectors, queries, data.used_truth, config, training.seed, view.refit)
    training.group.broadcast(model.vectors)
    state.refitting = False


def update_groups(training: Training, state: State, view: TrainingView) -> None:
    """Cluster the stored query vectors in the epochs of the curriculum (NGAME)."""
    mining, epoch = training.config.mining, state.epoch
    # Vectors at the start of an epoch are those at the end of the one before.
    at = epoch - 1 if mining is not None and mining.cluster == "end" else epoch
    if mining is None or at < mining.start:
        state.groups = None
    elif state.groups is None or (at - mining.start) % mining.update == 0:
        rows = training.data.rows
        seed, groups_wanted = derived_seed(training.seed, CLUSTER, epoch + 1), n_groups(mining, len(rows), at)
        groups = np.empty(len(rows), dtype=np.int64)
        if training.group.rank == 0:
            try:
                groups = balanced_groups(state.stored.take(rows, training.device), groups_wanted, seed)
            except torch.OutOfMemoryError:  # no batch is in memory here, so no setting would help
                view.warn(
                    "the GPU's memory is too small to group all queries: the processor does it, which takes longer"
                )
                groups = balanced_groups(state.stored.take(rows), groups_wanted, seed)
        state.groups = training.group.first(groups)


def refresh_centroids(training: Training, state: State, encode_again: bool = False) -> None:
    """Set each label's centroid to the mean of its training queries' vectors (no moving average).

    ``encode_again``: encode the queries with the current model, without dropout, instead of reading their stored vectors.
    """
    model, data, rows = training.model, training.data, training.data.rows
    vectors, source = state.stored.read(), rows
    if encode_again and not training.stored_only:
        vectors, source = encode_shared(training, data.queries, rows), None
        F.normalize(vectors, dim=1, out=vectors)  # in place: at full size, as large as what is stored
    if training.group.rank == 0:
        _, has = label_means(vectors, data.used_truth, source, out=model.centroid)
        model.has_centroid.copy_(has)
    training.group.broadcast(model.centroid, model.has_centroid)


def epoch_report(training: Training, state: State) -> dict[str, Any] | None:
    """Return the finished epoch's losses and diagnostics, on labels and on the held-out training queries; None in other ranks.

    Raises:
        VixmlError: the run has diverged.
    """
    model, data, held_out, rows = training.model, training.data, training.held_out, training.data.rows
    means = {name: round(float(total) / len(rows), 6) for name, total in state.sums.items()}
    labels = diagnostics.watched(len(data.labels), len(held_out))
    if training.stored_only:
        label_u, validation = state.label_u[torch.from_numpy(labels)], state.query_u[torch.from_numpy(held_out)]
    else:
        label_u = encode_shared(training, data.labels, labels)
        validation = encode_shared(training, data.queries, held_out)
    if training.group.rank:
        return None
    stored = state.stored.take(rows)
    diagnostics.require_finite(means["loss"], stored, state.epoch)
    label_z = all_prototypes(model, label_u, labels=labels) if model.has_prototypes else None
    held_out_queries = diagnostics.WatchedQueries(F.normalize(validation, dim=1), data.truth.take(held_out))
    trained = diagnostics.WatchedQueries(stored, data.used_truth)
    diagnosed = diagnostics.diagnose(model, labels, label_u, label_z, held_out_queries, trained)
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
    """Show a training's progress: a bar with loss, speed and time left, and a line per epoch."""

    def __init__(self, advance: Quiet, name: str, epochs: int) -> None:
        self.advance, self.name, self.epochs = advance, name, epochs
        self.seen, self.started = 0, time.monotonic()

    def step(self, n: int, loss: Tensor) -> None:
        """Count ``n`` queries. The loss is read from its device only if it is shown."""
        self.seen += n
        speed = self.seen / max(time.monotonic() - self.started, 1e-9)
        self.advance(n, lambda: f"loss {float(loss):.3f}, {speed:.0f} samples/s")

    def refit(self, n: int) -> None:
        """Count ``n`` queries whose label vectors are fitted once more."""
        self.advance(n, lambda: "fitting label vectors")

    def resume(self, n: int, epoch: int) -> None:
        """Print where an interrupted run resumes: after ``n`` queries, in ``epoch``."""
        self.advance.skip(n)
        self.advance.say(f"{self.name}: resumes in epoch {epoch + 1}/{self.epochs}, from its checkpoint")

    def epoch(self, report: dict[str, Any]) -> None:
        """Print the epoch's loss and, with held-out queries, its P@1 by text vector and prototype."""
        shown = [f"{self.name}: epoch {report['epoch'] + 1}/{self.epochs}", f"loss {report['loss']:.4f}"]
        shown += [f"{report['samples_per_second']:.0f} samples/s"]
        shown += [f"validation P@1 {k[-1]} {report[k]:.1f}" for k in ("P@1/u", "P@1/z") if k in report]
        self.advance.say(", ".join(shown))

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self.advance.say(f"WARNING {self.name}: {sentence}")
