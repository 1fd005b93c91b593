"""Tools that the benchmarks share: turns, the speed of the machine, and the form of a result (benchmarks/README.md)."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from origin import RESULTS, record


def take_turns(
    ways: dict[str, Callable[[], Any]], rounds: int, before: Callable[[], object] = lambda: None
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run every way ``rounds`` times, in alternating order, each after ``before``, which is not timed.

    Returns:
        The seconds of each way, and what each returned last.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            before()
            start = time.perf_counter()
            found[name] = ways[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds, found


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest of the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def ratios(slow: list[float], quick: list[float]) -> dict[str, float]:
    """Return how many times longer the slow way took, formed within each round."""
    return spread([a / b for a, b in zip(slow, quick, strict=True)])


def bandwidth(device: str = "cpu") -> float:
    """Return the bytes per second that a sum over 256 MB reads, the best of five."""
    values = torch.ones(1 << 26, device=device)
    return values.nbytes / _best(lambda: values.sum(), device)


def product_speed(n: int, m: int, dim: int, dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the operations per second of an (n, dim) by (dim, m) product, the best of five."""
    a, b = (torch.randn(rows, dim, device=device).to(dtype) for rows in (n, m))
    out = torch.empty(n, m, dtype=dtype, device=device)
    return 2 * n * m * dim / _best(lambda: torch.mm(a, b.T, out=out), device)


def _best(run: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Memory:
    """Watch this process's memory inside a ``with`` block: ``peak_mb`` is how far it rose above where it stood."""

    def __enter__(self) -> Memory:
        self.before = self.largest = _resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.largest = max(self.largest, _resident())

    def _watch(self) -> None:
        while not self.done.wait(0.01):
            self.largest = max(self.largest, _resident())

    @property
    def peak_mb(self) -> float:
        """Return the rise in MB (2^20 bytes)."""
        return (self.largest - self.before) / 2**20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def row(
    path: str, size: str, ours: dict[str, float], plain: dict[str, float] | None, ratio: dict[str, float] | None,
    *, limit: float | None, limit_by: str, threads: int, device: str = "cpu", unit: str = "s", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return one row of the table that ``make bench`` prints.

    Args:
        path: what is timed.
        size: of the input.
        ours, plain: seconds (or what ``unit`` says), as :func:`spread` gives them.
        ratio: straightforward over ours, formed in pairs.
        limit: the seconds (or ``unit``) that no way on this machine can better; None where it is nothing at all.
        limit_by: what sets the limit.
    """
    better = None
    if limit is not None:
        better = ours["median"] / limit if unit.endswith("/s") else limit / ours["median"]
    return {
        "path": path, "size": size, "unit": unit, "ours": ours, "straightforward": plain, "ratio": ratio,
        "limit": limit, "limit_by": limit_by, "share_of_limit": better, "threads": threads, "device": device, **more,
    }  # fmt: skip


def checked(row: dict[str, Any], passed: bool, what: str, found: Any) -> dict[str, Any]:
    """Return a row with its check: whether it passed, what it asks, and what was found."""
    return row | {"check": {"passed": bool(passed), "what": what, "found": found}}


def to_reach(row: dict[str, Any], what: str, found: float, reach: float, *, at_most: bool = False) -> dict[str, Any]:
    """Return a row with a figure to reach, at least or at most; missing it is no failed check."""
    reached = found <= reach if at_most else found >= reach
    return row | {
        "reach": {"what": what, "found": found, "figure": reach, "at_most": at_most, "reached": bool(reached)}
    }


# Dense bfloat16 peaks of NVIDIA's data sheets, by part of the card's name.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Kit:
    """Device and size of the GPU kit.

    Attributes:
        device: of all parts.
        tiny: smallest sizes, for tests.
    """

    device: torch.device
    tiny: bool

    def used(self) -> int:
        """Return the bytes that this process has on its device."""
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else _resident()

    def reset_peak(self) -> None:
        """Forget the peak of the device's memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Return the most bytes on the device since then; on a processor, what this process has now."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else _resident()

    def reserved(self) -> int:
        """Return the most bytes that the allocator has had; 0 on a processor."""
        return torch.cuda.max_memory_reserved() if self.device.type == "cuda" else 0

    def context(self) -> int:
        """Return the bytes on the device that are not the allocator's: its context, and other processes."""
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    def product_speed(self, dtype: torch.dtype) -> float:
        """Return the operations per second of a large product."""
        side = 8192 if self.device.type == "cuda" else 256 if self.tiny else 2048
        return product_speed(side, side, side, dtype, self.device.type)

    def peak(self, measured: float) -> float:
        """Return the card's bfloat16 peak by its data sheet, or ``measured`` if it is unknown."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        return next((peak for part, peak in PEAKS.items() if part in name), measured)


def write(
    name: str, rows: list[dict[str, Any]], out: Path | None = None, document: dict[str, Any] | None = None
) -> None:
    """Write rows with their origin, and print them; ``document`` is written in place of name and rows."""
    from table import show

    path = out or RESULTS / f"{name}.json"
    record(path, document or {"benchmark": name, "rows": rows})
    show(rows)
    print(f"written to {path}")
