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

from vixml.config.run import LateFusion as LateFusionConfig
from vixml.config.run import Prototype as PrototypeConfig
from vixml.config.run import RunConfig
from vixml.errors import VixmlError, expect_equal, expect_index, reading
from vixml.files import atomic_path
from vixml.models.backbone import Backbone, expect_shapes
from vixml.models.inputs import RunData
from vixml.models.packing import Packed
from vixml.models.prompt import PLAIN, Prompt
from vixml.runtime import INIT, derived_seed, send

# --- Label prototypes: PRIME's prototype network (arXiv:2410.20401) and DEXA's auxiliary vectors.


class AuxiliaryVectors(nn.Module):
    """DEXA: the normalised sum of a label's text vector and one free vector of its cluster (docs/deviations.md D19)."""

    def __init__(self, dim: int, free_vectors: int) -> None:
        super().__init__()
        self.free = nn.Embedding(free_vectors, dim)
        nn.init.xavier_uniform_(self.free.weight)

    def forward(self, u: Tensor, cluster: Tensor) -> Tensor:
        """Return prototypes ``z``: (n, dim) float32 unit rows.

        Args:
            u: (n, dim) text vectors; they are normalised here, so that a free vector's length counts against 1.
            cluster: (n,) int64, each label's free vector.
        """
        return F.normalize(F.normalize(u.float(), dim=-1) + self.free(cluster), dim=-1)


class PrototypeNetwork(nn.Module):
    """One post-norm transformer layer over the three tokens ``[u_r, v_cluster(r), c_r]``, mean-pooled, normalised.

    ``u`` may be normalised first (docs/deviations.md D17); ``free_vectors`` are shared by the labels of a cluster.
    """

    def __init__(self, dim: int, free_vectors: int, config: PrototypeConfig) -> None:
        super().__init__()
        self.unit_text = config.unit_text
        self.free = nn.Embedding(free_vectors, dim)
        nn.init.xavier_uniform_(self.free.weight)
        self.layer = nn.TransformerEncoderLayer(
            dim, config.heads, config.feedforward, config.dropout, activation="gelu", batch_first=True
        )

    def forward(self, u: Tensor, cluster: Tensor, centroid: Tensor) -> Tensor:
        """Return prototypes ``z``: (n, dim) float32 unit rows.

        Args:
            u: (n, dim) float32, label text vectors as the encoder gives them, *not* normalised.
            cluster: (n,) int64, each label's free vector.
            centroid: (n, dim) float32, mean of the label's training queries.
        """
        if self.unit_text:
            u = F.normalize(u.float(), dim=-1)
        three = torch.stack([u, self.free(cluster), centroid.to(u.dtype)], dim=1)
        return F.normalize(self.layer(three).mean(dim=1).float(), dim=-1)


# --- Late fusion: a text vector and image vectors, each encoded alone, then joined by self-attention (MUFIN;
# docs/deviations.md D20).


class LateFusionLayer(nn.Module):
    """One pre-norm transformer layer over ``[text; image 1; image 2; ...]`` of an item, mean-pooled.

    Both of its branches start at zero, and so does the projection of the images (:class:`Siamese`), so training starts
    from the text vector. With a random layer or projection all items look alike at first, and PICTO's trainings fell into
    the collapsed state and stayed there.
    """

    def __init__(self, dim: int, config: LateFusionConfig) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            dim, config.heads, config.feedforward, config.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        nn.init.zeros_(self.layer.self_attn.out_proj.weight)
        nn.init.zeros_(self.layer.linear2.weight)
        nn.init.zeros_(self.layer.linear2.bias)

    def forward(self, text: Tensor, images: Tensor, items: Tensor) -> Tensor:
        """Fuse every item's vectors: (n, dim) float32, not normalised.

        Items with equally many images are one block, so absent images take no position and nothing is masked.

        Args:
            text: (n, dim) text vectors, not normalised.
            images: (n_images, dim) projected image vectors, item by item.
            items: (n_images,) int64, the item of each image, ascending; on the CPU, so that grouping waits for no GPU.
        """

        def sent(index: np.ndarray) -> Tensor:
            return send(torch.from_numpy(index), text.device)

        counts = np.bincount(items.numpy(), minlength=len(text))
        starts = counts.cumsum() - counts
        order, out = [], []
        for count in np.unique(counts):
            rows = np.flatnonzero(counts == count)
            tokens = torch.cat([text[sent(rows), None], images[sent(starts[rows, None] + np.arange(count))]], dim=1)
            out.append(self.layer(tokens).mean(dim=1, dtype=torch.float32))
            order.append(rows)
        return torch.cat(out)[sent(np.concatenate(order).argsort())]


class Siamese(nn.Module):
    """Encoder, image projection, fusion and prototypes of one run.

    Args:
        model_dir: weights and configuration of the language model.
        image_dim: length of an image vector, or None for text only.
        device: where it will compute, which decides on its kernels; it is built on the CPU.
        lean: for inference only; see :class:`vixml.models.backbone.Backbone`.

    Attributes:
        cluster: (n_labels,) int64 buffer, each label's free vector (PRIME, DEXA).
        vectors: (n_labels, dim) float32 parameter, each label's own vector (``all-labels``, ``training.refit_epochs``), or None.
        has_vector: (n_labels,) bool buffer, whether it was fitted: False for labels without a training query.
        centroid: (n_labels, dim) float32 buffer, mean vector of each label's training queries (PRIME).
        has_centroid: (n_labels,) bool buffer, False for labels without a training query (PRIME).
        centre: (dim,) float32 buffer, the mean vector that is subtracted at inference (``encoder.centre``).
        encoding: number of items in the latest pass through the encoder; after running out of memory, too many.

    Raises:
        VixmlError: sequences may exceed the language model's positions, or the prompt is for the other kind of model
            (causal or bidirectional).
    """

    encoding = 0

    def __init__(
        self,
        config: RunConfig,
        model_dir: Path | str,
        n_labels: int,
        image_dim: int | None,
        prompt: Prompt = PLAIN,
        device: torch.device | None = None,
        lean: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(model_dir, config.encoder, device, lean)
        _check(config, self.backbone, prompt, image_dim)
        dim = self.backbone.dim
        self.projection = nn.Linear(image_dim, dim) if image_dim else None
        self.late = LateFusionLayer(dim, config.images.late) if image_dim and prompt.late else None
        if self.late is not None:
            # Image vectors share one large component: randomly projected, all items with images would look alike (D20).
            nn.init.zeros_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        n_free = min(config.prototype.free_vectors, n_labels)
        self.prototypes: PrototypeNetwork | AuxiliaryVectors | None = None
        self.has_centroids = config.method == "PRIME"
        if self.has_centroids:
            self.prototypes = PrototypeNetwork(dim, n_free, config.prototype)
        elif config.method == "DEXA":
            self.prototypes = AuxiliaryVectors(dim, n_free)
        if self.prototypes is not None:
            self.register_buffer("cluster", torch.zeros(n_labels, dtype=torch.int64))
        if self.has_centroids:
            self.register_buffer("centroid", torch.zeros(n_labels, dim))
            self.register_buffer("has_centroid", torch.zeros(n_labels, dtype=torch.bool))
        self.vectors: nn.Parameter | None = None
        if config.learns_vectors:
            # A refit learns them after the last epoch.
            self.vectors = nn.Parameter(torch.zeros(n_labels, dim), requires_grad=config.method == "all-labels")
            self.register_buffer("has_vector", torch.zeros(n_labels, dtype=torch.bool))
        self.centred = config.encoder.centre
        if self.centred:
            self.register_buffer("centre", torch.zeros(dim))
            self.register_buffer("centre_sum", torch.zeros(dim))  # of all vectors since the last refresh
            self.register_buffer("centre_count", torch.zeros((), dtype=torch.int64))
        self.frozen = config.encoder.train == "frozen"

    @property
    def has_prototypes(self) -> bool:
        """Return whether labels have vectors ``z`` beside their text vectors ``u``."""
        return self.prototypes is not None or self.vectors is not None

    @property
    def device(self) -> torch.device:
        """Return the device of the parameters."""
        return next(self.backbone.parameters()).device

    def train(self, mode: bool = True) -> Siamese:
        """Switch dropout on or off; a frozen encoder stays deterministic."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, packed: Packed) -> Tensor:
        """Encode ``n`` packed sequences.

        Returns:
            (n, dim) float32 in the caller's order, *not* normalised; with ``encoder.centre``, call
            :meth:`centred_vectors` next.

        Raises:
            ValueError: there are images, but the model was built for text only.
        """
        self.encoding = len(packed)
        device = self.device

        def sent(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        stream, projected = self.backbone.embed_tokens(sent(packed.token_ids)), None
        if packed.image_vectors is not None:
            if self.projection is None:
                raise ValueError("the batch holds images but the model was built for text only")
            # Sent as float16, which is half as many bytes; the device widens them.
            projected = self.projection(packed.image_vectors.to(device, non_blocking=True).float())
            if packed.image_items is None:
                stream = torch.cat([stream, projected.to(stream.dtype)])
        stream = stream.index_select(0, sent(packed.gather))
        blocks = [tuple(row) for row in packed.blocks.tolist()]
        pooled = self.backbone(stream, sent(packed.position_ids), blocks, packed.prefix)
        pooled = pooled.index_select(0, sent(packed.restore))
        if self.late is None:
            return pooled
        if projected is None:
            projected = pooled.new_zeros(0, pooled.shape[1])
        items = np.zeros(0, dtype=np.int64) if packed.image_items is None else packed.image_items
        return self.late(pooled, projected.to(pooled.dtype), torch.from_numpy(items))

    def centred_vectors(self, vectors: Tensor) -> Tensor:
        """Return unit vectors minus the mean vector if the run is centred (``encoder.centre``), else ``vectors``.

        Args:
            vectors: (n, dim) float32 of :meth:`encode`; in training mode, all vectors of a batch.

        Returns:
            (n, dim) float32. In training mode the batch's mean is subtracted and accumulated for :meth:`refresh_centre`,
            at inference the stored mean.
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
            (n, dim) float32, unit rows: a label's own vector where it was fitted, else that of the method. In PRIME, the
            centroid of a label without training queries is its text vector (docs/deviations.md D7).

        Raises:
            ValueError: the run's method has no prototypes.
        """
        if not self.has_prototypes:
            raise ValueError("this run has no prototypes")
        if self.has_centroids:
            centroid = torch.where(self.has_centroid[labels, None], self.centroid[labels], F.normalize(u, dim=-1))
            z = self.prototypes(u, self.cluster[labels], centroid)
        elif self.prototypes is not None:
            z = self.prototypes(u, self.cluster[labels])
        else:
            z = F.normalize(u.float(), dim=-1)
        if self.vectors is None:
            return z
        return torch.where(self.has_vector[labels, None], F.normalize(self.vectors[labels], dim=1), z)

    def learned_state(self) -> dict[str, Tensor]:
        """Return every tensor that the language model's folder does not hold; with adapters, few of the model's."""
        frozen = {f"backbone.{name}" for name, p in self.backbone.named_parameters() if not p.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def load_learned_state(self, tensors: dict[str, Tensor]) -> None:
        """Set the tensors that :meth:`learned_state` returned; names and shapes must be the same."""
        self.load_state_dict({**self.state_dict(), **tensors})


def _check(config: RunConfig, backbone: Backbone, prompt: Prompt, image_dim: int | None) -> None:
    """Check that the language model can encode the run's sequences."""
    images = config.images.per_item if image_dim and not prompt.late else 0
    longest = config.encoder.max_len + images + len(prompt.token_ids)
    if longest > backbone.max_positions:
        raise VixmlError(
            "sequences are longer than the language model's positions",
            where="encoder.max_len + images.per_item + the template's words",
            found=longest,
            expected=f"at most {backbone.max_positions}",
            hint="lower encoder.max_len",
        )
    found, expected = ("causal" if part.causal else "bidirectional" for part in (prompt, backbone))
    what, where = "the tokens were made for another kind of language model", "attention, in config/models.yaml"
    hint = "correct the model's entry; snakemake then makes its tokens again"
    expect_equal(found, expected, what, where=where, hint=hint)


# --- A run's model: built from its seed, written and read as one safetensors file.


def at_precision(config: RunConfig, precision: str) -> RunConfig:
    """Return a configuration with frozen weights as wide as what is computed with them."""
    if precision != "fp32" or config.encoder.weights == "float32":
        return config
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"weights": "float32"})})


def build_model(config: RunConfig, data: RunData, seed: int, device: torch.device | None = None) -> Siamese:
    """Return the run's model, on the CPU; parts without pretrained weights are drawn from the seed.

    ``device`` is where it will compute, which decides on its kernels. Where the whole language model trains, embeddings of
    tokens that do not occur in ``data`` are dropped.

    Raises:
        VixmlError: as :class:`Siamese` and :class:`vixml.models.backbone.Backbone`.
    """
    torch.manual_seed(derived_seed(seed, INIT, 0))
    prompt = data.sequences["train"].prompt
    model = Siamese(config, data.model_dir, data.corpus.n("label"), data.image_dim, prompt, device)
    tokens, rows = data.vocabulary(), model.backbone.network.get_input_embeddings().num_embeddings
    if len(tokens):
        what = "a text has a token for which the language model has no embedding"
        hint = "tokenizer and weights are of two checkpoints: check config/models.yaml"
        expect_index(int(tokens[-1]), rows, what, where=data.model_dir, hint=hint)
    if config.encoder.train == "full":
        model.backbone.keep_tokens(tokens)
    return model


def save_model(folder: Path, model: Siamese) -> None:
    """Write :meth:`Siamese.learned_state` to ``folder/model.safetensors``.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.learned_state().items())}
    path = folder / "model.safetensors"
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            # It has no errno, by which a full disk is recognised.
            number = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
            raise OSError(number, str(error), str(path)) from error


def load_model(folder: Path, model: Siamese) -> None:
    """Read the tensors of :func:`save_model` into ``model``.

    Raises:
        VixmlError: the folder holds another model, or one of a corpus with another vocabulary.
    """
    path, hint = folder / "model.safetensors", "train the run again, or pass the folder of this run"
    with reading("the trained weights cannot be read", path, expected="a whole safetensors file", hint=hint):
        tensors = load_file(path)
    state = model.learned_state()
    expect_shapes(tensors, state, "the trained weights belong to another model", where=path, hint=hint)
    row_of = "backbone.row_of"
    if row_of in state and not torch.equal(state[row_of].cpu(), tensors[row_of]):
        raise VixmlError(
            "the model was trained on a corpus with another vocabulary",
            where=path,
            found=f"embeddings of {int((tensors[row_of] >= 0).sum())} tokens",
            expected="those that the texts of this corpus have",
            hint=hint,
        )
    model.load_learned_state(tensors)
