"""Read YAML into the config models, with errors that name the file, the key and the nearest spelling."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from vixml.config.world import World
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


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace("_", ""))


# YAML 1.1 reads 1e-3 as text; people write learning rates that way.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        VixmlError: missing, malformed (line named), a key given twice, or not a mapping.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as stream:
            data = yaml.load(stream, _UniqueKeys)
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
