"""A run's model: built from its seed, written and read as one safetensors file."""

from __future__ import annotations

import errno
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.files import atomic_path
from vixml.models.prompt import Prompt
from vixml.models.siamese import Siamese
from vixml.training.batches import INIT, generator


def build_model(
    config: RunConfig, model_dir: Path, n_labels: int, image_dim: int | None, seed: int, prompt: Prompt | None = None
) -> Siamese:
    """Return the run's model; parts without pretrained weights are drawn from the seed."""
    torch.manual_seed(int(generator(seed, INIT, 0).integers(2**31)))
    return Siamese(config, model_dir, n_labels, image_dim, prompt)


def save_model(folder: Path, model: Siamese) -> None:
    """Write ``model.safetensors``: every tensor that the language model's own folder does not hold."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(model.learned_state().items())}
    path = folder / "model.safetensors"
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            # It has no errno of its own, and a full disk is told by that.
            number = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
            raise OSError(number, str(error), str(path)) from error


def load_model(folder: Path, model: Siamese) -> None:
    """Read the tensors of :func:`save_model` into ``model``.

    Raises:
        VixmlError: the folder holds another model.
    """
    tensors = load_file(folder / "model.safetensors")
    own = model.learned_state()
    for name in sorted(own.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        expected = tuple(own[name].shape) if name in own else "no such tensor"
        if found != expected:
            raise VixmlError(
                "the trained weights belong to another model",
                where=f"{folder / 'model.safetensors'}: {name}",
                found=found,
                expected=expected,
                hint="train the run again, or pass the folder of this run",
            )
    model.load_learned_state(tensors)
