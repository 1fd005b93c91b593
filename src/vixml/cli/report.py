"""Commands on results and costs: ``make-tables``, ``make-figures``, ``make-report``, ``make-tuning``, ``summary``, ``plan``, ``reproduction``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

Scores = Annotated[
    list[Path] | None,
    Option(
        help="A score folder to read, results/runs/DATASET/RUN/seedN/test/score; may be repeated. Rows of other runs show "
        "'not run'."
    ),
]
ConfigDir = Annotated[
    Path, Option(help="Folder of tables/, figures/, reported/, runs/, datasets.yaml and models.yaml.")
]
Corpora = Annotated[
    list[Path] | None,
    Option(help="A corpus to count for the table of datasets, results/data/DATASET/corpus; may be repeated."),
]
Latencies = Annotated[list[Path] | None, Option(help="A folder written by `vixml measure-latency`; may be repeated.")]
Out = Annotated[Path, Option(help="Folder to write; it is complete when it contains manifest.json.")]
CONFIG_DIR = Path("config")


def make_tables(
    out: Out,
    score: Scores = None,
    tables: Annotated[
        list[str] | None, Option(help="A table: its file in config/tables, without extension; may be repeated.")
    ] = None,
    measured_corpus: Corpora = None,
    latency: Latencies = None,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    r"""Write tables in the paper's layout: published values, ours beside them, and a verdict for each cell.

    Reads score folders, the tables' layouts (config/tables) and the published
    numbers (config/reported). Writes each table as CSV, Markdown and LaTeX.
    Published values and ours never share a column. A row without results shows
    "not run"; results on data or weights other than the paper's are marked
    `stand-in`, whatever their values. summary.json counts the verdicts and gives
    the GPU hours that missing runs would take; metrics.json contains each run's
    means.

    Example:

        vixml make-tables --tables table1 --tables table3 \
            --score results/runs/picto/text-minilm-l3/seed0/test/score \
            --out results/tables
    """
    from vixml.report.tables import Measured
    from vixml.report.write_tables import make_tables as run

    run(score or [], config_dir, tables or [], out, Measured.of(measured_corpus or (), latency or ()))


def make_figures(
    out: Out,
    score: Scores = None,
    figures: Annotated[
        list[str] | None, Option(help="A figure: its file in config/figures, without extension; may be repeated.")
    ] = None,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    r"""Draw figures as PNG and SVG, with their points as CSV.

    Reads score folders, the training times beside them, and the published
    numbers. Only measured hours are drawn on the hour axis; published values,
    whose hours were never tabulated, have a panel without that axis.

    Example:

        vixml make-figures --figures figure2 \
            --score results/runs/picto/text-minilm-l3/seed0/test/score \
            --out results/figures
    """
    from vixml.report.figures import make_figures as run

    run(score or [], config_dir, figures or [], out)


def make_report(
    out: Out,
    score: Scores = None,
    tables: Annotated[list[str] | None, Option(help="A table to show; may be repeated.")] = None,
    figures_dir: Annotated[Path | None, Option(help="Folder written by `vixml make-figures`.")] = None,
    corpus: Annotated[Path | None, Option(help="Corpus of the gallery's queries.")] = None,
    images: Annotated[Path | None, Option(help="Image store of the gallery's images.")] = None,
    compare: Annotated[
        list[str] | None, Option(help="A run whose predictions the gallery shows; may be repeated.")
    ] = None,
    side_by_side: Annotated[list[str] | None, Option(help="A run to show in the breakdowns; may be repeated.")] = None,
    name: Annotated[str, Option(help="Name of the workflow's configuration.")] = "demo",
    description: Annotated[str, Option(help="One sentence about the configuration.")] = "",
    configfile: Annotated[
        str, Option(help="File of the workflow's configuration, for commands; empty for the default one.")
    ] = "",
    measured_corpus: Corpora = None,
    latency: Latencies = None,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    r"""Write report.html: numbers, figures, breakdowns, curves, a gallery and each run's evidence in one file.

    Reads score folders with the trainings beside them, the figures, and corpus
    and images for the gallery. The file needs no network and no other files.

    Example:

        vixml make-report --tables table1 --tables table3 \
            --figures-dir results/figures --corpus results/data/picto/corpus \
            --images results/data/picto/images \
            --score results/runs/picto/text-minilm-l3/seed0/test/score \
            --score results/runs/picto/vixml-minilm-l3/seed0/test/score \
            --out results/report
    """
    from vixml.report.report import ReportOptions
    from vixml.report.report import make_report as run
    from vixml.report.tables import Measured

    chosen = {"compare": compare, "side_by_side": side_by_side}
    options = ReportOptions(
        name, description, figures_dir, corpus, images, configfile=configfile,
        measured=Measured.of(measured_corpus or (), latency or ()),
        **{key: tuple(runs) for key, runs in chosen.items() if runs},
    )  # fmt: skip
    run(score or [], config_dir, tables or [], options, out)


def make_tuning(
    score: Annotated[
        list[Path],
        Option(help="A score folder to read, results/runs/DATASET/RUN/seedN/validation/score; may be repeated."),
    ],
    out: Out,
) -> None:
    r"""Write tuning.csv and tuning.md: runs side by side on held-out train queries, for choosing settings.

    Reads validation scores and the model folders beside them. A test score is
    refused, because test data must not be used to select anything.

    Example:

        vixml make-tuning \
            --score results/runs/picto/tune-text-lr2e-4/seed0/validation/score \
            --score results/runs/picto/tune-text-lr5e-4/seed0/validation/score \
            --out results/tuning
    """
    from vixml.report.tuning import make_tuning as run

    run(score, out)


def summary(
    results: Annotated[Path, Option(help="Folder of results: every finished test score below it is read.")] = Path(
        "results"
    ),
    score: Scores = None,
    reference: Annotated[
        Path | None, Option(help="Read the numbers from this file (written by --write-reference), not from results.")
    ] = None,
    tables: Annotated[list[str] | None, Option(help="A table whose measured rows are shown; may be repeated.")] = None,
    layout: Annotated[
        str | None, Option(help="Show only the rows of this file in config/summaries, e.g. methods.")
    ] = None,
    write_reference: Annotated[Path | None, Option(help="Write the numbers to this file, with their origin.")] = None,
    readme: Annotated[
        Path | None, Option(help="Write the table into this page, between the markers PLACE:begin and PLACE:end.")
    ] = None,
    place: Annotated[str, Option(help="PLACE of --readme, which names the markers.")] = "results",
    check: Annotated[bool, Option(help="Change nothing; fail if --readme is out of date.")] = False,
    config_dir: ConfigDir = CONFIG_DIR,
    pages: Annotated[
        Path | None, Option(help="Folder of tables, figures and report; by default that of results.")
    ] = None,
) -> None:
    r"""Print the main numbers, and where tables, figures and report are; or write the numbers into a page.

    Also counts the tables' published cells by verdict, and predicts what the
    cells that were not run would take. Numbers from a reference file have no
    published cells.

    Example:

        vixml summary --results results

        vixml summary --reference results/reference/picto-summary.json \
            --layout readme --readme README.md --check
    """
    from vixml.report.pages import SummaryOptions
    from vixml.report.pages import summary as run

    tables = tables or ["table1", "table3"]
    options = SummaryOptions(
        results, score, reference, tables, config_dir, layout=layout, write_reference=write_reference, readme=readme,
        place=place, check=check, pages=pages,
    )  # fmt: skip
    run(options)


def reproduction(
    write: Annotated[Path, Option(help="Page to write.")] = Path("docs/reproduction.md"),
    check: Annotated[bool, Option(help="Change nothing; fail if the page is out of date.")] = False,
    config_dir: ConfigDir = CONFIG_DIR,
) -> None:
    """Write the tables of docs/reproduction.md: the parts of the paper, their predicted cost, and the comparisons on PICTO.

    Reads committed files only: the tables' layouts, the published numbers, the
    registry and results/reference. Run it after changing any of them.

    Example:

        vixml reproduction

        vixml reproduction --check
    """
    from vixml.report.pages import reproduction as run

    run(config_dir, write, check)


def plan(
    config: Annotated[
        Path | None, Option(help="An overlay, as for `snakemake --configfile`; by default, config/config.yaml alone.")
    ] = None,
    budget: Annotated[str | None, Option(help="Show which tables fit into this time, e.g. 24h, 90min or 2d.")] = None,
    device: Annotated[
        Literal["gpu", "cpu"],
        Option(help="Predict hours of one H100 (gpu), or of one core of the measured processor (cpu)."),
    ] = "gpu",
    sustained: Annotated[
        float | None,
        Option(
            min=1e-6,
            max=1e6,
            help="TFLOP/s that training and encoding sustain on your machine, in place of the assumed speed.",
        ),
    ] = None,
    json: Annotated[bool, Option("--json", help="Print everything as JSON, part by part.")] = False,
    write: Annotated[
        Path | None, Option(help="Write the tables into this page, between its markers, as in docs/cost.md.")
    ] = None,
    check: Annotated[bool, Option(help="Change nothing; fail if the page of --write is out of date.")] = False,
) -> None:
    """Predict what a configuration will cost, before anything runs: hours, disk and memory, by dataset and by table.

    Operations and bytes are counted from the configuration and the networks'
    sizes, and hours follow from a stated speed (docs/cost.md). What runs share
    is counted once. Nothing is fetched or started.

    Example:

        vixml plan --config config/paper.yaml

        vixml plan --config config/paper.yaml --budget 24h

        vixml plan --device cpu
    """
    from vixml.report.plan_page import plan as run

    run(config, budget=budget, device=device, sustained=sustained, json_out=json, write=write, check=check)


COMMANDS = (make_tables, make_figures, make_report, make_tuning, summary, plan, reproduction)
