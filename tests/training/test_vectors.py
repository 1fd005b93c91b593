"""Stored vectors and centroids: against plain loops, in blocks of any size; and memory that forked processes share."""

from __future__ import annotations

import os
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vixml.errors import VixmlError
from vixml.ragged import Ragged
from vixml.training import distributed, vectors
from vixml.training.distributed import ProcessGroup, join, lost_processes
from vixml.training.vectors import StoredVectors, add_up, label_means, shared_zeros

N, LABELS, DIM = 60, 12, 8


@pytest.fixture
def stored():
    return F.normalize(torch.randn(N, DIM, generator=torch.Generator().manual_seed(0)), dim=1)


def made_truth(rows):
    """Some queries have no label, one has more than a block holds, and no query has the last label."""
    rng = np.random.default_rng(1)
    lists = [np.sort(rng.choice(LABELS - 1, rng.integers(0, 4), replace=False)) for _ in rows]
    lists[3] = np.arange(LABELS - 1)
    return Ragged.from_rows(lists, LABELS)


def naive_means(stored, rows, truth):
    means = np.zeros((LABELS, DIM))
    for label in range(LABELS):
        of_label = [stored[row].double().numpy() for i, row in enumerate(rows) if label in truth.row(i)]
        means[label] = np.mean(of_label, axis=0) if of_label else 0
    return torch.from_numpy(means).float()


@pytest.mark.parametrize(
    "rows", [np.arange(N), np.arange(5, 45), np.arange(0, N, 3)], ids=["all", "neighbours", "some"]
)
@pytest.mark.parametrize("block", [1, 5 * DIM, 1 << 26])
def test_centroids_on_either_kind_of_device_are_the_means(stored, monkeypatch, rows, block):
    monkeypatch.setattr(vectors, "BLOCK", block)
    truth = made_truth(rows)
    expected, out = naive_means(stored, rows, truth), torch.full((LABELS, DIM), torch.nan)
    means, has = label_means(stored, truth, rows, out)
    assert means is out and has.tolist() == (truth.counts() > 0).tolist() and not has[-1]
    torch.testing.assert_close(means, expected)
    assert torch.equal(means, label_means(stored[rows], truth)[0]), "rows of a whole, or rows by themselves"
    # What a GPU does: it adds up block by block, and to the same bytes again.
    sums = [torch.zeros(LABELS, DIM) for _ in range(2)]
    for one in sums:
        add_up(one, stored, truth, rows)
    torch.testing.assert_close(sums[0] / torch.from_numpy(truth.counts()).clamp_min(1)[:, None], expected)
    assert torch.equal(*sums)


def test_a_device_adds_up_no_more_than_a_block(stored, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 8 * DIM)
    sent, sums, truth = [], torch.zeros(LABELS, DIM), made_truth(range(N))
    monkeypatch.setattr(vectors, "send", lambda tensor, device: sent.append(tensor.shape) or tensor)
    add_up(sums, stored, truth, np.arange(N))
    blocks, pairs = sent[::2], sent[1::2]
    assert sum(len(truth.row(i)) for i in range(N)) == sum(n for _, n in pairs)
    assert max(n for n, _ in blocks) <= 8 and sorted(n for _, n in pairs)[-2] <= 8, "one query has eleven"


def test_stored_vectors_are_filled_changed_and_taken(stored, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 7 * DIM)
    store = StoredVectors(shared_zeros(N, DIM))
    store.fill(3 * stored)
    torch.testing.assert_close(store.read(), stored)
    store.put(np.array([4, 2]), torch.ones(2, DIM))
    rows = np.array([2, 4, 9])
    assert torch.equal(store.take(rows), torch.stack([torch.ones(DIM), torch.ones(DIM), store.read()[9]]))
    assert store.take(np.arange(N)).data_ptr() == store.read().data_ptr(), "those of all rows are no copy"
    nothing = StoredVectors(shared_zeros(0, DIM))
    nothing.put(np.array([4]), torch.ones(1, DIM))
    assert nothing.read().shape == (0, DIM)


def test_forked_processes_share_stored_vectors():
    """As the workers of a loader do: a step's writes copy no page for them."""
    shared, (read, write) = shared_zeros(1000, 3), os.pipe()
    if (child := os.fork()) == 0:
        os.read(read, 1)
        os._exit(int(shared[999, 2]))
    shared[999, 2] = 42
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_too_little_memory_is_an_error_of_memory():
    with pytest.raises(MemoryError, match="cannot allocate"):
        shared_zeros(1 << 44, 1 << 10)


def test_processes_wait_as_long_as_a_large_checkpoint_takes(monkeypatch):
    """Rank 0 writes 37 GB while the others wait; NCCL would stop them after ten minutes."""
    given = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        distributed, "distributed", SimpleNamespace(
            is_initialized=lambda: False, get_rank=lambda: 0, get_world_size=lambda: 2,
            init_process_group=lambda backend, timeout: given.update(timeout=timeout),
        )
    )  # fmt: skip
    assert join(torch.device("cpu")).size == 2
    assert given["timeout"] >= timedelta(seconds=37e9 / 5e6)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("unbound_buffer.cc:129] Timed out waiting 4000ms for send operation", "did not answer for 3:"),
        ("pair.cc:534] Connection closed by peer [127.0.1.1]:8071", "process of this training ended"),
    ],
)
def test_one_error_for_a_process_that_is_slow_or_gone(message, said):
    with pytest.raises(VixmlError, match=said) as caught, lost_processes(ProcessGroup(1, 2)):
        raise RuntimeError(f"[gloo/transport/tcp/{message}")
    assert "resumes from the checkpoint" in caught.value.hint
