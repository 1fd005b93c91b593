"""What a run reads: corpus, tokens and image vectors, opened and checked against one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vixml.config.run import RunConfig
from vixml.data.corpus import Corpus
from vixml.errors import VixmlError
from vixml.images.bank import ImageBank
from vixml.ragged import Ragged


@dataclass(frozen=True)
class RunInputs:
    """Where a run's inputs lie.

    Attributes:
        corpus: results/data/{dataset}/corpus.
        tokens: results/data/{dataset}/tokens/....
        bank: results/data/{dataset}/bank/{vision}, or None for text only.
        model_dir: results/models/{model}.
    """

    corpus: Path
    tokens: Path
    bank: Path | None
    model_dir: Path

    def named(self) -> dict[str, Path]:
        """Return the inputs that are there, by name."""
        return {name: path for name, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class RunData:
    """A run's inputs, opened: tokens, image lists and a reader of image vectors for each split."""

    corpus: Corpus
    tokens: Mapping[str, Ragged]
    images: Mapping[str, Ragged | None]
    gather: Callable[[np.ndarray], np.ndarray] | None
    image_dim: int | None


def open_inputs(inputs: RunInputs, config: RunConfig, seed: int) -> RunData:
    """Open what a run reads; images are cut at ``images.per_item`` and, for the control, shuffled between items.

    Raises:
        VixmlError: the run reads images but no bank was given, or splits do not match the corpus.
    """
    corpus = Corpus.load(inputs.corpus)
    splits = ("train", "test", "label")
    tokens = {split: Ragged.load(inputs.tokens / split) for split in splits}
    for split in splits:
        if len(tokens[split]) != corpus.n(split):
            raise VixmlError(
                "tokens belong to another corpus",
                where=inputs.tokens / split,
                found=f"{len(tokens[split])} rows",
                expected=f"{corpus.n(split)} rows",
                hint="tokenize again; snakemake does so by itself",
            )
    longest = max(int(tokens[split].lengths.max(initial=0)) for split in splits)
    if longest > config.encoder.max_len:
        raise VixmlError(
            "tokens were cut at another length than the run asks for",
            where=inputs.tokens,
            found=f"a text of {longest} tokens",
            expected=f"encoder.max_len = {config.encoder.max_len}",
            hint="tokenize with that --max-len",
        )
    if not config.uses_images:
        return RunData(corpus, tokens, dict.fromkeys(splits), None, None)
    if inputs.bank is None:
        raise VixmlError(
            "a run with images needs an image bank", where="--bank", hint="pass the folder of embed-images"
        )
    bank = ImageBank.open(inputs.bank)
    images = {
        split: bank.lists(corpus.images(split), config.images.per_item, seed if config.images.shuffle else None)
        for split in splits
    }
    return RunData(corpus, tokens, images, bank.gather, bank.dim)
