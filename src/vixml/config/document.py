"""Make the JSON schemas (config/schemas) and docs/config.md from the config models, so that they cannot disagree.

The schemas serve editors (completion, red underlines); the workflow itself validates with the models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, TypeAdapter

from vixml.config.registry import Dataset, Source, TextModel, VisionModel
from vixml.config.run import RunConfig, Strict
from vixml.config.tables import Comparisons, DrawingSpec, FactsSpec, FigureSpec, TableSpec
from vixml.config.workflow import WorkflowConfig
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.text import markdown

COMMAND = "vixml document-config"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

# --- The files that no model describes yet, because their keys are merged before they are validated.


class Preset(Strict):
    """The key of presets, of the base of a family, and of a run."""

    preset: str | None = Field(
        None,
        description="A file of presets/, without its extension, here or beside an included registry file. These keys override its keys.",
    )


class Base(RunConfig, Preset):
    """Keys of a run, which override those of a preset."""


class Run(Base):
    """A run of a family."""

    inherit: str | None = Field(
        None,
        description="A run of this dataset. Of a run of another file, that file's `base` and keys count first, then this file's `base`.",
    )


class Family(Strict):
    """A family of runs."""

    dataset: str | list[str] = Field(description="Entry of config/datasets.yaml, or several: each has these runs.")
    about: str = Field("", description="What the family is for.")
    base: Base | None = None
    runs: dict[str, Run | None]


class RegistryFile(Strict):
    """A file of the registry. No part is required: the entries may all be in the file that this one includes."""

    include: str | None = Field(
        None,
        description="Another registry file, by its path relative to this one, whose entries are included: for a configuration of "
        "your own beside the project's (docs/dataset.md).",
    )
    sources: dict[str, Source] = Field({})


class DatasetsFile(RegistryFile):
    """The file datasets.yaml."""

    datasets: dict[str, Dataset] = Field({})


class ModelsFile(RegistryFile):
    """The file models.yaml."""

    text_models: dict[str, TextModel] = Field({})
    vision_models: dict[str, VisionModel] = Field({})


class WorkflowFile(Family, ModelsFile, DatasetsFile, WorkflowConfig):
    """A workflow; a file that is a whole configuration (`config_dir` names itself) has the parts of the other files, too."""

    dataset: str | list[str] | None = Field(None, description="As in a file of runs/.")
    runs: dict[str, Run | None] = Field({}, description="As in a file of runs/.")
    table: TableSpec | None = Field(None, description="As a file of tables/; its `id` is the name in `tables`.")


class FileKind(NamedTuple):
    """One kind of YAML file."""

    name: str  # of the schema file, without ``.schema.json``; two kinds may share one
    model: Any  # of the whole file
    title: str  # heading in docs/config.md
    about: str  # a paragraph below it
    keys: type[Strict] | None = None  # the model whose keys are listed in docs/config.md; None: ``model``


SECTIONS = (
    FileKind(
        "workflow", WorkflowFile, "What to run",
        "`config/config.yaml`, and overlays given with `--configfile`. An overlay replaces the keys that it names. A file that "
        "`vixml new` wrote is a whole configuration (`config_dir` names itself): it also has the keys of a registry file "
        "(`include`, `datasets`, ...), those of a family of runs (`dataset`, `base`, `runs`), and `table`.",
        WorkflowConfig,
    ),
    FileKind(
        "runs", Family, "How a run is trained",
        "`config/runs/*.yaml`. A file is a family: `dataset` (one, or a list: each has these runs), `about`, `base` (keys shared "
        "by its runs) and `runs`. A run names only what differs from `base`, or from one run of the same dataset (`inherit: NAME`, "
        "one level deep). `base` and runs may name a file of `config/presets/` (`preset: NAME`), whose keys they override. The keys of `base` and of each run:",
        RunConfig,
    ),
    FileKind(
        "presets", Base, "Presets of runs",
        "`config/presets/*.yaml`: keys of a run under one name, explained at the top of each file. `official` is the form of "
        "training of the paper's official code, key by key; `official-encoder` and `official-decoder` are the paper's recipes, "
        "based on it. In addition to the keys of a run:",
        Preset,
    ),
    FileKind(
        "datasets", DatasetsFile, "Registry: datasets",
        "`config/datasets.yaml`: where each input comes from, and what a finished dataset must contain.",
    ),
    FileKind(
        "models", ModelsFile, "Registry: models",
        "`config/models.yaml`: language models and vision models. `sources` is explained above.",
    ),
    FileKind(
        "tables", TableSpec | FactsSpec, "Layout of a table",
        "`config/tables/*.yaml` and `config/summaries/*.yaml`. They contain no numbers.", TableSpec,
    ),
    FileKind(
        "tables", TableSpec | FactsSpec, "Layout of a table of facts", "`config/tables/*.yaml`, `layout: facts`.", FactsSpec
    ),
    FileKind(
        "figures", FigureSpec | DrawingSpec, "Layout of a figure", "`config/figures/*.yaml`, without `kind`.", FigureSpec
    ),
    FileKind("figures", FigureSpec | DrawingSpec, "A drawing", "`config/figures/*.yaml`, `kind: drawing`.", DrawingSpec),
    FileKind(
        "comparisons", Comparisons, "Claims as differences of two runs",
        "`config/reported/comparisons.yaml`, the rows of docs/reproduction.md.",
    ),
)  # fmt: skip


def render() -> dict[str, str]:
    """Return ``{path below the repository: text}`` of every generated file."""
    files = {}
    page = [
        f"<!-- Generated by `{COMMAND}` from the models in src/vixml/config; do not edit. -->",
        "# Configuration",
        "",
        "Every key of every file below `config/`. An unknown key is an error that names the nearest spelling. JSON schemas "
        "for editors are in `config/schemas/`.",
    ]
    for name, model, title, about, keys in SECTIONS:
        schema = TypeAdapter(model).json_schema()
        files[f"config/schemas/{name}.schema.json"] = json.dumps({"$schema": DIALECT} | schema, indent=2) + "\n"
        listed = keys.model_json_schema() if keys else schema
        rows = _rows(listed, listed.get("$defs", {}), "")
        # Sources are explained once, although both files of the registry have them.
        cells = [(f"`{key}`", *row) for key, *row in rows if not (name == "models" and key.startswith("sources"))]
        table = markdown(["key", "value", "default", "meaning"], cells, words=(1, 2, 3))
        page += ["", f"## {title}", "", about, "", table.rstrip()]
    files["docs/config.md"] = "\n".join(page) + "\n"
    return files


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
    """Write every generated file below ``root`` and return those that differed; with ``check``, these are a VixmlError."""
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
