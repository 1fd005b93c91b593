"""The Siamese model: one encoder for queries and labels, images fused early or late, prototypes on top."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vixml.config.run import LateFusion as Settings
from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.files import atomic_path
from vixml.models.backbone import Backbone
from vixml.models.packing import Packed
from vixml.models.prompt import PLAIN, Prompt
from vixml.runtime import INIT, generator

# --- What represents a label beside its text: PRIME's prototype network (arXiv:2410.20401), DEXA's auxiliary
# vectors.


class PrototypeNetwork(nn.Module):
    """One post-norm transformer layer over the three tokens ``[u_r, v_cluster(r), c_r]``, mean-pooled, normalised.

    Args:
        dim: length of the vectors.
        free_vectors: number of learnable vectors, shared by the labels of a cluster.
        heads: attention heads.
        feedforward: width of the feed-forward part.
        dropout: dropout inside the layer.
        unit_text: normalise ``u`` before it enters (docs/deviations.md D17).
    """

    def __init__(
        self,
        dim: int,
        free_vectors: int,
        heads: int = 8,
        feedforward: int = 1024,
        dropout: float = 0.1,
        unit_text: bool = False,
    ) -> None:
        super().__init__()
        self.unit_text = unit_text
        self.free = nn.Embedding(free_vectors, dim)
        nn.init.xavier_uniform_(self.free.weight)
        self.layer = nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, activation="gelu", batch_first=True)

    def forward(self, u: Tensor, cluster: Tensor, centroid: Tensor) -> Tensor:
        """Return prototypes.

        Args:
            u: (n, dim) float32, label text vectors as the encoder gives them, *not* normalised.
            cluster: (n,) int64, each label's free vector.
            centroid: (n, dim) float32, mean of the label's training queries.

        Returns:
            (n, dim) float32 unit rows ``z``.
        """
        if self.unit_text:
            u = F.normalize(u.float(), dim=-1)
        three = torch.stack([u, self.free(cluster), centroid.to(u.dtype)], dim=1)
        return F.normalize(self.layer(three).mean(dim=1).float(), dim=-1)


class AuxiliaryVectors(nn.Module):
    """DEXA: the normalised sum of a label's text vector and one free vector of its cluster (docs/deviations.md D19).

    Args:
        dim: length of the vectors.
        free_vectors: number of learnable vectors, shared by the labels of a cluster.
    """

    def __init__(self, dim: int, free_vectors: int) -> None:
        super().__init__()
        self.free = nn.Embedding(free_vectors, dim)
        nn.init.xavier_uniform_(self.free.weight)

    def forward(self, u: Tensor, cluster: Tensor) -> Tensor:
        """Return prototypes.

        Args:
            u: (n, dim) text vectors, not normalised; they are normalised here, so that a free vector's length counts
                against 1.
            cluster: (n,) int64, each label's free vector.

        Returns:
            (n, dim) float32 unit rows ``z``.
        """
        return F.normalize(F.normalize(u.float(), dim=-1) + self.free(cluster), dim=-1)


# --- Late fusion: a text vector and image vectors, each encoded alone, then joined by self-attention (MUFIN;
# docs/deviations.md D20).


class LateFusion(nn.Module):
    """One pre-norm transformer layer over ``[text; image 1; image 2; ...]`` of an item, mean-pooled.

    Both of its branches start at zero, and so does the projection of the images (vixml.models.siamese): training starts
    from the text vector. From a layer or a projection at random all items look alike at first, and PICTO's trainings fell
    into the collapsed state and stayed there.

    Args:
        dim: length of the vectors.
        settings: heads, width, dropout.
    """

    def __init__(self, dim: int, settings: Settings) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            dim,
            settings.heads,
            settings.feedforward,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        nn.init.zeros_(self.layer.self_attn.out_proj.weight)
        nn.init.zeros_(self.layer.linear2.weight)
        nn.init.zeros_(self.layer.linear2.bias)

    def forward(self, text: Tensor, images: Tensor, items: Tensor) -> Tensor:
        """Fuse every item's vectors.

        Items with equally many images are one block, so that an absent image is nowhere and nothing is masked.

        Args:
            text: (n, dim) text vectors, not normalised.
            images: (n_images, dim) projected image vectors, item by item.
            items: (n_images,) int64, the item of each image, ascending; on the CPU, where what goes together is decided
                without waiting for a GPU.

        Returns:
            (n, dim) float32, not normalised.
        """
        counts = torch.bincount(items, minlength=len(text))
        starts = counts.cumsum(0) - counts
        order, out = [], []
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero().flatten()
            positions = (starts[rows, None] + torch.arange(count)).to(text.device, non_blocking=True)
            tokens = torch.cat([text[rows.to(text.device, non_blocking=True), None], images[positions]], dim=1)
            out.append(self.layer(tokens).mean(dim=1, dtype=torch.float32))
            order.append(rows)
        return torch.cat(out)[torch.cat(order).argsort().to(text.device, non_blocking=True)]


class Siamese(nn.Module):
    """Encoder, image projection, fusion and prototypes of one run.

    Args:
        config: the run.
        model_dir: weights and configuration of the language model.
        n_labels: number of labels.
        image_dim: length of an image vector, or None for text only.
        prompt: how sequences are laid out.
        device: where it will compute, which decides on its kernels; it is built on the processor.

    Attributes:
        cluster: (n_labels,) int64 buffer, each label's free vector (PRIME, DEXA).
        centroid: (n_labels, dim) float32 buffer, mean vector of each label's training queries (PRIME).
        has_centroid: (n_labels,) bool buffer, False for labels without a training query (PRIME).
        centre: (dim,) float32 buffer, the mean vector that is subtracted at inference (``encoder.centre``).
        encoding: items of the latest pass through the encoder: where memory ran out, they were too many.
    """

    encoding = 0

    def __init__(
        self,
        config: RunConfig,
        model_dir: Path | str,
        n_labels: int,
        image_dim: int | None,
        prompt: Prompt | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        prompt = prompt or PLAIN
        self.backbone = Backbone(model_dir, config.encoder, device)
        _check(config, self.backbone, prompt, image_dim)
        dim = self.backbone.dim
        self.projection = nn.Linear(image_dim, dim) if image_dim else None
        self.late = LateFusion(dim, config.images.late) if image_dim and prompt.late else None
        if self.late is not None:
            # Raw image vectors have one large part in common: at random, all items with images would look alike (D20).
            nn.init.zeros_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        p, n_free = config.prototype, min(config.prototype.free_vectors, n_labels)
        self.prototypes: PrototypeNetwork | AuxiliaryVectors | None = None
        self.has_centroids = config.method == "PRIME"
        if config.method == "PRIME":
            self.prototypes = PrototypeNetwork(dim, n_free, p.heads, p.feedforward, p.dropout, p.unit_text)
        elif config.method == "DEXA":
            self.prototypes = AuxiliaryVectors(dim, n_free)
        if self.prototypes is not None:
            self.register_buffer("cluster", torch.zeros(n_labels, dtype=torch.int64))
        if self.has_centroids:
            self.register_buffer("centroid", torch.zeros(n_labels, dim))
            self.register_buffer("has_centroid", torch.zeros(n_labels, dtype=torch.bool))
        self.centred = config.encoder.centre
        if self.centred:
            self.register_buffer("centre", torch.zeros(dim))
            self.register_buffer("centre_sum", torch.zeros(dim))  # of all vectors since the last refresh
            self.register_buffer("centre_count", torch.zeros((), dtype=torch.int64))
        self.frozen = config.encoder.train == "frozen"

    def train(self, mode: bool = True) -> Siamese:
        """Switch dropout on or off; a frozen encoder stays deterministic."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, packed: Packed, image_vectors: np.ndarray | Tensor | None = None) -> Tensor:
        """Encode packed sequences.

        Args:
            packed: ``n`` sequences.
            image_vectors: (n_images, image_dim), the vectors of ``packed.image_rows``; needed if there are any.

        Returns:
            (n, dim) float32 in the caller's order, *not* normalised; with ``encoder.centre``, :meth:`centred_vectors`
            comes next.
        """
        self.encoding = len(packed)
        device = next(self.backbone.parameters()).device
        stream = self.backbone.embed_tokens(torch.from_numpy(packed.token_ids).to(device, non_blocking=True))
        projected = None
        if len(packed.image_rows):
            if self.projection is None:
                raise ValueError("the batch holds images but the model was built for text only")
            # Half as many bytes travel; the device widens them.
            projected = self.projection(torch.as_tensor(image_vectors).to(device, non_blocking=True).float())
            if packed.image_items is None:
                stream = torch.cat([stream, projected.to(stream.dtype)])
        stream = stream.index_select(0, torch.from_numpy(packed.gather).to(device, non_blocking=True))
        position_ids = torch.from_numpy(packed.position_ids).to(device, non_blocking=True)
        blocks = [tuple(row) for row in packed.blocks.tolist()]
        pooled = self.backbone(stream, position_ids, blocks, packed.prefix)
        pooled = pooled.index_select(0, torch.from_numpy(packed.restore).to(device, non_blocking=True))
        if self.late is not None:
            items = packed.image_items if packed.image_items is not None else np.zeros(0, dtype=np.int64)
            if projected is None:
                projected = pooled.new_zeros(0, pooled.shape[1])
            pooled = self.late(pooled, projected.to(pooled.dtype), torch.from_numpy(items))
        return pooled

    def centred_vectors(self, vectors: Tensor) -> Tensor:
        """Return unit vectors less the mean vector if the run wants that (``encoder.centre``), else ``vectors``.

        Args:
            vectors: (n, dim) float32 of :meth:`encode`. In training mode all of a batch: their own mean is subtracted, and
                remembered; else the stored one.
        """
        if not self.centred:
            return vectors
        unit = F.normalize(vectors.float(), dim=1)
        if not self.training:
            return unit - self.centre
        mean = unit.mean(dim=0)
        self.centre_sum += mean.detach() * len(unit)
        self.centre_count += len(unit)
        return unit - mean

    def refresh_centre(self) -> None:
        """Store the mean of all vectors seen since the last call, for inference."""
        if self.centred and self.centre_count:
            self.centre.copy_(self.centre_sum / self.centre_count)
            self.centre_sum.zero_()
            self.centre_count.zero_()

    def prototype(self, u: Tensor, labels: Tensor) -> Tensor:
        """Return prototypes ``z`` of ``labels``.

        Args:
            u: (n, dim) float32, the labels' text vectors, not normalised.
            labels: (n,) int64 label ids.

        Returns:
            (n, dim) float32, unit rows. In PRIME a label without training queries has its own text vector for a centroid
            (docs/deviations.md D7).
        """
        if self.prototypes is None:
            raise ValueError("this run has no prototypes")
        if not self.has_centroids:
            return self.prototypes(u, self.cluster[labels])
        own = F.normalize(u, dim=-1)
        centroid = torch.where(self.has_centroid[labels, None], self.centroid[labels], own)
        return self.prototypes(u, self.cluster[labels], centroid)

    def learned_state(self) -> dict[str, Tensor]:
        """Return every tensor that does not lie in the language model's folder: what a run's files must hold.

        With adapters or a frozen encoder, these are a small part of the model.
        """
        frozen = {f"backbone.{name}" for name, p in self.backbone.named_parameters() if not p.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def load_learned_state(self, tensors: dict[str, Tensor]) -> None:
        """Read what :meth:`learned_state` gave; names and shapes must be the same."""
        self.load_state_dict({**self.state_dict(), **tensors})


def _check(config: RunConfig, backbone: Backbone, prompt: Prompt, image_dim: int | None) -> None:
    images = config.images.per_item if image_dim and not prompt.late else 0
    longest = config.encoder.max_len + images + len(prompt.words)
    if longest > backbone.max_positions:
        raise VixmlError(
            "sequences are longer than the language model's positions",
            where="encoder.max_len + images.per_item + the template's words",
            found=longest,
            expected=f"at most {backbone.max_positions}",
            hint="lower encoder.max_len",
        )
    if prompt.causal != backbone.causal:
        kinds = {True: "causal", False: "bidirectional"}
        raise VixmlError(
            "the tokens were made for another kind of language model",
            where="attention, in config/models.yaml",
            found=kinds[prompt.causal],
            expected=f"{kinds[backbone.causal]}, as the network's layers are",
            hint="correct the model's entry; snakemake then makes its tokens again",
        )


# --- A run's model: built from its seed, written and read as one safetensors file.


AGAIN = "train the run again, or pass the folder of this run"


def build_model(
    config: RunConfig,
    model_dir: Path,
    n_labels: int,
    image_dim: int | None,
    seed: int,
    prompt: Prompt | None = None,
    vocabulary: np.ndarray | None = None,
    device: torch.device | None = None,
) -> Siamese:
    """Return the run's model; parts without pretrained weights are drawn from the seed.

    Args:
        config: the run.
        model_dir: weights of the language model.
        n_labels: number of labels.
        image_dim: length of an image vector, or None.
        seed: of the run.
        prompt: how sequences are laid out.
        vocabulary: (n,) int64, the tokens that occur; where the whole language model trains, embeddings of others are dropped.
        device: where it will compute, which decides on its kernels; the model is built on the processor.
    """
    torch.manual_seed(int(generator(seed, INIT, 0).integers(2**31)))
    model = Siamese(config, model_dir, n_labels, image_dim, prompt, device)
    if vocabulary is not None and config.encoder.train == "full":
        model.backbone.keep_tokens(vocabulary)
    return model


def save_model(folder: Path, model: Siamese) -> None:
    """Write ``model.safetensors``: every tensor that the language model's own folder does not hold."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.learned_state().items())}
    path = folder / "model.safetensors"
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            # It has no errno of its own, and a full disk is told by that.
            number = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
            raise OSError(number, str(error), str(path)) from error


def load_model(folder: Path, model: Siamese) -> None:
    """Read the tensors of :func:`save_model` into ``model``.

    Raises:
        VixmlError: the folder holds another model.
    """
    tensors = load_file(folder / "model.safetensors")
    own = model.learned_state()
    for name in sorted(own.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        expected = tuple(own[name].shape) if name in own else "no such tensor"
        if found != expected:
            raise VixmlError(
                "the trained weights belong to another model",
                where=f"{folder / 'model.safetensors'}: {name}",
                found=found,
                expected=expected,
                hint=AGAIN,
            )
    row_of = "backbone.row_of"
    if row_of in own and not torch.equal(own[row_of].cpu(), tensors[row_of]):
        raise VixmlError(
            "the model was trained on a corpus with another vocabulary",
            where=folder / "model.safetensors",
            found=f"embeddings of {int((tensors[row_of] >= 0).sum())} tokens",
            expected="those that the texts of this corpus have",
            hint=AGAIN,
        )
    model.load_learned_state(tensors)
