"""Every configuration plans, and no param contains a path: in other folders or on another machine, jobs have the same params."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("config", "examples/*/config")
    for path in ROOT.glob(f"{folder}/*.yaml")
    if "targets" in yaml.safe_load(path.read_text())
)
# Runs the Snakefile, then writes the rule, wildcards and params of every job.
PRINTING = """
include: "{root}/Snakefile"

def printing(execute):
    def execute_and_print(*arguments, **options):
        execute(*arguments, **options)
        with open("{jobs}", "w") as stream:
            for job in workflow.dag.jobs:
                key = " ".join([job.rule.name, *map(str, job.wildcards)])
                stream.write(json.dumps([key, sorted(map(str, job.params))]) + "\\n")
    return execute_and_print

workflow.execute = printing(workflow.execute)
"""
SEEN: set[str] = set()


def params(folder: Path, configfile: Path, *settings: str) -> dict[str, list[str]]:
    """Return the params of every job of a configuration, with results in ``folder``."""
    folder.mkdir()
    snakefile, jobs = folder / "Snakefile", folder / "jobs.jsonl"
    snakefile.write_text(PRINTING.format(root=ROOT, jobs=jobs))
    targets = ["all", "export"]
    command = ["snakemake", "-n", "--quiet", "all", "-s", snakefile, "--directory", ROOT, "--config"]
    command += [f"results={folder}/made", *settings, "--configfile", configfile, "--", *targets]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(map(json.loads, jobs.read_text().splitlines()))


def leaves(value: object) -> list[str]:
    """Return every string inside a param."""
    if isinstance(value, dict):
        return [leaf for item in value.items() for part in item for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("configfile", CONFIGURATIONS)
def test_a_configuration_plans_and_no_param_contains_a_path(configfile, tmp_path):
    config_dir = Path(configfile).parent
    shutil.copytree(ROOT / "config", tmp_path / "moved/config")
    if config_dir != Path("config"):
        shutil.copytree(ROOT / config_dir, tmp_path / "moved" / config_dir)
        registry = tmp_path / "moved" / config_dir / "datasets.yaml"
        registry.write_text(re.sub(r"(folder: )(\w+)", rf"\1{tmp_path}/tables/\2", registry.read_text()))
    moved = f"config_dir={tmp_path}/moved/{config_dir}"
    elsewhere = params(
        tmp_path / "elsewhere", tmp_path / "moved" / configfile, moved, "device=cuda", "processes_per_training=2",
        f"pages={tmp_path}/pages", "threads={train: 3, images: 5, search: 7}",
    )  # fmt: skip
    rules = {job.split()[0] for job in elsewhere}
    assert "train_model" in rules
    SEEN.update(rules)
    for job, values in elsewhere.items():
        for value in values:
            try:
                parsed = json.loads(value)
            except ValueError:
                parsed = value
            for leaf in leaves(parsed):
                assert str(tmp_path) not in leaf and "results" not in leaf.split("/"), f"{job}: {leaf}"
                assert not re.match(r"\.{0,2}/|.*\bconfig/|.*://", leaf), f"{job}: {leaf}"
                assert leaf not in ("cuda", "cpu", config_dir.as_posix()), f"{job}: {leaf}"
    if configfile in ("config/config.yaml", *CONFIGURATIONS[-1:]):
        here = params(tmp_path / "here", ROOT / configfile)
        # With a folder of pages, all kinds of them are made.
        assert here == {job: found for job, found in elsewhere.items() if job in here}
        assert elsewhere.keys() - here.keys() <= {"make_figures"}


def test_every_rule_was_checked():
    if len(SEEN) == 0:
        pytest.skip("the test above was not run in this process")
    rules = {name for path in ROOT.glob("rules/*.smk") for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)}
    assert rules <= SEEN, f"no committed configuration reaches {rules - SEEN}"


def test_no_input_that_a_rule_makes_is_ancient():
    for path in ROOT.glob("rules/*.smk"):
        for line in path.read_text().splitlines():
            assert not re.search(r"ancient\((?!LAYOUT_OF)", line.split("#")[0]), f"{path.name}: {line}"
