"""Share work out among the threads of a processor, each of which works alone.

Torch's own threads wait for one another after every operation: many small ones gain little from them, and where another
program uses a core they lose all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

SHARES = 8  # parts that work is shared out in: more than threads, so that a thread held up holds up less


@contextmanager
def one_thread_each() -> Iterator[Executor | None]:
    """Give every torch operation one thread inside a ``with`` block, whose value is a pool of as many as torch had.

    None where that is one. The caller's number of threads is set again at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if before == 1:
            yield None
        else:
            with ThreadPoolExecutor(before) as pool:
                yield pool
    finally:
        torch.set_num_threads(before)


def share_out(pool: Executor | None, n: int, work: Callable[[int, int], object], shares: int = SHARES) -> None:
    """Call ``work`` with ranges that cover 0 to ``n``, in the threads of ``pool`` if there is one.

    Example:
        >>> share_out(None, 7, lambda start, end: print(start, end))
        0 7
    """
    if pool is None:
        work(0, n)
        return
    step = max(1, -(-n // shares))
    for job in [pool.submit(work, start, min(start + step, n)) for start in range(0, n, step)]:
        job.result()
