"""Sizes of a network and of an average item: parameters per layer, operations of a pass, tokens of a sequence. Without torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.registry import Dataset, TextModel
from vixml.config.run import RunConfig
from vixml.config.template import parse_template
from vixml.errors import VixmlError
from vixml.files import load_array
from vixml.manifest import verify_file
from vixml.plan.assumptions import ARCHITECTURES, TEXTS, UNKNOWN, Texts
from vixml.training.mining import ITERATIONS, LARGE, MORE, n_groups

GATED = {"llama", "qwen2", "qwen3", "gemma3_text"}
PLAIN = {"bert", "distilbert"}
# DistilBERT's keys -> those of the others.
ALIASES = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "hidden_dim": "intermediate_size"}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model. A test compares its operations with those that torch counts.

    Example:
        >>> Shape(1, 4, 2, 1, 2, 8, True, 40).linear  # q and o 16 each, k and v 8 each, gate, up and down 32 each
        144
    """

    layers: int  # layers that a run keeps
    hidden: int  # width of a token
    heads: int  # attention heads
    kv_heads: int  # those of keys and values
    head_dim: int  # width of a head
    intermediate: int  # width of the feed-forward part
    gated: bool  # whether that part has a gate beside the up projection
    embeddings: int  # parameters of word, position and type embeddings

    @property
    def projections(self) -> list[tuple[int, int]]:
        """Return (in, out) of each linear projection of one layer."""
        q, kv, h, wide = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.hidden, self.intermediate
        return [(h, q), (h, kv), (h, kv), (q, h), *[(h, wide)] * (2 if self.gated else 1), (wide, h)]

    @property
    def linear(self) -> int:
        """Return the weights of one layer's linear projections."""
        return sum(a * b for a, b in self.projections)

    @property
    def parameters(self) -> int:
        """Return the parameters: embeddings and projections. Norms and biases, below 1 %, are left out."""
        return self.embeddings + self.layers * self.linear

    def adapters(self, rank: int) -> int:
        """Return the parameters of low-rank adapters on every projection of one layer."""
        return rank * sum(a + b for a, b in self.projections)

    def attention(self, queries: float, keys: float) -> float:
        """Return the operations of one layer's attention: scores of each query with each key, then sums of values."""
        return 4 * self.heads * self.head_dim * queries * keys

    def saved(self, keys: float, rank: int = 0) -> float:
        """Return how many numbers per token one layer keeps for the backward pass.

        Six of width `hidden` (inputs and outputs of the norms, residuals), queries, keys, values and the output of
        attention, two tables of attention weights, the feed-forward part (four with a gate: gate, its activation, up,
        their product; two without), and one vector of length `rank` per adapter.
        """
        wide = (4 if self.gated else 2) * self.intermediate
        heads = (2 * self.heads + 2 * self.kv_heads) * self.head_dim
        return 6 * self.hidden + heads + 2 * self.heads * keys + wide + rank * len(self.projections)


def architecture_of(name: str, model: TextModel) -> dict[str, Any]:
    """Return a language model's architecture, as the registry or its wheel gives it; empty if neither does."""
    return model.architecture or ARCHITECTURES.get(name, {})


def shape_of(name: str, model: TextModel, layers: int | None = None) -> Shape:
    """Return the sizes of a language model of the registry, of its first ``layers`` layers if given.

    Raises:
        VixmlError: no architecture, or one of an unknown type.
    """
    given = architecture_of(name, model)
    given = {ALIASES.get(key, key): value for key, value in given.items()}
    kind = given.get("model_type", "bert")
    if not given or kind not in GATED | PLAIN:
        raise VixmlError(
            "the cost of a language model cannot be counted",
            where=f"text_models.{name}.architecture",
            found=kind if given else "nothing",
            expected="an architecture of type " + ", ".join(sorted(GATED | PLAIN)),
            hint="add it there, or in src/vixml/plan/assumptions.py",
        )
    hidden, heads, depth = given["hidden_size"], given["num_attention_heads"], given["num_hidden_layers"]
    rows = given["vocab_size"] + given.get("type_vocab_size", 0)
    if kind in PLAIN:
        rows += given["max_position_embeddings"]  # the others rotate vectors by their position
    return Shape(
        layers=min(depth, layers or depth),
        hidden=hidden,
        heads=heads,
        kv_heads=given.get("num_key_value_heads", heads),
        head_dim=given.get("head_dim", hidden // heads),
        intermediate=given["intermediate_size"],
        gated=kind in GATED,
        embeddings=rows * hidden,
    )


@dataclass(frozen=True)
class MeanItem:
    """Mean sizes of a query or label."""

    text: float  # tokens of its text
    computed: float  # positions of its sequence that are computed for it alone
    attended: float  # positions in its attention: those, and the prefix, which a decoder computes once per batch
    images: float  # its images
    more: float = 0.0  # tokens that its text may have in addition, on average over the longest batch


def mean_items(texts: Texts, entry: Dataset, config: RunConfig, causal: bool) -> tuple[MeanItem, MeanItem]:
    """Return the average query and label of a run."""
    encoder, mining, n = config.encoder, config.mining, entry.expect.n_train if entry.expect else 0
    independent = float(config.training.batch_size)
    if mining and n:
        # A mined batch is whole groups, whose texts may be alike: so many of its lengths are independent.
        groups = max((n / n_groups(mining, n, epoch) for epoch in range(config.training.epochs)), default=1.0)
        independent = max(1.0, independent / groups)

    def item(tokens: float | None, spread: float, images: float | None, share: str, template: str) -> MeanItem:
        text = float(encoder.max_len) if tokens is None else min(encoder.max_len, tokens + (0 if causal else 2))
        most = config.images.per_item * entry.facts.get(share, 100.0) / 100 if config.uses_images else 0.0
        n_images = most if images is None else min(images, most)
        prefix, in_template = _template_tokens(template, causal)
        computed = text + (n_images if config.images.fusion == "early" else 0.0) + in_template - prefix
        more = min(encoder.max_len - text, 3 * spread / math.sqrt(independent))
        return MeanItem(text, computed, computed + prefix, n_images, more)

    query = (texts.query_tokens, texts.query_spread, texts.query_images, "pct_train_queries_with_images")
    label = (texts.label_tokens, texts.label_spread, texts.label_images, "pct_labels_with_images")
    return item(*query, encoder.template), item(*label, encoder.label_template or encoder.template)


def texts_of(name: str, config: RunConfig, causal: bool, results: Path | None) -> Texts:
    """Return the mean sizes of a dataset's items.

    Lengths are those of the run's tokens if ``results`` holds them, otherwise those of :data:`TEXTS`, otherwise unknown.
    """
    texts = TEXTS.get(name, UNKNOWN)
    if results is None:
        return texts
    folder = results / "data" / name / "tokens" / f"{config.encoder.model}-{config.encoder.max_len}"
    if not (folder / "manifest.json").exists():
        return texts
    for split in ("train", "label"):
        verify_file(folder / split / "offsets.npy")
    lengths = {split: np.diff(load_array(folder / split / "offsets.npy")) for split in ("train", "label")}
    special = 0 if causal else 2
    return replace(
        texts,
        query_tokens=float(lengths["train"].mean()) - special,
        label_tokens=float(lengths["label"].mean()) - special,
        query_spread=float(lengths["train"].std()),
        label_spread=float(lengths["label"].std()),
    )


def _template_tokens(template: str, causal: bool) -> tuple[int, int]:
    """Return the tokens of a template's shared prefix, and of the whole template: one per word, mark and `{eos}`."""
    pieces = parse_template(template)
    counts = [
        1 if piece.field == "eos" else 0 if piece.field else len(re.findall(r"\w+|[^\w\s]", piece.words))
        for piece in pieces
    ]
    return counts[0] if causal and pieces[0].field is None else 0, sum(counts)


def layer_weights(dim: int, feedforward: int) -> int:
    """Return the weights of a transformer layer without a gate."""
    return 4 * dim * dim + 2 * dim * feedforward


def clustering_flop(n: int, groups: int, dim: int) -> float:
    """Return the operations of balanced 2-means: at each level a product and a sum per point and iteration.

    Levels of large groups count with their maximum number of iterations.
    """
    if groups <= 1:
        return 0.0
    levels = math.ceil(math.log2(groups))
    large = min(levels, math.ceil(math.log2(n / LARGE))) if n > LARGE else 0
    return 4.0 * n * dim * (ITERATIONS * (levels - large) + MORE * large)
