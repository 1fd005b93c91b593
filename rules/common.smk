# Shared by all rules: the validated configuration, the paths of results, and the params that rerun a job.
#
# REQUIRED INPUTS: config (the merged YAML of Snakemake), config/{datasets,models}.yaml, config/runs/*.yaml,
#   config/presets/*.yaml.
# OUTPUTS: none; constants and functions for the other files.
#
# A job reruns when its inputs, its part of the configuration (`settings`) or the behaviour of its code (`code`) changed: see
# `obeys`. `params` contain only these, never a path: paths reach the command through the environment, which Snakemake does not
# record. Snakemake itself sets OMP_NUM_THREADS and similar variables to the job's threads.
#
# No input that a rule makes is `ancient`. Snakemake 9.27.1 (DAG.update_needrun in dag.py) checks only jobs that do not
# depend on a job that will run, and expects all others to run, too. If an existing input of such a job is `ancient`, the job
# does not run: it and everything after it are skipped, and the call ends with success. Files in the repository, which no rule
# makes, may be `ancient`; raw files get a fixed time instead (`declare`).
import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import strip_wildcard_constraints
from snakemake.settings.types import ExecMode
from snakemake.shell import shell

import vixml


def code_in(folder):
    """Return the code below a folder: path -> content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.py")}


# The environment of a copied checkout contains the code of the original. This is no problem as long as both are the same.
SOURCE = Path(workflow.current_basedir.get_path_or_uri(secret_free=False), "../src").resolve()
IMPORTED, OWN = Path(vixml.__file__).resolve().parent, SOURCE / "vixml"
if IMPORTED != OWN and code_in(IMPORTED) != code_in(OWN):
    raise WorkflowError(
        "this environment holds the code of another checkout, which differs from the code here\n"
        f"  where:    {IMPORTED}\n"
        f"  expected: {OWN}\n"
        "  what now: rm -rf .venv && make install, then source .venv/bin/activate; in an environment of your own:\n"
        "            pip install --no-deps -e ."
    )

from vixml.check.profile import replaced_config
from vixml.config.load import load_workflow, preset_files, read_yaml, registry_files
from vixml.config.project import Project
from vixml.config.registry import FILENAME
from vixml.config.registry import NAME as NAME_OF_ENTRY
from vixml.config.tables import load_any_tables, load_figures
from vixml.data.catalogue import digest_of_images, digest_of_names, tables_of
from vixml.data.corpus import Corpus
from vixml.data.download import declare
from vixml.digest import stage_digest
from vixml.errors import VixmlError, machine_error
from vixml.files import sha256_file, sha256_json
from vixml.progress import warn
from vixml.provenance import MANIFEST
from vixml.runtime import precision_override
from vixml.stages import STAGES, Job, Stage, place, raw_dir


@contextlib.contextmanager
def one_message():
    """Turn an error of ours into one of Snakemake's, which prints the message and no traceback."""
    try:
        yield
    except VixmlError as error:
        raise WorkflowError(str(error)) from None
    except OSError as error:
        raise WorkflowError(str(machine_error(error, "the configuration") or error)) from None


with one_message():
    precision_override()  # a misspelt VIXML_PRECISION is an error before the first job, not during it
    FILES = [str(path) for path in reversed(["config/config.yaml", *workflow.overwrite_configfiles])]
    for path in FILES:
        read_yaml(path)  # refuses a repeated key, which Snakemake's own reader accepts
    WORKFLOW = load_workflow(config, "the workflow's configuration (config/config.yaml, --configfile, --config)", FILES)
    PROJECT = Project(WORKFLOW.config_dir, WORKFLOW.results)
    WORLD, RESULTS, CONFIG_DIR, THREADS = PROJECT.world, WORKFLOW.results, WORKFLOW.config_dir, WORKFLOW.threads
    TABLE_SPECS = dict(zip(WORKFLOW.tables, load_any_tables(CONFIG_DIR, WORKFLOW.tables), strict=True))
    FIGURE_SPECS = dict(zip(WORKFLOW.figures, load_figures(CONFIG_DIR, WORKFLOW.figures), strict=True))

# If `.venv/bin/snakemake` is called without an active environment, jobs find the `vixml` command beside it.
if shutil.which("vixml") is None:
    os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

ID = NAME_OF_ENTRY.pattern


wildcard_constraints:
    dataset=ID,
    run=ID,
    seed=r"\d+",
    split="test|validation",
    model=ID,
    max_len=r"\d+",
    vision=ID,
    filename=FILENAME,


# Paths. A stage's folder is complete exactly when it contains its manifest, so rules name manifests.
RAW_DIR = raw_dir(RESULTS).as_posix()
RAW = f"{RAW_DIR}/{{filename}}"
DECLARED = f"{RAW_DIR}/.declared/{{filename}}"
SOURCE_OF = {source.filename: name for name, source in WORLD.sources.items()}
# A configuration whose name differs from that of config/config.yaml has its own folder of pages, so that none overwrites another's.
OWN_PAGES = WORKFLOW.name != read_yaml("config/config.yaml").get("name", "demo")
NAME = re.sub(r"[^\w.-]+", "-", WORKFLOW.name)
PAGES = WORKFLOW.pages or (f"{RESULTS}/pages/{NAME}" if OWN_PAGES else RESULTS)
TABLES = f"{PAGES}/tables/manifest.json"
FIGURES = f"{PAGES}/figures/manifest.json"
REPORT = f"{PAGES}/report.html"
TUNING = f"{PAGES}/tuning/manifest.json"

# A profile with GPUs sets `device=cuda`. If `--config` on the command line replaces that setting, the profile's GPUs imply it.
DEVICE = "cuda" if WORKFLOW.device == "auto" and "gpu" in workflow.global_resources else WORKFLOW.device
# Whether jobs will have a GPU. This process may run on a node without a GPU; in that case, the configuration says cuda.
WITH_GPU = DEVICE == "cuda" or (DEVICE == "auto" and shutil.which("nvidia-smi") is not None)

# A key on the command line replaces all keys of the profile's `config`, which a user would notice only because jobs are slow.
if workflow.exec_mode == ExecMode.DEFAULT and workflow.config_settings.config_args:
    with one_message():
        REPLACED = replaced_config(sys.argv[1:])
    if REPLACED.get("device") == DEVICE:
        del REPLACED["device"]
    if REPLACED:
        warn(
            f"--config on the command line replaces the `config` of the profile, so that its {', '.join(REPLACED)} do not "
            "count. What now: write the new values into `config` of the profile instead"
        )

# A clone, a copy or a touch changes the time of a raw file, but this does not mean that the file changed: its declared hash decides.
declare(RAW_DIR, {source.filename: source.sha256 for source in WORLD.sources.values()})

os.environ.update(VIXML_CONFIG_DIR=CONFIG_DIR, VIXML_RESULTS=RESULTS, VIXML_SOURCE=str(SOURCE))

# Jobs run the code that their `params` describe, even in a conda environment that two checkouts share (--conda-prefix); Snakemake
# removes PYTHONPATH from the environment of such jobs.
# `logged FILE` writes a log, and also writes to the terminal unless rules/display.smk shows the jobs there. For inputs that may be
# several files, `add --score FILE ...` appends `--score FOLDER ...` to the array `folders`.
shell.prefix(
    "set -euo pipefail; "
    'export PYTHONPATH="$VIXML_SOURCE${{PYTHONPATH:+:$PYTHONPATH}}"; '
    'logged() {{ if [ -n "${{VIXML_DISPLAY:-}}" ]; then cat > "$1"; else tee "$1"; fi; }}; '
    'folders=(); add() {{ local made; for made in "${{@:2}}"; do folders+=("$1" "${{made%/*}}"); done; }}; '
)


def options(name, values):
    """Return an option of a command once for each value, quoted."""
    return " ".join(f"{name} {shlex.quote(value)}" for value in values)


def made_by(stage):
    """Return the manifest that a stage writes, with wildcards for its names."""
    names = ("dataset", "run", "seed", "split", "model", "max_len", "vision")
    return (place(stage, RESULTS, **{name: f"{{{name}}}" for name in names}) / MANIFEST).as_posix()


def made(stage, jobs):
    """Return the files of a stage that some jobs need, each once; a job is given as a dictionary of names."""
    with one_message():
        folders = [Job(PROJECT, "score", names).folder(stage) for names in jobs]
    return list(dict.fromkeys((folder / MANIFEST).as_posix() for folder in folders))


def per_job(stage, function):
    """Return a function of wildcards, or of a dictionary of names, that calls `function` with the job of a stage."""

    def answer(wildcards):
        with one_message():
            return function(Job(PROJECT, stage, dict(wildcards.items())))

    return answer


# The resolved configuration of a run.
run_of = per_job("train", lambda job: job.run)


def reads(stage):
    """Return a function of the files that a stage reads, by name: the manifests of other stages, and `raw`."""

    def files(job):
        manifests = {name: (folder / MANIFEST).as_posix() for name, folder in job.reads().items()}
        return manifests | {"raw": [RAW.format(filename=WORLD.sources[name].filename) for name in job.sources()]}

    return per_job(stage, files)


def obeys(stage):
    """Return the params of a stage's rule: the settings that a job obeys, if there are any, and the digest of its code."""
    # Both are computed only when Snakemake considers a job of the rule.
    params, more = {"code": lambda wildcards: stage_digest(stage)}, MORE_SETTINGS.get(stage, lambda job: {})
    if STAGES[stage].obeys is not Stage.obeys:
        params["settings"] = per_job(stage, lambda job: json.dumps(job.obeys() | more(job), sort_keys=True))
    return params


@functools.cache
def own_tables(dataset):
    """Return the tables of a user's own dataset that are inputs, and time and size of those with a time in the future.

    Snakemake refuses inputs that are newer than their outputs, so tables with a time in the future are not inputs.
    build-corpus reports a missing table.
    """
    entry, found = WORLD.datasets[dataset].catalogue, []
    with contextlib.suppress(VixmlError):
        found = [str(path) for paths in tables_of(entry, RAW_DIR).values() for path in paths] if entry else []
    times = {path: [about.st_mtime, about.st_size] for path, about in zip(found, map(os.stat, found))}
    to_come = {path: state for path, state in times.items() if state[0] > time.time()}
    for path, (when, _) in to_come.items():
        warn(f"{path} has a time in the future, {time.ctime(when)}: is a clock wrong? Changes show by time and size")
    return [path for path in found if path not in to_come], to_come


def state_of_tables(job):
    """Return what shows a change of tables that are no inputs, and of the names of images that are named by ids."""
    entry, state = job.dataset.catalogue, own_tables(job.names["dataset"])[1]
    if entry is not None and entry.images and entry.images_are == "ids":
        return state | {"names_of_images": digest_of_names(entry, RAW_DIR)}
    return state


def state_of_images(job):
    """Return a digest of a user's own images, by names, sizes and times; Snakemake asks again once the corpus is there."""
    entry, corpus = job.dataset.catalogue, job.folder("build-corpus")
    if entry is not None and (corpus / MANIFEST).exists():
        with contextlib.suppress(VixmlError, OSError):  # a damaged corpus is an error of the job
            return {"images": digest_of_images(entry, RAW_DIR, Corpus(corpus, {}).image_keys())}
    return {}


# Settings of a stage beyond those that its job obeys: what shows a change of a user's own files, which are not inputs of its rule.
MORE_SETTINGS = {"build-corpus": state_of_tables, "render-images": state_of_images}


def is_published(dataset, vision):
    """Return whether a dataset's image embeddings are imported instead of pooled here."""
    return WORKFLOW.published_vectors and vision in WORLD.datasets[dataset].published_vectors


def either(patterns):
    """Return a pattern that matches any of some patterns, and nothing if there are none."""
    return "|".join(patterns) or "(?!)"


def layout(*patterns):
    """Return the files of the configuration that pages are written from: registry, runs, published values, and `patterns`."""
    files = [*registry_files(CONFIG_DIR), *preset_files(CONFIG_DIR).values()]
    files += [path for each in ("runs/*.yaml", "reported/*.csv", *patterns) for path in Path(CONFIG_DIR).glob(each)]
    return sorted({path.as_posix() for path in files})


def content(paths):
    """Return a digest of files in the repository; for YAML, of the content without layout and paths."""
    parts = [
        [Path(path).name, without_paths(read_yaml(path)) if path.endswith(".yaml") else {"sha256": sha256_file(path)}]
        for path in paths
    ]
    return sha256_json(sorted(parts, key=json.dumps))[:16]


def without_paths(value):
    """Return a part of a configuration without the keys that name folders, files and devices, which are not settings."""
    if isinstance(value, dict):
        named = {"config_dir", "results", "pages", "folder", "include", "device"}
        return {key: without_paths(part) for key, part in value.items() if key not in named}
    return [without_paths(part) for part in value] if isinstance(value, list) else value
