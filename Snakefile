# ViXML as one workflow, from published files to tables, figures and a report.
#
#   snakemake --cores all                     everything in config/config.yaml (profiles/default is loaded automatically)
#   snakemake --cores all paper_tables --configfile config/picto.yaml
#   snakemake -n                              list the jobs, and why each would run
#   snakemake --list                          list the targets and rules, with one sentence each
#
# This file contains no logic: paths and functions are in rules/common.smk and rules/targets.smk, the code of the stages is in
# src/vixml. Each rule calls one command.
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


# The first page of `snakemake --report`.
report: "docs/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/site.smk"
include: "rules/resources.smk"
include: "rules/targets.smk"
include: "rules/data.smk"
include: "rules/images.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/display.smk"
include: "rules/verify.smk"


rule paper_tables:
    """Make tables, figures and the report, with everything they need. The default target."""
    default_target: True
    input:
        PAGE_FILES,
        made("score", SCORED),


rule downloads:
    """Fetch everything that comes from a network: files, models, images from the web, other software."""
    input:
        downloads(),


rule data:
    """Build every corpus, its tokens and lexical vectors."""
    input:
        made("build-corpus", DATASETS),
        made("tokenize", ENCODED),
        made("hash-texts", [names for names in ENCODED if run_of(names).inference.lexical_weight > 0]),


rule images:
    """Make every image and its embedding."""
    input:
        made("embed-images", WITH_IMAGES),


rule export:
    """Export every dataset of the configuration, with images and embeddings, as a folder that others can load."""
    input:
        made("export-dataset", DATASETS),


rule train:
    """Train every run of the configuration."""
    input:
        made("train", ENCODED),


rule tuning_table:
    """Compare runs on queries held out of train, to choose settings; test is never read."""
    input:
        TUNING,


rule all:
    """Make all of the above."""
    input:
        rules.paper_tables.input,
        rules.downloads.input,
        rules.data.input,
        rules.images.input,
        rules.train.input,
        TUNING if HELD_OUT else [],


include: "rules/stages.smk"


onstart:
    check_site()


onerror:
    say_what_failed()
