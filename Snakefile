# ViXML as one workflow: from published files to tables, figures and a report.
#
#   snakemake --cores all                     everything that config/config.yaml asks for (profiles/default is picked up)
#   snakemake --cores all paper_tables --configfile config/picto.yaml
#   snakemake -n                              what would be done, and why
#   snakemake --list                          the targets and rules below, each with a sentence
#
# No logic here: rules/common.smk and rules/targets.smk hold paths and functions, src/vixml the science, one verb a rule.
from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


# What `snakemake --report` opens with.
report: "docs/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/lock.smk"
include: "rules/site.smk"
include: "rules/resources.smk"
include: "rules/targets.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/images.smk"
include: "rules/publish.smk"
include: "rules/train.smk"
include: "rules/index.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/stages.smk"
include: "rules/display.smk"
include: "rules/verify.smk"


rule paper_tables:
    """Tables, figures and the report, with everything they need. The default target."""
    default_target: True
    input:
        target_pages(),
        target_scores(),
    localrule: True
    message:
        "Tables, figures and report are up to date"


rule data:
    """Every corpus and its tokens."""
    input:
        target_data(),
    localrule: True
    message:
        "Corpora and tokens are up to date"


rule images:
    """Every picture and its vector."""
    input:
        target_images(),
    localrule: True
    message:
        "Image vectors are up to date"


rule publish:
    """Every dataset of the configuration, with pictures and vectors, as a folder that others can load."""
    input:
        target_published(),
    localrule: True
    message:
        "Published datasets are up to date"


rule train:
    """Every run of the configuration, trained."""
    input:
        target_models(),
    localrule: True
    message:
        "Models are up to date"


rule tuning_table:
    """Runs compared on queries held out of train: how settings are chosen, never on test."""
    input:
        TUNING,
    localrule: True
    message:
        "The table of tuning is up to date"


rule all:
    """All of the above."""
    input:
        rules.paper_tables.input,
        rules.data.input,
        rules.images.input,
        rules.train.input,
        target_tuning(),
    localrule: True
    message:
        "Everything is up to date"


onstart:
    check_site()
