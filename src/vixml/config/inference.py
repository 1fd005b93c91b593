"""How a run ranks labels once its encoder stands: the part ``inference`` of ``config/runs/*.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vixml.config.strict import Fraction, Positive, Strict


class Inference(Strict):
    """How a trained (or untrained) encoder ranks labels."""

    method: Literal["label-search", "retrieval-augmented", "knn", "popularity"] = Field(
        "label-search",
        description="`label-search`: maximum inner product over label vectors. `retrieval-augmented`: labels and "
        "training queries are both retrieved, and the latter vote for their labels (paper section 4.5). `knn`: only "
        "neighbouring training queries vote. `popularity`: the most frequent training labels, for everyone.",
    )
    labels_as: Literal["z", "u"] = Field("z", description="Label vectors: prototypes `z`, or plain text vectors `u`.")
    label_weight: float = Field(
        0.9,
        ge=0,
        le=1,
        description="`retrieval-augmented`: weight of retrieved labels; training queries have the rest.",
    )
    retrieved_labels: int = Field(100, ge=1, description="`retrieval-augmented`: labels retrieved.")
    retrieved_queries: int = Field(100, ge=1, description="`retrieval-augmented`: training queries retrieved.")
    search: Literal["separate", "joint"] = Field(
        "separate",
        description="`retrieval-augmented`: two searches (the paper's), or one among labels and training queries "
        "together that keeps `retrieved_labels` of both (RAE-XMC; its `label_weight` is 0.5).",
    )
    neighbours: int = Field(50, ge=1, description="`knn`: training queries that vote.")
    temperature: Positive = Field(0.05, description="`knn` and `retrieval-augmented`: softmax temperature.")
    image_weight: Fraction = Field(
        0.0,
        description="`knn`: share of the squared norm given to the mean of the raw image vectors, beside the text vector.",
    )
    top_k: int = Field(100, ge=1, description="Labels kept per query.")
    index: Literal["exact", "ivf", "hnsw"] = Field(
        "exact",
        description="How vectors are searched. `exact`: all of them. `ivf`, `hnsw`: an index (faiss) that looks at a part and "
        "may miss some; for millions of labels. Scores are exact inner products all the same.",
    )
    index_recall: float = Field(
        0.99,
        gt=0,
        le=1,
        description="`ivf`, `hnsw`: the share of the exact best that must be found; the index looks as far as that takes, "
        "for a sample of the queries.",
    )
