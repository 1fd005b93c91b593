"""The stage ``train``: a run's configuration and inputs in, a model folder out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vixml.config.registry import Propensity
from vixml.config.run import CARRIED_OUT, RunConfig
from vixml.config.run import Optimizer as OptimizerConfig
from vixml.data.propensity import inverse_propensity
from vixml.digest import stage_digest
from vixml.files import save_array, sha256_json, write_json, write_text
from vixml.memory import enough_memory
from vixml.models.encode import all_prototypes, encode_items, fewer_items
from vixml.models.inputs import RunInputs, open_inputs
from vixml.models.siamese import Siamese, build_model, save_model
from vixml.progress import Quiet, bar
from vixml.provenance import describe_input, stage
from vixml.ragged import Ragged
from vixml.runtime import CLUSTER, DROPOUT, INIT, autocast, batch_workers, choose_precision, generator, send
from vixml.training import diagnostics
from vixml.training.batches import Batch, EpochBatches, Part, TrainingSet, draw_positives, iterate, query_order
from vixml.training.checkpoint import SaveClock, load_checkpoint, save_checkpoint
from vixml.training.clustering import balanced_groups, group_means
from vixml.training.distributed import ALONE, Team, all_of, join, leave
from vixml.training.losses import total_loss

# --- AdamW groups and the learning rate's schedule (paper, appendix A).


def parameter_groups(model: Siamese, config: OptimizerConfig) -> list[dict]:
    """Return AdamW's groups: language model or new parts, with or without weight decay.

    Biases, norms (all that is one-dimensional) and free vectors are not decayed; in the official form other norms than
    those called ``LayerNorm.weight`` are (docs/deviations.md D28). Parameters without a gradient (a frozen encoder, all
    but the adapters) are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_new = not name.startswith("backbone.")
        if config.weight_decay_on == "matrices":
            plain = parameter.ndim < 2
        else:
            plain = "bias" in name or name.endswith("LayerNorm.weight")
        plain = plain or name == "prototypes.free.weight"
        groups.setdefault((is_new, plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr_new if is_new else config.lr,
            "weight_decay": 0.0 if plain else config.weight_decay,
            "warmup": config.warmup_steps if config.warmup_steps_new is None or not is_new else config.warmup_steps_new,
            "ahead": config.warmup_from == "first-step",
        }
        for (is_new, plain), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def make_optimizer(model: Siamese, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW over :func:`parameter_groups`, in its fused form (one pass over the parameters)."""
    # A frozen encoder with nothing on top has nothing to learn; torch wants a group all the same.
    groups = parameter_groups(model, config) or [{"params": [], "lr": config.lr, "warmup": 0, "ahead": True}]
    return torch.optim.AdamW(groups, eps=config.eps, fused=True)


def learning_rate_factor(step: int, warmup: int, total: int, ahead: bool = True) -> float:
    """Return the schedule's factor for step ``step`` (from 0): linear warm-up, then linear decay to zero.

    Args:
        step: from 0.
        warmup: steps of warm-up.
        total: steps in all.
        ahead: whether the first step takes the first part of the ramp already; else its rate is 0 (D27).

    Example:
        >>> [learning_rate_factor(s, 2, 6) for s in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
        >>> [learning_rate_factor(s, 2, 6, ahead=False) for s in range(4)]
        [0.0, 0.5, 1.0, 0.75]
    """
    if step < warmup:
        return (step + ahead) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def set_learning_rates(optimizer: torch.optim.Optimizer, peaks: list[float], step: int, total: int) -> None:
    """Set every group's learning rate for step ``step`` of ``total``; a pure function, so there is no state to keep."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * learning_rate_factor(step, group["warmup"], total, group["ahead"])


# --- What a person sees of a training run: a bar with loss, speed and time left, and a line for each epoch.


class TrainingView:
    """Translate the trainer's callbacks for a progress bar.

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
        """Say where an interrupted run goes on: after ``n`` queries, in ``epoch``."""
        self.advance.skip(n)
        self.advance.say(f"{self.name}: goes on in epoch {epoch + 1}/{self.epochs}, from its checkpoint")

    def epoch(self, report: dict[str, Any]) -> None:
        """Print the epoch's loss and, where queries are held out, its P@1 by text vector and prototype."""
        words = [f"{self.name}: epoch {report['epoch'] + 1}/{self.epochs}", f"loss {report['loss']:.4f}"]
        words += [f"{report['samples_per_second']:.0f} samples/s"]
        words += [f"validation P@1 {k[-1]} {report[k]:.1f}" for k in ("P@1/u", "P@1/z") if k in report]
        self.advance.say(", ".join(words))

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self.advance.say(f"WARNING {self.name}: {sentence}")


# --- What a label has beside its text: the free vector of its cluster, and the mean of its training queries.


@torch.no_grad()
def set_free_vectors(model: Siamese, labels: Tensor, init: str, seed: int) -> None:
    """Share the free vectors out among clusters of labels, and give them their first values.

    Args:
        model: with prototypes; its ``cluster`` and free vectors are set.
        labels: (n_labels, dim) float32, unit text vectors.
        init: ``label-mean``, ``zeros``, or ``xavier``: they stay as the model was built.
        seed: of the clustering.
    """
    free = model.prototypes.free
    clusters = balanced_groups(labels.to(free.weight.device), free.num_embeddings, seed)
    model.cluster.copy_(torch.from_numpy(clusters))
    if init == "label-mean":
        free.weight.copy_(group_means(labels, clusters, free.num_embeddings))
    elif init == "zeros":
        free.weight.zero_()


def label_means(queries: Tensor, truth: Ragged) -> tuple[Tensor, Tensor]:
    """Return each label's centroid, the mean of its training queries (no moving average).

    Args:
        queries: (n, dim) float32 unit rows.
        truth: (n rows) label ids.

    Returns:
        (n_labels, dim) float32, zero for labels without a query, and (n_labels,) bool, whether there is one.
    """
    counts = torch.from_numpy(truth.counts())
    holders = truth.transpose()
    sums = F.embedding_bag(
        torch.from_numpy(holders.values.astype(np.int64)), queries, torch.from_numpy(holders.offsets[:-1]), mode="sum"
    )
    return sums / counts.clamp_min(1)[:, None], counts > 0


# --- The vector of every training query as it was last seen, kept in main memory while a GPU goes on computing.


class Stored:
    """One vector a training query.

    A step's vectors are copied off the GPU without waiting for them, and put in their rows while the next step runs.

    Attributes:
        tensor: (n_train, dim) float32 on the CPU. Read it through :meth:`read`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.pending: tuple[Tensor, Tensor, torch.cuda.Event] | None = None

    def put(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Store ``vectors`` (n, dim), on any device, in ``rows`` (n,) int64."""
        places = torch.from_numpy(rows)
        if vectors.device.type == "cpu":
            self.tensor[places] = vectors
            return
        self._finish()
        landing = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        landing.copy_(vectors, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.pending = (places, landing, event)

    def read(self) -> Tensor:
        """Return all vectors, those on their way included."""
        self._finish()
        return self.tensor

    def _finish(self) -> None:
        if self.pending is not None:
            places, landing, event = self.pending
            event.synchronize()
            self.tensor[places] = landing
            self.pending = None


# --- The vectors of a batch, and the way of their gradient back through the encoder, part by part.


class EncodedBatch:
    """Encode a batch; :attr:`vectors` is where the loss begins, :meth:`backward` where its gradient goes on.

    Args:
        model: the Siamese model.
        batch: with its parts.
        team: the processes that share the batch.
        autocast: makes a fresh precision context.
        seed: of the run; dropout is drawn from it, the step and the part, so a part is the same when encoded again.
        epoch: from 0.
        index: the batch's place in the epoch.

    Attributes:
        vectors: (n + m, dim) float32, queries then labels, not normalised; a leaf, so that the loss ends its pass here.
    """

    def __init__(
        self,
        model: Siamese,
        batch: Batch,
        team: Team,
        autocast: Callable[[], AbstractContextManager],
        seed: int,
        epoch: int,
        index: int,
    ) -> None:
        self.model, self.batch, self.autocast = model, batch, autocast
        self.draw = (seed, DROPOUT, epoch, index)
        n = len(batch.queries) + len(batch.labels)
        self.own = team.share(n)
        with torch.no_grad():
            parts = [self._encode(part) for part in batch.parts[:-1]]
        self.held = self._encode(batch.parts[-1]) if batch.parts else None
        if self.held is not None:
            parts.append(self.held.detach())
        if not parts:  # more processes than items
            parts = [torch.zeros(0, model.backbone.dim, device=next(model.parameters()).device)]
        self.vectors = team.gather(torch.cat(parts) if len(parts) > 1 else parts[0], n).requires_grad_()

    def _encode(self, part: Part) -> Tensor:
        torch.manual_seed(int(generator(*self.draw, part.first).integers(2**31)))
        with self.autocast():
            return self.model.encode(part.packed, part.images)

    def backward(self) -> None:
        """Carry the gradient of :attr:`vectors` into the encoder's parameters; does nothing if the loss gave none."""
        if self.vectors.grad is None:
            return
        gradient = self.vectors.grad[self.own]
        # The held part first: its activations make room for those of the next.
        for part in reversed(self.batch.parts):
            first = part.first - self.own.start
            vectors = self._encode(part) if self.held is None else self.held
            self.held = None
            if vectors.requires_grad:
                vectors.backward(gradient[first : first + len(vectors)])


# --- The training loop: epochs, steps, mining, centroids, checkpoints. Read top to bottom.


Gather = Callable[[np.ndarray], np.ndarray]


class Trainer:
    """Train one run; :meth:`fit` resumes by itself from its checkpoint.

    Args:
        config: the run.
        model: already on its device.
        data: what training reads.
        validation_rows: (n_val,) int64 rows of train held out, for diagnostics.
        gather: image rows -> (n_images, image_dim) vectors, or None for text only.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        seed: of the run.
        checkpoint_dir: where the running state goes.
        identity: digest of config and inputs; guards the checkpoint.
        log: told a dictionary for each finished epoch.
        progress: told ``(queries, loss)`` after each step; the loss stays on its device unless it is shown.
        warn: told a sentence.
        resumed: told ``(queries done, epoch)`` when the run goes on from a checkpoint.
        team: the processes that train it together; the first one saves.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Siamese,
        data: TrainingSet,
        validation_rows: np.ndarray,
        gather: Gather | None,
        precision: str,
        seed: int,
        checkpoint_dir: Path,
        identity: str,
        log: Callable[[dict[str, Any]], None],
        progress: Callable[[int, Tensor], None],
        warn: Callable[[str], None],
        resumed: Callable[[int, int], None] = lambda done, epoch: None,
        team: Team = ALONE,
    ) -> None:
        self.config, self.model, self.data, self.validation_rows = config, model, data, validation_rows
        self.gather, self.precision, self.seed = gather, precision, seed
        self.checkpoint_dir, self.identity = checkpoint_dir, identity
        self.log, self.progress, self.warn, self.resumed, self.team = log, progress, warn, resumed, team
        self.device = next(model.parameters()).device
        self.prime, self.has_z = model.has_centroids, model.prototypes is not None
        self.steps_per_epoch = math.ceil(len(data.rows) / config.training.batch_size)
        self.total_steps = self.steps_per_epoch * config.training.epochs
        # A frozen text encoder gives the same vector each time: encode once, train on the stored vectors.
        self.stored_only = model.frozen and model.projection is None
        self.stored = Stored(torch.zeros(0))  # (n_train, dim) unit query vectors as last seen
        self.label_u: Tensor | None = None  # (n_labels, dim) text vectors of a frozen encoder
        self.groups: np.ndarray | None = None
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.epoch, self.step_in_epoch = 0, 0
        self.sums: dict[str, float] = {}

    # -- set-up ---------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Encode everything once: first centroids, label clusters for the free vectors, stored vectors."""
        queries = self._encode(self.data.query_tokens, self.data.query_images)
        labels = self._encode(self.data.label_tokens, self.data.label_images)
        if self.model.centred:
            # As in a batch: as many queries as labels, about. The stored centre is zero until here.
            used = queries[torch.from_numpy(self.data.rows)]
            centre = (used.mean(dim=0) + labels.mean(dim=0)) / 2
            self.model.centre.copy_(centre)
            queries, labels = queries - centre, labels - centre
        self.stored = Stored(F.normalize(queries, dim=1))
        if self.stored_only:
            self.label_u, self.query_u = labels, queries
        if self.has_z:
            seed = int(generator(self.seed, CLUSTER).integers(2**31))
            set_free_vectors(self.model, F.normalize(labels, dim=1), self.config.prototype.init, seed)
        if self.prime:
            self.refresh_centroids()

    def _encode(self, tokens: Ragged, images: Ragged | None, rows: np.ndarray | None = None) -> Tensor:
        """Encode items, all or ``rows``: (n, dim) float32 on the CPU, not normalised. Each process encodes its share."""
        n = len(tokens) if rows is None else len(rows)
        if rows is not None or self.team.size > 1:
            own = (np.arange(n) if rows is None else rows)[self.team.share(n)]
            tokens, images = tokens.take(own), None if images is None else images.take(own)
        encoded = encode_items(
            self.model, tokens, images, self.gather, self._autocast, prompt=self.data.prompt,
            at_once=self.config.training.items_at_once,
        )  # fmt: skip
        return self.team.gather(encoded, n)

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    def refresh_centroids(self, encode: bool = False) -> None:
        """Set each label's centroid to the mean of its training queries' vectors (no moving average).

        Args:
            encode: encode the queries as the model is now, without dropout, in place of reading their stored vectors.
        """
        rows, data = self.data.rows, self.data
        if encode and not self.stored_only:
            queries = F.normalize(self._encode(data.query_tokens, data.query_images, rows), dim=1)
        else:
            queries = self.stored.read()[torch.from_numpy(rows)]
        means, has = label_means(queries, data.truth.take(rows))
        self.model.centroid.copy_(means)
        self.model.has_centroid.copy_(has)

    def update_groups(self, epoch: int) -> None:
        """Cluster the stored query vectors when the curriculum asks for it (NGAME)."""
        mining = self.config.mining
        # Vectors at the start of an epoch are those at the end of the one before.
        at = epoch - 1 if mining is not None and mining.cluster == "end" else epoch
        if mining is None or at < mining.start:
            self.groups = None
        elif self.groups is None or (at - mining.start) % mining.update == 0:
            rows = self.data.rows
            seed = int(generator(self.seed, CLUSTER, epoch + 1).integers(2**31))
            vectors, n_groups = self.stored.read()[torch.from_numpy(rows)], mining.n_groups(len(rows), at)
            try:
                groups = balanced_groups(vectors.to(self.device), n_groups, seed)
            except torch.OutOfMemoryError:  # no batch is in memory here, so there is nothing to make smaller
                self.warn("the GPU has no room to group all queries: the processor does it, which takes longer")
                groups = balanced_groups(vectors, n_groups, seed)
            self.groups = self.team.first(groups)

    # -- the loop -------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last epoch, from the checkpoint if there is one."""
        self.optimizer = make_optimizer(self.model, self.config.optimizer)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        resumed = load_checkpoint(self.checkpoint_dir, self.identity)
        if resumed is not None:
            self._restore(resumed)
        self.team.require_equal(self.epoch * self.steps_per_epoch + self.step_in_epoch, "the step to go on from")
        if resumed is not None:
            in_epoch = min(self.step_in_epoch * self.config.training.batch_size, len(self.data.rows))
            self.resumed(self.epoch * len(self.data.rows) + in_epoch, self.epoch)
        elif self.has_z or self.model.centred or self.config.training.epochs:
            torch.manual_seed(int(generator(self.seed, INIT, 1).integers(2**31)))
            self.initialise()
        saving = SaveClock(self.config.training.checkpoint_minutes)
        while self.epoch < self.config.training.epochs:
            if self.step_in_epoch == 0:
                self.update_groups(self.epoch)
                self.sums = {}
            self.model.train()
            clock = time.perf_counter()
            workers, pin = batch_workers(self.config.training.workers, self.device), self.device.type == "cuda"
            for batch in iterate(self._batches(), self.step_in_epoch, workers, pin):
                self._step(batch)
                self.step_in_epoch += 1
                if saving.due(epoch_ended=False):
                    self.seconds += time.perf_counter() - clock
                    saving.run(self._save)
                    clock = time.perf_counter()
            self.model.refresh_centre()
            if self.prime:
                last = self.epoch + 1 == self.config.training.epochs
                self.refresh_centroids(encode=last and self.config.prototype.last_centroids == "encoded")
            self.seconds += time.perf_counter() - clock
            self._finish_epoch()
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            if saving.due(epoch_ended=True):
                saving.run(self._save)

    def place(self) -> str:
        """Return where the training stands, for a reader."""
        if not self.model.training:
            return f"epoch {self.epoch + 1}, encoding queries and labels"
        return f"epoch {self.epoch + 1}, step {self.step_in_epoch + 1} of {self.steps_per_epoch}"

    def _batches(self) -> EpochBatches:
        data, epoch = self.data, self.epoch
        order = query_order(data.rows, self.groups, self.seed, epoch)
        positives = draw_positives(data.truth, data.rows, data.weights, self.seed, epoch)
        with_text = not self.stored_only
        return EpochBatches(data, self.config, order, positives, self.seed, epoch, self.gather, self.team, with_text)

    def _step(self, batch: Batch) -> None:
        step = self.epoch * self.steps_per_epoch + self.step_in_epoch
        set_learning_rates(self.optimizer, self.peaks, step, self.total_steps)
        n, m = len(batch.queries), len(batch.labels)
        encoded = None
        if self.stored_only:
            u_queries = send(self.query_u[torch.from_numpy(batch.queries)], self.device)
            u_labels = send(self.label_u[torch.from_numpy(batch.labels)], self.device)
        else:
            encoded = EncodedBatch(
                self.model, batch, self.team, self._autocast, self.seed, self.epoch, self.step_in_epoch
            )
            u_queries, u_labels = self.model.centred_vectors(encoded.vectors).split([n, m])
        # Scores, margins and norms in float32: half precision would round margins of 0.1.
        queries, texts = F.normalize(u_queries.float(), dim=1), F.normalize(u_labels.float(), dim=1)
        labels, pairs, *drawn = (
            torch.from_numpy(x).to(self.device, non_blocking=True)
            for x in (batch.labels, batch.pairs, batch.drawn_label, batch.drawn_query)
        )
        prototypes = None
        if self.has_z:
            # What is dropped follows from the step alone, whatever the encoder drew in whichever process.
            torch.manual_seed(int(generator(self.seed, DROPOUT, self.epoch, self.step_in_epoch, n + m).integers(2**31)))
            with self._autocast():
                prototypes = self.model.prototype(u_labels, labels)
        is_positive = torch.zeros(n, m, dtype=torch.bool, device=self.device)
        is_positive[pairs[:, 0], pairs[:, 1]] = True
        loss, terms = total_loss(queries, texts, prototypes, is_positive, *drawn, self.config.loss, self.config.method)
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            self.scaler.scale(loss).backward()
            if encoded is not None:
                encoded.backward()
            self._sum_gradients(batch)
            if self.config.optimizer.clip_norm is not None:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.stored.put(batch.queries, queries.detach())
        for name, value in {"loss": loss, **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * n
        self.progress(n, loss.detach())

    def _sum_gradients(self, batch: Batch) -> None:
        # Prototypes saw the whole batch, the encoder this process's share.
        whole = list(self.model.prototypes.parameters()) if self.has_z else []
        known = {id(parameter) for parameter in whole}
        if not batch.has_images and self.model.projection is not None:
            # No process uses it: it has no gradient, not one of zero, which AdamW would let decay.
            known |= {id(parameter) for parameter in self.model.projection.parameters()}
        share = [] if self.stored_only else [p for p in self.model.parameters() if id(p) not in known]
        self.team.sum_gradients(share, whole)

    def _finish_epoch(self) -> None:
        n = len(self.data.rows)
        means = {name: round(float(total) / n, 6) for name, total in self.sums.items()}
        diagnostics.require_finite(means["loss"], self.stored.read()[torch.from_numpy(self.data.rows)], self.epoch)
        report = {
            "epoch": self.epoch,
            "steps": self.step_in_epoch,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(n * (self.epoch + 1) / max(self.seconds, 1e-9), 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            **{("loss" if k == "loss" else f"loss/{k}"): v for k, v in means.items()},
            **self.diagnose(),
        }
        if (sentence := diagnostics.collapse_warning(report, self.config.loss, self.prime)) is not None:
            self.warn(sentence)
        self.history.append(report)
        self.log(report)

    def diagnose(self) -> dict[str, float]:
        """Return the epoch's diagnostics, on labels and on the held-out training queries."""
        held, rows = self.validation_rows, torch.from_numpy(self.data.rows)
        labels = diagnostics.watched(len(self.data.label_tokens), len(held))
        if self.stored_only:
            label_u, validation = self.label_u[torch.from_numpy(labels)], self.query_u[torch.from_numpy(held)]
        else:
            label_u = self._encode(self.data.label_tokens, self.data.label_images, labels)
            validation = self._encode(self.data.query_tokens, self.data.query_images, held)
        label_z = all_prototypes(self.model, label_u, labels=labels) if self.has_z else None
        return diagnostics.evaluate(
            self.model, labels, label_u, label_z, F.normalize(validation, dim=1), self.data.truth.take(held),
            self.stored.read()[rows], self.data.truth.take(self.data.rows),
        )  # fmt: skip

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if not self.team.leads:
            return
        state = {
            "model": self.model.learned_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stored": self.stored.read(),
            "groups": None if self.groups is None else torch.from_numpy(self.groups),
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "sums": {name: float(value) for name, value in self.sums.items()},
            "seconds": self.seconds,
            "history": self.history,
        }
        if self.stored_only:
            state |= {"label_u": self.label_u, "query_u": self.query_u}
        save_checkpoint(self.checkpoint_dir, self.identity, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_learned_state(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.stored, self.sums, self.seconds = Stored(state["stored"]), state["sums"], state["seconds"]
        self.groups = None if state["groups"] is None else state["groups"].numpy()
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.history = state["history"]
        if self.stored_only:
            self.label_u, self.query_u = state["label_u"], state["query_u"]


SCHEMA_VERSION = 1
VALIDATION_SEED = 20251117  # one held-out set for all runs and seeds, so that tuning compares like with like


def validation_rows(n_train: int, share: float, split: int = 0) -> np.ndarray:
    """Return the rows of train held out: (n,) int64, ascending; the same for every run of a data set with that split."""
    rng = np.random.default_rng(VALIDATION_SEED + split)
    return np.sort(rng.permutation(n_train)[: round(share * n_train)]).astype(np.int64)


def run_identity(config: RunConfig, seed: int, inputs: RunInputs, precision: str, propensity: Propensity) -> str:
    """Return the digest that a checkpoint must share to be resumed."""
    described = {name: describe_input(path)["sha256"] for name, path in inputs.named().items()}
    # Another way to the same result does not part a run from its past, the less so where it is the way out of an error:
    # after running out of memory with smaller parts, after a machine without liger-kernel with it. Workers and saving lead
    # to the same bytes; parts and kernels to the same gradient up to rounding, and parts draw their own dropout masks.
    settings = config.model_dump(exclude={"row": True, "inference": True, **CARRIED_OUT})
    # The propensities shape what is drawn, and the code what is learned: another of either leads elsewhere.
    return sha256_json(
        {
            "config": settings,
            "seed": seed,
            "inputs": described,
            "precision": precision,
            "propensity": propensity.model_dump(),
            "code": stage_digest("train"),
        }
    )


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
    """Train one run and publish its model; resumes from ``checkpoint/`` beside ``out`` if a former try was cut short.

    Args:
        dataset: for the record.
        run: for the record.
        seed: of everything random.
        config: the resolved run.
        propensity: constants of the data set, for drawing positives.
        inputs: where the inputs lie.
        out: folder to publish.
        device: where to train.
    """
    facts: dict[str, Any] = {}
    resolved = {"dataset": dataset, "run": run, "seed": seed, **config.model_dump()}
    team = join(device)
    if not team.leads:  # its files would be those of the first
        _fit(run, seed, config, propensity, inputs, out, device, team)
        leave()
        return
    with stage(out, "train", config=resolved, inputs=inputs.named(), facts=facts) as work:
        trainer = _fit(run, seed, config, propensity, inputs, out, device, team)
        leave()
        config, model, held, rows = trainer.config, trainer.model, trainer.validation_rows, trainer.data.rows
        precision = trainer.precision
        last = trainer.history[-1] if trainer.history else {}
        facts |= {"precision": precision, "device": str(device), "kernels": model.backbone.kernels, "last_epoch": last}
        save_model(work, model)
        save_array(work / "validation_rows.npy", held)
        write_text(work / "log.jsonl", "".join(json.dumps(line) + "\n" for line in trainer.history))
        write_json(
            work / "training.json",
            {
                "schema_version": SCHEMA_VERSION,
                "dataset": dataset,
                "run": run,
                "seed": seed,
                "epochs": config.training.epochs,
                "steps": trainer.total_steps,
                "seconds": round(trainer.seconds, 3),
                "hours": trainer.seconds / 3600,
                "samples_per_second": last.get("samples_per_second"),
                "device": _device_name(device),
                "processes": team.size,
                "threads": torch.get_num_threads(),
                "precision": precision,
                "kernels": model.backbone.kernels,
                "n_train": len(rows),
                "n_validation": len(held),
                "parameters": sum(p.numel() for p in model.parameters()) + model.backbone.left_out,
                "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "last_epoch": last,
            },
        )
    # The checkpoint has done its work once the model stands.
    checkpoint = out.parent / "checkpoint"
    for leftover in sorted(checkpoint.glob("*")):
        leftover.unlink()
    if checkpoint.exists():
        checkpoint.rmdir()


def _fit(
    run: str,
    seed: int,
    config: RunConfig,
    propensity: Propensity,
    inputs: RunInputs,
    out: Path,
    device: torch.device,
    team: Team,
) -> Trainer:
    """Train to the last epoch and return the trainer."""
    precision = choose_precision(config.training.precision, device, config.encoder.weights)
    config = config.at_precision(precision)
    data = open_inputs(inputs, config, seed)
    held = validation_rows(data.corpus.n("train"), config.training.validation, config.training.validation_split)
    rows = np.setdiff1d(np.arange(data.corpus.n("train")), held)
    truth = data.corpus.labels("train")
    rows = rows[truth.lengths[rows] > 0]
    weights = np.ones(truth.n_cols)
    if config.training.positives == "inverse-propensity":
        weights = inverse_propensity(truth.counts(), len(truth), propensity.a, propensity.b)
    training_set = TrainingSet(
        data.tokens["train"], data.tokens["label"], data.images["train"], data.images["label"], truth, rows, weights,
        data.prompts["train"],
    )  # fmt: skip
    model = build_model(
        config, inputs.model_dir, truth.n_cols, data.image_dim, seed, data.prompts["train"], data.words(), device
    )
    name, epochs = f"{run} seed {seed}", config.training.epochs
    with bar(name, len(rows) * epochs) if team.leads else nullcontext(Quiet()) as advance:
        view = TrainingView(advance, name, epochs)
        with enough_memory(lambda: f"train {name}: the model does not fit", lambda: fewer_items(config, 0)):
            model = model.to(device)
        trainer = Trainer(
            config, model, training_set, held, data.gather, precision, seed, out.parent / "checkpoint",
            run_identity(config, seed, inputs, precision, propensity), view.epoch, view.step, view.warn, view.resume,
            team,
        )  # fmt: skip
        with (
            all_of(team),
            enough_memory(
                lambda: f"train {name}, {trainer.place()}", lambda: fewer_items(config, model.encoding, model.training)
            ),
        ):
            trainer.fit()
    return trainer


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    from vixml.provenance import machine

    return machine()["processor"]
