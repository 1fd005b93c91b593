"""Style and contracts of the workflow, checked without running it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import typer.main
import yaml
from tiny_world import clone

from vixml.cli import app
from vixml.files import write_json
from vixml.plan.plan import read_workflow
from vixml.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
RULE_FILES = sorted((ROOT / "rules").glob("*.smk"))
RULES = [
    pytest.param(text, id=re.match(r"rule (\w+)", text)[1])
    for path in RULE_FILES
    for text in re.split(r"^(?=rule )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
]
WORKFLOWS = sorted(
    path
    for folder in ("config", "examples/*/config")
    for path in ROOT.glob(f"{folder}/*.yaml")
    if "targets" in yaml.safe_load(path.read_text(encoding="utf-8"))
)
WILDCARDS = {"dataset", "run", "seed", "split", "model", "max_len", "vision", "filename"}


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_snakefmt_is_clean():
    done = run("snakefmt", "--check", "Snakefile", "rules")
    assert done.returncode == 0, done.stderr


def test_lint_is_clean():
    done = run("snakemake", "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_configuration_is_called_as_the_report_calls_it(path):
    expected = "demo" if path.name == "config.yaml" else path.stem
    assert read_workflow(path, ROOT / "config/config.yaml").name == expected


def test_no_written_command_names_a_target_after_its_configuration():
    # Snakemake reads every word after --configfile as another file.
    wrongly = re.compile(r"--configfile [\w/{}.-]+[ #\\\n]+(?:paper_tables|tuning_table|all|results/\S+)\b")
    pages = (ROOT.glob(name) for name in ("README.md", "Snakefile", "docs/*.md", "config/**/*.yaml", "examples/**/*.*"))
    for page in (*chain.from_iterable(pages), *RULE_FILES):
        wrong = wrongly.search(page.read_text(encoding="utf-8"))
        assert not wrong, f"{page.relative_to(ROOT)}: {wrong[0]}"


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_a_file_of_rules_opens_with_its_contract(path):
    text = path.read_text(encoding="utf-8")
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert re.search(r"^# REQUIRED INPUTS: ", header, re.MULTILINE) and re.search(r"^# OUTPUTS: ", header, re.MULTILINE)
    for name in re.findall(r"^rule (\w+):", text, re.MULTILINE):
        assert name in header.splitlines()[0], f"the first line of {path.name} does not name {name}"


@pytest.mark.parametrize("text", RULES)
def test_a_rule_has_every_directive_and_calls_one_command_with_its_options(text):
    named = re.match(r"rule [a-z]+_[a-z]+:\n    \"\"\"[A-Z].*\.\"\"\"\n", text)
    assert named, "no name of verb and noun, or no docstring"
    # Log, benchmark, environment and settings follow from the stage: rules/stages.smk. Heavy and light resources: rules/resources.smk.
    for directive in ("output", "resources", "message"):
        assert re.search(rf"^    {directive}:", text, re.MULTILINE), f"no {directive}"
    assert re.search(r"mem_mb=.*runtime=|\*\*heavy\(|\*\*LIGHT", text, re.DOTALL)
    assert set(re.findall(r"wildcards\.(\w+)", text)) <= WILDCARDS

    shell = text.split("shell:")[1]
    [command] = re.findall(r"\bvixml ([a-z-]+)", shell)
    assert command in STAGES
    assert "2>&1 | logged {log:q}" in shell
    known = {option for parameter in typer.main.get_command(app).commands[command].params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", shell)) | set(re.findall(r'f"(--[a-z-]+) ', text)) <= known


def test_a_misspelt_key_is_refused_in_one_message():
    done = run("snakemake", "-n", "--config", "tabels=[table1]")
    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert "unknown key 'tabels'" in shown and "did you mean 'tables'?" in shown
    assert "Traceback" not in shown


@pytest.fixture
def overlay(tmp_path):
    """Return a function that writes a configuration of the given targets, {data set: run}, and returns its path."""

    def write(targets):
        listed = [{"dataset": dataset, "runs": [run]} for dataset, run in targets.items()]
        write_json(tmp_path / "overlay.yaml", {"results": str(tmp_path / "results"), "targets": listed})
        return str(tmp_path / "overlay.yaml")

    return write


def test_a_misspelt_run_is_refused_with_the_nearest_name(overlay):
    done = run("snakemake", "-n", "--configfile", overlay({"picto": "text-minilm-13"}))
    assert done.returncode != 0
    assert "did you mean 'text-minilm-l3'?" in done.stdout + done.stderr


def test_the_downloads_are_all_that_needs_a_network(overlay):
    targets = {"LF-AmazonTitles-131K": "vixml-distilbert", "MM-AmazonTitles-300K": "vixml-distilbert", "picto": "pecos"}
    fetched = {}
    for target in ("paper_tables", "downloads"):
        done = run("snakemake", "-n", target, "--configfile", overlay(targets))
        assert done.returncode == 0, done.stdout + done.stderr
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
        rules = ("fetch_source", "prepare_model", "prepare_vision", "fetch_images", "install_peers")
        fetched[target] = {rule: jobs[rule] for rule in rules}
    assert fetched["downloads"] == fetched["paper_tables"]
    # A corpus only where its images are fetched; nothing is computed.
    assert jobs.keys() == fetched["downloads"].keys() | {"build_corpus", "downloads", "total"}
    assert jobs["build_corpus"] == "1"


def test_a_failure_names_the_folders_of_the_logs():
    text = (ROOT / "rules/display.smk").read_text(encoding="utf-8")
    for results, pages, named in (("/disk/r", "/disk/r", "/disk/r/logs"), ("r", "p", "r/logs and p/logs")):
        names = {"RESULTS": results, "PAGES": pages}
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and statement.targets[0].id in ("LOGS", "WHEN_IT_FAILS"):
                exec(ast.unparse(statement), names)
        assert f"below {named}.\n" in names["WHEN_IT_FAILS"]


def test_a_checkout_runs_its_own_code(tmp_path, monkeypatch):
    """Also where the environment holds that of another one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    here = clone(ROOT, tmp_path / "copy")
    with open(here / "Snakefile", "a") as stream:
        stream.write("\nrule where:\n    output:\n        'where',\n    shell:\n")
        stream.write("        \"python -c 'import vixml; print(vixml.__file__)' > {output}\"\n")
    done = run("snakemake", "--cores", "1", "where", cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "where").read_text().strip() == str(here / "src/vixml/__init__.py")
    with open(here / "src/vixml/text.py", "a") as stream:
        stream.write("EDITED = True\n")
    done = run("snakemake", "-n", cwd=here)
    assert done.returncode != 0 and "the code of another checkout" in done.stdout + done.stderr
    assert "rm -rf .venv && make install" in done.stdout + done.stderr


@pytest.mark.parametrize("profile", ["default", "gpu", "slurm"])
def test_every_entry_of_a_profile_is_explained(profile):
    text = (ROOT / "profiles" / profile / "config.yaml").read_text(encoding="utf-8")
    entries = yaml.safe_load(text)
    assert entries["rerun-triggers"] == ["mtime", "params", "input", "code"]
    blocks = [block for block in text.split("\n\n") if block.strip()]
    for block in blocks:
        assert block.lstrip().startswith("#") or re.search(r"^ *#", block, re.MULTILINE), f"no comment: {block}"


def test_every_environment_has_the_pins_of_the_lock():
    done = run(sys.executable, "envs/pins.py", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_that_is_imported_is_declared():
    """A dependency of a dependency may disappear with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (texts for name, texts in project["optional-dependencies"].items() if name != "dev")
    texts = [*project["dependencies"], *chain.from_iterable(extras)]
    declared = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in texts}
    of = packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        if path.name == "peer_program.py":  # it imports what `install-peers` installs
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"vixml"}:
                known = {found.lower().replace("_", "-") for found in of.get(name, [name])}
                assert known & declared, f"pyproject.toml lacks {name}, which {path.relative_to(ROOT)} imports"


def test_make_lists_its_targets():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    shown = run("make").stdout
    for target in ("install", "demo", "test", "slow", "check", "record", "push", "pull", "clean"):
        assert f"make {target}" in shown


def test_no_file_contains_a_path_of_one_machine():
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".png", ".npy", ".parquet", ".html"} or not path.is_file():
            continue
        found = re.search(r"(?<![\w.{}~-])/(?:home|root|Users|work|opt)/\w+", path.read_text(encoding="utf-8"))
        assert not found, f"{name} names {found[0]}"


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ([], "auto"),
        (["--profile", "profiles/gpu"], "cuda"),
        (["--profile", "profiles/gpu", "--config", "only_shown=True"], "cuda"),
        (["--profile", "profiles/gpu", "--config", "device=cpu"], "cpu"),
        (["--profile", "profiles/slurm", "--config", "only_shown=True"], "cuda"),
    ],
)
def test_the_gpu_profile_requires_a_gpu(options, device):
    """Also with --config, which replaces the `config` of a profile."""
    done = run("snakemake", *options, "--cores", "1", "-n", "-p", "--forceall", "paper_tables")
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"--device (\w+)", done.stdout + done.stderr)) == {device}
    assert ("so that its threads do not count" in done.stderr) == ("profiles/slurm" in options)
