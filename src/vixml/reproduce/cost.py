"""What a published row would cost to train: a prediction, printed beside every row that was not run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vixml.errors import VixmlError
from vixml.reproduce.claims import TrainingRun, read_csv

# Floating point operations a second that a training step sustains on one modern accelerator, in round numbers.
SUSTAINED = 1e14


@dataclass(frozen=True)
class Cost:
    """A predicted training cost.

    Attributes:
        flop: floating point operations, an upper bound (every text counted at full length).
        hours: those at 100 TFLOP/s sustained.
    """

    flop: float
    hours: float

    def __str__(self) -> str:
        hours = f"{self.hours:.1f}" if self.hours < 10 else f"{self.hours:.0f}"
        return f"predicted: at most {self.flop:.1e} FLOP, {hours} h at 100 TFLOP/s"


def count(printed: str) -> float:
    """Return a parameter count printed as ``17.4M`` or ``3.09B``.

    Example:
        >>> count("17.4M"), count("3.09B")
        (17400000.0, 3090000000.0)
    """
    match = re.fullmatch(r"([\d.]+)([MB])", printed)
    if match is None:
        raise VixmlError("not a number of parameters", found=printed, expected="such as 17.4M or 3.09B")
    return float(match[1]) * {"M": 1e6, "B": 1e9}[match[2]]


def load_train_sizes(config_dir: Path | str) -> dict[str, int]:
    """Return the number of training queries of each of the paper's datasets (Table 8)."""
    path = Path(config_dir) / "reported" / "datasets.csv"
    return {row["dataset"]: int(row["n_train"]) for _, row in read_csv(path)}


def predict(run: TrainingRun, params: str, sizes: dict[str, int]) -> Cost:
    """Predict the cost of one of the paper's runs.

    ``6 x parameters x tokens`` operations a sequence (forward and backward; with LoRA the weight gradients saved are
    spent on recomputing activations), two sequences (a query and its label) for each training query and epoch, each
    counted at its full length: ``max_len`` text tokens and one token an image.

    Example:
        >>> run = TrainingRun("run01", "D", "text", "MiniLM-L3", 0, 300, 32, ("T1",))
        >>> f"{predict(run, '17.4M', {'D': 294_805}).flop:.1e}"
        '5.9e+17'
    """
    flop = 6 * count(params) * (run.max_len + run.n_images) * 2 * sizes[run.dataset] * run.epochs
    return Cost(flop, flop / SUSTAINED / 3600)
