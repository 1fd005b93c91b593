"""The folder beside a stage's output that holds what a killed run had done already."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vixml.files import atomic_path, sha256_json


def kept_folder(out: Path, ending: str, identity: dict[str, Any]) -> Path:
    """Return ``<out>-<ending>``, made if it is not there; what belongs to other inputs or settings is thrown away.

    Args:
        out: the stage's output.
        ending: what is being done, e.g. ``fetching``.
        identity: all that decides the result (JSON values).
    """
    kept = out.with_name(f"{out.name}-{ending}")
    stamp, name = kept / "identity", sha256_json(identity)
    if kept.exists() and not (stamp.exists() and stamp.read_text() == name):
        shutil.rmtree(kept)
    kept.mkdir(parents=True, exist_ok=True)
    with atomic_path(stamp) as temporary:
        Path(temporary).write_text(name)
    return kept
