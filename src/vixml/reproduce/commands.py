"""The one command that makes a run's scores again: what a reader copies from the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vixml.config.load import read_yaml

PAPER = "paper.yaml"  # the configuration that asks for the paper's own runs


@dataclass(frozen=True)
class Commands:
    """What to type for a run.

    Attributes:
        configfile: file of the configuration that measured what is here, empty for the default one.
        asked: ``{(dataset, run): seeds}`` of the paper's configuration.
    """

    configfile: str
    asked: dict[tuple[str, str], tuple[int, ...]]

    @classmethod
    def load(cls, config_dir: Path | str, configfile: str = "") -> Commands:
        """Read which runs the paper's configuration asks for, if it is there."""
        path = Path(config_dir) / PAPER
        targets = read_yaml(path).get("targets", []) if path.exists() else []
        asked: dict[tuple[str, str], tuple[int, ...]] = {}
        for target in targets:
            for run in target["runs"]:
                asked.setdefault((target["dataset"], run), tuple(target.get("seeds", [0])))
        return cls(configfile, asked)

    def measured(self, folders: Sequence[Path]) -> str:
        """Return the command for scores that are there: of a run's seeds, by their score folders."""
        return snakemake([f"{folder.as_posix()}/manifest.json" for folder in folders], self.configfile)

    def planned(self, dataset: str, run: str, seed: int | None = None) -> str:
        """Return the command for a run that nobody has run here."""
        asked = self.asked.get((dataset, run))
        seeds = (asked or (0,)) if seed is None else (seed,)
        base = f"results/runs/{dataset}/{run}"
        file = f"config/{PAPER}" if asked else ""
        return snakemake([f"{base}/seed{one}/test/score/manifest.json" for one in seeds], file)


def snakemake(targets: Sequence[str], configfile: str = "") -> str:
    r"""Return a command, targets first: every word after ``--configfile`` is taken for another file.

    Example:
        >>> print(snakemake(["a/seed0/s.json", "a/seed1/s.json"], "config/picto.yaml"))
        snakemake --cores all a/seed{0,1}/s.json --configfile config/picto.yaml
        >>> print(snakemake(["a/seed0/s.json"]))
        snakemake --cores all a/seed0/s.json
    """
    option = ["--configfile", configfile] if configfile else []
    return " ".join(["snakemake --cores all", *_braced(targets), *option])


def _braced(targets: Iterable[str]) -> list[str]:
    """Return targets that differ in their seed only as one word, which the shell spells out."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        before, _, after = target.partition("/seed")
        seed, _, rest = after.partition("/")
        seeds.setdefault((before, rest), []).append(seed)
    return [
        f"{before}/seed{numbers[0] if len(numbers) == 1 else '{' + ','.join(numbers) + '}'}/{rest}"
        for (before, rest), numbers in seeds.items()
    ]
