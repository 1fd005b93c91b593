# The files behind each target rule of the Snakefile, from the configuration, and their names in the report.
#
# REQUIRED INPUTS: constants and functions of rules/common.smk (WORKFLOW, RUNS, the paths of files).
# OUTPUTS: none; functions for the Snakefile and rules/report.smk.
from vixml.config.tables import named_runs


def target_wildcards():
    """Return dataset, run, seed and split of everything to be scored."""
    shown = runs_shown() if WORKFLOW.only_shown else None
    return [
        {"dataset": target.dataset, "run": run, "seed": seed, "split": target.split}
        for target in WORKFLOW.targets
        for run in target.runs
        for seed in target.seeds
        if shown is None or (target.dataset, run) in shown
    ]


def table_shapes():
    """Return what config/tables says of each table asked for."""
    return [read_yaml(f"{CONFIG_DIR}/tables/{name}.yaml") for name in WORKFLOW.tables]


def facts_shown():
    """Return the kinds of facts (datasets, latencies, ...) that the tables asked for show."""
    return {shape.get("facts") for shape in table_shapes()}


def runs_shown():
    """Return dataset and run of every row of the tables asked for."""
    return {(dataset, run) for shape in table_shapes() for dataset, run, _ in named_runs(shape)}


def target_scores(split=None):
    """Return every score of the configuration, or those of one split."""
    return [made_by("score", **wildcards) for wildcards in target_wildcards() if split in (None, wildcards["split"])]


def target_latencies():
    """Return the timings of the configuration: of the first target's dataset, with its first seed."""
    if WORKFLOW.only_shown and "latencies" not in facts_shown():
        return []
    first = WORKFLOW.targets[0]
    seeds = {w["run"]: w["seed"] for w in reversed(target_wildcards()) if w["dataset"] == first.dataset}
    return [
        made_by("measure-latency", dataset=first.dataset, run=run, seed=seeds.get(run, 0)) for run in WORKFLOW.latencies
    ]


def target_corpora():
    """Return the corpora of the configuration's datasets, to be counted."""
    if WORKFLOW.only_shown and "datasets" not in facts_shown():
        return []
    return list(dict.fromkeys(made_by("build-corpus", dataset=target.dataset) for target in WORKFLOW.targets))


def target_pages():
    """Return tables, figures and report, each if the configuration asks for it."""
    wanted = {TABLES: WORKFLOW.tables, FIGURES: WORKFLOW.figures, REPORT: WORKFLOW.tables}
    return [page for page, names in wanted.items() if names]


def target_tuning():
    """Return the table of tuning, if anything is scored on held-out queries."""
    return [TUNING] if target_scores("validation") else []


def scores_of_tuning(wildcards):
    """Return every validation score of the configuration."""
    if not target_scores("validation"):
        raise WorkflowError("no target has `split: validation`; try --configfile config/picto-tuning.yaml")
    return target_scores("validation")


def models_of_tuning(wildcards):
    """Return the trained models behind the validation scores: their settings and diagnostics are printed too."""
    scored = [w for w in target_wildcards() if w["split"] == "validation"]
    return list(
        dict.fromkeys(made_by("train", **w | {"run": PROJECT.trained_as(w["dataset"], w["run"])}) for w in scored)
    )


def target_runs():
    """Return dataset, run, seed and resolved configuration of everything that needs an encoder."""
    found = [(w["dataset"], w["run"], w["seed"], RUNS[w["dataset"], w["run"]]) for w in target_wildcards()]
    return [entry for entry in found if entry[3].needs_encoder]


def target_data():
    """Return every corpus and all tokens of the configuration."""
    found = [made_by("build-corpus", dataset=target.dataset) for target in WORKFLOW.targets]
    for dataset, _, _, run in target_runs():
        found.append(made_by("tokenize", dataset=dataset, model=run.encoder.model, max_len=run.encoder.max_len))
    return list(dict.fromkeys(found))


def target_images():
    """Return all image vectors of the configuration, pooled or imported."""
    found = [
        made_by("embed-images", dataset=d, vision=run.images.vision)
        for d, _, _, run in target_runs()
        if run.needs_embeddings
    ]
    return list(dict.fromkeys(found))


def target_published():
    """Return every dataset of the configuration as a folder for others."""
    return list(dict.fromkeys(made_by("export-dataset", dataset=target.dataset) for target in WORKFLOW.targets))


def encoders_of(dataset):
    """Return the vision encoders whose vectors of a dataset runs of the configuration read."""
    return list(
        dict.fromkeys(run.images.vision for d, _, _, run in target_runs() if d == dataset and run.needs_embeddings)
    )


def embeddings_of(wildcards):
    """Return the image vectors of a dataset that runs of the configuration read."""
    return [
        made_by("embed-images", vision=vision, dataset=wildcards.dataset) for vision in encoders_of(wildcards.dataset)
    ]


def target_models():
    """Return every trained model of the configuration, once where several runs use it."""
    found = [
        made_by("train", dataset=d, run=PROJECT.trained_as(d, run), seed=seed) for d, run, seed, _ in target_runs()
    ]
    return list(dict.fromkeys(found))


def gallery_dataset():
    """Return the dataset whose queries the report shows: the first whose pictures runs read, else none."""
    wanted = (d for d, _, _, run in target_runs() if run.needs_embeddings and not is_published(d, run.images.vision))
    return next(wanted, None)


def configfile_of_all():
    """Return the file of this configuration, empty for the default one."""
    file = f"{CONFIG_DIR}/{WORKFLOW.name}.yaml"
    return file if Path(file).exists() else ""


def command_of_all():
    """Return what a reader types to make the results again."""
    if WORKFLOW.name == "demo":
        return "make demo"
    # Snakemake reads every word after --configfile as another file, so the target comes first.
    file = configfile_of_all()
    return "snakemake --cores all paper_tables" + (f" --configfile {file}" if file else "")


def marked_tables():
    """Return each table as CSV, marked for `snakemake --report`."""
    found = []
    for name in WORKFLOW.tables:
        # One label: from two, Snakemake's page makes switches, even for missing pairs.
        labels = {"table": TABLE_SPECS[name].heading}
        caption = "../docs/captions/tables.rst"
        found.append(report(f"{PAGES}/tables/{name}.csv", caption=caption, category="Tables", labels=labels))
    return found


def marked_figures():
    """Return each figure as SVG, marked for `snakemake --report`."""
    found = []
    for name in WORKFLOW.figures:
        said = read_yaml(f"{CONFIG_DIR}/figures/{name}.yaml")
        labels = {"figure": f"{said['paper_figure']}: {said['title']}"}
        caption = f"../docs/captions/{name}.rst"
        found.append(report(f"{PAGES}/figures/{name}.svg", caption=caption, category="Figures", labels=labels))
    return found
