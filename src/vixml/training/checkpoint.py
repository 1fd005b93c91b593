"""Checkpoints: everything a killed run needs to end with the same bytes as one that was never interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vixml.errors import VixmlError
from vixml.files import atomic_path

FORMAT = "vixml-checkpoint-2"
NAME = "state.pt"


class SaveClock:
    """Says when a checkpoint is due, so that saving stays within one part in a hundred of training time.

    None is due before training has run a hundred times as long as the last one took to write. From then on one is due
    at an epoch's end, the better place to resume from, and inside an epoch once ``minutes`` have passed as well.

    Args:
        minutes: between checkpoints inside an epoch, at least.
        now: the time in seconds.
        share: of training time that saving may take.
    """

    SHARE = 0.01

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic, share: float = SHARE) -> None:
        self.minutes, self.now, self.share = minutes, now, share
        self.last, self.cost = now(), 0.0

    def due(self, epoch_ended: bool) -> bool:
        """Return whether to save now."""
        waited = self.now() - self.last
        return waited * self.share >= self.cost and (epoch_ended or waited > 60 * self.minutes)

    def run(self, save: Callable[[], None]) -> None:
        """Save, and take the time."""
        started = self.now()
        save()
        self.last = self.now()
        self.cost = self.last - started


def save_checkpoint(folder: Path | str, identity: str, state: dict[str, Any]) -> None:
    """Write the running state atomically.

    Args:
        folder: the run's checkpoint folder.
        identity: digest of the resolved config and the inputs; a checkpoint of anything else is not resumed.
        state: tensors, numbers, strings, lists and dictionaries of them.
    """
    with atomic_path(Path(folder) / NAME) as temporary:
        torch.save({"format": FORMAT, "identity": identity, **state}, temporary)


def load_checkpoint(folder: Path | str, identity: str) -> dict[str, Any] | None:
    """Read the running state. Random numbers are no part of it: those of a step follow from its position.

    Returns:
        The state, or None if there is none or it belongs to another config or other inputs (then training starts
        afresh: the old checkpoint could not lead to this run's result).

    Raises:
        VixmlError: the file is damaged.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return None
    try:
        # weights_only: a checkpoint is read as data, it cannot run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = state["format"] == FORMAT and state["identity"] == identity
    except Exception as error:
        raise VixmlError(
            "a checkpoint cannot be read",
            where=path,
            found=f"{type(error).__name__}: {error}".splitlines()[0][:120],
            hint=f"delete {Path(folder)} and run again; training then starts from the beginning",
        ) from error
    return state if known else None
