"""Checkpoints: everything that a killed run needs to end with the same bytes as one that was never interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from vixml.errors import VixmlError
from vixml.files import atomic_path

FORMAT = "vixml-checkpoint-2"
NAME = "state.pt"
SHARE = 0.01  # of training time that saving may take


class Checkpoint:
    """A run's checkpoint file, and when it is due.

    It is not due before training has run ``1 / SHARE`` times as long as the last one took to write. Then it is due at the
    end of an epoch, where resuming repeats least work, and inside an epoch if ``minutes`` have passed as well.

    Args:
        folder: its folder.
        identity: digest of configuration, inputs and code; a checkpoint with another identity is not resumed.
        minutes: least time between checkpoints inside an epoch.
    """

    def __init__(self, folder: Path, identity: str, minutes: float) -> None:
        self.path, self.identity, self.minutes = folder / NAME, identity, minutes
        self.saved_at, self.cost = monotonic(), 0.0

    def due(self, epoch_ended: bool) -> bool:
        """Return whether to save now."""
        waited = monotonic() - self.saved_at
        return waited * SHARE >= self.cost and (epoch_ended or waited > 60 * self.minutes)

    def save(self, state: dict[str, Any]) -> None:
        """Write the running state atomically.

        Args:
            state: tensors, numbers, strings, lists and dictionaries of them.
        """
        started = monotonic()
        with atomic_path(self.path) as temporary:
            torch.save({"format": FORMAT, "identity": self.identity, **state}, temporary)
        self.saved_at = monotonic()
        self.cost = self.saved_at - started

    def load(self) -> dict[str, Any] | None:
        """Read the running state.

        Returns:
            The state, or None if there is none or it has another identity: then training starts afresh, since the old
            checkpoint could not lead to this run's result.

        Raises:
            VixmlError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            # weights_only: a checkpoint is read as data, so it cannot run code.
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            known = state["format"] == FORMAT and state["identity"] == self.identity
        except Exception as error:
            raise VixmlError(
                "a checkpoint cannot be read",
                where=self.path,
                found=f"{type(error).__name__}: {error}".splitlines()[0][:120],
                hint=f"delete {self.path.parent} and run again; training then starts from the beginning",
            ) from error
        return state if known else None

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
