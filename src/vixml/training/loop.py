"""The training loop: epochs, steps, mining, centroids, checkpoints. Read top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.config.run import RunConfig
from vixml.models.encode import all_prototypes, encode_items
from vixml.models.siamese import Siamese
from vixml.ragged import Ragged
from vixml.training import diagnostics
from vixml.training.batches import (
    CLUSTER,
    INIT,
    Batch,
    EpochBatches,
    TrainingSet,
    draw_positives,
    generator,
    iterate,
    query_order,
)
from vixml.training.clustering import balanced_groups, group_means
from vixml.training.losses import total_loss
from vixml.training.optimizer import autocast, make_optimizer, set_learning_rates
from vixml.training.state import SaveClock, load_checkpoint, save_checkpoint

Gather = Callable[[np.ndarray], np.ndarray]


class Trainer:
    """Train one run; :meth:`fit` resumes by itself from its checkpoint.

    Args:
        config: the run.
        model: already on its device.
        data: what training reads.
        validation_rows: (n_val,) int64 rows of train held out, for diagnostics.
        gather: image rows -> vectors, or None for text only.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        seed: of the run.
        checkpoint_dir: where the running state goes.
        identity: digest of config and inputs; guards the checkpoint.
        log: told a dictionary for each finished epoch.
        progress: told ``(queries, loss)`` after each step; the loss stays on its device unless it is shown.
        warn: told a sentence.
        resumed: told ``(queries done, epoch)`` when the run goes on from a checkpoint.
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
    ) -> None:
        self.config, self.model, self.data, self.validation_rows = config, model, data, validation_rows
        self.gather, self.precision, self.seed = gather, precision, seed
        self.checkpoint_dir, self.identity = checkpoint_dir, identity
        self.log, self.progress, self.warn, self.resumed = log, progress, warn, resumed
        self.device = next(model.parameters()).device
        self.prime, self.has_z = model.has_centroids, model.prototypes is not None
        self.steps_per_epoch = math.ceil(len(data.rows) / config.training.batch_size)
        self.total_steps = self.steps_per_epoch * config.training.epochs
        # A frozen text encoder gives the same vector each time: encode once, train on the stored vectors.
        self.stored_only = model.frozen and model.projection is None
        self.stored: Tensor = torch.zeros(0)  # (n_train, dim) unit query vectors as last seen
        self.label_u: Tensor | None = None  # (n_labels, dim) text vectors of a frozen encoder
        self.groups: np.ndarray | None = None
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.epoch, self.step_in_epoch = 0, 0
        self.sums: dict[str, float] = {}

    # -- set-up ---------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Encode everything once: first centroids, label clusters for the free vectors, stored vectors."""
        queries = self._encode_split(self.data.query_tokens, self.data.query_images)
        labels = self._encode_split(self.data.label_tokens, self.data.label_images)
        if self.model.centred:
            # As in a batch: as many queries as labels, about. The stored centre is zero until here.
            used = queries[torch.from_numpy(self.data.rows)]
            centre = (used.mean(dim=0) + labels.mean(dim=0)) / 2
            self.model.centre.copy_(centre)
            queries, labels = queries - centre, labels - centre
        self.stored = F.normalize(queries, dim=1)
        if self.stored_only:
            self.label_u, self.query_u = labels, queries
        if self.has_z:
            unit = F.normalize(labels, dim=1)
            n_free = self.model.prototypes.free.num_embeddings
            clusters = balanced_groups(unit, n_free, int(generator(self.seed, CLUSTER).integers(2**31)))
            self.model.cluster.copy_(torch.from_numpy(clusters))
            with torch.no_grad():
                if self.config.prototype.init == "label-mean":
                    self.model.prototypes.free.weight.copy_(group_means(unit, clusters, n_free))
                elif self.config.prototype.init == "zeros":
                    self.model.prototypes.free.weight.zero_()
        if self.prime:
            self.refresh_centroids()

    def _encode_split(self, tokens: Ragged, images: Ragged | None) -> Tensor:
        return encode_items(
            self.model,
            tokens,
            images,
            self.gather,
            lambda: autocast(self.precision, self.device),
            prompt=self.data.prompt,
        )

    def refresh_centroids(self) -> None:
        """Set each label's centroid to the mean of its training queries' stored vectors (no moving average)."""
        truth = self.data.truth.take(self.data.rows)
        counts = torch.from_numpy(truth.counts())
        holders = truth.transpose()
        sums = F.embedding_bag(
            torch.from_numpy(holders.values.astype(np.int64)),
            self.stored[torch.from_numpy(self.data.rows)],
            torch.from_numpy(holders.offsets[:-1]),
            mode="sum",
        )
        self.model.centroid.copy_(sums / counts.clamp_min(1)[:, None])
        self.model.has_centroid.copy_(counts > 0)

    def update_groups(self, epoch: int) -> None:
        """Cluster the stored query vectors when the curriculum asks for it (NGAME)."""
        mining = self.config.mining
        if mining is None or epoch < mining.start:
            self.groups = None
        elif self.groups is None or (epoch - mining.start) % mining.update == 0:
            size = mining.size * 2 ** sum(epoch >= e for e in mining.double_at)
            rows = self.data.rows
            n_groups = max(1, math.ceil(len(rows) / size))
            seed = int(generator(self.seed, CLUSTER, epoch + 1).integers(2**31))
            self.groups = balanced_groups(self.stored[torch.from_numpy(rows)], n_groups, seed)

    # -- the loop -------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last epoch, from the checkpoint if there is one."""
        self.optimizer = make_optimizer(self.model, self.config.optimizer)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        resumed = load_checkpoint(self.checkpoint_dir, self.identity)
        if resumed is not None:
            self._restore(resumed)
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
            for batch in iterate(self._batches(), self.step_in_epoch, self.config.training.workers):
                self._step(batch)
                self.step_in_epoch += 1
                if saving.due(epoch_ended=False):
                    self.seconds += time.perf_counter() - clock
                    saving.run(self._save)
                    clock = time.perf_counter()
            self.model.refresh_centre()
            if self.prime:
                self.refresh_centroids()
            self.seconds += time.perf_counter() - clock
            self._finish_epoch()
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            if saving.due(epoch_ended=True):
                saving.run(self._save)

    def _batches(self) -> EpochBatches:
        data, epoch = self.data, self.epoch
        order = query_order(data.rows, self.groups, self.seed, epoch)
        positives = draw_positives(data.truth, data.rows, data.weights, self.seed, epoch)
        size = self.config.training.batch_size
        return EpochBatches(data, order, positives, size, self.seed, epoch, with_text=not self.stored_only)

    def _step(self, batch: Batch) -> None:
        step = self.epoch * self.steps_per_epoch + self.step_in_epoch
        set_learning_rates(self.optimizer, self.peaks, step, self.total_steps)
        with autocast(self.precision, self.device):
            u_queries, u_labels = self._vectors(batch)
        # Scores, margins and norms in float32: half precision would round margins of 0.1.
        queries, texts = F.normalize(u_queries.float(), dim=1), F.normalize(u_labels.float(), dim=1)
        labels = torch.from_numpy(batch.labels).to(self.device)
        with autocast(self.precision, self.device):
            prototypes = self.model.prototype(u_labels, labels) if self.has_z else None
        n, m = len(batch.queries), len(batch.labels)
        is_positive = torch.zeros(n, m, dtype=torch.bool)
        is_positive[batch.pairs[:, 0], batch.pairs[:, 1]] = True
        drawn = (torch.from_numpy(x).to(self.device) for x in (batch.drawn_label, batch.drawn_query))
        loss, terms = total_loss(
            queries, texts, prototypes, is_positive.to(self.device), *drawn, self.config.loss, self.config.method
        )
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            self.scaler.scale(loss).backward()
            if self.config.optimizer.clip_norm is not None:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.stored[torch.from_numpy(batch.queries)] = queries.detach().cpu()
        for name, value in {"loss": loss, **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * n
        self.progress(n, loss.detach())

    def _vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the batch's query and label vectors, not normalised: (n, dim), (m, dim)."""
        if self.stored_only:
            return (
                self.query_u[torch.from_numpy(batch.queries)].to(self.device),
                self.label_u[torch.from_numpy(batch.labels)].to(self.device),
            )
        packed = batch.packed
        images = self.gather(packed.image_rows) if len(packed.image_rows) else None
        u = self.model.encode(packed, images)
        return u[: len(batch.queries)], u[len(batch.queries) :]

    def _finish_epoch(self) -> None:
        n = len(self.data.rows)
        means = {name: round(float(total) / n, 6) for name, total in self.sums.items()}
        diagnostics.require_finite(means["loss"], self.stored[torch.from_numpy(self.data.rows)], self.epoch)
        report = {
            "epoch": self.epoch,
            "steps": self.step_in_epoch,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(n * (self.epoch + 1) / max(self.seconds, 1e-9), 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            **{("loss" if k == "loss" else f"loss/{k}"): v for k, v in means.items()},
            **self.diagnose(),
        }
        if diagnostics.is_collapsed(
            means["loss"],
            report["cosine_queries"],
            report.get("cosine_prototypes", report["cosine_u"]),
            self.config.loss,
            self.prime,
        ):
            self.warn(
                f"epoch {self.epoch}: the run has collapsed: loss {means['loss']:.3f} is that of equal similarities and "
                f"the mean cosine of queries is {report['cosine_queries']:.3f}. Lower the learning rates, lengthen the "
                "warm-up, or see docs/deviations.md."
            )
        self.history.append(report)
        self.log(report)

    def diagnose(self) -> dict[str, float]:
        """Return the epoch's diagnostics on all labels and the held-out training queries."""
        label_u = (
            self.label_u if self.stored_only else self._encode_split(self.data.label_tokens, self.data.label_images)
        )
        label_z = all_prototypes(self.model, label_u) if self.has_z else None
        held = self.validation_rows
        if self.stored_only:
            validation = F.normalize(self.query_u[torch.from_numpy(held)], dim=1)
        else:
            images = self.data.query_images.take(held) if self.data.query_images is not None else None
            validation = F.normalize(self._encode_split(self.data.query_tokens.take(held), images), dim=1)
        rows = torch.from_numpy(self.data.rows)
        return diagnostics.evaluate(
            self.model, label_u, label_z, validation, self.data.truth.take(held), self.stored[rows],
            self.data.truth.take(self.data.rows),
        )  # fmt: skip

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        state = {
            "model": self.model.learned_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stored": self.stored,
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
        self.stored, self.sums, self.seconds = state["stored"], state["sums"], state["seconds"]
        self.groups = None if state["groups"] is None else state["groups"].numpy()
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.history = state["history"]
        if self.stored_only:
            self.label_u, self.query_u = state["label_u"], state["query_u"]
