"""What a label has beside its text: the free vector of its cluster, and the mean of its training queries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vixml.models.siamese import Siamese
from vixml.ragged import Ragged
from vixml.training.clustering import balanced_groups, group_means


@torch.no_grad()
def set_free_vectors(model: Siamese, labels: Tensor, init: str, seed: int) -> None:
    """Share the free vectors out among clusters of labels, and give them their first values.

    Args:
        model: with prototypes; its ``cluster`` and free vectors are set.
        labels: (n_labels, dim) float32, unit text vectors.
        init: ``label-mean``, ``zeros``, or ``xavier``: they stay as the model was built.
        seed: of the clustering.
    """
    free = model.prototypes.free
    clusters = balanced_groups(labels.to(free.weight.device), free.num_embeddings, seed)
    model.cluster.copy_(torch.from_numpy(clusters))
    if init == "label-mean":
        free.weight.copy_(group_means(labels, clusters, free.num_embeddings))
    elif init == "zeros":
        free.weight.zero_()


def label_means(queries: Tensor, truth: Ragged) -> tuple[Tensor, Tensor]:
    """Return each label's centroid, the mean of its training queries (no moving average).

    Args:
        queries: (n, dim) float32 unit rows.
        truth: (n rows) label ids.

    Returns:
        (n_labels, dim) float32, zero for labels without a query, and (n_labels,) bool, whether there is one.
    """
    counts = torch.from_numpy(truth.counts())
    holders = truth.transpose()
    sums = F.embedding_bag(
        torch.from_numpy(holders.values.astype(np.int64)), queries, torch.from_numpy(holders.offsets[:-1]), mode="sum"
    )
    return sums / counts.clamp_min(1)[:, None], counts > 0
