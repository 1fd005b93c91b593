"""What a search refuses: shapes and types that do not fit, and vectors that are not finite."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vixml.errors import VixmlError
from vixml.ragged import Ragged


def check_rows(name: str, array: np.ndarray) -> None:
    """Check that every row is finite: NaN and infinity show in a sum of squares."""
    step = max(1, (1 << 22) // max(array.shape[1], 1))
    for start in range(0, len(array), step):
        rows = slice(start, start + step)
        part = np.asarray(array[rows], dtype=np.float32)
        if np.isfinite(np.einsum("ij,ij->", part, part)):
            continue
        # Or the sum was too large for float32, which is no fault.
        wrong = np.flatnonzero(~np.isfinite(np.einsum("ij,ij->i", part, part, dtype=np.float64)))
        if len(wrong):
            raise VixmlError(
                f"a vector among the {name} is not finite",
                where=f"{name}, row {rows.start + wrong[0]}",
                found="NaN or infinity",
                expected="finite numbers",
                hint="encode again; if it comes back, the training diverged: see its log.jsonl",
            )


def check_search(queries: np.ndarray, labels: np.ndarray | Tensor, k: int, filter: Ragged | None) -> None:
    """Check shapes, types, k and filter of a search (:func:`vixml.retrieval.search.search`), so that an error names what is wrong."""
    if queries.ndim != 2 or labels.ndim != 2 or queries.shape[1] != labels.shape[1]:
        raise VixmlError(
            "queries and labels are not vectors of one length",
            where="search",
            found=f"shapes {queries.shape} and {labels.shape}",
            expected="(n, d) and (m, d)",
            hint="encode both with one model",
        )
    for name, array in (("queries", queries), ("labels", labels)):
        if str(array.dtype).removeprefix("torch.") not in ("float32", "float16"):
            raise VixmlError(
                "vectors of an unexpected type", where=name, found=array.dtype, expected="float32 or float16"
            )
    if k < 1:
        raise VixmlError(
            "a search keeps one label or more", where="k", found=k, hint="set inference.top_k to 1 or more"
        )
    if filter is not None and (len(filter), filter.n_cols) != (len(queries), len(labels)):
        raise VixmlError(
            "the filter of reciprocal pairs does not fit queries and labels",
            where="filter",
            found=f"{len(filter)} rows over {filter.n_cols} labels",
            expected=f"{len(queries)} rows over {len(labels)} labels",
            hint="build the corpus again",
        )
