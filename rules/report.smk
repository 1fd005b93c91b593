# Numbers to pages: make_tables, make_figures, make_report, make_tuning.
#
# REQUIRED INPUTS: results/runs/{dataset}/{run}/seed{seed}/test/score of every target; config/reported (published
#   numbers), config/tables and config/figures (layout). For make_tuning, of targets with `split: validation`,
#   .../seed{seed}/validation/score and .../model. Tables, figures and report read only test scores; tuning never does.
# OUTPUTS: results/tables; results/figures; results/report and its copy results/report.html; results/tuning. For a configuration
#   whose name differs from that of config/config.yaml: the same below results/pages/{name}.

# Printed in the report but not a setting: moving a configuration to another folder does not rewrite the report.
os.environ.update(VIXML_CONFIGFILE=configfile_of_all(), VIXML_COMMAND=command_of_all())


rule make_tables:
    """Write each table: published values, ours beside them, and a verdict for each cell."""
    input:
        layout=ancient(reported_files("tables", WORKFLOW.tables)),
        scores=target_scores("test"),
        corpora=target_corpora(),
        latencies=target_latencies(),
    output:
        *marked_tables(),
        manifest=TABLES,
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        layout=content(reported_files("tables", WORKFLOW.tables)),
        tables=" ".join(f"--tables {name}" for name in WORKFLOW.tables),
        code=code("make-tables"),
    message:
        "Write the tables"
    shell:
        """
        vixml make-tables $(folders --score {input.scores}) $(folders --measured-corpus {input.corpora}) \
            $(folders --latency {input.latencies}) {params.tables} --out $(dirname {output.manifest}) \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | logged {log}
        """


rule make_figures:
    """Draw each figure as PNG and SVG, with its points as CSV."""
    input:
        layout=ancient(reported_files("figures", WORKFLOW.figures)),
        scores=target_scores("test"),
    output:
        *marked_figures(),
        manifest=FIGURES,
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        layout=content(reported_files("figures", WORKFLOW.figures)),
        figures=" ".join(f"--figures {name}" for name in WORKFLOW.figures),
        code=code("make-figures"),
    message:
        "Draw the figures"
    shell:
        """
        vixml make-figures $(folders --score {input.scores}) {params.figures} --out $(dirname {output.manifest}) \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | logged {log}
        """


rule make_report:
    """Write one page with numbers, figures, training curves and a gallery; it needs no network."""
    input:
        layout=ancient(reported_files("tables", WORKFLOW.tables) + configuration_of_paper()),
        scores=target_scores("test"),
        figures=FIGURES if WORKFLOW.figures else [],
        corpus=made_by("build-corpus", dataset=gallery_dataset()) if gallery_dataset() else [],
        images=made_by("render-images", dataset=gallery_dataset()) if gallery_dataset() else [],
        corpora=target_corpora(),
        latencies=target_latencies(),
    output:
        manifest=f"{PAGES}/report/manifest.json",
        page=report(
            REPORT,
            caption="../docs/captions/report.rst",
            category="Report",
            labels={"what": "Everything on one page"},
        ),
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        layout=content(reported_files("tables", WORKFLOW.tables) + configuration_of_paper()),
        tables=" ".join(f"--tables {name}" for name in WORKFLOW.tables),
        code=code("make-report"),
        compare=" ".join(f"--compare {run}" for run in WORKFLOW.compare),
        side_by_side=" ".join(f"--side-by-side {run}" for run in WORKFLOW.side_by_side),
        name=WORKFLOW.name,
        description=WORKFLOW.description,
    message:
        "Write the report"
    shell:
        """
        vixml make-report $(folders --score {input.scores}) {params.tables} $(folders --figures-dir {input.figures}) \
            $(folders --corpus {input.corpus}) $(folders --images {input.images}) \
            $(folders --measured-corpus {input.corpora}) $(folders --latency {input.latencies}) \
            {params.compare} {params.side_by_side} --name={params.name:q} --description={params.description:q} \
            --command="$VIXML_COMMAND" \
            --configfile="$VIXML_CONFIGFILE" --out $(dirname {output.manifest}) --config-dir "$VIXML_CONFIG_DIR" 2>&1 | logged {log}
        cp $(dirname {output.manifest})/report.html {output.page}
        """


rule make_tuning:
    """Compare runs on held-out train queries, to choose their settings."""
    input:
        scores=scores_of_tuning,
        models=models_of_tuning,
    output:
        report(
            f"{PAGES}/tuning/tuning.csv",
            caption="../docs/captions/tuning.rst",
            category="Tuning",
            labels={"what": "Runs compared on held-out queries"},
        ),
        manifest=TUNING,
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("make-tuning"),
    message:
        "Write the table of tuning"
    shell:
        """
        vixml make-tuning $(folders --score {input.scores}) --out $(dirname {output.manifest}) 2>&1 | logged {log}
        """
