"""Packing: every token and image at its position, no padding anywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vixml.models.packing import pack_sequences
from vixml.models.prompt import Prompt
from vixml.ragged import Ragged


def contents(packed):
    """Return each sequence in the caller's order, as the list of (kind, id, position) that the stream holds."""
    rows = [("text", int(t)) for t in packed.token_ids] + [("image", int(i)) for i in packed.image_rows]
    stream = [(*rows[g], int(p)) for g, p in zip(packed.gather, packed.position_ids, strict=True)]
    sequences = []
    for start, count, length in packed.blocks.tolist():
        sequences += [stream[start + k * length : start + (k + 1) * length] for k in range(count)]
    assert sum(len(s) for s in sequences) == len(stream)
    return [sequences[k] for k in packed.restore]


items = st.lists(
    st.tuples(st.lists(st.integers(0, 8), max_size=6), st.lists(st.integers(0, 4), max_size=3)).filter(any),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(items)
def test_images_stand_first_then_text_and_positions_count_on(batch):
    packed = pack_sequences(Ragged.from_rows([t for t, _ in batch], 9), Ragged.from_rows([i for _, i in batch], 5))
    expected = []
    for text, images in batch:
        sequence = [("image", i) for i in images] + [("text", t) for t in text]
        expected.append([(*token, position) for position, token in enumerate(sequence)])
    assert contents(packed) == expected
    assert len(packed) == len(batch)
    lengths = packed.blocks[:, 2].tolist()
    assert lengths == sorted(set(lengths)), "one block a length, shortest first"
    assert len(packed.gather) == sum(len(t) + len(i) for t, i in batch), "nothing is padded"


@settings(max_examples=80, deadline=None)
@given(items, st.sampled_from([1, 16]))
def test_images_in_front_take_the_same_positions_in_every_item(batch, multiple):
    """Words 11, images, words 12, text, word 13; three positions for images, so all that follows has the same ones."""
    prompt = Prompt(((11,), "images", (12,), "text", (13,)), causal=True, image_positions=3)
    texts, images = Ragged.from_rows([t for t, _ in batch], 9), Ragged.from_rows([i for _, i in batch], 5)
    packed = pack_sequences(texts, images, prompt, multiple)
    assert packed.prefix == 1 and packed.position_ids[0] == 0
    expected = []
    for text, rows in batch:
        rest = [("text", word) for word in [12, *text, 13]]
        expected.append([("image", i, 1 + k) for k, i in enumerate(rows)] + [(*t, 4 + k) for k, t in enumerate(rest)])
    found = contents(replace(packed, gather=packed.gather[1:], position_ids=packed.position_ids[1:],
                             blocks=packed.blocks - [1, 0, 0]))  # fmt: skip
    assert found == expected
    plain = pack_sequences(texts, images, replace(prompt, image_positions=0), multiple)
    assert plain.gather.tolist() == packed.gather.tolist() and plain.blocks.tolist() == packed.blocks.tolist()


def test_images_behind_the_text_count_on():
    prompt = Prompt(("text", "images"), image_positions=3)
    packed = pack_sequences(Ragged.from_rows([[4, 5], [6]], 9), Ragged.from_rows([[1], [0]], 5), prompt)
    assert contents(packed) == [[("text", 4, 0), ("text", 5, 1), ("image", 1, 2)], [("text", 6, 0), ("image", 0, 1)]]


def test_text_only():
    packed = pack_sequences(Ragged.from_rows([[4, 5], [6]], 9))
    assert contents(packed) == [[("text", 4, 0), ("text", 5, 1)], [("text", 6, 0)]]
    assert len(packed.image_rows) == 0


def test_equal_lengths_keep_the_callers_order():
    packed = pack_sequences(Ragged.from_rows([[1, 2], [3], [4, 5], [6]], 9))
    assert packed.token_ids.tolist() == [3, 6, 1, 2, 4, 5]
    np.testing.assert_array_equal(packed.restore, [2, 0, 3, 1])


def test_refuses_what_cannot_be_encoded():
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        pack_sequences(Ragged.from_rows([[1], []], 9), Ragged.from_rows([[0], []], 5))
    with pytest.raises(ValueError, match="2 texts but 1 image lists"):
        pack_sequences(Ragged.from_rows([[1], [2]], 9), Ragged.from_rows([[0]], 5))
