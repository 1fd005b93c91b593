# Shared by all rules: the validated configuration, where things lie, and what makes a job run again.
#
# REQUIRED INPUTS: config (the merged YAML of Snakemake), config/{datasets,models}.yaml, config/runs/*.yaml,
#   config/presets/*.yaml.
# OUTPUTS: none; constants and functions for the other files.
#
# A job runs again when its inputs, its part of the configuration (`settings`) or the behaviour of its code (`code`)
# changed. `params` hold only that, never a path: where things lie reaches the command through the environment, which
# Snakemake does not record. Snakemake itself exports OMP_NUM_THREADS and its like as the job's threads.
#
# No input that a rule makes is `ancient`. Snakemake 9.27.1 (DAG.update_needrun in dag.py) looks for its own reason only at
# jobs that do not depend on a job to be run: the others are expected to follow from it. But behind an `ancient` input that
# exists they do not follow, so they, and all behind them, are left out, and the call ends with success. Files of the
# repository, which no rule makes, may be `ancient`; raw files get a fixed time instead (`declare`).
import json
import os
import re
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import strip_wildcard_constraints
from snakemake.shell import shell

from vixml.config.load import load_workflow, preset_files, read_yaml, registry_files
from vixml.config.project import Project
from vixml.config.tables import load_any_tables
from vixml.data.catalogue import folder_of, tables_in
from vixml.data.download import declare
from vixml.digest import stage_digest
from vixml.errors import VixmlError
from vixml.files import sha256_file, sha256_json
from vixml.paths import place, raw_dir
from vixml.provenance import MANIFEST
from vixml.runtime import precision_override

try:
    precision_override()  # a misspelt VIXML_PRECISION stops before the first job, not in it
    WORKFLOW = load_workflow(config, "the workflow's configuration (config/config.yaml, --configfile, --config)")
    PROJECT = Project(WORKFLOW.config_dir, WORKFLOW.results)
    RUNS, WORLD = PROJECT.runs, PROJECT.world
    TABLE_SPECS = dict(zip(WORKFLOW.tables, load_any_tables(WORKFLOW.config_dir, WORKFLOW.tables), strict=True))
except VixmlError as error:
    raise WorkflowError(str(error)) from None

# `.venv/bin/snakemake` without activating the environment: the jobs find the command beside it.
if shutil.which("vixml") is None:
    os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9.\-]*",
    run=r"[A-Za-z0-9][A-Za-z0-9.\-]*",
    seed=r"\d+",
    split="test|validation",
    model=r"[A-Za-z0-9][A-Za-z0-9.\-]*",
    max_len=r"\d+",
    vision=r"[A-Za-z0-9][A-Za-z0-9.\-]*",
    filename=r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*\.(whl|zip|parquet|npy)",


# Where things lie. A stage's folder is complete exactly when it holds its manifest, so manifests are what rules name.
RESULTS = WORKFLOW.results
CONFIG_DIR = WORKFLOW.config_dir
RAW_DIR = raw_dir(RESULTS).as_posix()
RAW = f"{RAW_DIR}/{{filename}}"
DECLARED = f"{RAW_DIR}/.declared/{{filename}}"
NAMES = ("dataset", "run", "seed", "split", "model", "max_len", "vision")


def made_by(stage, **names):
    """Return the manifest of what a stage makes; a name that is not given stays a wildcard."""
    return (place(stage, RESULTS, **{name: f"{{{name}}}" for name in NAMES} | names) / MANIFEST).as_posix()


def names_in(output):
    """Return the parts of a place that name a job: `{run}/seed{seed}` of `results/runs/{run}/seed{seed}/model`."""
    parts = Path(strip_wildcard_constraints(output)).parts
    return Path(*(part for part in parts if "{" in part)).as_posix()


# Pages of another name than that of config/config.yaml have a folder of their own: no configuration overwrites another's.
OWN_PAGES = WORKFLOW.name != read_yaml("config/config.yaml").get("name", "demo")
NAME = re.sub(r"[^\w.-]+", "-", WORKFLOW.name)
PAGES = WORKFLOW.pages or (f"{RESULTS}/pages/{NAME}" if OWN_PAGES else RESULTS)
TABLES = f"{PAGES}/tables/manifest.json"
FIGURES = f"{PAGES}/figures/manifest.json"
REPORT = f"{PAGES}/report.html"
TUNING = f"{PAGES}/tuning/manifest.json"
# Keys of a configuration that say where, not what.
PLACES = {"config_dir", "results", "pages", "folder", "include", "device"}
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"

# A profile that brings GPUs wants them used: `--config` on the command line replaces the profile's own `device=cuda`.
DEVICE = "cuda" if WORKFLOW.device == "auto" and "gpu" in workflow.global_resources else WORKFLOW.device
# Whether jobs find a GPU: this process may run on a node without one (then the configuration says cuda).
WITH_GPU = DEVICE == "cuda" or (DEVICE == "auto" and shutil.which("nvidia-smi") is not None)
ENVIRONMENT = "../envs/gpu.yaml" if WITH_GPU else "../envs/cpu.yaml"
THREADS = WORKFLOW.threads
SOURCE_OF = {source.filename: name for name, source in WORLD.sources.items()}

# A clone, a copy or a touch gives a raw file a new time, which says nothing: what it must be is its declared hash.
declare(RAW_DIR, {source.filename: source.sha256 for source in WORLD.sources.values()})

os.environ.update(VIXML_CONFIG_DIR=CONFIG_DIR, VIXML_RESULTS=RESULTS)

# `logged FILE`: into a log, and to the terminal unless rules/display.smk shows the jobs there. For inputs of which there may be
# several: `folders --score FILE ...` is `--score FOLDER ...`.
shell.prefix(
    "set -euo pipefail; "
    'logged() {{ if [ -n "${{VIXML_DISPLAY:-}}" ]; then cat > "$1"; else tee "$1"; fi; }}; '
    'folders() {{ for made in "${{@:2}}"; do echo "$1 ${{made%/*}}"; done; }}; '
)

WHEN_IT_FAILS = """
Stopped. The message above names what went wrong; the log of each job is below results/logs. What was finished is kept:
run the same command again to resume. A training resumes from its last checkpoint.
If it says that the folder is locked though nothing runs: snakemake --unlock
On a cluster: docs/hpc.md says what SLURM's messages ask for.
"""
WHEN_INTERRUPTED = """
Interrupted. Every finished result is kept, and a training that has begun keeps its last checkpoint.
To resume, run the same command again."""


# What makes a job run again.


def settings(value):
    """Return a part of the configuration as text, the same whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)


def code(verb):
    """Return the digest of the code behind a verb, asked for only when a job of that verb is looked at."""
    return lambda wildcards: stage_digest(verb)


def obeys(stage):
    """Return a function of the settings that a stage obeys, as text."""
    return lambda wildcards: settings(known(PROJECT.obeys, stage, wildcards))


def known(ask, stage, wildcards):
    """Return what the project answers of a stage; a name that nobody defined is one clear error."""
    try:
        return ask(stage, **dict(wildcards.items()))
    except VixmlError as error:
        raise WorkflowError(str(error)) from None


def content(paths):
    """Return a digest of files of the repository: of YAML what it says, not how it is laid out or where things lie."""
    said = []
    for path in paths:
        held = without_places(read_yaml(path)) if path.endswith(".yaml") else {"sha256": sha256_file(path)}
        said.append([Path(path).name, held])
    return sha256_json(sorted(said, key=json.dumps))[:16]


def without_places(value):
    """Return a part of a configuration without the keys that name folders and files."""
    if isinstance(value, dict):
        return {key: without_places(part) for key, part in value.items() if key not in PLACES}
    return [without_places(part) for part in value] if isinstance(value, list) else value


def reported_files(kind, names):
    """Return the files that tables (`tables`) or figures (`figures`) are laid out from."""
    folder = Path(CONFIG_DIR)
    files = [
        *registry_files(folder),
        *folder.glob("runs/*.yaml"),
        *preset_files(folder).values(),
        *folder.glob("reported/*.csv"),
    ]
    files += [folder / kind / f"{name}.yaml" for name in names]
    return sorted(path.as_posix() for path in files)


def configuration_of_paper():
    """Return the file that asks for the paper's runs, which the report names in commands; none where it is missing."""
    return [path.as_posix() for path in Path(CONFIG_DIR).glob("paper.yaml")]


# What a stage reads.


def reads(stage):
    """Return a function of the manifests that a stage reads, by name."""

    def inputs(wildcards):
        folders = known(PROJECT.reads, stage, wildcards)
        return {name: (folder / MANIFEST).as_posix() for name, folder in folders.items()}

    return inputs


def sources(stage):
    """Return a function of the raw files that a stage reads."""

    def files(wildcards):
        return [RAW.format(filename=WORLD.sources[name].filename) for name in known(PROJECT.sources, stage, wildcards)]

    return files


def run_of(wildcards):
    """Return a run's resolved configuration."""
    return known(lambda stage, dataset, run, **others: PROJECT.run(dataset, run), None, wildcards)


def tables_of_dataset(wildcards):
    """Return the tables of a user's own dataset, as far as they are there; build-corpus says what is missing."""
    entry = WORLD.datasets[wildcards.dataset].catalogue
    return [str(path) for path in tables_in(folder_of(entry, RAW_DIR)).values()] if entry else []


def is_published(dataset, vision):
    """Return whether a dataset's image vectors are imported, not pooled here."""
    return WORKFLOW.published_vectors and vision in WORLD.datasets[dataset].published_vectors
