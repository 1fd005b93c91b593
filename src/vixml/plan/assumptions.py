"""Assumptions of predicted costs that no configuration gives: speeds of machines, lengths of texts, images (docs/cost.md).

Each number has its source. Numbers that are assumed rather than measured are marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Hardware:
    """A machine and the speeds it sustains, in floating point operations per second.

    Attributes:
        name: as printed.
        unit: name of its hours.
        encoder: training and encoding with a bidirectional language model.
        decoder: the same with a causal one.
        float32: search, whose products stay in float32.
        host: centroids: passes over vectors on the processor, bound by its memory.
        clusters: balanced 2-means on the device, bound by its memory: eight bytes are read for four operations.
        memory: bytes on the device.
        source: origin of the figures.
    """

    name: str
    unit: str
    encoder: float
    decoder: float
    float32: float
    host: float
    clusters: float
    memory: float
    source: str


# Labels that each epoch's diagnostics encode if no query is held out (vixml.training.diagnostics).
WATCHED = 4096
# NVIDIA's data sheet of the H100 SXM: dense bfloat16 peak (without sparsity), float32 peak, bytes per second.
H100_PEAK, H100_FLOAT32, H100_BANDWIDTH = 989e12, 67e12, 3.35e12
# Measured: `benchmarks/scale.py`, two threads, at the sizes of LF-AmazonTitles-1.3M. A test derives both from its result.
HOST, CLUSTERS = 1.34e9, 4.53e9

HARDWARE: dict[Kind, Hardware] = {
    "gpu": Hardware(
        "one H100 with 80 GB",
        "GPU h",
        encoder=0.2 * H100_PEAK,
        decoder=0.2 * H100_PEAK,
        float32=0.5 * H100_FLOAT32,
        host=HOST,
        clusters=0.25 * H100_BANDWIDTH / 2,
        memory=80e9,
        source="assumed: 20 % of the dense bfloat16 peak (989 TFLOP/s), near what the paper's latencies and its 178 hours "
        "imply; half of the float32 peak (67 TFLOP/s) for the search, a quarter of the bandwidth (3.35 TB/s) for 2-means",
    ),
    # A test derives these two speeds from the benchmark.
    "cpu": Hardware(
        "one processor core",
        "core h",
        encoder=1.23e11,
        decoder=1.23e11,
        float32=1.02e11,
        host=HOST,
        clusters=CLUSTERS,
        memory=float("inf"),
        source="measured: `benchmarks/training_step.py` with two threads, per thread, mean of text and images; bf16 for "
        "training and encoding (123 GFLOP/s), fp32 for the search (102 GFLOP/s)",
    ),
}


@dataclass(frozen=True)
class Texts:
    """Mean sizes of a dataset's items. Without them every text counts at full length, an upper bound.

    Attributes:
        query_tokens: tokens of a query's text, without special tokens; None: `encoder.max_len`.
        label_tokens: the same of a label.
        query_images: images of a query; None: `images.per_item` for each query that has any.
        label_images: the same of a label.
        labels_per_query: true labels of a training query; None: as published (`facts` of the dataset).
        image_bytes: size of a stored image; the default is assumed.
    """

    query_tokens: float | None = None
    label_tokens: float | None = None
    query_images: float | None = None
    label_images: float | None = None
    labels_per_query: float | None = None
    image_bytes: float = 25e3


UNKNOWN = Texts()
# Counted in the corpus with MiniLM-L3's tokenizer, and in the image store.
TEXTS = {"picto": Texts(2.48, 1.34, 1.60, 0.88, 6.88, 1.74e3)}


@dataclass(frozen=True)
class Vision:
    """A vision encoder: operations per image, and its parameters."""

    flop: float
    parameters: float


_SIGLIP2 = Vision(6.7e11, 1.14e9)  # 27 layers of width 1152 and 4304 over 729 patches; all of Table 9's parameters
VISION = {
    "efficientnet-lite0": Vision(2.0e8, 4.7e6),  # 0.39 G multiply-adds at 224 pixels, a quarter of them at 112
    "siglip2": _SIGLIP2,
    "siglip2-open-clip": _SIGLIP2,
    "vit": Vision(3.5e10, 86.4e6),  # 12 layers of width 768 and 3072 over 197 patches
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
