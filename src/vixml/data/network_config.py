"""Configurations of published networks: read, and refused before building one of them takes all time or memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError, expect_equal
from vixml.files import read_json

# What building a network takes, before one weight is compared: (keys, largest number). Published ones stay far below.
_LIMITS = (
    (re.compile(r"layer|block|depth|expert|heads|stage|branch|labels", re.IGNORECASE), 4096),
    (re.compile(r"image|patch|crop|height|width", re.IGNORECASE), 1 << 14),
    (re.compile(r"vocab|position|context|token|length|^n_ctx", re.IGNORECASE), 1 << 24),
    (re.compile(r"size|dim|channels|rank|features|embd|inner|hidden", re.IGNORECASE), 1 << 20),
)
_LAYERS = {"num_hidden_layers", "num_layers", "n_layers", "n_layer", "block_count"}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object that was published beside weights.

    Raises:
        VixmlError: missing, not JSON, or not an object.
    """
    found, hint = read_json(path, finite=True), "fetch it again, or take another checkpoint"
    expect_equal(type(found).__name__, "dict", "not a JSON object", where=path, hint=hint)
    return found


def expect_sizes(config: Mapping[str, Any], where: object) -> None:
    """Refuse a network's configuration whose numbers would take all time or memory to build.

    Raises:
        VixmlError: such a number, or NaN; its key is named.
    """
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        limit = next((limit for names, limit in _LIMITS if names.search(name)), 1 << 63)
        least = 1 if name in _LAYERS else -math.inf
        if value != value or (isinstance(value, int) and not least <= value <= limit):
            raise VixmlError(
                "a network's configuration has an implausible number",
                where=f"{where}: {key}",
                found=str(value)[:40],
                expected=f"{least} to {limit:,}" if name in _LAYERS else f"at most {limit:,}",
                hint="the file is damaged, or not that of a published network: fetch it again",
            )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield every number of a JSON value with its key; those of a list have the list's."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


def expect_no_more_layers(unused: Iterable[str], used: Iterable[str], where: object) -> None:
    """Refuse weights with more layers than the configuration has: tensors whose names differ from used ones by number only.

    Raises:
        VixmlError: such a tensor.
    """
    kinds = {re.sub(r"\d+", "#", name) for name in used}
    for name in sorted(unused):
        if re.search(r"\d", name) and re.sub(r"\d+", "#", name) in kinds:
            raise VixmlError(
                "the weights have more layers than the configuration",
                where=f"{where}: {name}",
                found="a tensor that the network would not read",
                hint="config.json and the weights are of two checkpoints, or one of them is damaged",
            )
