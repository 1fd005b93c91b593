# Shared by all rules: the validated configuration, the paths of results, and what reruns a job.
#
# REQUIRED INPUTS: config (the merged YAML of Snakemake), config/{datasets,models}.yaml, config/runs/*.yaml,
#   config/presets/*.yaml.
# OUTPUTS: none; constants and functions for the other files.
#
# A job reruns when its inputs, its part of the configuration (`settings`) or the behaviour of its code (`code`) changed.
# `params` contain only these, never a path: paths reach the command through the environment, which Snakemake does not
# record. Snakemake itself exports OMP_NUM_THREADS and the like from the job's threads.
#
# No input that a rule makes is `ancient`. Snakemake 9.27.1 (DAG.update_needrun in dag.py) checks only jobs that do not
# depend on a job to be run, and expects the others to follow. Behind an `ancient` input that exists they do not follow, so
# they and everything after them are skipped, and the call ends with success. Files of the repository, which no rule makes,
# may be `ancient`; raw files get a fixed time instead (`declare`).
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
from vixml.provenance import MANIFEST
from vixml.runtime import precision_override
from vixml.stages import Job, place, raw_dir

try:
    precision_override()  # a misspelt VIXML_PRECISION stops before the first job, not within it
    WORKFLOW = load_workflow(config, "the workflow's configuration (config/config.yaml, --configfile, --config)")
    PROJECT = Project(WORKFLOW.config_dir, WORKFLOW.results)
    RUNS, WORLD = PROJECT.runs, PROJECT.world
    TABLE_SPECS = dict(zip(WORKFLOW.tables, load_any_tables(WORKFLOW.config_dir, WORKFLOW.tables), strict=True))
except VixmlError as error:
    raise WorkflowError(str(error)) from None

# With `.venv/bin/snakemake` and no active environment, jobs find the `vixml` command beside it.
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


# Paths of results. A stage's folder is complete exactly when it contains its manifest, so rules name manifests.
RESULTS = WORKFLOW.results
CONFIG_DIR = WORKFLOW.config_dir
RAW_DIR = raw_dir(RESULTS).as_posix()
RAW = f"{RAW_DIR}/{{filename}}"
DECLARED = f"{RAW_DIR}/.declared/{{filename}}"
NAMES = ("dataset", "run", "seed", "split", "model", "max_len", "vision")


def made_by(stage, **names):
    """Return the manifest of what a stage makes; a name that is not given stays a wildcard."""
    return (place(stage, RESULTS, **{name: f"{{{name}}}" for name in NAMES} | names) / MANIFEST).as_posix()


def record_of(rule, kind, ending):
    """Return where a rule's log or benchmark lies: by the names of its job; that of pages by the name of the configuration."""
    parts = [part for part in Path(strip_wildcard_constraints(rule.output[0])).parts if "{" in part]
    return Path(RESULTS if parts else PAGES, kind, rule.name, *parts).as_posix() + ending


# A configuration with another name than config/config.yaml has its own folder of pages, so none overwrites another's.
OWN_PAGES = WORKFLOW.name != read_yaml("config/config.yaml").get("name", "demo")
NAME = re.sub(r"[^\w.-]+", "-", WORKFLOW.name)
PAGES = WORKFLOW.pages or (f"{RESULTS}/pages/{NAME}" if OWN_PAGES else RESULTS)
TABLES = f"{PAGES}/tables/manifest.json"
FIGURES = f"{PAGES}/figures/manifest.json"
REPORT = f"{PAGES}/report.html"
TUNING = f"{PAGES}/tuning/manifest.json"
# Keys of a configuration that are paths, not settings.
PLACES = {"config_dir", "results", "pages", "folder", "include", "device"}

# A profile with GPUs sets `device=cuda`; `--config` on the command line would replace it.
DEVICE = "cuda" if WORKFLOW.device == "auto" and "gpu" in workflow.global_resources else WORKFLOW.device
# Whether jobs will have a GPU. This process may run on a node without one; then the configuration says cuda.
WITH_GPU = DEVICE == "cuda" or (DEVICE == "auto" and shutil.which("nvidia-smi") is not None)
ENVIRONMENT = "../envs/gpu.yaml" if WITH_GPU else "../envs/cpu.yaml"
THREADS = WORKFLOW.threads
SOURCE_OF = {source.filename: name for name, source in WORLD.sources.items()}

# A clone, a copy or a touch changes the time of a raw file, which means nothing: its declared hash decides.
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
Stopped. The message above says what went wrong; each job's log is below results/logs. Finished results are kept: run the same
command again to resume. Training resumes from its last checkpoint.
If the message says that the folder is locked although nothing is running: snakemake --unlock
On a cluster: docs/hpc.md explains SLURM's messages.
"""
WHEN_INTERRUPTED = """
Interrupted. Finished results are kept, and training keeps its last checkpoint.
To resume, run the same command again."""


# What reruns a job.


def settings(value):
    """Return a part of the configuration as text that does not depend on the order of its keys."""
    return json.dumps(value, sort_keys=True)


def code(stage):
    """Return the digest of the code behind a command, computed only when Snakemake considers a job of it."""
    return lambda wildcards: stage_digest(stage)


def obeys(stage):
    """Return a function of the settings that a stage obeys, as text."""
    return asked(stage, lambda job: settings(job.obeys()))


def asked(stage, ask):
    """Return a function of wildcards that asks a job of a stage; a name that nobody defined is one clear error."""

    def answer(wildcards):
        try:
            return ask(Job(PROJECT, stage, dict(wildcards.items())))
        except VixmlError as error:
            raise WorkflowError(str(error)) from None

    return answer


def content(paths):
    """Return a digest of files of the repository: for YAML of its content, without layout and paths."""
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
    """Return the layout files of tables (`tables`) or figures (`figures`)."""
    folder = Path(CONFIG_DIR)
    files = [
        *registry_files(folder),
        *folder.glob("runs/*.yaml"),
        *preset_files(folder).values(),
        *folder.glob("reported/*.csv"),
    ]
    files += [folder / kind / f"{name}.yaml" for name in names]
    files += [path for name in names for form in ("svg", "csv") for path in folder.glob(f"{kind}/{name}.{form}")]
    return sorted(path.as_posix() for path in files)


def configuration_of_paper():
    """Return the configuration of the paper's runs, which the report names in commands; none if it is missing."""
    return [path.as_posix() for path in Path(CONFIG_DIR).glob("paper.yaml")]


# What a stage reads.


def reads(stage):
    """Return a function of the manifests that a stage reads, by name."""
    return asked(stage, lambda job: {name: (folder / MANIFEST).as_posix() for name, folder in job.reads().items()})


def sources(stage):
    """Return a function of the raw files that a stage reads."""
    return asked(stage, lambda job: [RAW.format(filename=WORLD.sources[name].filename) for name in job.sources()])


# A run's resolved configuration, a function of wildcards.
run_of = asked("train", lambda job: job.run)


def tables_of_dataset(wildcards):
    """Return the tables of a user's own dataset that exist; build-corpus reports missing ones."""
    entry = WORLD.datasets[wildcards.dataset].catalogue
    return [str(path) for path in tables_in(folder_of(entry, RAW_DIR)).values()] if entry else []


def is_published(dataset, vision):
    """Return whether a dataset's image embeddings are imported instead of pooled here."""
    return WORKFLOW.published_vectors and vision in WORLD.datasets[dataset].published_vectors
