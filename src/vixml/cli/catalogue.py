"""The commands on a user's own catalogue: ``vixml new`` configures it, ``vixml fit`` trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option


def _option(text: str, panel: str, *names: str) -> Any:
    return Option(*names, help=text, rich_help_panel=panel, show_default=False)


COLUMNS, FORM, FILES = "Columns (guessed by default)", "How the table is written (guessed by default)", "Files"
Encoding = Annotated[str | None, _option("Encoding, e.g. utf-8, cp1252.", FORM)]
Delimiter = Annotated[str | None, _option("Character between cells, e.g. ';', tab.", FORM)]
Quote = Annotated[str | None, _option("Character around cells, or none.", FORM)]
Sheet = Annotated[str | None, _option("Sheet of an Excel file.", FORM)]
Records = Annotated[str | None, _option("Key of the array in a JSON file.", FORM)]
NoHeader = Annotated[bool, _option("The first row is data.", FORM, "--no-header")]


def new(
    name: Annotated[str, Argument(help="Name of the catalogue: letters, digits, dots, hyphens.")],
    files: Annotated[list[Path], Argument(help="The table, or its parts; patterns are allowed.")],
    image_folder: Annotated[Path | None, _option("Folder of images.", FILES, "--image-folder", "--pictures")] = None,
    test: Annotated[list[Path] | None, _option("Table of test items; by default a share is drawn.", FILES)] = None,
    out: Annotated[Path | None, _option("File to write; by default NAME.yaml.", FILES)] = None,
    force: Annotated[bool, _option("Overwrite an existing file.", FILES, "--force")] = False,
    config_dir: Annotated[Path, _option("Folder of the project's configuration, whose models are used.", FILES)] = Path(
        "config"
    ),
    test_fraction: Annotated[
        float | None, Option(min=0.001, max=0.9, help="Share of items that become test items.", rich_help_panel=FILES)
    ] = None,
    id: Annotated[str | None, _option("Column of ids; '#row' uses row numbers.", COLUMNS)] = None,
    text: Annotated[str | None, _option("Columns of text, e.g. 'title + description'.", COLUMNS)] = None,
    labels: Annotated[str | None, _option("Column of labels, or several joined by +.", COLUMNS)] = None,
    labels_are: Annotated[
        str | None, _option("values, or columns of 0 and 1, one per label.", COLUMNS, "--labels-are")
    ] = None,
    images: Annotated[str | None, _option("Column of images, or several joined by +; or none.", COLUMNS)] = None,
    separator: Annotated[str | None, _option("Separator of labels in a cell, or none.", COLUMNS)] = None,
    image_separator: Annotated[str | None, _option("Separator of images in a cell, or none.", COLUMNS)] = None,
    fold_case: Annotated[
        bool, _option("Treat labels that differ only in case as one.", COLUMNS, "--fold-case")
    ] = False,
    keep_unlabelled: Annotated[
        bool, _option("Keep items without a label in train and test.", COLUMNS, "--keep-unlabelled")
    ] = False,
    strip_html: Annotated[bool | None, _option("Remove HTML, or keep it.", COLUMNS, "--strip-html/--keep-html")] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    sheet: Sheet = None,
    records: Records = None,
    no_header: NoHeader = False,
) -> None:
    r"""Read an export and write the one configuration file that trains on it.

    Reads CSV, TSV, JSON lines, JSON, Parquet and Excel, compressed or in parts.
    Prints each guess with the option that changes it, three items, counts and
    warnings. If it cannot decide, it stops with an error that names the option.
    Nothing slow is started.

    Example:

        vixml new shop export.csv --image-folder photos
        vixml new shop 'parts/*.jsonl.gz' --labels tags --fold-case
    """
    from vixml.data.new import Options, new_catalogue

    columns = {
        "id": id, "text": text, "labels": labels, "images": images, "separator": char(separator),
        "image_separator": char(image_separator), "labels_are": labels_are, "fold_case": fold_case, "strip_html": strip_html,
        "unlabelled": "keep" if keep_unlabelled else "skip",
    }  # fmt: skip
    form = form_given(no_header, encoding=encoding, delimiter=delimiter, quote=quote, sheet=sheet, records=records)
    options = Options(name, files, out or Path(f"{name}.yaml"), tuple(test or ()), image_folder, form, _given(columns))
    print(new_catalogue(replace(options, config_dir=config_dir, test_fraction=test_fraction, force=force)))


def char(value: str | None) -> str | None:
    """Return the character that an option names."""
    return None if value is None else {"none": "", "tab": "\t", "\\t": "\t", "\\n": "\n"}.get(value, value)


def form_given(no_header: bool, **form: str | None) -> dict[str, Any]:
    """Return the keys of a table's form that options give."""
    form |= {name: char(form[name]) for name in ("delimiter", "quote")}
    return _given(form) | ({"header": False} if no_header else {})


def fit(
    name: Annotated[str, Argument(help="Name given to `vixml new`, or the file that it wrote.")],
    out: Annotated[Path | None, Option(help="Model folder to write; by default NAME.model.")] = None,
    start: Annotated[
        Path | None, Option("--from", help="Earlier model folder to start from, e.g. after items or labels were added.")
    ] = None,
    cores: Annotated[int | None, Option(min=1, max=4096, help="Processor cores to use; by default all.")] = None,
) -> None:
    """Train on a catalogue, choose the inference, and pack the result as one folder that tags new items.

    Runs the same stages as `snakemake --configfile NAME.yaml` and produces the
    same bytes, but starts processes faster. After an interruption, the same
    command resumes. At the end, it prints a table with intervals: baselines, a
    linear model, the trained models, and the inference chosen on held-out
    training items. --from starts from an earlier model, whose labels are
    matched by name, and records this in the file.

    Example:

        vixml fit shop
        vixml tag new.csv --model shop.model --out tags.csv
    """
    from vixml.cli.fitting import fit as go

    print(go(_file_of(name), out, start, cores))


def _file_of(name: str) -> Path:
    """Return the file of a catalogue, which must exist."""
    from vixml.errors import VixmlError

    file = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if not file.is_file():
        raise VixmlError("no file of a catalogue", where=file, hint=f"vixml new {file.stem} EXPORT writes it")
    return file


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


COMMANDS = (new, fit)
