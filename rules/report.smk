# Numbers to pages: make_tables, make_figures, make_report, make_tuning.
#
# REQUIRED INPUTS: results/runs/{dataset}/{run}/seed{seed}/test/score of every target; config/reported (published
#   numbers), config/tables and config/figures (layout). For make_tuning, of targets with `split: validation`,
#   .../seed{seed}/validation/score and .../model. Tables, figures and report read only test scores; tuning never does.
# OUTPUTS: results/tables; results/figures; results/report and its copy results/report.html; results/tuning. For a configuration
#   whose name differs from that of config/config.yaml: the same below results/pages/{name}.

# The report prints this, but it is no setting: moving a configuration to another folder does not rewrite the report.
os.environ.update(VIXML_CONFIGFILE=CONFIGFILE)

LAYOUT_OF_TABLES = layout(*(f"tables/{name}.yaml" for name in WORKFLOW.tables))
LAYOUT_OF_FIGURES = layout(*(f"figures/{name}.*" for name in WORKFLOW.figures))
# The report's commands name runs of the paper.
LAYOUT_OF_REPORT = layout("paper.yaml", *(f"tables/{name}.yaml" for name in WORKFLOW.tables))


rule make_tables:
    """Write each table: published values, ours beside them, and a verdict for each cell."""
    input:
        layout=ancient(LAYOUT_OF_TABLES),
        scores=made("score", TESTED),
        corpora=made("build-corpus", COUNTED),
        latencies=made("measure-latency", TIMED),
    output:
        *marked(
            "tables",
            "csv",
            {name: spec.heading for name, spec in TABLE_SPECS.items()},
            {name: "tables" if spec.paper_table else "measured" for name, spec in TABLE_SPECS.items()},
        ),
        manifest=TABLES,
    localrule: True
    resources:
        **LIGHT,
    params:
        layout=content(LAYOUT_OF_TABLES),
        tables=options("--tables", WORKFLOW.tables),
    message:
        "Write the tables"
    shell:
        """
        add --score {input.scores:q}
        add --measured-corpus {input.corpora:q}
        add --latency {input.latencies:q}
        vixml make-tables "${{folders[@]}}" {params.tables} --out "$(dirname {output.manifest:q})" \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | logged {log:q}
        """


rule make_figures:
    """Draw each figure as PNG and SVG, with its points as CSV."""
    input:
        layout=ancient(LAYOUT_OF_FIGURES),
        scores=made("score", TESTED),
    output:
        *marked("figures", "svg", {name: f"{spec.paper_figure}: {spec.title}" for name, spec in FIGURE_SPECS.items()}),
        manifest=FIGURES,
    localrule: True
    resources:
        **LIGHT,
    params:
        layout=content(LAYOUT_OF_FIGURES),
        figures=options("--figures", WORKFLOW.figures),
    message:
        "Draw the figures"
    shell:
        """
        add --score {input.scores:q}
        vixml make-figures "${{folders[@]}}" {params.figures} --out "$(dirname {output.manifest:q})" \
            --config-dir "$VIXML_CONFIG_DIR" 2>&1 | logged {log:q}
        """


rule make_report:
    """Write one page with numbers, figures, training curves and a gallery; it needs no network."""
    input:
        layout=ancient(LAYOUT_OF_REPORT),
        scores=made("score", TESTED),
        figures=FIGURES if WORKFLOW.figures else [],
        corpus=made("build-corpus", GALLERY),
        images=made("render-images", GALLERY),
        corpora=made("build-corpus", COUNTED),
        latencies=made("measure-latency", TIMED),
    output:
        manifest=f"{PAGES}/report/manifest.json",
        page=report(
            REPORT,
            caption="../docs/captions/report.rst",
            category="Report",
            labels={"what": "Everything on one page"},
        ),
    localrule: True
    resources:
        **LIGHT,
    params:
        layout=content(LAYOUT_OF_REPORT),
        tables=options("--tables", WORKFLOW.tables),
        compare=options("--compare", WORKFLOW.compare),
        side_by_side=options("--side-by-side", WORKFLOW.side_by_side),
        name=WORKFLOW.name,
        description=WORKFLOW.description,
    message:
        "Write the report"
    shell:
        """
        add --score {input.scores:q}
        add --figures-dir {input.figures:q}
        add --corpus {input.corpus:q}
        add --images {input.images:q}
        add --measured-corpus {input.corpora:q}
        add --latency {input.latencies:q}
        vixml make-report "${{folders[@]}}" {params.tables} \
            {params.compare} {params.side_by_side} --name={params.name:q} --description={params.description:q} \
            --configfile="$VIXML_CONFIGFILE" --out "$(dirname {output.manifest:q})" --config-dir "$VIXML_CONFIG_DIR" 2>&1 | logged {log:q}
        cp "$(dirname {output.manifest:q})"/report.html {output.page:q}
        """


rule make_tuning:
    """Compare runs on held-out train queries, to choose their settings."""
    input:
        scores=held_out("score"),
        # The table also shows their settings and diagnostics.
        models=held_out("train"),
    output:
        report(
            f"{PAGES}/tuning/tuning.csv",
            caption="../docs/captions/tuning.rst",
            category="Tuning",
            labels={"what": "Runs compared on held-out queries"},
        ),
        manifest=TUNING,
    localrule: True
    resources:
        **LIGHT,
    message:
        "Write the table of tuning"
    shell:
        """
        add --score {input.scores:q}
        vixml make-tuning "${{folders[@]}}" --out "$(dirname {output.manifest:q})" 2>&1 | logged {log:q}
        """
