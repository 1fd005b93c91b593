"""Half precision: how far it may change vectors and the gradient of a step."""

from __future__ import annotations

import planted
import pytest
import torch
from test_parts import KINDS, gradients, settings

from vixml.models.encode import encode_items

# Half the relative distance of neighbouring numbers is 2^-9 and 2^-12. The bounds leave room for the dozen roundings of two
# layers, forward and backward.
VECTORS = {"bf16": 2**-6, "fp16": 2**-9}
GRADIENT = {"bf16": 0.08, "fp16": 0.01}
LORA = {"train": "lora", "lora": {"r": 4, "alpha": 4, "dropout": 0.0}, "template": "{text}{images}{eos}"}
CASES = {kind: "task" for kind in KINDS if kind != "frozen"} | {"adapters": "decoder_task"}


def configure(kind, precision):
    if kind == "adapters":
        return planted.make_config(encoder=LORA, prototype={"dropout": 0.0}, training={"precision": precision})
    return settings(kind, precision=precision)


@pytest.mark.parametrize("precision", VECTORS)
@pytest.mark.parametrize("kind", CASES)
def test_a_step_stays_near_that_of_float32(request, kind, precision):
    task = request.getfixturevalue(CASES[kind])
    exact = configure(kind, "fp32")
    training = planted.make_training(task, exact, rows=40)
    true, found = (encode_items(training.model, training.data.queries, name) for name in ("fp32", precision))
    assert found.dtype == torch.float32 and not torch.equal(found, true), "it was enabled"
    error = float(((found - true).norm(dim=1) / true.norm(dim=1)).max())
    assert error < VECTORS[precision]
    whole, half = (gradients(task, configure(kind, p), 1) for p in ("fp32", precision))
    assert half.keys() == whole.keys()
    assert all(gradient.dtype == torch.float32 for gradient in half.values()), (
        "parameters and optimizer stay in float32"
    )
    flat = [torch.cat([one[name].flatten() for name in whole]) for one in (whole, half)]
    distance = float((flat[1] - flat[0]).norm() / flat[0].norm())
    # A new layer of late fusion adds nothing to the text yet: labels with the same text are tied, and rounding decides.
    assert distance < (0.25 if kind == "late" else GRADIENT[precision])
