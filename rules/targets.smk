# Targets of the configuration: the scores that it requests, and everything that they need.
#
# REQUIRED INPUTS: constants and functions of rules/common.smk (WORKFLOW, run_of, the paths of files).
# OUTPUTS: none; constants and functions for the Snakefile and the other files.
from snakemake.settings.types import ExecMode

from vixml.check import fit
from vixml.config.targets import scored_runs, shown_facts, timed_runs

# Lists of jobs, each a dictionary of names; `made(stage, jobs)` turns them into files.
DATASETS = [{"dataset": target.dataset} for target in WORKFLOW.targets]
SCORED = scored_runs(WORKFLOW)

# A run that does not fit its data is an error now, not after hours. In a first call, `vixml tokenize` checks more: see vixml.check.fit.
os.environ.update(VIXML_RUNS=fit.runs_value(SCORED))
if workflow.exec_mode == ExecMode.DEFAULT:
    with one_message():
        fit.expect_known_rows(PROJECT, TABLE_SPECS, Path(CONFIG_DIR))
        fit.expect_fit(PROJECT, fit.parse(fit.runs_value(SCORED)), WORKFLOW.published_vectors)

TESTED = [names for names in SCORED if names["split"] == "test"]
HELD_OUT = [names for names in SCORED if names["split"] == "validation"]
ENCODED = [names for names in SCORED if run_of(names).needs_encoder]
WITH_IMAGES = [names for names in ENCODED if run_of(names).needs_embeddings]
# The report's gallery shows queries of the first dataset whose images are used by a run.
GALLERY = [names for names in WITH_IMAGES if not is_published(names["dataset"], run_of(names).images.vision)][:1]
# Sizes and latencies that the tables and the report print; latencies are those of the first dataset, with its first seed.
COUNTED = DATASETS if not WORKFLOW.only_shown or "datasets" in shown_facts(WORKFLOW) else []
TIMED = timed_runs(WORKFLOW)
# If `pages` is set, all pages are made, some of them empty: DVC tracks each of them, and none of another configuration remains.
PAGE_FILES = [TABLES, REPORT] if WORKFLOW.tables or WORKFLOW.pages else []
PAGE_FILES += [FIGURES] if WORKFLOW.figures or WORKFLOW.pages else []

# For the report's commands.
CONFIGFILE = CONFIG_DIR if Path(CONFIG_DIR).is_file() else f"{CONFIG_DIR}/{WORKFLOW.name}.yaml"
CONFIGFILE = CONFIGFILE if Path(CONFIGFILE).exists() else ""


def downloads():
    """Return the files that the configuration needs from a network, each once; no other job needs a network."""
    files = [file for names in DATASETS for file in reads("build-corpus")(names)["raw"]]
    files += made("prepare-model", ENCODED) + made(
        "install-peers", [names for names in SCORED if run_of(names).is_peer]
    )
    for names in WITH_IMAGES:
        dataset, vision = names["dataset"], run_of(names).images.vision
        imported = is_published(dataset, vision)
        read = reads("import-vectors" if imported else "embed-images")({"dataset": dataset, "vision": vision})
        files += [*read["raw"], *([read["model"]] if "model" in read else [])]
        # Drawn images need no network; images from the web are included, because fetch-images needs a network.
        files += [read["images"]] if not imported and WORLD.datasets[dataset].fetches else []
    return list(dict.fromkeys(files))


def held_out(stage):
    """Return a function that returns a stage's files for runs scored on held-out queries; it is an error if there are none."""

    def files(wildcards):
        if not HELD_OUT:
            raise WorkflowError("no target has `split: validation`; try --configfile config/picto-tuning.yaml")
        return made(stage, HELD_OUT)

    return files


def with_images(dataset):
    """Return the runs of a dataset that read its image embeddings."""
    return [names for names in WITH_IMAGES if names["dataset"] == dataset]


def vision_encoders(dataset):
    """Return the vision encoders of these embeddings."""
    return list(dict.fromkeys(run_of(names).images.vision for names in with_images(dataset)))


def exported_encoders(job):
    """Return the settings of the vision encoders whose vectors are exported."""
    return WORLD.export_settings(job.names["dataset"], vision_encoders(job.names["dataset"]))


MORE_SETTINGS["export-dataset"] = exported_encoders


def marked(kind, ending, headings, captions=None):
    """Return the files of `tables` or `figures`, marked for `snakemake --report`; by default, a caption has the file's name."""
    found = []
    for name, heading in headings.items():
        # Only one label: with two, Snakemake's page shows switches, even for pairs that do not exist.
        marks = {"category": kind.capitalize(), "labels": {kind.removesuffix("s"): heading}}
        rst = f"../docs/captions/{captions[name] if captions else name}.rst"
        found.append(report(f"{PAGES}/{kind}/{name}.{ending}", caption=rst, **marks))
    return found
