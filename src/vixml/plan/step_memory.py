"""Counted device memory of training steps, by what it depends on; :mod:`vixml.plan.count_memory` writes it. Without torch."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vixml.files import sha256_json, write_text

if TYPE_CHECKING:
    from vixml.plan.cost import PlannedRun

TABLE = Path(__file__).with_suffix(".csv")
# Settings of an encoder that change no shape of a step, or only the number of its tokens.
NO_SHAPE = {
    "model", "max_len", "template", "label_template", "first_token", "text_position", "pooling", "kernels", "lora",
}  # fmt: skip


@dataclass(frozen=True)
class Count:
    """Bytes of a step, without what is kept per label, at two numbers of tokens."""

    run: str  # one run that has them, ``dataset/run``
    few: int  # tokens of the batch with short texts
    at_few: int  # bytes at the peak
    many: int  # tokens with texts at full length
    at_many: int  # bytes at the peak

    def bytes_at(self, tokens: float) -> float:
        """Return the bytes at a number of tokens, along the line through both; never below ``at_few``.

        Example:
            >>> count = Count("d/r", 10, 100, 20, 150)
            >>> count.bytes_at(15), count.bytes_at(30), count.bytes_at(1)
            (125.0, 200.0, 100.0)
        """
        slope = (self.at_many - self.at_few) / max(1, self.many - self.few)
        return self.at_few + slope * max(0.0, tokens - self.few)


def key_of(job: PlannedRun) -> str:
    """Return a digest of everything that the memory of a step depends on, except its tokens and the number of labels."""
    config = job.config
    # Only a softmax over label vectors depends on the number of labels.
    softmax = {"softmax": [job.counts.n_labels, round(job.candidates)]} if config.method == "all-labels" else {}
    return sha256_json(
        {
            **softmax,
            "architecture": job.architecture,
            "encoder": config.encoder.model_dump(mode="json", exclude=NO_SHAPE),
            "adapters": [job.rank, config.encoder.lora.dropout > 0] if job.rank else None,
            "images": job.image_dim if config.uses_images else None,
            "fusion": config.images.fusion if config.uses_images else None,
            "method": config.method,
            "prototype": config.prototype.model_dump(include={"heads", "feedforward", "dropout", "unit_text"}),
            "free_vectors": job.free_vectors,
            "negatives": config.loss.negatives,
            "fp32": config.training.precision == "fp32",
            "batch": [job.batch, round(job.batch_labels), config.training.items_at_once],
        }
    )[:16]


@cache
def load_counts() -> dict[str, Count]:
    """Return all counts by key."""
    if not TABLE.exists():
        return {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [field.name for field in fields(Count)][1:]
    return {row["key"]: Count(row["run"], *(int(row[name]) for name in numbers)) for row in rows}


def save_counts(counts: dict[str, Count]) -> None:
    """Write all counts."""
    lines = [",".join(["key", *(field.name for field in fields(Count))])]
    lines += [",".join([key, *map(str, asdict(count).values())]) for key, count in counts.items()]
    write_text(TABLE, "\n".join(lines) + "\n")
