"""Schemas and docs/config.md follow from the models, and the committed ones are up to date."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from vixml.cli import main
from vixml.cli.check import document_config
from vixml.config.document import document, render
from vixml.config.load import read_yaml
from vixml.errors import VixmlError
from vixml.files import read_json

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_OF = {name: name for name in ("runs", "presets", "tables", "figures")}
SCHEMA_OF |= {"summaries": "tables", "reported": "comparisons", "datasets.yaml": "datasets", "models.yaml": "models"}


def test_generated_files_are_up_to_date():
    assert main(["document-config", "--root", str(ROOT), "--check"]) == 0


def test_a_stale_file_is_named_and_rewritten(tmp_path):
    for name in ("config/schemas", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = tmp_path / "docs/config.md"
    page.write_text(page.read_text(encoding="utf-8") + "typed by hand\n", encoding="utf-8")
    with pytest.raises(VixmlError) as caught:
        document_config(tmp_path, check=True)
    assert caught.value.where == str(page)
    document_config(tmp_path)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert document(tmp_path) == []


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        pytest.param(folder, path, id=path.name)
        for folder in (ROOT / "config", *sorted(ROOT.glob("examples/*/config")))
        for path in sorted(folder.rglob("*.yaml"))
    ],
)
def test_every_configuration_fits_its_schema(folder, path):
    part = path.relative_to(folder).parts[0]
    schema = read_json(ROOT / f"config/schemas/{SCHEMA_OF.get(part, 'workflow')}.schema.json")
    if part not in SCHEMA_OF:
        schema.pop("required")  # an overlay names only what it replaces
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(read_yaml(path), schema)


def test_a_schema_refuses_what_the_models_refuse():
    schema = json.loads(render()["config/schemas/runs.schema.json"])
    family = {"dataset": "picto", "runs": {"a": {"training": {"epoch": 1}}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(family, schema)


def test_the_page_explains_every_key():
    text = render()["docs/config.md"]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    silent = [row[0] for row in rows if not row[-1].strip(" |")]
    assert not silent, f"no meaning given: {silent}"
