"""Read YAML into the config models, with errors that name the file, the key and the nearest spelling."""

from __future__ import annotations

import copy
import difflib
import re
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from vixml.config.registry import NAME, World
from vixml.config.run import RunConfig
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError

M = TypeVar("M", bound=BaseModel)


# libyaml, which PyYAML's wheels bring, reads the registry in a fifth of the time: every command waits for that.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeys(_Loader):
    """Refuse a key given twice, which plain YAML would resolve silently in favour of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text; people write learning rates that way.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)$"), list("-+0123456789")
)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Parse YAML once per text: a workflow asks for the same files many times."""
    return yaml.load(text, _UniqueKeys)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        VixmlError: missing, malformed (line named), a key given twice, or not a mapping.
    """
    path = Path(path)
    try:
        data = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise VixmlError("a configuration file is missing", where=path, hint="check config_dir") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise VixmlError("not valid YAML", where=f"{path}{line}", found=getattr(error, "problem", error)) from error
    if not isinstance(data, dict):
        raise VixmlError("not a mapping of keys to values", where=path, found=type(data).__name__)
    return data


def validate(model: type[M], data: Any, where: object) -> M:
    """Validate ``data``; the first problem becomes one clear error, an unknown key before any other.

    A misspelt required key is both missing and unknown: the unknown one says more.

    Raises:
        VixmlError: an unknown key (with the nearest spelling), a wrong type or value.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        location = [str(part) for part in first["loc"]]
        key = ".".join(location)
        if first["type"] == "extra_forbidden":
            known = sorted(_fields_at(model, location[:-1]))
            raise unknown_key(location[-1], known, f"{where}: {key}") from error
        message = first["msg"].removeprefix("Value error, ")
        found = first.get("input")
        raise VixmlError(
            f"a configuration value is not accepted: {message}",
            where=f"{where}: {key}" if key else where,
            found=repr(found)[:200] if first["type"] != "value_error" else None,
            hint="docs/config.md explains every key",
        ) from error


def unknown_key(key: str, known: list[str], where: object) -> VixmlError:
    """Return the error for a key nobody knows, with the nearest spelling."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "one of: " + ", ".join(known)
    return VixmlError(f"unknown key {key!r}", where=where, hint=hint)


def _fields_at(model: type[BaseModel], location: list[str]) -> set[str]:
    """Return the keys that ``model`` accepts at ``location`` (through lists, dictionaries and optional parts)."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[part].annotation if part in current.model_fields else None
        else:
            # A list's index or a dictionary's key: look into the element type.
            current = (get_args(current) or (None,))[-1]
        if get_origin(current) in (Union, UnionType):
            current = next(option for option in get_args(current) if option is not type(None))
    return set(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else set()


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on top: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


REGISTRY = ("datasets.yaml", "models.yaml")


def registry_files(config_dir: Path | str) -> list[Path]:
    """Return ``datasets.yaml``, ``models.yaml`` and the files that they include.

    Raises:
        VixmlError: a file missing or malformed, or one that is included and includes another.
    """
    return [path for name in REGISTRY for path, _ in _registry_parts(Path(config_dir) / name)]


def _registry_parts(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return a registry file's own content, and that of the file it includes."""
    own = read_yaml(path)
    name = own.pop("include", None)
    if name is None:
        return [(path, own)]
    if not isinstance(name, str):
        raise VixmlError("a registry file includes one other", where=f"{path}: include", found=repr(name))
    included = path.parent / name
    if not included.is_file():
        raise VixmlError(
            "a registry file includes one that is not there",
            where=f"{path}: include",
            found=name,
            expected=f"a path as seen from {path.parent}",
        )
    other = read_yaml(included)
    if "include" in other:
        raise VixmlError("includes go one level deep", where=f"{included}: include", found=str(other["include"]))
    return [(path, own), (included, other)]


def load_world(config_dir: Path | str) -> World:
    """Read ``datasets.yaml`` and ``models.yaml``, with what they include, and check that every reference resolves."""
    config_dir = Path(config_dir)
    data: dict[str, Any] = {"sources": {}}
    for name in REGISTRY:
        for path, part in _registry_parts(config_dir / name):
            for section, entries in part.items():
                _add_entries(data, section, entries or {}, path)
    world = validate(World, data, config_dir / "{datasets,models}.yaml")
    wanted = [(f"datasets.{d}", s) for d, entry in world.datasets.items() for s in entry.sources]
    for d, entry in world.datasets.items():
        for vision, published in entry.published_vectors.items():
            where = f"datasets.{d}.published_vectors.{vision}"
            if vision not in world.vision_models:
                raise unknown_key(vision, sorted(world.vision_models), f"{config_dir}: {where}")
            wanted += [(where, source) for source in published.sources]
    for kind, models in (("text_models", world.text_models), ("vision_models", world.vision_models)):
        for m, entry in models.items():
            wanted += [(f"{kind}.{m}", s) for s in (entry.weights, getattr(entry, "tokenizer", None)) if s is not None]
    for where, source in wanted:
        if source not in world.sources:
            raise unknown_key(source, sorted(world.sources), f"{config_dir}: {where}")
    return world


def _add_entries(data: dict[str, Any], section: str, entries: Any, path: Path) -> None:
    """Lay the entries of one section of a registry file beside those already read."""
    if not isinstance(entries, dict):
        raise VixmlError(
            "a part of the registry is not a mapping of names to entries",
            where=f"{path}: {section}",
            found=repr(entries)[:80],
            hint="docs/config.md explains every key",
        )
    known = data.setdefault(section, {})
    for name, entry in entries.items():
        if name in known and known[name] != entry:
            raise VixmlError(
                "the registry has two entries of one name",
                where=f"{path}: {section}.{name}",
                found="another entry of that name, in this folder's files or in one that they include",
                hint="give yours another name",
            )
        known[name] = entry


# --- Read the families of runs, and the workflow that names some of them.


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
    return find_run(load_runs(config_dir), config_dir, dataset, run)


def find_run(runs: dict[tuple[str, str], RunConfig], config_dir: Path | str, dataset: str, run: str) -> RunConfig:
    """Return one of the runs that were read; as :func:`get_run`."""
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
