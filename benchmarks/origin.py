"""Write a result with its origin; without torch, whose import would count as memory of what is measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vixml.files import write_json
from vixml.provenance import git_state, machine, versions

RESULTS = Path("benchmarks/results")


def record(path: Path, document: dict[str, Any], threads: int | None = None) -> None:
    """Write a result with machine, versions, commit and date; ``threads`` of the measured processes, if they are others'."""
    here = machine() | ({} if threads is None else {"threads": threads})
    origin = {
        "machine": here,
        "versions": versions(),
        "source": git_state(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_json(path, document | origin)
