"""Small raw archives in the true format of the Extreme Classification Repository."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from typing import Any

from vixml.config.registry import Source

LABELS = [
    {"uid": "L0", "title": "Fish hooks", "content": "Sharp."},
    {"uid": "L1", "title": "Käse, 芝士, сыр", "content": "Alt."},
    {"uid": "L2", "title": "Net", "content": ""},
]
TRAIN = [
    {"uid": "A", "title": "Rod", "content": "For fish.", "target_ind": [2, 0], "target_rel": [1.0, 1.0]},
    {"uid": "B", "title": "Fondue\n\nset", "content": "Hot", "target_ind": [1], "target_rel": [1.0]},
    {"uid": "L0", "title": "Fish hooks", "content": "Sharp.", "target_ind": [], "target_rel": []},
]
TEST = [{"uid": "C", "title": "Line", "content": None, "target_ind": [0, 1, 2], "target_rel": [1.0, 1.0, 1.0]}]
FILTERS = {"filter_labels_train.txt": "2 0\n2 0\n", "filter_labels_test.txt": "0 1\n"}


def lines(records: Iterable[dict[str, Any] | str]) -> bytes:
    """Return records, or raw lines, as a gzip of JSON lines."""
    texts = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    return gzip.compress("".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass"), mtime=0)


def members(
    label: Any = LABELS, train: Any = TRAIN, test: Any = TEST, filters: dict[str, str] = FILTERS, folder: str = "D/"
) -> dict[str, bytes]:
    """Return the files of an archive; a split may be given as bytes."""
    packed = {"lbl": label, "trn": train, "tst": test}
    found = {f"{folder}{n}.json.gz": v if isinstance(v, bytes) else lines(v) for n, v in packed.items()}
    return found | {f"{folder}{name}": text.encode() for name, text in filters.items()}


def source(filename: str = "D.raw.zip") -> Source:
    """Return its entry in the registry: no hash is published."""
    fields = {"name": "D, raw text", "version": "-", "licence": "not stated", "used_for": "tests"}
    return Source(kind="google-drive", google_drive="1WuquxCAg8D4lKr", filename=filename, **fields)
