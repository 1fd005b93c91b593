"""Read the families of runs, and the workflow that names some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vixml.config.load import load_world, merge, read_yaml, registry_files, unknown_key, validate
from vixml.config.run import RunConfig
from vixml.config.workflow import WorkflowConfig
from vixml.config.world import NAME
from vixml.errors import VixmlError


def load_runs(config_dir: Path | str) -> dict[tuple[str, str], RunConfig]:
    """Read every family in ``runs/``: ``{(dataset, run): RunConfig}``.

    A family file has ``dataset``, ``base`` (keys shared by its runs) and ``runs``. A run may ``inherit`` from one
    other run of the file, which itself inherits from nothing but ``base``; or ``reuse`` the trained model of one, with
    that run's configuration and an ``inference`` (laid on that run's) and a ``row`` of its own. ``base`` and each run may
    name a ``preset``, a file of ``presets/`` here or beside a registry file that is included, whose keys they lay theirs on.
    """
    folder, presets = Path(config_dir) / "runs", preset_files(config_dir)
    found: dict[tuple[str, str], RunConfig] = {}
    origin: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*.yaml")):
        family = read_yaml(path)
        for key in family:
            if key not in {"dataset", "about", "base", "runs"}:
                raise unknown_key(key, ["dataset", "about", "base", "runs"], f"{path}: {key}")
        dataset = family.get("dataset")
        base = with_preset(presets, family.get("base") or {}, f"{path}: base")
        runs = {
            name: with_preset(presets, own or {}, f"{path}: runs.{name}")
            for name, own in (family.get("runs") or {}).items()
        }
        if not isinstance(dataset, str):
            raise VixmlError("a family of runs names no dataset", where=f"{path}: dataset")
        if "reuse" in base:
            raise VixmlError(
                "not every run can reuse one model", where=f"{path}: base.reuse", hint="name it in each run"
            )
        for name, own in runs.items():
            if not NAME.match(name):
                raise VixmlError("a run's name may hold letters, digits, dots and hyphens", where=path, found=name)
            if (dataset, name) in found:
                raise VixmlError(
                    "a run is defined twice", where=f"{path}: runs.{name}", found=f"also in {origin[dataset, name]}"
                )
            found[dataset, name] = _resolve(path, base, runs, name, dict(own))
            origin[dataset, name] = path
    return found


def preset_files(config_dir: Path | str) -> dict[str, Path]:
    """Return the presets that runs may name; of two of one name, the one in this folder."""
    folders = dict.fromkeys(path.parent for path in registry_files(config_dir))
    return {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("presets/*.yaml"))}


def with_preset(presets: dict[str, Path], keys: dict[str, Any], where: str, inner: bool = False) -> dict[str, Any]:
    """Return keys laid on those of the preset that they name, which may name one itself.

    Raises:
        VixmlError: no such preset, or presets more than two deep.
    """
    if not isinstance(keys, dict) or "preset" not in keys:
        return keys
    name = keys["preset"]
    if not isinstance(name, str) or name not in presets:
        raise unknown_key(str(name), sorted(presets), f"{where}.preset")
    path = presets[name]
    preset = read_yaml(path)
    if inner and "preset" in preset:
        raise VixmlError(
            "a preset names a preset that names none", where=f"{path}: preset", found=preset["preset"],
            hint=f"write its keys into {path}",
        )  # fmt: skip
    preset = with_preset(presets, preset, str(path), inner=True)
    validate(RunConfig, preset, path)
    return merge(preset, {key: value for key, value in keys.items() if key != "preset"})


def _resolve(path: Path, base: dict[str, Any], runs: dict[str, Any], name: str, own: dict[str, Any]) -> RunConfig:
    where = f"{path}: runs.{name}"
    if own.get("reuse") is not None:
        return _resolve_reuse(path, base, runs, name, own)
    parent = own.pop("inherit", None)
    data = base
    if parent is not None:
        if parent not in runs:
            raise unknown_key(parent, sorted(runs), f"{where}.inherit")
        inherited = dict(runs[parent] or {})
        if "inherit" in inherited:
            raise VixmlError(
                "inheritance goes one level deep", where=f"{where}.inherit", found=f"{parent} inherits itself"
            )
        if inherited.get("reuse") is not None:
            raise VixmlError(
                "a run cannot inherit from one that reuses a model",
                where=f"{where}.inherit",
                found=f"{parent} reuses {inherited['reuse']}",
                hint=f"write `reuse: {inherited['reuse']}` here too",
            )
        data = merge(data, inherited)
    return validate(RunConfig, merge(data, own), where)


def _resolve_reuse(path: Path, base: dict[str, Any], runs: dict[str, Any], name: str, own: dict[str, Any]) -> RunConfig:
    """Return the config of a run that reuses another's model: that run's, with own `inference` and `row`."""
    where, reused = f"{path}: runs.{name}", own["reuse"]
    if "inherit" in own:
        raise VixmlError(
            "a run either reuses a model or inherits settings",
            where=f"{where}.inherit",
            found=f"inherit {own['inherit']}, reuse {reused}",
            hint="the configuration of the reused run is taken as it is: remove `inherit`",
        )
    for key in own:
        if key not in {"reuse", "inference", "row"}:
            raise VixmlError(
                f"a run that reuses a model cannot set {key!r}",
                where=f"{where}.{key}",
                expected="reuse, inference and row only: all else is as the model was trained",
                hint=f"set it in runs.{reused}, or train a model of its own: `inherit` in place of `reuse`",
            )
    if reused not in runs:
        raise unknown_key(str(reused), sorted(runs), f"{where}.reuse")
    source = dict(runs[reused] or {})
    if source.get("reuse") is not None:
        raise VixmlError(
            "a run that reuses a model has none of its own",
            where=f"{where}.reuse",
            found=f"{reused} reuses {source['reuse']}",
            hint="name the run whose model is trained" + ("" if reused == name else f": {source['reuse']}"),
        )
    resolved = _resolve(path, base, runs, reused, source)
    changed = {key: own[key] for key in ("inference", "row") if key in own}
    config = validate(RunConfig, merge(resolved.model_dump(exclude={"row"}), changed) | {"reuse": reused}, where)
    for run, one in ((reused, resolved), (name, config)):
        if not one.needs_encoder:
            raise VixmlError(
                "popularity reads no model, so there is none to reuse",
                where=f"{where}.reuse",
                found=f"{run} has inference.method {one.inference.method}",
                hint="reuse a run with an encoder, for inference that reads its vectors",
            )
    return config


def get_run(config_dir: Path | str, dataset: str, run: str) -> RunConfig:
    """Return one run's resolved config.

    Raises:
        VixmlError: no such run (with the nearest name).
    """
    runs = load_runs(config_dir)
    if (dataset, run) not in runs:
        known = sorted(r for d, r in runs if d == dataset) or sorted({d for d, _ in runs})
        raise unknown_key(run, known, f"{config_dir}/runs: dataset {dataset}")
    return runs[dataset, run]


def load_workflow(data: dict[str, Any], where: object = "config/config.yaml") -> WorkflowConfig:
    """Validate the merged workflow configuration and every name in it."""
    config = validate(WorkflowConfig, data, where)
    runs, world = load_runs(config.config_dir), load_world(config.config_dir)
    for kind, names in (("tables", config.tables), ("figures", config.figures)):
        for name in names:
            if not (Path(config.config_dir) / kind / f"{name}.yaml").exists():
                known = sorted(path.stem for path in (Path(config.config_dir) / kind).glob("*.yaml"))
                raise unknown_key(name, known, f"{where}: {kind}")
    for key in sorted({"compare", "side_by_side"} & config.model_fields_set):
        for run in getattr(config, key):
            if run not in {name for _, name in runs}:
                raise unknown_key(run, sorted({name for _, name in runs}), f"{where}: {key}")
    for index, target in enumerate(config.targets):
        if target.dataset not in world.datasets:
            raise unknown_key(target.dataset, sorted(world.datasets), f"{where}: targets.{index}.dataset")
        for run in target.runs:
            if (target.dataset, run) not in runs:
                known = sorted(r for d, r in runs if d == target.dataset)
                raise unknown_key(run, known, f"{where}: targets.{index}.runs")
            encoder = runs[target.dataset, run].encoder.model
            if encoder not in world.text_models:
                raise unknown_key(encoder, sorted(world.text_models), f"{config.config_dir}/runs: {run}: encoder.model")
            vision = runs[target.dataset, run].images.vision
            if vision not in world.vision_models:
                raise unknown_key(
                    vision, sorted(world.vision_models), f"{config.config_dir}/runs: {run}: images.vision"
                )
    return config
