"""Checkpoints: everything that a killed run needs to end with the same bytes as one that was never interrupted.

A checkpoint names what its training obeyed, part by part (its identity). One of another identity is neither resumed in
silence nor deleted: it is put aside, or, where only the code has changed since a long training, the user decides.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from vixml.digest import digest_of
from vixml.errors import VixmlError
from vixml.files import atomic_path, sha256_json, sweep
from vixml.identity import differences, put_aside
from vixml.text import duration

FORMAT = "vixml-checkpoint-3"
NAME = "state.pt"
SHARE = 0.01  # of training time that saving may take
LONG = 600.0  # seconds of training that are not repeated because of new code without the user's decision


class Checkpoint:
    """A run's checkpoint file, and when it is due.

    It is not due before training has run ``1 / SHARE`` times as long as the last one took to write. Then it is due at the
    end of an epoch, where resuming repeats least work, and inside an epoch if ``minutes`` have passed as well.

    Args:
        identity: what decides what is learned, by name: JSON values. ``config`` are the run's settings, ``code`` the hash
            of each module.
        minutes: least time between checkpoints inside an epoch.
        accept: whether to resume a checkpoint that other code wrote.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], minutes: float, accept: bool = False) -> None:
        self.path, self.identity, self.minutes, self.accept = folder / NAME, dict(identity), minutes, accept
        self.saved_at, self.cost = monotonic(), 0.0
        self.unfit: tuple[str, str] | None = None  # short digest and description of a file that is to be put aside

    def due(self, epoch_ended: bool) -> bool:
        """Return whether to save now."""
        waited = monotonic() - self.saved_at
        return waited * SHARE >= self.cost and (epoch_ended or waited > 60 * self.minutes)

    def save(self, state: dict[str, Any]) -> None:
        """Write the running state (tensors, numbers, strings, lists and dictionaries of them) atomically.

        Raises:
            VixmlError: the disk is full; the last checkpoint is kept.
        """
        started = monotonic()
        with atomic_path(self.path) as temporary:
            torch.save({"format": FORMAT, "identity": self.identity, **state}, temporary)
        self.saved_at = monotonic()
        self.cost = self.saved_at - started

    def load(self) -> dict[str, Any] | None:
        """Read the running state.

        Returns:
            The state, its tensors mapped from the file: copy them. None if there is none, or if it is that of another
            training: then :meth:`put_aside` keeps the file. A state of other code that the user accepted says so in
            ``accepted``: for each change of code its position, the old digest and the new one.

        Raises:
            VixmlError: the file is damaged; or only the code has changed since more than :data:`LONG` seconds of training,
                and the user has not decided.
        """
        sweep(self.path)
        if not self.path.exists():
            return None
        try:
            # torch wrote a checksum of each tensor and does not look at it; a flipped bit would be trained on.
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} does not have its checksum")
            # weights_only: a checkpoint is read as data, so it cannot run code. mmap: 37 GB need not be in memory at once.
            state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            form, found = state["format"], state["identity"]
        except Exception as error:
            raise VixmlError(
                "a checkpoint cannot be read",
                where=self.path,
                found=f"{type(error).__name__}: {error}".splitlines()[0][:120],
                hint="delete it and run again; training then starts from the beginning",
            ) from error
        if form != FORMAT:
            reason = f"it holds {position(state)} in the format {form}, and this version reads {FORMAT}"
            self.unfit = sha256_json(found)[:8], reason
            return None
        if found == self.identity:
            return state
        only_code, changed = differences(found, self.identity)
        old, new = digest_of(found.get("code", {})), digest_of(self.identity.get("code", {}))
        if only_code and self.accept:
            note = {name: state.get(name) for name in ("epoch", "step_in_epoch", "seconds")} | {"from": old, "to": new}
            return state | {"accepted": [*state.get("accepted", []), note]}
        if only_code and state.get("seconds", 0.0) > LONG:
            raise VixmlError(
                "the code has changed since a checkpoint was written: should training resume from it?",
                where=f"{self.path}: {position(state)}",
                found=f"digest {new}; changed: {changed}",
                expected=f"digest {old}",
                hint="to resume with the new code, add `--accept-checkpoint`, or set VIXML_ACCEPT_CHECKPOINT=1 before "
                "`snakemake` (the manifest and training.json record it); to start from the beginning, move this file "
                "away; to end with the old code, check out the commit that started this training",
            )
        self.unfit = sha256_json(found)[:8], f"it holds {position(state)}, and since then changed: {changed}"
        return None

    def put_aside(self) -> str | None:
        """Rename a file that :meth:`load` found to be of another training; return a sentence for the user, or None."""
        if self.unfit is None:
            return None
        (digest, reason), self.unfit = self.unfit, None
        kept = put_aside(self.path, digest)
        return (
            f"the checkpoint is that of another training: {reason}. Training starts from the beginning. The file is kept "
            f"as {kept}; delete it, or undo the change and move it back to {NAME} to resume from it."
        )

    def remove(self) -> None:
        """Delete the file, and the folder unless it keeps one of another training."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def position(state: Mapping[str, Any]) -> str:
    """Return what a checkpoint holds, for the user: time of training, epoch and step."""
    epoch, step = state.get("epoch", 0), state.get("step_in_epoch", 0)
    return f"{duration(state.get('seconds', 0.0) / 3600)} of training, up to epoch {epoch + 1}, step {step}"
