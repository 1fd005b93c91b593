"""A language model of the hub to a model folder: its own files, or its text part.

Source of the files: :mod:`vixml.data.hub_checkpoint`; what is decided here is which tensors are the text encoder's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vixml.config.world import TextModel
from vixml.data.hub_checkpoint import Checkpoint, Layout, unknown_architecture
from vixml.errors import VixmlError
from vixml.files import write_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
LAYOUT = Layout(
    required=TOKENIZER_FILES[:2],
    optional=TOKENIZER_FILES[2:],
    hint="take a checkpoint whose tokenizer is published as tokenizer.json",
)
TEXT_PART = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)(.+)$")


def prepare_hub(entry: TextModel, raw_dir: Path, work: Path, facts: dict[str, Any]) -> None:
    """Write a hub checkpoint's config, weights and tokenizer into ``work``.

    A folder placed by hand goes before the hub. An interrupted download is gone on with by the next call.

    Args:
        entry: names the checkpoint and, where it is pinned, the revision.
        raw_dir: folder of fetched files (results/raw).
        work: the folder to fill.
        facts: is told `origin` (`hub` or `placed by hand`), `revision` (the commit; null where a folder was placed) and
            `unused_tensors` (in the files, but not read by the network: the head over the vocabulary, for example).

    Raises:
        VixmlError: the hub cannot be reached or refuses, or the files are not those of a checkpoint.
    """
    checkpoint = Checkpoint.open(entry.checkpoint, entry.revision, raw_dir, LAYOUT)
    facts |= checkpoint.facts
    config, names = _text_part(checkpoint)
    facts["unused_tensors"] = _check_shapes(config, names, checkpoint)
    write_json(work / LAYOUT.config, config)
    checkpoint.write_weights(work, names)
    checkpoint.done()


def _text_part(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the text part, and the names of its tensors: as published -> as written."""
    from transformers import AutoConfig

    config, keys = checkpoint.config, list(checkpoint.shapes)
    if "text_config" not in config:
        return config, {key: key for key in keys}
    try:
        settings = AutoConfig.for_model(**config).get_text_config()
    except (ValueError, TypeError, KeyError) as error:
        raise unknown_architecture(checkpoint.folder / LAYOUT.config, config, error) from error
    text = settings.to_diff_dict()
    dtype = text.get("dtype") or config.get("dtype") or config.get("torch_dtype")
    return text | ({"dtype": dtype} if dtype else {}), {key: m[1] for key in keys if (m := TEXT_PART.match(key))}


def _check_shapes(config: dict[str, Any], names: Mapping[str, str], checkpoint: Checkpoint) -> list[str]:
    """Check every parameter of the network; return the tensors that it does not read."""
    import torch
    from transformers import AutoConfig, AutoModel

    from vixml.models.architecture import without_pooler

    try:
        settings = AutoConfig.for_model(**{k: v for k, v in config.items() if k != "transformers_version"})
        with torch.device("meta"):
            model = AutoModel.from_config(settings, **without_pooler(settings))
    except (ValueError, TypeError, KeyError) as error:
        raise unknown_architecture(checkpoint.folder / LAYOUT.config, config, error) from error
    shapes = checkpoint.shapes
    # A model with a head has the network under a prefix of its own.
    prefix = f"{model.base_model_prefix}."
    found = {new.removeprefix(prefix): (old, shapes[old]) for old, new in names.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in wanted.items():
        old, there = found.get(name, (name, None))
        if there != shape:
            raise VixmlError(
                "the weights do not fit the architecture",
                where=f"{checkpoint.folder}: {old}",
                found=there or "no such tensor",
                expected=shape,
                hint="config.json and the weights are of two checkpoints, or of a form that is not known here",
            )
    return sorted(old for name, (old, _) in found.items() if name not in wanted)
