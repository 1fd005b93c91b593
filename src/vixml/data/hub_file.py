"""Fetch one file of a dataset of the Hugging Face hub."""

from __future__ import annotations

import errno
from pathlib import Path

from vixml.config.world import Source
from vixml.errors import VixmlError


def fetch_from_hub(name: str, source: Source, work: Path, target: Path) -> Path:
    """Fetch a source of kind ``hub`` into ``work`` and return where it lies there.

    Raises:
        VixmlError: the hub cannot be reached, or has no such file.
    """
    from huggingface_hub import hf_hub_download

    revision = None if source.version == "-" else source.version
    try:
        return Path(
            hf_hub_download(source.name, source.hub_path, repo_type="dataset", revision=revision, local_dir=work)
        )
    except Exception as error:  # its errors come from several HTTP libraries, of another name in each version
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        words = str(error).strip().splitlines() or ["no message"]
        hint = "check the network"
        if status in (401, 403):
            hint = "accept the dataset's terms on its page and set HF_TOKEN to your token"
        elif status == 404:
            hint = f"check name, version and hub_path of the source {name!r} in config/datasets.yaml"
        raise VixmlError(
            f"cannot fetch {source.hub_path} of {source.name} from the hub",
            where=f"revision {revision or 'newest'}",
            found=f"{type(error).__name__}: {words[0]}",
            hint=f"{hint}; or place the file by hand as {target} and run the same command again",
        ) from error
