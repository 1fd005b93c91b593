"""Read what a profile of Snakemake sets, in every form that Snakemake takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError, reading


def profile_settings(profile: Path | str) -> dict[str, Any]:
    """Return the options that a profile sets, as words of a command line: a string, or a list of them.

    ``profile``: a folder, its file, or a name that Snakemake knows.

    Raises:
        VixmlError: no such profile, or one that Snakemake cannot read.
    """
    from snakemake.cli import get_profile_dir
    from snakemake.profiles import ProfileConfigFileParser

    found = get_profile_dir(str(profile))
    if found is None:
        raise VixmlError(
            "a profile of Snakemake does not exist",
            where=f"--profile {profile}",
            expected="a folder with a config.yaml, or that file",
            hint="the profiles of this project are in the folder profiles",
        )
    with (
        reading("a profile of Snakemake cannot be read", found[1], hint="correct the file"),
        open(found[1], encoding="utf-8") as stream,
    ):
        return dict(ProfileConfigFileParser().parse(stream))


def pairs(words: str | Sequence[str]) -> dict[str, str]:
    """Return the values of ``NAME=VALUE``, given once or in a list; Snakemake quotes numbers that were text.

    Example:
        >>> pairs(["slurm_partition='12'", "mem_mb=4000"])
        {'slurm_partition': '12', 'mem_mb': '4000'}
    """
    listed = [words] if isinstance(words, str) else words
    split = (str(word).partition("=") for word in listed)
    return {name.strip(): value.strip().strip("'\"") for name, equals, value in split if equals}


def replaced_config(arguments: Sequence[str]) -> dict[str, str]:
    """Return what the profiles of a call of Snakemake add to the configuration, and its own ``--config`` replaces."""
    from snakemake.cli import get_argument_parser

    given, _ = get_argument_parser().parse_known_args(list(arguments))
    if given.config is None:
        return {}
    # As Snakemake looks for them; of a key that several have, the last one counts.
    own = given.workflow_profile or "default"
    profiles = [*(given.profile or []), *[place for place in (own, f"profiles/{own}") if Path(place).exists()][:1]]
    settings: dict[str, Any] = {}
    for profile in profiles:
        settings |= profile_settings(profile) if profile != "none" else {}
    kept = pairs(given.config)
    return {key: value for key, value in pairs(settings.get("config", ())).items() if key not in kept}
