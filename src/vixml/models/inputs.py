"""Inputs of a run: corpus, tokens and image vectors, opened and checked against one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.run import RunConfig
from vixml.data.corpus import SPLITS, Corpus
from vixml.data.tokens import tokenize_pieces
from vixml.errors import VixmlError, expect_equal
from vixml.files import sha256_file
from vixml.images.embeddings import ImageEmbeddings
from vixml.models.packing import Sequences
from vixml.models.prompt import Prompt, make_prompt
from vixml.ragged import Ragged


@dataclass(frozen=True)
class RunInputs:
    """Folders that a run reads; ``embeddings`` is None for text only."""

    corpus: Path
    tokens: Path
    embeddings: Path | None
    model_dir: Path

    def named(self) -> dict[str, Path]:
        """Return the folders by name, without embeddings if there are none."""
        return {name: path for name, path in vars(self).items() if path is not None}


@dataclass(frozen=True)
class RunData:
    """A run's inputs, opened: ``sequences`` of each split; ``image_dim`` is None for text only."""

    corpus: Corpus
    sequences: Mapping[str, Sequences]
    image_dim: int | None
    model_dir: Path

    def vocabulary(self) -> np.ndarray:
        """Return every token that a text or a template has: (n,) int64, ascending."""
        prompted = [token for items in self.sequences.values() for token in items.prompt.token_ids]
        tokens = [items.tokens for items in self.sequences.values()]
        seen = np.zeros(max(*(lists.n_cols for lists in tokens), *prompted, 0) + 1, dtype=bool)
        seen[prompted] = True
        for lists in tokens:
            seen[lists.values] = True
        return np.flatnonzero(seen)


def open_inputs(inputs: RunInputs, config: RunConfig, seed: int) -> RunData:
    """Open what a run reads; images are cut at ``images.per_item`` and, for a control, replaced.

    Raises:
        VixmlError: the tokens are of another corpus, tokenizer or length, an item is empty, or the run reads images but
            got no embeddings, those of another vision encoder, or fewer per item than ``images.per_item``.
    """
    corpus = Corpus.load(inputs.corpus)
    tokens = _open_tokens(inputs, corpus, config)
    layouts = prompts(config, inputs.model_dir, tokens["train"].header)
    most = most_of_text(config, tokens["train"].header)
    if most < config.encoder.max_len:
        tokens = {split: lists.first(most) for split, lists in tokens.items()}
    images, gather, image_dim = dict.fromkeys(SPLITS), None, None
    if config.uses_images:
        embeddings = _open_embeddings(inputs, config)
        images, image_dim = _image_lists(inputs, embeddings, corpus, config, seed), embeddings.dim
        gather = partial(embeddings.gather, dtype=np.float16)
    sequences = {split: Sequences(tokens[split], images[split], layouts[split], gather) for split in SPLITS}
    for split, items in sequences.items():
        inside = items.images.lengths if items.images is not None and not items.prompt.late else 0
        empty = np.flatnonzero(items.tokens.lengths + inside + len(items.prompt.token_ids) < 1)
        if len(empty):
            raise VixmlError(
                "an item has nothing to encode: its text has no token, and the template adds no words",
                where=f"{inputs.tokens / split}, row {empty[0]}",
                found=f"{len(empty)} such rows, text {corpus.texts(split)[empty[0]]!r}",
                expected="at least one token per item",
                hint="give it a text, or a template with words or {eos}: encoder.template",
            )
    return RunData(corpus, sequences, image_dim, inputs.model_dir)


def _open_tokens(inputs: RunInputs, corpus: Corpus, config: RunConfig) -> dict[str, Ragged]:
    """Return the tokens of each split, those of this corpus, tokenizer and length."""
    tokens = {split: Ragged.load(inputs.tokens / split) for split in SPLITS}
    for split, lists in tokens.items():
        expect_equal(
            f"{len(lists)} rows", f"{corpus.n(split)} rows", "tokens belong to another corpus",
            where=inputs.tokens / split, hint="tokenize again; snakemake does so by itself",
        )  # fmt: skip
    header, tokenizer = tokens["train"].header, inputs.model_dir / "tokenizer.json"
    # A model folder without a tokenizer belongs to tokens that were not made from text.
    expected = sha256_file(tokenizer) if tokenizer.exists() else None
    if header.get("tokenizer_sha256") != expected:
        raise VixmlError(
            "tokens were made by another tokenizer than the language model's",
            where=inputs.tokens,
            found=f"{header.get('tokenizer')}, tokenizer.json with sha256 {str(header.get('tokenizer_sha256'))[:12]}",
            expected=f"{str(expected)[:12]}, that of {inputs.model_dir}",
            hint="tokenize with --model-dir of the run's language model; snakemake does so by itself",
        )
    found, expected = f"max_len {header.get('max_len')}", f"max_len {config.encoder.max_len}"
    what, hint = "tokens were cut at another length than the run asks for", "tokenize with that --max-len"
    expect_equal(found, expected, what, where=inputs.tokens, hint=hint)
    return tokens


def _open_embeddings(inputs: RunInputs, config: RunConfig) -> ImageEmbeddings:
    """Return the image embeddings of the run's vision encoder."""
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
    return embeddings


def _image_lists(
    inputs: RunInputs, embeddings: ImageEmbeddings, corpus: Corpus, config: RunConfig, seed: int
) -> dict[str, Ragged]:
    """Return the images of each item of each split."""
    lists = {split: embeddings.images_of(corpus, split) for split in SPLITS}
    longest, settings = max(int(rows.lengths.max(initial=0)) for rows in lists.values()), config.images
    if settings.per_item > longest:
        source, more = inputs.corpus, "build the corpus with more images per item"
        if embeddings.item_lists:
            source, more = inputs.embeddings, "pool the images here (published_vectors: false)"
        raise VixmlError(
            "images.per_item exceeds the images available",
            where="images.per_item",
            found=settings.per_item,
            expected=f"at most {longest}, the longest list of images in {source}",
            hint=f"lower images.per_item, or {more}",
        )
    return {split: embeddings.lists(rows, settings.per_item, settings.control, seed) for split, rows in lists.items()}


def most_of_text(config: RunConfig, header: Mapping[str, Any]) -> int:
    """Return how many tokens of a text are read; the first token of each piece counts among ``encoder.max_len``."""
    each_piece = config.encoder.first_token == "each-piece"
    return config.encoder.max_len - len(header.get("bos_ids", ())) * each_piece


def prompts(config: RunConfig, model_dir: Path, header: Mapping[str, Any]) -> dict[str, Prompt]:
    """Return the prompt of each split; labels may have another template than queries.

    ``header``: ``special``, ``bos_ids`` and ``eos_id`` of the tokens.

    Raises:
        VixmlError: a template with ``{eos}``, and a tokenizer without such a token.
    """
    encoder = config.encoder
    fixed = config.uses_images and encoder.text_position == "fixed"

    def prompt(key: str) -> Prompt:
        try:
            made = make_prompt(
                getattr(encoder, key),
                lambda words: tokenize_pieces(model_dir, words) if words else [],
                causal=header.get("special") == "bare",
                bos=header.get("bos_ids", ()),
                eos=header.get("eos_id"),
                each_piece=encoder.first_token == "each-piece",
            )
        except ValueError as error:
            raise VixmlError(str(error), where=f"encoder.{key}") from error
        late = config.uses_images and config.images.fusion == "late"
        return replace(made, late=late, image_positions=config.images.per_item if fixed else 0)

    # One prompt for all splits where possible: reading the tokenizer takes longer than anything else here.
    query = prompt("template")
    label = query if encoder.label_template is None else prompt("label_template")
    return {split: label if split == "label" else query for split in SPLITS}
