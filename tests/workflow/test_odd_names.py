"""Folders, data and configuration with blanks, quotes, letters beyond ASCII and shell in their names: nothing breaks or runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_world import Copy, clone

from vixml.files import write_json

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_no_name_is_shell_and_none_breaks_on_a_blank(tmp_path):
    root = clone(ROOT, tmp_path / 'my "results" é $(touch touched)')
    own, data = root / "own é $(touch touched)", root / "my tables $(touch touched)"
    for folder in (own / "runs", own / "tables", data):
        folder.mkdir(parents=True)
    (own / "models.yaml").write_text("include: ../config/models.yaml\n", encoding="utf-8")
    shop = {"title": "Shop", "builder": "catalogue", "catalogue": {"folder": str(data)}}
    registry = {"include": "../config/datasets.yaml", "datasets": {"shop_1": shop}}
    write_json(own / "datasets.yaml", registry)
    for split in ("train", "test"):
        lines = "".join(f"{split}{row},title {row},a;b\n" for row in range(5))
        (data / f"{split}.csv").write_text(f"id,title,labels\n{lines}", encoding="utf-8")
    popular = {"method": "none", "modality": "text", "training": {"epochs": 0}}
    popular["inference"] = {"method": "popularity", "labels_as": "u"}
    write_json(own / "runs" / "a.yaml", {"dataset": "shop_1", "runs": {"pop_1": popular}})
    table = "t $(touch touched)"
    measured = {"dataset": "shop_1", "title": "Shop", "rows": [{"label": "a", "run": "pop_1"}]}
    layout = {"id": table, "title": "T", "metrics": ["P@1"], "measured": [measured]}
    write_json(own / "tables" / f"{table}.yaml", layout)
    workflow = {"name": "shop $(touch touched)", "config_dir": own.name, "results": 'my "r" é $(touch touched)'}
    workflow |= {"targets": [{"dataset": "shop_1", "runs": ["pop_1"]}], "tables": [table], "figures": []}
    overlay = own / "shop $(touch touched).yaml"
    write_json(overlay, workflow)
    Copy(root).run("snakemake", "--cores", "2", "paper_tables", "--configfile", str(overlay))
    assert list((root / workflow["results"]).rglob(f"{table}.md")) and not list(root.rglob("touched"))
