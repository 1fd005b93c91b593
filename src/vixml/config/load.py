"""Read YAML into the config models, with errors that name the file, the key and the nearest spelling."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
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


# No file of a configuration comes near these.
_DEEPEST, _MOST_VALUES = 50, 100_000
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


def _malformed(what: str, node: yaml.Node | yaml.Event) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


class _StrictLoader(_Loader):
    """Refuse what JSON could not hold, and a key given twice, which plain YAML would resolve silently in favour of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _malformed(f"the key {str(key)[:80]} is not text: quote it", key_node)
            if key in seen:
                raise _malformed(f"the key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            # `2026-99-99`, `!!int a`, `!!bool b`, an integer of 10,000 digits
            raise _malformed(
                f"a value that cannot be read ({type(error).__name__}); text needs quotes", node
            ) from error
        if node.tag not in _TAGS:
            raise _malformed(f"a {type(value).__name__}, not text, a number, true, false or null: quote it", node)
        if isinstance(value, float) and not math.isfinite(value):
            raise _malformed(f"{node.value} is not a finite number", node)
        if type(value) is int and not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", node.value):
            raise _malformed(
                f"{node.value} is no decimal number (YAML reads it as {value}): write that, or quote it", node
            )
        if isinstance(value, int) and abs(value) >= 2**63:
            raise _malformed("an integer of more than 63 bits", node)
        if isinstance(value, str) and "\0" in value:
            raise _malformed("a text with a NUL character", node)
        return value


def _refuse_excess(text: str) -> None:
    """Check, before anything recursive reads YAML, how deep it nests and how large it is with its aliases expanded.

    Raises:
        yaml.YAMLError: not YAML, too deep, too large, or an alias inside what it names.
    """
    sizes: dict[str, int] = {}
    around = [("", 0)]  # the anchor and the size so far of each open collection
    for event in yaml.parse(text, Loader=_Loader):
        anchor, size = getattr(event, "anchor", None) or "", 0
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = around.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor in [name for name, _ in around]:
                raise _malformed(f"the alias *{anchor} is inside what it names", event)
            size = sizes.get(anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        sizes[anchor] = size
        around[-1] = (around[-1][0], around[-1][1] + size)
        if len(around) > _DEEPEST or around[-1][1] > _MOST_VALUES:
            raise _malformed(f"more than {_DEEPEST} levels or {_MOST_VALUES:,} values", event)


# YAML 1.1 reads 1e-3 as text; people write learning rates that way.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)$"), list("-+0123456789")
)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Parse YAML once per text: a workflow asks for the same files many times."""
    _refuse_excess(text)
    return yaml.load(text, _StrictLoader)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping of text, numbers, truth values and null, in UTF-8.

    Raises:
        VixmlError: missing, malformed (line named), a key given twice, or not a mapping.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        data = copy.deepcopy(_parsed(raw.decode("utf-8-sig")))
    except FileNotFoundError as error:
        raise VixmlError("a configuration file is missing", where=path, hint="check config_dir") from error
    except UnicodeDecodeError as error:
        line, found = raw.count(b"\n", 0, error.start) + 1, f"byte 0x{raw[error.start]:02x}"
        raise VixmlError("not a file in UTF-8", where=f"{path}:{line}", found=found, hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else raw.decode("utf-8-sig").count("\n", 0, getattr(error, "position", 0)) + 1
        found = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise VixmlError(
            "not valid YAML", where=f"{path}:{line}", found=found, hint="docs/config.md explains every key"
        ) from error
    if not isinstance(data, dict):
        raise VixmlError(
            "not a mapping of keys to values", where=f"{path}:1", found=type(data).__name__,
            hint="docs/config.md explains every key",
        )  # fmt: skip
    return data


def located(where: object) -> tuple[str, bool]:
    """Return ``file.yaml: key.key`` with the key's line, ``file.yaml:7: key.key``, and whether the file has that key.

    Without it, the line is that of the last part that the file has. Anything else is returned as it is.
    """
    match = re.fullmatch(r"(.*\.ya?ml): (.*)", str(where), re.DOTALL)
    if match is None:
        return str(where), False
    try:
        node = yaml.compose(Path(match[1]).read_text(encoding="utf-8-sig"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return str(where), False
    line, rest = 1, match[2]
    while rest:
        # A name may hold dots: the longest key that fits.
        entries = enumerate(node.value) if isinstance(node, yaml.SequenceNode) else []
        parts = [(str(index), value, value) for index, value in entries]
        if isinstance(node, yaml.MappingNode):
            parts = [(key.value, key, value) for key, value in node.value]
        fitting = [part for part in parts if f"{rest}.".startswith(f"{part[0]}.")]
        if not fitting:
            break
        key, named, node = max(fitting, key=lambda part: len(part[0]))
        line, rest = named.start_mark.line + 1, rest[len(key) + 1 :]
    return f"{match[1]}:{line}: {match[2]}", not rest


@contextmanager
def with_line() -> Iterator[None]:
    """Add to an error of configuration the line of the key that it names."""
    try:
        yield
    except VixmlError as error:
        error.where = located(error.where)[0] if error.where is not None else None
        raise


def validate(model: type[M], data: Any, where: object, also: Sequence[object] = ()) -> M:
    """Validate ``data``; the first problem becomes one clear error, an unknown key before any other.

    A misspelt required key is both missing and unknown: the unknown one says more. ``where`` and ``also`` are the places where
    the data or a part of them were read: a file, or ``file: key``.

    Raises:
        VixmlError: an unknown key (with the nearest spelling), a wrong type or value.
    """
    try:
        return model.model_validate(data)
    except RecursionError as error:
        raise VixmlError("a configuration value is nested too deeply", where=where) from error
    except ValidationError as error:
        problems = error.errors()
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        location = [str(part) for part in first["loc"]]
        key = ".".join(location)
        places = [
            f"{place}{'.' if ': ' in str(place) else ': '}{key}" if key else str(place) for place in (where, *also)
        ]
        place = next((text for text, exact in map(located, places) if exact), located(places[0])[0])
        if first["type"] == "extra_forbidden":
            known = sorted(_fields_at(model, location[:-1]))
            raise unknown_key(location[-1], known, place) from error
        message = first["msg"].removeprefix("Value error, ")
        found = first.get("input")
        raise VixmlError(
            f"a configuration value is not accepted: {message}",
            where=place,
            found=repr(found)[:200] if first["type"] != "value_error" else None,
            hint="docs/config.md explains every key",
        ) from error


def unknown_key(key: str, known: list[str], where: object, kind: str = "key") -> VixmlError:
    """Return the error for a key or name nobody knows, with the nearest spelling; ``kind`` says what it should name."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "one of: " + ", ".join(known)
    return VixmlError(f"unknown {kind} {key!r}", where=where, hint=hint if known else None)


def require(key: Any, known: Iterable[str], where: object, kind: str = "key") -> None:
    """Raise VixmlError, with the nearest spelling, unless a key, or the name of a ``kind`` of thing, is one of those known."""
    if not isinstance(key, str) or key not in known:
        raise unknown_key(str(key), sorted(known), where, kind)


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


def expect_name(kind: str, name: str, where: object) -> None:
    """Raise VixmlError unless a name has only the characters, and no more of them, that paths and wildcards can have."""
    if not NAME.fullmatch(name):
        raise VixmlError(
            f"a {kind}'s name may hold letters, digits, dots, hyphens and underscores, at most 100",
            where=where, found=repr(name)[:150], expected="a name that starts with a letter or a digit",
        )  # fmt: skip


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``over``: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _mapping(value: Any, where: object) -> dict[str, Any]:
    """Return a part of a YAML file that must be a mapping, or empty."""
    if value is not None and not isinstance(value, dict):
        raise VixmlError(
            "not a mapping of names to entries", where=where, found=repr(value)[:80],
            hint="docs/config.md explains every key",
        )  # fmt: skip
    return value or {}


# --- A configuration is a folder, or one file with the sections of a workflow, of the registry, a family and a table.

REGISTRY = ("include", "sources", "datasets", "text_models", "vision_models")
FAMILY = ("dataset", "about", "base", "runs")
SECTIONS = (*REGISTRY, *FAMILY, "table")


def configuration_files(config_dir: Path | str, *patterns: str) -> list[Path]:
    """Return the files of a folder of configuration that match patterns, or the file that is a whole configuration."""
    if Path(config_dir).is_file():
        return [Path(config_dir)]
    return sorted(path for pattern in patterns for path in Path(config_dir).glob(pattern))


# --- The registry: datasets.yaml, models.yaml and the files that they include.


@with_line()
def registry_files(config_dir: Path | str) -> list[Path]:
    """Return ``datasets.yaml``, ``models.yaml`` and the files that they include.

    Raises:
        VixmlError: a file missing or malformed, or one that is included and includes another.
    """
    return [path for path, _ in _registry_parts(Path(config_dir))]


def _registry_parts(config_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each file of the registry with its content, and after it the file that it includes."""
    alone = config_dir.is_file()
    for path in [config_dir] if alone else (config_dir / "datasets.yaml", config_dir / "models.yaml"):
        part = read_yaml(path)
        if alone:
            for key in part:
                require(key, (*SECTIONS, *WorkflowConfig.model_fields), f"{path}: {key}")
            part = {key: value for key, value in part.items() if key in REGISTRY}
        name = part.pop("include", None)
        yield path, part
        if name is None:
            continue
        if not isinstance(name, str):
            raise VixmlError("a registry file includes one other", where=f"{path}: include", found=repr(name))
        included = path.parent / name
        if not included.is_file():
            raise VixmlError(
                "a registry file includes one that is not there", where=f"{path}: include", found=name,
                expected=f"a path as seen from {path.parent}",
            )  # fmt: skip
        part = read_yaml(included)
        if "include" in part:
            raise VixmlError("includes go one level deep", where=f"{included}: include", found=str(part["include"]))
        yield included, part


@with_line()
def load_world(config_dir: Path | str) -> World:
    """Read ``datasets.yaml`` and ``models.yaml``, or one file with all parts, and check that every reference resolves.

    Raises:
        VixmlError: an unreadable file, an unknown key, two entries of one name, or a name that no entry has.
    """
    config_dir = Path(config_dir)
    data: dict[str, dict[str, Any]] = {"sources": {}}
    files = []
    for path, part in _registry_parts(config_dir):
        files.append(path)
        for section, value in part.items():
            known = data.setdefault(section, {})
            for name, entry in _mapping(value, f"{path}: {section}").items():
                if section in ("datasets", "text_models", "vision_models"):
                    expect_name(section.removesuffix("s").replace("_", " "), name, f"{path}: {section}.{name}")
                if known.setdefault(name, entry) != entry:
                    raise VixmlError(
                        "the registry has two entries of one name",
                        where=f"{path}: {section}.{name}",
                        found="another entry of that name, in this folder's files or in one that they include",
                        hint="give yours another name",
                    )
    where = config_dir if config_dir.is_file() else f"{config_dir}/{{datasets,models}}.yaml"
    world = validate(World, data, where, files)
    uses = [(f"datasets.{name}", entry.sources) for name, entry in world.datasets.items()]
    for name, entry in world.datasets.items():
        for vision, published in entry.published_vectors.items():
            where = f"datasets.{name}.published_vectors.{vision}"
            require(vision, world.vision_models, f"{config_dir}: {where}", "vision model")
            uses.append((where, published.sources))
    uses += [(f"text_models.{name}", entry.sources) for name, entry in world.text_models.items()]
    uses += [(f"vision_models.{name}", entry.sources) for name, entry in world.vision_models.items()]
    for where, sources in uses:
        for source in sources:
            require(source, world.sources, f"{config_dir}: {where}", "source")
    return world


# --- The families of runs.


@with_line()
def load_runs(config_dir: Path | str) -> dict[tuple[str, str], RunConfig]:
    """Read every family in ``runs/``: ``{(dataset, run): RunConfig}``.

    A family file has ``dataset`` (one, or a list), ``base`` (keys shared by its runs) and ``runs``. A run may ``inherit`` from
    one other run of the dataset, which itself inherits from nothing but its ``base``; or ``reuse`` the trained model of one,
    with that run's configuration, its own ``row``, and an ``inference`` that overrides that run's. ``base`` and each run may
    name a ``preset``, a file of ``presets/`` here or beside a registry file that is included, whose keys they override.

    Raises:
        VixmlError: an unreadable file, an unknown key or name, a value that is not accepted, or a run defined twice.
    """
    presets = preset_files(config_dir)
    files = configuration_files(config_dir, "runs/*.yaml")
    families = [_Family(path, presets, whole=path == Path(config_dir)) for path in files]
    known: dict[str, dict[str, _Family]] = {}
    for family in families:
        for dataset, name in product(family.datasets, family.runs):
            other = known.setdefault(dataset, {}).setdefault(name, family)
            if other is not family:
                raise VixmlError(
                    "a run is defined twice", where=f"{family.path}: runs.{name}", found=f"also in {other.path}"
                )
    runs = {
        (dataset, name): family.resolve(name, known[dataset])
        for family in families
        for dataset, name in product(family.datasets, family.runs)
    }
    for (dataset, name), run in runs.items():
        if run.inference.chosen_on:
            others = {other: one for (of, other), one in runs.items() if of == dataset}
            _require_splits(run, others, f"{known[dataset][name].path}: runs.{name}.inference.chosen_on")
    return runs


def _require_splits(run: RunConfig, runs: Mapping[str, RunConfig], where: str) -> None:
    """Check that the runs whose held-out queries decide for another were trained as it, each without other queries."""

    def settings(one: RunConfig) -> dict[str, Any]:
        found = one.model_copy(update={"start": None, "reuse": None}).settings("train")
        return {key: value for key, value in found.pop("training").items() if "validation" not in key} | found

    shares = []
    for other in run.inference.chosen_on:
        require(other, runs, where, "run")
        split = runs[other]
        if split.reuse is not None or not split.training.validation:
            raise VixmlError(
                "inference is chosen on a run that held out no queries", where=where, found=other,
                expected="a run with a training of its own and training.validation above 0",
            )  # fmt: skip
        if split.start is not None:
            raise VixmlError(
                "inference is chosen on a run that starts from an earlier model", where=where, found=other,
                expected="start: null, because the earlier model may have been trained on the queries that are held out",
            )  # fmt: skip
        mine, its = settings(run), settings(split)
        if differ := sorted(key for key in mine | its if mine.get(key) != its.get(key)):
            raise VixmlError(
                "inference is chosen on a run that was trained in another way", where=where,
                found=f"{other}, with its own {', '.join(differ)}",
                expected="the same settings but training.validation, training.validation_split and start",
            )  # fmt: skip
        shares.append((split.training.validation, split.training.validation_split))
    if len(set(shares)) < len(shares):
        what = "inference is chosen on runs that held out the same queries"
        raise VixmlError(what, where=where, expected="another training.validation_split in each")


def preset_files(config_dir: Path | str) -> dict[str, Path]:
    """Return the presets that runs may name; of two of one name, the one in this folder."""
    folders = dict.fromkeys(path.parent for path in registry_files(config_dir))
    return {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("presets/*.yaml"))}


def with_preset(presets: dict[str, Path], keys: dict[str, Any], where: str, inner: bool = False) -> dict[str, Any]:
    """Return keys, and those of the preset that they name where they do not override them; a preset may name another.

    Raises:
        VixmlError: no such preset, or presets more than two deep.
    """
    # A null says what leaving the key out says.
    keys = {key: value for key, value in keys.items() if value is not None or key not in ("preset", "inherit", "reuse")}
    if "preset" not in keys:
        return keys
    require(keys["preset"], presets, f"{where}.preset", "preset")
    path = presets[keys["preset"]]
    preset = read_yaml(path)
    if inner and preset.get("preset") is not None:
        raise VixmlError(
            "a preset names a preset that names none", where=f"{path}: preset", found=preset["preset"],
            hint=f"write its keys into {path}",
        )  # fmt: skip
    preset = with_preset(presets, preset, str(path), inner=True)
    validate(RunConfig, preset, path)
    return merge(preset, {key: value for key, value in keys.items() if key != "preset"})


def datasets_of(family: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the datasets of a family of runs; none if it names something else."""
    named = family.get("dataset")
    names = named if isinstance(named, list) else [named]
    return tuple(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else ()


class _Family:
    """One file of runs, with ``presets`` filled in; ``whole``: the file is a whole configuration."""

    def __init__(self, path: Path, presets: dict[str, Path], *, whole: bool = False) -> None:
        family = read_yaml(path)
        if whole:
            family = {key: value for key, value in family.items() if key in FAMILY}
        for key in family:
            require(key, FAMILY, f"{path}: {key}")
        self.path, self.datasets = path, datasets_of(family)
        if not self.datasets:
            raise VixmlError("a family of runs names no dataset", where=f"{path}: dataset")

        def filled(part: Any, where: str) -> dict[str, Any]:
            return with_preset(presets, _mapping(part, where), where)

        self.base = filled(family.get("base"), f"{path}: base")
        if "reuse" in self.base:
            raise self._refused("base.reuse", "not every run can reuse one model", hint="name it in each run")
        runs = _mapping(family.get("runs"), f"{path}: runs")
        for name in runs:
            expect_name("run", name, f"{path}: runs.{name}")
        self.runs = {name: filled(keys, f"{path}: runs.{name}") for name, keys in runs.items()}

    def _refused(self, key: str, what: str, **more: str) -> VixmlError:
        return VixmlError(what, where=f"{self.path}: {key}", **more)

    def resolve(self, name: str, known: Mapping[str, _Family]) -> RunConfig:
        """Return a run's configuration: that of the run that it reuses; or what it inherits, ``base`` and its own keys.

        ``known``: the file of each run of the dataset.
        """
        keys, where = dict(self.runs[name]), f"runs.{name}.inherit"
        if keys.get("reuse") is not None:
            return self._reusing(name, keys, known)
        inherited, also = self.base, [f"{self.path}: base"]
        if (parent := keys.pop("inherit", None)) is not None:
            require(parent, known, f"{self.path}: {where}", "run")
            other = known[parent]
            of_parent = other.runs[parent]
            if "inherit" in of_parent:
                raise self._refused(where, "inheritance goes one level deep", found=f"{parent} inherits itself")
            if (reused := of_parent.get("reuse")) is not None:
                raise self._refused(
                    where, "a run cannot inherit from one that reuses a model",
                    found=f"{parent} reuses {reused}", hint=f"write `reuse: {reused}` here too",
                )  # fmt: skip
            inherited = merge(other.base, of_parent)
            also = [f"{other.path}: runs.{parent}", f"{other.path}: base", *also]
            if other is not self:
                inherited = merge(inherited, self.base)
        return validate(RunConfig, merge(inherited, keys), f"{self.path}: runs.{name}", also)

    def _reusing(self, name: str, keys: dict[str, Any], known: Mapping[str, _Family]) -> RunConfig:
        """Return the configuration of a run that reuses another's model: that run's, with its own ``inference`` and ``row``."""
        reused, where = keys["reuse"], f"runs.{name}"
        if "inherit" in keys:
            raise self._refused(
                f"{where}.inherit", "a run either reuses a model or inherits settings",
                found=f"inherit {keys['inherit']}, reuse {reused}",
                hint="the configuration of the reused run is taken as it is: remove `inherit`",
            )  # fmt: skip
        for key in [key for key in keys if key not in ("reuse", "inference", "row")]:
            raise self._refused(
                f"{where}.{key}", f"a run that reuses a model cannot set {key!r}",
                expected="reuse, inference and row only: all else is as the model was trained",
                hint=f"set it in runs.{reused}, or train a model of its own: `inherit` in place of `reuse`",
            )  # fmt: skip
        require(reused, known, f"{self.path}: {where}.reuse", "run")
        family = known[reused]
        if (other := family.runs[reused].get("reuse")) is not None:
            raise self._refused(
                f"{where}.reuse", "a run that reuses a model has none of its own", found=f"{reused} reuses {other}",
                hint="name the run whose model is trained" + ("" if reused == name else f": {other}"),
            )  # fmt: skip
        trained = family.resolve(reused, known)
        config = validate(RunConfig, merge(trained.model_dump(exclude={"row"}), keys), f"{self.path}: {where}")
        for run, one in ((reused, trained), (name, config)):
            if not one.needs_encoder:
                raise self._refused(
                    f"{where}.reuse", "a baseline without an encoder reads no model, so there is none to reuse",
                    found=f"{run} has inference.method {one.inference.method}",
                    hint="reuse a run with an encoder, for inference that reads its vectors",
                )  # fmt: skip
        return config


# --- The workflow, which names runs, tables and figures.


@with_line()
def load_workflow(
    data: dict[str, Any], where: object = "config/config.yaml", files: Sequence[object] = ()
) -> WorkflowConfig:
    """Validate the merged workflow configuration and every name in it.

    An error names ``where``, or the one of ``files`` that has its key: what ``data`` was merged from, the last to decide first.

    Raises:
        VixmlError: a key or value that is not accepted, a name that no file or entry has (with the nearest one), or parts of a
            whole configuration that are not those of ``config_dir``.
    """
    config_dir = Path(str(data.get("config_dir", "config")))
    if not data.keys().isdisjoint(SECTIONS):
        _require_own_parts(config_dir, (where, *files))
    if config_dir.is_file():
        data = {key: value for key, value in data.items() if key not in SECTIONS}
    config = validate(WorkflowConfig, data, where, files)

    def at(key: str) -> str:
        places = [located(f"{path}: {key}") for path in (where, *files)]
        return next((place for place, exact in places if exact), places[0][0])

    folder, runs, world = Path(config.config_dir), load_runs(config.config_dir), load_world(config.config_dir)
    for kind in ("tables", "figures"):
        for name in getattr(config, kind):
            known = {path.stem for path in (folder / kind).glob("*.yaml")}
            if folder.is_file() and kind == "tables":
                known = {_mapping(read_yaml(folder).get("table"), f"{folder}: table").get("id")} - {None}
            require(name, known, at(kind), kind.removesuffix("s"))
    for key in sorted({"compare", "side_by_side"} & config.model_fields_set):
        for run in getattr(config, key):
            require(run, {name for _, name in runs}, at(key), "run")
    for index, target in enumerate(config.targets):
        require(target.dataset, world.datasets, at(f"targets.{index}.dataset"), "dataset")
        for name in target.runs:
            known = {run for dataset, run in runs if dataset == target.dataset}
            require(name, known, at(f"targets.{index}.runs"), "run")
            run = runs[target.dataset, name]
            require_fit(run, world, f"{family_file(folder, target.dataset, name)}: runs.{name}")
    first = config.targets[0].dataset if config.targets else None
    for index, name in enumerate(config.latencies):
        require(name, {run for dataset, run in runs if dataset == first}, at("latencies"), "run")
        run = runs[first, name]
        if run.reuse or not run.needs_encoder:
            raise VixmlError(
                "latencies are of trained models, and this run has none", where=at(f"latencies.{index}"),
                found=f"{name}, which {f'reuses that of {run.reuse}' if run.reuse else 'encodes nothing'}",
                hint=f"name {run.reuse or 'runs with an encoder'}",
            )  # fmt: skip
        if name not in {run for target in config.targets if target.dataset == first for run in target.runs}:
            raise VixmlError(
                "latencies are of runs that are scored, and this one is not", where=at(f"latencies.{index}"),
                found=name, expected=f"a run under `targets` of {first}", hint="it would be trained for its latency alone: add it there",
            )  # fmt: skip
    return config


def _require_own_parts(config_dir: Path, files: Sequence[object]) -> None:
    """Check that a file with the parts of a whole configuration is the one that is read for them, or has the same ones."""

    def parts_of(path: Path) -> dict[str, Any]:
        return {key: value for key, value in read_yaml(path).items() if key in SECTIONS}

    for path in [path for path in map(Path, map(str, files)) if path.is_file()]:
        parts = parts_of(path)
        # One such key beside a folder is a misspelt key of the workflow.
        if parts and (parts_of(config_dir) != parts if config_dir.is_file() else len(parts) > 1):
            raise VixmlError(
                "config_dir names another file than the one with these parts", where=f"{path}: config_dir",
                found=f"{config_dir}, and {', '.join(sorted(parts))} in {path}", expected="this file itself",
                hint=f"write `config_dir: {path}`, and give a copy its own name, dataset and table; or write the parts of an overlay "
                f"into {config_dir}",
            )  # fmt: skip


def family_file(config_dir: Path, dataset: str, run: str) -> Path:
    """Return the file that has a run."""
    families = {path: read_yaml(path) for path in configuration_files(config_dir, "runs/*.yaml")}
    return next(
        path for path, one in families.items() if dataset in datasets_of(one) and run in (one.get("runs") or {})
    )


def require_fit(run: RunConfig, world: World, where: object, architecture: dict[str, Any] | None = None) -> None:
    """Check a run against the models that it names.

    ``architecture``: content of the prepared language model's ``config.json``; None takes what the registry says of it.

    Raises:
        VixmlError: an unknown model, heads that do not divide its vectors, more layers than it has, or longer sequences.
    """
    require(run.encoder.model, world.text_models, f"{where}.encoder.model", "language model")
    require(run.images.vision, world.vision_models, f"{where}.images.vision", "vision model")
    model = world.text_models[run.encoder.model]
    architecture = model.architecture if architecture is None else architecture
    dim = architecture.get("hidden_size", model.hidden_size)
    heads = {"prototype.heads": run.prototype.heads} if run.method == "PRIME" else {}
    heads |= {"images.late.heads": run.images.late.heads} if run.uses_images and run.images.fusion == "late" else {}
    for key, found in heads.items():
        if dim % found:
            raise VixmlError(
                "attention heads must divide the size of a vector", where=f"{where}.{key}", found=found,
                expected=f"a divisor of {dim}, the hidden_size of {run.encoder.model}",
            )  # fmt: skip
    images = run.images.per_item if run.uses_images and run.images.fusion == "early" else 0
    longest, positions = run.encoder.max_len + images, architecture.get("max_position_embeddings")
    if positions is not None and longest > positions:
        raise VixmlError(
            "sequences are longer than the language model's positions", where=f"{where}.encoder.max_len",
            found=f"{longest}, with images", expected=f"at most {positions}, those of {run.encoder.model}",
            hint="lower encoder.max_len",
        )  # fmt: skip
    layers = architecture.get("num_hidden_layers", run.encoder.layers)
    if run.encoder.layers is not None and run.encoder.layers > layers:
        raise VixmlError(
            "more layers are asked for than the model has", where=f"{where}.encoder.layers", found=run.encoder.layers,
            expected=f"at most {layers}, those of {run.encoder.model}",
        )  # fmt: skip
