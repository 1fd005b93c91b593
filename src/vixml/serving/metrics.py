"""Counters of a server, as the text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Count values by size."""

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(BUCKETS) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.total += value

    def lines(self, name: str, about: str) -> list[str]:
        """Return its lines."""
        found, below = [f"# HELP {name} {about}", f"# TYPE {name} histogram"], 0
        for edge, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{edge}"}} {below}')
        return [*found, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


class Metrics:
    """Counts of requests, items and images, and their times."""

    def __init__(self) -> None:
        # (path, status) -> answers; paths are those of the API, so their number is bounded.
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds, self.batch_seconds = Histogram(), Histogram()
        self.items = self.batches = 0  # tagged or encoded; of the model
        self.images: Counter[str] = Counter()  # decoded, refused

    def text(self, waiting: int, connections: int) -> str:
        """Return everything, as Prometheus reads it."""
        lines = ["# HELP vixml_requests_total Answers by path and status.", "# TYPE vixml_requests_total counter"]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'vixml_requests_total{{path="{path}",status="{status}"}} {count}')
        lines += self.seconds.lines("vixml_request_seconds", "From the first line of a request to its answer.")
        lines += self.batch_seconds.lines("vixml_batch_seconds", "Of the model on one batch.")
        lines += ["# HELP vixml_images_total Images by outcome.", "# TYPE vixml_images_total counter"]
        lines += [f'vixml_images_total{{outcome="{name}"}} {self.images[name]}' for name in ("decoded", "refused")]
        for name, kind, value, about in (
            ("vixml_items_total", "counter", self.items, "Items tagged or encoded."),
            ("vixml_batches_total", "counter", self.batches, "Batches of the model."),
            ("vixml_waiting", "gauge", waiting, "Items and images that wait or are being tagged."),
            ("vixml_connections", "gauge", connections, "Connections open now."),
        ):
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join([*lines, ""])
