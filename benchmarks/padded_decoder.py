"""The straightforward way of benchmarks/decoder_step.py: padded sequences, eager attention, everything checkpointed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml import torchvision_fix as _first  # noqa: F401 -- before transformers

# isort: split
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel

from vixml.models.packing import Sequences
from vixml.models.prompt import IMAGES, TEXT
from vixml.training.batches import Batch, TrainingSet
from vixml.training.losses import Positives, total_loss
from vixml.training.train import State, Training


class Straightforward:
    """The same step written the way one would first, on the same parameters and optimizer."""

    def __init__(self, training: Training, state: State) -> None:
        self.training, self.model, self.optimizer, self.at_once = training, training.model, state.optimizer, None
        ours = self.model.backbone.network
        config, lora = AutoConfig.for_model(**ours.base_model.model.config.to_dict()), training.config.encoder.lora
        with torch.device("meta"):
            network = AutoModel.from_config(config, attn_implementation="eager")
            settings = LoraConfig(r=lora.r, lora_alpha=lora.alpha, use_rslora=True, target_modules="all-linear")
            self.network = get_peft_model(network, settings)
        self.network.load_state_dict(ours.state_dict(keep_vars=True), assign=True)
        for name, buffer in ours.named_buffers():
            parent, _, last = name.rpartition(".")
            self.network.get_submodule(parent).register_buffer(last, buffer, persistent=False)
        self.network.base_model.model.activation_checkpointing_enable({"use_reentrant": False})
        self.network.train()

    def encode(self, items: Sequences) -> Tensor:
        """Return (n, dim) float32 vectors of padded sequences."""
        device, n = self.training.device, len(items)
        embed, pieces, masks = self.network.get_input_embeddings(), [], []
        for piece in items.prompt.pieces:
            rows = {TEXT: items.tokens, IMAGES: items.images}[piece] if isinstance(piece, str) else None
            lengths = np.full(n, len(piece)) if rows is None else rows.lengths
            there = np.arange(lengths.max()) < lengths[:, None]
            masks.append(torch.from_numpy(there).to(device))
            if piece == IMAGES:
                vectors = np.zeros((*there.shape, self.model.projection.in_features), dtype=np.float32)
                vectors[there] = items.gather(items.images.values)
                pieces.append(self.model.projection(torch.from_numpy(vectors).to(device)))
            else:
                ids = np.zeros(there.shape, dtype=np.int64)
                ids[there] = np.tile(piece, n) if rows is None else rows.values
                pieces.append(embed(torch.from_numpy(ids).to(device)))
        mask = torch.cat(masks, dim=1).long()
        hidden = self.network(
            inputs_embeds=torch.cat([piece.to(pieces[0].dtype) for piece in pieces], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp_min(0),
        ).last_hidden_state
        return (hidden.float() * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def encode_items(self, items: Sequences) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return vectors of all items, and what carries their gradient back; in parts all are encoded twice."""
        n = len(items)
        size = self.at_once or n
        parts = [np.arange(first, min(first + size, n)) for first in range(0, n, size)]

        def part(rows: np.ndarray) -> Tensor:
            with self.training.autocast():
                return self.encode(items.take(rows))

        if len(parts) == 1:
            held = part(parts[0])
            return held.detach().requires_grad_(), held.backward
        with torch.no_grad():
            vectors = torch.cat([part(rows) for rows in parts])

        def back(gradient: Tensor) -> None:
            for rows in parts:
                part(rows).backward(gradient[rows[0] : rows[-1] + 1])

        return vectors.requires_grad_(), back

    def step(self, batch: Batch) -> None:
        """Take one optimizer step on the queries and labels of ``batch``."""
        training, model, n, m = self.training, self.model, len(batch.queries), len(batch.labels)
        device = training.device
        vectors, back = self.encode_items(items_of(training.data, batch))
        u_queries, u_labels = model.centred_vectors(vectors).split([n, m])
        with training.autocast():
            z = model.prototype(u_labels, torch.from_numpy(batch.labels).to(device))
        positive = torch.zeros(n, m, dtype=torch.bool)
        positive[batch.pairs[:, 0], batch.pairs[:, 1]] = True
        drawn = (torch.from_numpy(x).to(device) for x in (batch.drawn_label, batch.drawn_query))
        unit = F.normalize(u_queries, dim=1), F.normalize(u_labels, dim=1)
        loss, _ = total_loss(*unit, z, Positives(positive.to(device), *drawn), training.config.loss)
        self.optimizer.zero_grad()
        loss.backward()
        back(vectors.grad)
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.config.optimizer.clip_norm)
        self.optimizer.step()


def items_of(data: TrainingSet, batch: Batch) -> Sequences:
    """Return a batch's items, queries then labels."""
    return data.queries.take(batch.queries).followed_by(data.labels.take(batch.labels))
