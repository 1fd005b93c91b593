"""Assumptions of predicted costs that no configuration gives: speeds of machines, lengths of texts, images (docs/cost.md).

Each number has its source. Numbers that are assumed rather than measured are marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Hardware:
    """A machine and the speeds it sustains, in floating point operations per second."""

    name: str  # as printed
    unit: str  # name of its hours
    # Training and encoding, by the width of the network: ascending pairs of width and speed
    compute: tuple[tuple[int, float], ...]
    float32: float  # search, whose products stay in float32
    host: float  # centroids: passes over vectors on the processor, bound by its memory
    clusters: float  # balanced 2-means on the device, bound by its memory: eight bytes are read for four operations
    memory: float  # bytes on the device
    source: str  # origin of the figures

    def speed(self, width: int) -> float:
        """Return the speed of a network of a width: between two known ones by its logarithm, beyond them the last.

        Example:
            >>> HARDWARE["gpu"].speed(2048) / H100_PEAK, HARDWARE["cpu"].speed(2048)
            (0.196, 190000000000.0)
        """
        widths, speeds = zip(*self.compute, strict=True)
        return float(np.interp(np.log(width), np.log(widths), speeds))


# Labels that each epoch's diagnostics encode if no query is held out (vixml.training.diagnostics).
WATCHED = 4096
# NVIDIA's data sheet of the H100 SXM: dense bfloat16 peak (without sparsity), float32 peak, bytes per second.
H100_PEAK, H100_FLOAT32, H100_BANDWIDTH = 989e12, 67e12, 3.35e12
# Share of the dense bfloat16 peak that a network sustains, by its width. 768 and 2048: the paper's latencies of BERT and
# Qwen2.5-3B (config/reported/other_facts.csv). The others are assumed: time per operation has a part that is constant and one
# that falls with the width, because passes over memory grow with the width and products with its square. A test repeats this.
UTILISATION = {384: 0.128, 576: 0.149, 768: 0.163, 896: 0.170, 1152: 0.179, 2048: 0.196, 3584: 0.207}
CONTEXT = 0.6e9  # bytes of a card that CUDA and its libraries take
# Measured: `benchmarks/scale.py`, two threads, at the sizes of LF-AmazonTitles-1.3M. A test derives both from its result.
HOST, CLUSTERS = 4.00e9, 1.18e10
# Votes that one thread sums and ranks per second. Measured with 100 neighbours of 22 labels each, in nanoseconds per vote: 35 to 50 of
# nearest neighbours; of local ridge votes 65 with one label search, 140 to 160 with two.
VOTES = 1e7

HARDWARE: dict[Kind, Hardware] = {
    "gpu": Hardware(
        "one H100 with 80 GB",
        "GPU h",
        compute=tuple((width, share * H100_PEAK) for width, share in UTILISATION.items()),
        float32=0.5 * H100_FLOAT32,
        host=HOST,
        clusters=0.25 * H100_BANDWIDTH / 2,
        memory=85.5e9,
        source="assumed: 13 % (width 384) to 21 % (3584) of the dense bfloat16 peak (989 TFLOP/s), the paper's latencies at "
        "768 and 2048; half of the float32 peak (67 TFLOP/s) for the search, a quarter of the bandwidth (3.35 TB/s) for 2-means",
    ),
    # A test derives these two speeds from the benchmark.
    "cpu": Hardware(
        "one processor core",
        "core h",
        compute=((1, 1.90e11),),
        float32=8.05e10,
        host=HOST,
        clusters=CLUSTERS,
        memory=float("inf"),
        source="measured: `benchmarks/training_step.py` with two threads, per thread, mean of text and images; bf16 for "
        "training and encoding (190 GFLOP/s), fp32 for the search (80 GFLOP/s)",
    ),
}


@dataclass(frozen=True)
class Texts:
    """Mean sizes of a dataset's items. Without them every text counts at full length, an upper bound."""

    query_tokens: float | None = None  # tokens of a query's text, without special tokens; None: `encoder.max_len`
    label_tokens: float | None = None  # the same of a label
    query_images: float | None = None  # images of a query; None: `images.per_item` for each query that has any
    label_images: float | None = None  # the same of a label
    # True labels of a training query; None: as published (`facts` of the dataset)
    labels_per_query: float | None = None
    image_bytes: float = 25e3  # size of a stored image; the default is assumed
    query_spread: float = 0.0  # standard deviation of the tokens of queries
    label_spread: float = 0.0  # the same of labels


UNKNOWN = Texts()
# Counted in the corpus with MiniLM-L3's tokenizer, and in the image store.
TEXTS = {"picto": Texts(2.48, 1.34, 1.60, 0.88, 6.88, 1.74e3)}


@dataclass(frozen=True)
class VisionCost:
    """A vision encoder: operations per image, its parameters, and its width."""

    flop: float
    parameters: float
    width: int


# 27 layers of width 1152 and 4304 over 729 patches; all of Table 9's parameters.
_SIGLIP2 = VisionCost(6.7e11, 1.14e9, 1152)
VISION = {
    "efficientnet-lite0": VisionCost(2.0e8, 4.7e6, 320),  # 0.39 G multiply-adds at 224 pixels, a quarter of them at 112
    "siglip2": _SIGLIP2,
    "siglip2-open-clip": _SIGLIP2,
    "vit": VisionCost(3.5e10, 86.4e6, 768),  # 12 layers of width 768 and 3072 over 197 patches
}

# Architectures of models whose wheel includes the configuration, which config/models.yaml therefore leaves out.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "tie_word_embeddings": True,
    },
    "minilm-l6": {
        "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 2,
    },
}  # fmt: skip
