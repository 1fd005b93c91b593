"""Write the one file of a new catalogue: a workflow configuration with dataset, runs and table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vixml.config.defaults import FEWEST_TO_TRAIN, training_defaults, validation_splits
from vixml.config.limits import has_linear
from vixml.config.load import load_world, read_yaml, validate
from vixml.config.registry import NAME, Dataset
from vixml.data.guess import guess_catalogue
from vixml.data.guess_form import Report, common_form
from vixml.data.survey import Survey, facts_of
from vixml.data.table_files import expand
from vixml.errors import VixmlError
from vixml.files import write_text
from vixml.text import shown


@dataclass(frozen=True)
class Options:
    """Options of ``vixml new``, which its help describes; ``form`` and ``columns`` have the keys that are given."""

    name: str
    files: Sequence[Path]
    out: Path
    test: Sequence[Path] = ()
    image_folder: Path | None = None
    form: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    config_dir: Path = Path("config")
    test_fraction: float | None = None
    force: bool = False


def new_catalogue(options: Options) -> str:
    """Look at a catalogue, write its file and return what to print; nothing slow is started.

    Raises:
        VixmlError: a name that is not free, a file that exists, bad input, or what cannot be guessed.
    """
    models = options.config_dir / "models.yaml"
    _check_name(options, models)
    files = [path for pattern in options.files for path in expand(pattern)]
    test = [path for pattern in options.test for path in expand(pattern)]
    paths = {"train": files, "test": test} if test else {"items": files}
    report = Report()
    form = common_form(files, test, options.form, report)
    entry, text = guess_catalogue(paths, form, options.columns, options.image_folder, report)
    tables = {name: [str(path.resolve()) for path in parts] for name, parts in paths.items()}
    tables = {name: parts[0] if len(parts) == 1 else parts for name, parts in tables.items()}
    data = {
        "title": options.name, "builder": "catalogue", "text": text, "image_size": 224 if entry.images else None,
        "catalogue": entry.model_dump() | {"tables": tables},
    }  # fmt: skip
    if not test:
        # A fifth, but no more than 10,000 items.
        fraction = options.test_fraction or round(min(0.2, 10_000 / report.n_rows), 4)
        data |= {"split_seed": 0, "test_fraction": fraction}
    dataset = validate(Dataset, data, "the guesses")
    survey = Survey(dataset, ".")
    survey.doubts(dataset, report)
    if (found := survey.rows["train"]) < FEWEST_TO_TRAIN:
        expected = f"{FEWEST_TO_TRAIN} or more; a hundred give tags that are worth something"
        raise VixmlError("too few training items", where=files[0], found=found, expected=expected)
    write_text(options.out, render_configuration(options, dataset, survey))
    return _printed(options, report, survey)


def _check_name(options: Options, models: Path) -> None:
    if not NAME.fullmatch(options.name):
        raise VixmlError("a name may hold letters, digits, dots and hyphens", where="vixml new", found=options.name)
    if not models.is_file():
        hint = "run this in the project's folder, or --config-dir"
        raise VixmlError("the project's configuration is missing", where=models, hint=hint)
    if options.name in load_world(options.config_dir).datasets or options.name == "demo":
        what = "a dataset of the project has this name"
        raise VixmlError(what, where=options.config_dir, found=options.name, hint="take another")
    for path in sorted(options.config_dir.glob("*.yaml")):
        if path.resolve() != options.out.resolve() and read_yaml(path).get("name") == options.name:
            what = "a configuration of the project has this name, so both would write the same pages"
            raise VixmlError(what, where=path, found=options.name, hint="take another")
    if options.out.exists() and not options.force:
        raise VixmlError("the file exists", where=options.out, hint="--force overwrites it; or give another name")


def _printed(options: Options, report: Report, survey: Survey) -> str:
    width = max(len(subject) for subject, *_ in report.guesses)
    lines = ["How the table was understood (and the option that changes it)"]
    lines += [f"  {s:<{width}}  {found}  ({reason}; {option})" for s, found, reason, option in report.guesses]
    for title, found in (("Three items", survey.shown()), ("Counts", survey.counts())):
        lines += ["", title, *(f"  {line}" for line in found)]
    lines += ["", *(f"warning: {one}" for one in report.warnings)] if report.warnings else []
    lines += ["", f"{options.out} is written. Next:", f"  vixml fit {options.out}"]
    return shown("\n".join(lines))


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./ +-]*[A-Za-z0-9_]|[A-Za-z]|\d+(\.\d+)?")


def quoted(value: Any) -> str:
    """Return a value as YAML on one line.

    Example:
        >>> quoted(["a b", "true", "|", 3, None, {"k": False}])
        '[a b, "true", "|", 3, null, {k: false}]'

    Raises:
        VixmlError: half of a surrogate pair, as in a path that is not UTF-8.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {quoted(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(quoted, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if any("\ud800" <= character <= "\udfff" for character in value):
        what, hint = "a name that is not UTF-8 cannot be written into a file", "rename the folder, file or column"
        raise VixmlError(what, where=repr(value)[:300], hint=hint)
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    if _PLAIN.fullmatch(value) and not value[0].isdigit() and value.lower() not in words:
        return value
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    text = (c if c.isprintable() and c not in escapes else escapes.get(c, f"\\U{ord(c):08x}") for c in value)
    return f'"{"".join(text)}"'


ABOUT = {
    "folder": "of the images", "tables": "the files; a list for a table in parts", "form": "how they are written",
    "id": "column of ids", "labels": "column of labels", "images": "column of images", "separator": "between labels in a cell",
    "images_are": "paths, names, urls or ids", "separator_in": "all: in every kind of file", "unlabelled": "skip: items without a label are left out",
}  # fmt: skip


def _runs(linear: bool, with_images: bool, chosen: bool) -> Iterator[tuple[str, str]]:
    """Yield each run and its label in the table."""
    yield "popularity", "Popularity"
    yield "knn", "Untrained, nearest neighbours"
    if linear:
        yield "linear", "Linear model on TF-IDF"
    yield "text", "Trained on text"
    if with_images:
        yield "vixml", "Trained on text and images"
    yield "tagger", "The same, chosen inference" if chosen else "The same, local ridge votes"


def _splits(best: str, n_train: int) -> dict[str, str]:
    """Return the runs, as text of the file, that are trained as another is, each without a share of the training items."""
    number, share = validation_splits(n_train)
    return {
        f"split{split}": f"  split{split}: {{inherit: {best}, start: null, training: {{validation: {share}, validation_split: {split}}}}}"
        f"   # {best} without other items: tagger chooses on them\n"
        for split in range(number)
    }


def render_configuration(options: Options, dataset: Dataset, survey: Survey) -> str:
    """Return the file's text."""
    name = quoted(options.name)  # 2024 and 1e3 are names, too
    found = training_defaults(**facts_of(survey))
    entry = dataset.catalogue
    assert entry is not None
    with_images = any(survey.images_per_item["train"])
    keys = {"folder": entry.folder} | entry.model_dump(exclude_defaults=True)
    catalogue = "\n".join(
        f"      {key}: {quoted(value)}" + (f"   # {ABOUT[key]}" if key in ABOUT else "") for key, value in keys.items()
    )
    expect = {"n_train": survey.rows["train"], "n_test": survey.rows["test"], "n_labels": len(survey.names)}
    expect["n_images"] = len(survey.images)
    split = "" if dataset.split_seed is None else (
        f"    split_seed: {dataset.split_seed}   # which items become test\n"
        f"    test_fraction: {dataset.test_fraction}   # their share\n"
    )  # fmt: skip
    image_size = f"    image_size: {dataset.image_size}   # side in pixels of stored images\n" if with_images else ""
    best = "vixml" if with_images else "text"
    has_linear_model = has_linear(survey.rows["train"], len(survey.names))
    splits = _splits(best, survey.rows["train"])
    chooses = bool(splits) or found["training"]["validation"] > 0
    labels = dict(_runs(has_linear_model, with_images, chooses))
    more = [f"chosen_on: {quoted(list(splits))}"] * bool(splits) + ["image_weight: 0.3"] * with_images
    more += ["ridge: {linear_weight: 0}"] * (not has_linear_model)
    inference = f"\n    inference: {{{', '.join(more)}}}" if more else ""
    rows = "".join(f"        - {{label: {quoted(label)}, run: {run}}}\n" for run, label in labels.items())
    linear = "" if "linear" not in labels else (
        "  linear:   # a linear model on TF-IDF\n    preset: untrained\n    inference: {method: linear}\n"
        f"    row: {{label: {quoted(labels['linear'])}}}\n"
    )  # fmt: skip
    trained = f"  text: {{row: {{label: {quoted(labels['text'])}}}}}\n"
    if with_images:
        trained += f"  vixml: {{modality: text+image, row: {{label: {quoted(labels['vixml'])}}}}}\n"
    include = os.path.relpath((options.config_dir / "models.yaml").resolve(), options.out.resolve().parent)
    steps = found["training"]["epochs"] * -(
        -round(survey.rows["train"] * (1 - found["training"]["validation"])) // found["training"]["batch_size"]
    )
    return f"""\
# Written by `vixml new {options.name}`: dataset, runs and table in one file. docs/config.md explains every key.
#
#   vixml fit {options.name if options.out.name == f"{options.name}.yaml" else options.out}   # trains, and packs {options.name}.model
#
# {survey.rows["train"]:,} training items, {survey.rows["test"]:,} test items, {len(survey.names):,} labels.

name: {name}
description: {quoted(f"The catalogue {options.name}.")}
config_dir: {quoted(str(options.out))}   # this file has all parts of a folder of configuration
include: {quoted(include)}   # the project's models

targets:
  - dataset: {name}
    seeds: [0]   # three or more give intervals
    split: test
    runs: {quoted(list(labels))}
tables: [{name}]
figures: []
compare: [text, tagger]   # in the report
side_by_side: {quoted([run for run in labels if run in ("text", "vixml", "tagger")])}

# -- the data: change a guess here, then run again
datasets:
  {name}:
    title: {name}
    builder: catalogue
    text: {quoted(dataset.text)}   # columns, joined by a space
{split}{image_size}    expect: {quoted(expect)}   # a build with other counts stops: change or remove it with the data
    catalogue:
{catalogue}

# -- how runs are trained; the numbers follow from the size of the data (src/vixml/config/defaults.py)
dataset: {name}
base:
  preset: catalogue   # config/presets/catalogue.yaml has the rest
  start: null   # an earlier model to start from: `vixml fit {options.name} --from MODEL`
  encoder: {quoted(found["encoder"])}   # tokens of a text
  images: {quoted(found["images"])}
  prototype: {quoted(found["prototype"])}   # of PRIME: about one per two labels
  loss: {quoted(found["loss"])}   # null: a step compares its items with all labels
  mining: {quoted(found["mining"])}
  optimizer: {quoted(found["optimizer"])}
  training: {quoted(found["training"])}   # {steps:,} steps

runs:
  popularity:   # the most frequent labels, for every item
    preset: untrained
    inference: {{method: popularity}}
    row: {{label: {labels["popularity"]}}}
  knn:   # the nearest training items vote, with the published model
    preset: untrained
    inference: {{method: knn, labels_as: u}}
    row: {{label: {quoted(labels["knn"])}}}
{linear}{trained}{"".join(splits.values())}\
  tagger:   # {"how it predicts is chosen on items held out of training" if chooses else "too few items to choose how it predicts: the preset"}
    reuse: {best}
    preset: chosen{inference}
    row: {{label: {quoted(labels["tagger"])}}}

table:
  id: {name}
  title: {name}
  metrics: ["P@1", "P@3", "P@5", "PSP@1", "R@10", "R@100"]
  measured:
    - dataset: {name}
      title: {quoted(f"{options.name}, measured here")}
      rows:
{rows}"""
