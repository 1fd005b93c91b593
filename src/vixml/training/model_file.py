"""A run's model: built from its seed, written and read as one safetensors file."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vixml.config.run import RunConfig
from vixml.errors import VixmlError
from vixml.files import atomic_path
from vixml.models.prompt import Prompt
from vixml.models.siamese import Siamese
from vixml.training.batches import INIT, generator

AGAIN = "train the run again, or pass the folder of this run"


def build_model(
    config: RunConfig,
    model_dir: Path,
    n_labels: int,
    image_dim: int | None,
    seed: int,
    prompt: Prompt | None = None,
    words: np.ndarray | None = None,
    device: torch.device | None = None,
) -> Siamese:
    """Return the run's model; parts without pretrained weights are drawn from the seed.

    Args:
        config: the run.
        model_dir: weights of the language model.
        n_labels: number of labels.
        image_dim: length of an image vector, or None.
        seed: of the run.
        prompt: how sequences are laid out.
        words: (n,) int64, the tokens that occur; where the whole language model trains, embeddings of others are dropped.
        device: where it will compute, which decides on its kernels; the model is built on the processor.
    """
    torch.manual_seed(int(generator(seed, INIT, 0).integers(2**31)))
    model = Siamese(config, model_dir, n_labels, image_dim, prompt, device)
    if words is not None and config.encoder.train == "full":
        model.backbone.keep_words(words)
    return model


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
                hint=AGAIN,
            )
    words = "backbone.row_of"
    if words in own and not torch.equal(own[words].cpu(), tensors[words]):
        raise VixmlError(
            "the model was trained on a corpus with other words",
            where=folder / "model.safetensors",
            found=f"embeddings of {int((tensors[words] >= 0).sum())} tokens",
            expected="those that the texts of this corpus have",
            hint=AGAIN,
        )
    model.load_learned_state(tensors)
