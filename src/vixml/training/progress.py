"""What a person sees of a training run: a bar with loss, speed and time left, and a line for each epoch."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from vixml.progress import Quiet


class TrainingView:
    """Translate the trainer's callbacks for a progress bar.

    Args:
        advance: the bar, counting queries.
        name: run and seed, for the epochs' lines.
        epochs: of the run.
    """

    def __init__(self, advance: Quiet, name: str, epochs: int) -> None:
        self.advance, self.name, self.epochs = advance, name, epochs
        self.seen, self.started = 0, time.monotonic()

    def step(self, n: int, loss: Tensor) -> None:
        """Count ``n`` queries. The loss is fetched from the device only when it is about to be shown."""
        self.seen += n
        speed = self.seen / max(time.monotonic() - self.started, 1e-9)
        self.advance(n, lambda: f"loss {float(loss):.3f}, {speed:.0f} samples/s")

    def resume(self, n: int, epoch: int) -> None:
        """Say where an interrupted run goes on: after ``n`` queries, in ``epoch``."""
        self.advance.skip(n)
        self.advance.say(f"{self.name}: goes on in epoch {epoch + 1}/{self.epochs}, from its checkpoint")

    def epoch(self, report: dict[str, Any]) -> None:
        """Print the epoch's loss and, where queries are held out, its P@1 by text vector and prototype."""
        words = [f"{self.name}: epoch {report['epoch'] + 1}/{self.epochs}", f"loss {report['loss']:.4f}"]
        words += [f"{report['samples_per_second']:.0f} samples/s"]
        words += [f"validation P@1 {k[-1]} {report[k]:.1f}" for k in ("P@1/u", "P@1/z") if k in report]
        self.advance.say(", ".join(words))

    def warn(self, sentence: str) -> None:
        """Print a warning."""
        self.advance.say(f"WARNING {self.name}: {sentence}")
