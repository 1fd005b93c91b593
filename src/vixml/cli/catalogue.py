"""The command on a catalogue of one's own: ``vixml new``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(new)


def _option(text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


COLUMNS, FORM, FILES = "Columns (they are guessed)", "How the table is written (it is guessed)", "Files"


def new(
    name: Annotated[str, typer.Argument(help="Name of the catalogue: letters, digits, dots, hyphens.")],
    files: Annotated[list[Path], typer.Argument(help="The table, or its parts; patterns are allowed.")],
    pictures: Annotated[Path | None, _option("Folder of pictures.", FILES)] = None,
    test: Annotated[list[Path] | None, _option("Table of test items; otherwise a share is drawn.", FILES)] = None,
    out: Annotated[Path | None, _option("File to write; NAME.yaml.", FILES)] = None,
    force: Annotated[bool, _option("Overwrite it.", FILES, "--force")] = False,
    config_dir: Annotated[Path, _option("The project's configuration, with its models.", FILES)] = Path("config"),
    test_fraction: Annotated[
        float | None, typer.Option(min=0.001, max=0.9, help="Share of items for test.", rich_help_panel=FILES)
    ] = None,
    id: Annotated[str | None, _option("Column of ids.", COLUMNS)] = None,
    text: Annotated[str | None, _option("Columns of text, e.g. 'title + description'.", COLUMNS)] = None,
    labels: Annotated[str | None, _option("Column of labels, or several joined by +.", COLUMNS)] = None,
    labels_are: Annotated[
        str | None, _option("values, or columns: each is a label where it is 1.", COLUMNS, "--labels-are")
    ] = None,
    images: Annotated[str | None, _option("Column of pictures, or several joined by +; none.", COLUMNS)] = None,
    separator: Annotated[str | None, _option("Separator of labels in a cell; none.", COLUMNS)] = None,
    image_separator: Annotated[str | None, _option("Separator of pictures in a cell; none.", COLUMNS)] = None,
    fold_case: Annotated[bool, _option("Labels that differ in case only are one.", COLUMNS, "--fold-case")] = False,
    strip_html: Annotated[bool | None, _option("Remove HTML, or keep it.", COLUMNS, "--strip-html/--keep-html")] = None,
    encoding: Annotated[str | None, _option("Encoding, e.g. utf-8, cp1252.", FORM)] = None,
    delimiter: Annotated[str | None, _option("Character between cells; tab.", FORM)] = None,
    quote: Annotated[str | None, _option("Character around cells; none.", FORM)] = None,
    decimal: Annotated[str | None, _option("Decimal sign.", FORM)] = None,
    sheet: Annotated[str | None, _option("Sheet of an Excel file.", FORM)] = None,
    records: Annotated[str | None, _option("Key of the array in a JSON file.", FORM)] = None,
    no_header: Annotated[bool, _option("The first row is data.", FORM, "--no-header")] = False,
) -> None:
    r"""Look at an export and write the one file with which it can be trained.

    Takes CSV, TSV, JSON lines, JSON, Parquet and Excel, compressed or in parts.
    Prints each guess with the option that changes it, three items, counts and
    warnings. What cannot be told for sure is an error that names the option.
    Nothing slow is started.

    Example:

        vixml new shop export.csv --pictures photos
        vixml new shop 'parts/*.jsonl.gz' --labels tags --fold-case
    """
    from vixml.data.new import Options, new_catalogue

    def char(value: str | None) -> str | None:
        return None if value is None else {"none": "", "tab": "\t", "\\t": "\t", "\\n": "\n"}.get(value, value)

    form = {
        "encoding": encoding,
        "delimiter": char(delimiter),
        "quote": char(quote),
        "sheet": sheet,
        "records": records,
    }
    columns = {
        "id": id, "text": text, "labels": labels, "images": images, "separator": char(separator), "decimal": decimal,
        "image_separator": char(image_separator), "labels_are": labels_are, "fold_case": fold_case, "strip_html": strip_html,
    }  # fmt: skip
    form |= {"header": False} if no_header else {}
    options = Options(
        name, files, out or Path(f"{name}.yaml"), tuple(test or ()), pictures, _given(form), _given(columns)
    )
    print(new_catalogue(replace(options, config_dir=config_dir, test_fraction=test_fraction, force=force)))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
