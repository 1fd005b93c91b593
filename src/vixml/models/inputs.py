"""What a run reads: corpus, tokens and image vectors, opened and checked against one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.run import RunConfig
from vixml.data.corpus import Corpus
from vixml.data.tokens import tokenize_pieces
from vixml.errors import VixmlError
from vixml.files import sha256_file
from vixml.images.embeddings import ImageEmbeddings
from vixml.models.prompt import Prompt, make_prompt
from vixml.ragged import Ragged


@dataclass(frozen=True)
class RunInputs:
    """Where a run's inputs lie.

    Attributes:
        corpus: results/data/{dataset}/corpus.
        tokens: results/data/{dataset}/tokens/....
        embeddings: results/data/{dataset}/embeddings/{vision}, or None for text only.
        model_dir: results/models/{model}.
    """

    corpus: Path
    tokens: Path
    embeddings: Path | None
    model_dir: Path

    def named(self) -> dict[str, Path]:
        """Return the inputs that are there, by name."""
        return {name: path for name, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class RunData:
    """A run's inputs, opened: tokens, image lists and prompts of each split, and a reader of image vectors."""

    corpus: Corpus
    tokens: Mapping[str, Ragged]
    images: Mapping[str, Ragged | None]
    gather: Callable[[np.ndarray], np.ndarray] | None
    image_dim: int | None
    prompts: Mapping[str, Prompt]

    def vocabulary(self) -> np.ndarray:
        """Return every token that a text or a template has: (n,) int64, ascending."""
        prompted = [word for prompt in self.prompts.values() for word in prompt.words]
        seen = np.zeros(max(*(tokens.n_cols for tokens in self.tokens.values()), *prompted, 0) + 1, dtype=bool)
        seen[prompted] = True
        for tokens in self.tokens.values():
            seen[tokens.values] = True
        return np.flatnonzero(seen)


def open_inputs(inputs: RunInputs, config: RunConfig, seed: int) -> RunData:
    """Open what a run reads; images are cut at ``images.per_item`` and, for a control, replaced.

    Raises:
        VixmlError: the run reads images but got no embeddings, those of another vision encoder, or too few
            an item than wanted, or splits do not match the corpus.
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
    _check_tokens(tokens["train"].header, inputs, config)
    prompts = _prompts(config, inputs.model_dir, tokens)
    if config.encoder.first_token == "each-piece":  # the text's own first token counts among `max_len`
        most = config.encoder.max_len - len(tokens["train"].header.get("bos_ids", ()))
        tokens = {split: lists.first(most) for split, lists in tokens.items()}
    if not config.uses_images:
        found = RunData(corpus, tokens, dict.fromkeys(splits), None, None, prompts)
        _check_no_empty(found, inputs)
        return found
    if inputs.embeddings is None:
        raise VixmlError(
            "a run with images needs image embeddings", where="--embeddings", hint="pass the folder of embed-images"
        )
    embeddings = ImageEmbeddings.open(inputs.embeddings)
    if embeddings.vision != config.images.vision:
        raise VixmlError(
            "the image embeddings are of another vision encoder than the run asks for",
            where=inputs.embeddings,
            found=f"{embeddings.vision}, vectors of length {embeddings.dim}",
            expected=f"images.vision = {config.images.vision}",
            hint="pass that encoder's embeddings: vixml embed-images DATASET NAME",
        )
    held = {split: embeddings.images_of(corpus, split) for split in splits}
    most = max(int(lists.lengths.max(initial=0)) for lists in held.values())
    if config.images.per_item > most:
        raise VixmlError(
            "more images per item are wanted than there are",
            where="images.per_item",
            found=config.images.per_item,
            expected=f"at most {most}, the longest list of images in {inputs.embeddings if embeddings.item_lists else inputs.corpus}",
            hint="lower images.per_item; or, of vectors published as they are, pool the images here instead "
            "(published_vectors: false)"
            if embeddings.item_lists
            else "lower images.per_item, or build the corpus with more images per item",
        )
    images = {
        split: embeddings.lists(held[split], config.images.per_item, config.images.control, seed) for split in splits
    }
    gather = partial(embeddings.gather, dtype=np.float16)
    found = RunData(corpus, tokens, images, gather, embeddings.dim, prompts)
    _check_no_empty(found, inputs)
    return found


def _check_tokens(header: Mapping[str, Any], inputs: RunInputs, config: RunConfig) -> None:
    """Refuse tokens of another tokenizer than the language model's, or cut at another length than the run asks for."""
    made_with, tokenizer = header.get("tokenizer_sha256"), inputs.model_dir / "tokenizer.json"
    # A folder without a tokenizer belongs to tokens that were not made from text.
    own = sha256_file(tokenizer) if tokenizer.exists() else None
    if made_with != own:
        raise VixmlError(
            "tokens were made by another tokenizer than the language model's",
            where=inputs.tokens,
            found=f"{header.get('tokenizer')}, tokenizer.json with sha256 {str(made_with)[:12]}",
            expected=f"{str(own)[:12]}, that of {inputs.model_dir}",
            hint="tokenize with --model-dir of the run's language model; snakemake does so by itself",
        )
    if header.get("max_len") != config.encoder.max_len:
        raise VixmlError(
            "tokens were cut at another length than the run asks for",
            where=inputs.tokens,
            found=f"max_len {header.get('max_len')}",
            expected=f"encoder.max_len = {config.encoder.max_len}",
            hint="tokenize with that --max-len",
        )


def _check_no_empty(data: RunData, inputs: RunInputs) -> None:
    """Refuse an item of which nothing enters the encoder: no text, no words of a template, no image."""
    for split, tokens in data.tokens.items():
        prompt, images = data.prompts[split], data.images[split]
        inside = images.lengths if images is not None and not prompt.late else 0
        empty = np.flatnonzero(tokens.lengths + inside + len(prompt.words) < 1)
        if len(empty):
            raise VixmlError(
                "an item has nothing that could be encoded: its text has no token, and no words of the template stand by it",
                where=f"{inputs.tokens / split}, row {empty[0]}",
                found=f"{len(empty)} such rows, text {data.corpus.texts(split)[empty[0]]!r}",
                expected="at least one token per item",
                hint="give it a text, or a template with words or {eos}: encoder.template",
            )


def _prompts(config: RunConfig, model_dir: Path, tokens: Mapping[str, Ragged]) -> dict[str, Prompt]:
    """Return the prompt of each split: the labels' own where an embedder off the shelf has one."""
    encoder, header = config.encoder, tokens["train"].header
    fixed = config.uses_images and encoder.text_position == "fixed"

    def prompt(key: str) -> Prompt:
        try:
            return make_prompt(
                getattr(encoder, key),
                lambda words: tokenize_pieces(model_dir, words) if words else [],
                causal=header.get("special") == "bare",
                bos=header.get("bos_ids", ()),
                eos=header.get("eos_id"),
                late=config.uses_images and config.images.fusion == "late",
                each_piece=encoder.first_token == "each-piece",
                image_positions=config.images.per_item if fixed else 0,
            )
        except ValueError as error:
            raise VixmlError(str(error), where=f"encoder.{key}") from error

    # One tokenizer is read for all splits: it takes longer than anything else here.
    query = prompt("template")
    label = query if encoder.label_template is None else prompt("label_template")
    return {split: label if split == "label" else query for split in tokens}
