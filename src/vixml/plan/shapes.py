"""A network and a sequence as numbers: parameters by layer, operations of a pass, tokens of an item. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from vixml.config.registry import Dataset, TextModel
from vixml.config.run import RunConfig
from vixml.config.template import parse_template
from vixml.errors import VixmlError
from vixml.plan.assumptions import ARCHITECTURES, TEXTS, UNKNOWN

GATED = {"llama", "qwen2", "qwen3", "gemma3_text"}
PLAIN = {"bert", "distilbert"}
LLOYD = 6  # iterations a level, as in vixml.training.clustering
LARGE, LLOYD_LARGE = 4600, 24  # and for groups from this size on
# DistilBERT's names for what the others call by the second name.
ALIASES = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "hidden_dim": "intermediate_size"}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A language model's sizes.

    Attributes:
        layers: layers that a run keeps.
        hidden: width of a token.
        heads: attention heads.
        kv_heads: heads of keys and values.
        head_dim: width of a head.
        intermediate: width of the feed-forward part.
        gated: whether that has a gate beside the up projection.
        embeddings: parameters of word, position and type embeddings.

    Example:
        >>> Shape(1, 4, 2, 1, 2, 8, True, 40).linear  # q and o 16 each, k and v 8 each, gate, up and down 32 each
        144
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    embeddings: int

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
        """Return the parameters of the network: embeddings and projections. Norms and biases, below 1 %, are left out."""
        return self.embeddings + self.layers * self.linear

    def adapters(self, rank: int) -> int:
        """Return the parameters of low-rank adapters on every projection of one layer."""
        return rank * sum(a + b for a, b in self.projections)

    def attention(self, own: float, seen: float) -> float:
        """Return the operations of one layer's attention: ``own`` tokens that look at ``seen`` (scores, then sums)."""
        return 4 * self.heads * self.head_dim * own * seen

    def saved(self, seen: float, rank: int = 0) -> float:
        """Return how many numbers of a token one layer keeps for the backward pass.

        Six of width `hidden` (what enters and leaves the norms, the residuals), queries, keys, values and what attention
        gives, two tables of attention weights, the feed-forward part (four with a gate: gate, its activation, up, their
        product; two without), and what lies between an adapter's matrices.
        """
        wide = (4 if self.gated else 2) * self.intermediate
        heads = (2 * self.heads + 2 * self.kv_heads) * self.head_dim
        return 6 * self.hidden + heads + 2 * self.heads * seen + wide + rank * len(self.projections)


def shape_of(name: str, model: TextModel, layers: int | None = None) -> Shape:
    """Return the sizes of an entry of config/models.yaml.

    Args:
        name: the entry.
        model: what stands there.
        layers: of these keep only so many.

    Raises:
        VixmlError: an architecture that is not given, or of a type not known here.
    """
    given: dict[str, Any] = model.architecture or ARCHITECTURES.get(name, {})
    given = {ALIASES.get(key, key): value for key, value in given.items()}
    kind = given.get("model_type", "bert")
    if not given or kind not in GATED | PLAIN:
        raise VixmlError(
            "the cost of a language model cannot be counted",
            where=f"text_models.{name}.architecture",
            found=kind if given else "nothing",
            expected="an architecture of type " + ", ".join(sorted(GATED | PLAIN)),
            hint="give it there, or in src/vixml/plan/assumptions.py",
        )
    hidden, heads = given["hidden_size"], given["num_attention_heads"]
    rows = given["vocab_size"] + given.get("type_vocab_size", 0)
    if kind in PLAIN:
        rows += given["max_position_embeddings"]  # the others turn vectors by their position
    depth = given["num_hidden_layers"]
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
class Item:
    """An average query or label.

    Attributes:
        text: tokens of its text.
        own: positions of its sequence that are computed for it alone.
        seen: positions that attention looks at: those, and the tokens in front, which a decoder computes once per batch.
        images: its images.
    """

    text: float
    own: float
    seen: float
    images: float


def items_of(name: str, entry: Dataset, config: RunConfig, causal: bool) -> tuple[Item, Item]:
    """Return the average query and label of a run.

    Args:
        name: the dataset, whose mean lengths are taken from :data:`TEXTS` where known, else are at most `max_len`.
        entry: the dataset's entry; its facts say how many items have images.
        config: the run.
        causal: whether its language model is a decoder.
    """
    texts, encoder = TEXTS.get(name, UNKNOWN), config.encoder
    sides = (
        (texts.query_tokens, texts.query_images, "pct_train_queries_with_images", encoder.template),
        (texts.label_tokens, texts.label_images, "pct_labels_with_images", encoder.label_template or encoder.template),
    )
    found = []
    for tokens, images, share, template in sides:
        text = float(encoder.max_len) if tokens is None else min(encoder.max_len, tokens + (0 if causal else 2))
        n_images = 0.0
        if config.uses_images:
            most = config.images.per_item * entry.facts.get(share, 100.0) / 100
            n_images = most if images is None else min(images, most)
        leading, in_template = _template_tokens(template, causal)
        inside = n_images if config.images.fusion == "early" else 0.0
        own = text + inside + in_template - leading
        found.append(Item(text, own, own + leading, n_images))
    return found[0], found[1]


def _template_tokens(template: str, causal: bool) -> tuple[int, int]:
    """Return how many tokens a template puts in front of every sequence, and how many it adds in all.

    A word or a mark counts as one token, and so does `{eos}`.
    """
    pieces = parse_template(template)
    counts = [
        1 if piece.field == "eos" else 0 if piece.field else len(re.findall(r"\w+|[^\w\s]", piece.words))
        for piece in pieces
    ]
    leading = counts[0] if causal and pieces[0].field is None else 0
    return leading, sum(counts)


def layer_weights(dim: int, feedforward: int) -> int:
    """Return the weights of a transformer layer without a gate."""
    return 4 * dim * dim + 2 * dim * feedforward


def clustering_flop(n: int, groups: int, dim: int) -> float:
    """Return the operations of balanced 2-means: at each level a product and a sum for each point and iteration.

    Levels of large groups are counted with all the iterations that they may take.
    """
    if groups <= 1:
        return 0.0
    levels = math.ceil(math.log2(groups))
    large = min(levels, math.ceil(math.log2(n / LARGE))) if n > LARGE else 0
    return 4.0 * n * dim * (LLOYD * (levels - large) + LLOYD_LARGE * large)
