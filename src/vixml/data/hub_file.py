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
        raise explained(
            error,
            f"cannot fetch {source.hub_path} of {source.name} from the hub",
            revision,
            refused="accept the dataset's terms on its page and set HF_TOKEN to your token",
            absent=f"check name, version and hub_path of the source {name!r} in config/datasets.yaml",
            by_hand=f"or place the file by hand as {target}",
        ) from error


def explained(
    error: Exception, what: str, revision: str | None, *, refused: str, absent: str, by_hand: str
) -> Exception:
    """Return what to raise for an error of the hub: ours, with what to do; or the error itself where a stage says it.

    Args:
        error: as the hub's library raised it.
        what: could not be done.
        revision: asked for; None for the newest.
        refused, absent: what to do where the hub refuses or has no such thing.
        by_hand: how to do without the hub.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    hint = "check the network"
    if "GatedRepoError" in names or status in (401, 403):
        hint = refused
    elif "RepositoryNotFoundError" in names or status == 404:
        hint = absent
    words = str(error).strip().splitlines() or ["no message"]
    return VixmlError(
        what,
        where=f"revision {revision or 'newest'}",
        found=f"{type(error).__name__}: {words[0]}",
        hint=f"{hint}; {by_hand} and run the same command again",
    )
