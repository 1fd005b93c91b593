"""The training loop: epochs, steps, mining, centroids, checkpoints. Read top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
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
from vixml.runtime import autocast
from vixml.training import diagnostics
from vixml.training.batches import (
    CLUSTER,
    DROPOUT,
    INIT,
    Batch,
    EpochBatches,
    TrainingSet,
    draw_positives,
    generator,
    iterate,
    query_order,
)
from vixml.training.clustering import balanced_groups
from vixml.training.device import batch_workers, send
from vixml.training.encoded import EncodedBatch
from vixml.training.label_vectors import label_means, set_free_vectors
from vixml.training.losses import total_loss
from vixml.training.optimizer import make_optimizer, set_learning_rates
from vixml.training.state import SaveClock, load_checkpoint, save_checkpoint
from vixml.training.stored import Stored
from vixml.training.team import ALONE, Team

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
