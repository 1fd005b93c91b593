"""Make the JSON schemas (config/schemas) and docs/config.md from the config models, so that they cannot disagree.

The schemas serve editors (completion, red underlines); the workflow itself validates with the models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from vixml.config.registry import World
from vixml.config.run import RunConfig
from vixml.config.tables import Comparisons, DrawingSpec, FactsSpec, FigureSpec, TableSpec
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError
from vixml.files import write_text

COMMAND = "vixml document-config"
INCLUDE = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "default": None,
    "description": "Another registry file, by its path relative to this one, whose entries are included: for a configuration of "
    "your own beside the project's (docs/adding-a-dataset.md).",
}
PRESET = {
    "preset": {
        "type": "string",
        "description": "A file of presets/, without its extension, here or beside an included registry file. These keys override its keys.",
    }
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Section:
    """One kind of YAML file.

    Attributes:
        name: of the schema file, without ``.schema.json``.
        title: heading in docs/config.md.
        about: a paragraph below it.
        schema: JSON schema of the whole file.
        keys: JSON schema whose keys are listed in docs/config.md.
    """

    name: str
    title: str
    about: str
    schema: dict[str, Any]
    keys: dict[str, Any]

    @classmethod
    def of(cls, name: str, title: str, about: str, model: type[BaseModel]) -> Section:
        """Describe a file that is exactly one model."""
        schema = model.model_json_schema()
        return cls(name, title, about, schema, schema)


def sections() -> list[Section]:
    """Return every kind of configuration file."""
    run, world = RunConfig.model_json_schema(), World.model_json_schema()
    # A file of config/tables or config/figures is of either of two kinds, so two parts of the page share one schema.
    table, figure = TypeAdapter(TableSpec | FactsSpec), TypeAdapter(FigureSpec | DrawingSpec)
    table, figure = table.json_schema(), figure.json_schema()
    return [
        Section.of(
            "workflow",
            "What to run",
            "`config/config.yaml`, and overlays given with `--configfile`. An overlay replaces the keys that it names.",
            WorkflowConfig,
        ),
        Section(
            "runs",
            "How a run is trained",
            "`config/runs/*.yaml`. A file is a family: `dataset`, `about`, `base` (keys shared by its runs) and `runs`. A "
            "run names only what differs from `base`, or from one run of the same file (`inherit: NAME`, one level "
            "deep). `base` and runs may name a file of `config/presets/` (`preset: NAME`), whose keys they override. The keys of `base` and of each run:",
            _family(run),
            run,
        ),
        Section(
            "presets",
            "Presets of runs",
            "`config/presets/*.yaml`: keys of a run under one name, explained at the top of each file. `official` is the form of "
            "training of the paper's official code, key by key; `official-encoder` and `official-decoder` are the paper's recipes, "
            "based on it. In addition to the keys of a run:",
            run | {"title": "Preset", "properties": PRESET | run["properties"]},
            {"properties": PRESET},
        ),
        Section(
            "datasets",
            "Registry: datasets",
            "`config/datasets.yaml`: where each input comes from, and what a finished dataset must contain.",
            _part(world, "datasets"),
            _part(world, "datasets"),
        ),
        Section(
            "models",
            "Registry: models",
            "`config/models.yaml`: language models and vision models. `sources` is explained above.",
            _part(world, "text_models", "vision_models"),
            _part(world, "text_models", "vision_models", sources=False),
        ),
        Section(
            "tables",
            "Layout of a table",
            "`config/tables/*.yaml` and `config/summaries/*.yaml`. They contain no numbers.",
            table,
            TableSpec.model_json_schema(),
        ),
        Section(
            "tables",
            "Layout of a table of facts",
            "`config/tables/*.yaml`, `layout: facts`.",
            table,
            FactsSpec.model_json_schema(),
        ),
        Section(
            "figures",
            "Layout of a figure",
            "`config/figures/*.yaml`, without `kind`.",
            figure,
            FigureSpec.model_json_schema(),
        ),
        Section(
            "figures", "A drawing", "`config/figures/*.yaml`, `kind: drawing`.", figure, DrawingSpec.model_json_schema()
        ),
        Section.of(
            "comparisons",
            "Claims as differences of two runs",
            "`config/reported/comparisons.yaml`, the rows of docs/reproduction.md.",
            Comparisons,
        ),
    ]


def _family(run: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a family file around the one of a run."""
    run = dict(run)
    definitions = run.pop("$defs")
    text = {"type": "string"}
    own = run | {
        "title": "Run",
        "properties": {"inherit": text | {"description": "A run of this file."}} | PRESET | run["properties"],
    }
    base = run | {"properties": PRESET | run["properties"]}
    return {
        "$defs": definitions | {"Base": base, "Run": own},
        "additionalProperties": False,
        "description": "A family of runs.",
        "properties": {
            "dataset": text | {"description": "Entry of config/datasets.yaml."},
            "about": text | {"description": "What the family is for."},
            "base": {"$ref": "#/$defs/Base"},
            "runs": {"additionalProperties": {"anyOf": [{"$ref": "#/$defs/Run"}, {"type": "null"}]}, "type": "object"},
        },
        "required": ["dataset", "runs"],
        "title": "Family",
        "type": "object",
    }


def _part(world: dict[str, Any], *names: str, sources: bool = True) -> dict[str, Any]:
    """Return the schema of a registry file that holds the parts ``names``, and sources (both files may).

    No part is required: the entries may all stand in the file that this one includes.
    """
    names = (("sources",) if sources else ()) + names
    kept = {"include": INCLUDE} | {name: world["properties"][name] for name in names}
    wanted = set(_references(kept, world["$defs"]))
    return {
        "$defs": {name: value for name, value in world["$defs"].items() if name in wanted},
        "additionalProperties": False,
        "properties": kept,
        "title": " and ".join(names),
        "type": "object",
    }


def _references(schema: Any, definitions: dict[str, Any]) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            yield name
            yield from _references(definitions[name], definitions)
        for value in schema.values():
            yield from _references(value, definitions)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value, definitions)


def render() -> dict[str, str]:
    """Return ``{path below the repository: text}`` of every generated file."""
    parts = sections()
    files = {
        f"config/schemas/{part.name}.schema.json": json.dumps({"$schema": DIALECT} | part.schema, indent=2) + "\n"
        for part in parts
    }
    page = [
        f"<!-- Generated by `{COMMAND}` from the models in src/vixml/config; do not edit. -->",
        "# Configuration",
        "",
        "Every key of every file below `config/`. An unknown key is an error that names the nearest spelling. JSON schemas "
        "for editors are in `config/schemas/`.",
    ]
    for part in parts:
        page += ["", f"## {part.title}", "", part.about, "", "| key | value | default | meaning |", "|---|---|---|---|"]
        page += [_row(*row) for row in _rows(part.keys, part.keys.get("$defs", {}), "")]
    files["docs/config.md"] = "\n".join(page) + "\n"
    return files


def _row(key: str, value: str, default: str, meaning: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{key}`", value, default, meaning)) + " |"


def _rows(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, value, default and meaning of each key, nested ones as dotted names."""
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        key = f"{prefix}{name}"
        inner, suffix, optional = _inside(field, definitions)
        meaning = field.get("description") or (inner or {}).get("description", "")
        meaning = meaning.split("\n\n")[0].replace("\n", " ")
        if inner is None:
            default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
            yield key, _value(field), default, meaning
        else:
            default = "`null` turns it off" if optional else ("`[]`" if field.get("default") == [] else "see below")
            default = "required" if name in required else default
            yield key + suffix, "keys below", default, meaning
            yield from _rows(inner, definitions, f"{key}{suffix}.")


def _inside(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any] | None, str, bool]:
    """Return the model that a field holds, how its elements are written in a key, and whether it may be null."""
    if "anyOf" in field:
        others = [option for option in field["anyOf"] if option.get("type") != "null"]
        inner, suffix, _ = _inside(others[0], definitions)
        return inner, suffix, True
    if "$ref" in field:
        return definitions[field["$ref"].rsplit("/", 1)[1]], "", False
    if isinstance(field.get("additionalProperties"), dict) and "$ref" in field["additionalProperties"]:
        return _inside(field["additionalProperties"], definitions)[0], ".NAME", False
    if "$ref" in field.get("items", {}):
        return _inside(field["items"], definitions)[0], "[]", False
    return None, "", False


def _value(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_value(option) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any")
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_value(field['prefixItems'][0])}"
        return f"list of {_value(field['items'])}"
    words = {
        "number": "number",
        "integer": "whole number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "`null`",
    }
    limits = [
        f"{sign} {field[limit]:g}"
        for limit, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if limit in field
    ]
    return " ".join([words.get(kind, "mapping"), ", ".join(limits)]).strip()


def document(root: Path | str, *, check: bool = False) -> list[Path]:
    """Write every generated file below ``root``; return those that differed.

    Args:
        root: the repository.
        check: change nothing.

    Raises:
        VixmlError: ``check`` is set and a file is missing or out of date.
    """
    stale = []
    for name, text in render().items():
        path = Path(root) / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                write_text(path, text)
    if check and stale:
        raise VixmlError(
            "a generated file is out of date",
            where=", ".join(map(str, stale)),
            hint=f"run `{COMMAND}` and commit what it writes",
        )
    return stale
