"""Count what a catalogue gives, with the code that builds its corpus and a writer that only counts; warn of what is odd."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vixml.config.registry import Dataset
from vixml.data.catalogue import folder_of, required_tables, write_items
from vixml.data.guess_form import Report
from vixml.data.label_names import SEPARATORS, folded

SHOWN = 3
_NUMBER = re.compile(r"[-+]?[€$£]?\s?\d[\d.,' ]*\s?[€$£%]?$")


class Survey:
    """Counts of one catalogue; a writer of items.

    Attributes:
        rows: split -> items (or labels).
        uses: per label, items of train.
        examples: (id, text, labels, images) of the first items of train.
        rules: how often each rule of the build was needed, by split.
    """

    def __init__(self, dataset: Dataset, raw_dir: Path | str) -> None:
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self.per_item: dict[str, list[int]] = {"train": [], "test": []}
        self.images_per_item: dict[str, list[int]] = {"train": [], "test": []}
        self.words: list[int] = []
        self.empty_texts = self.broken = 0
        self.examples: list[tuple[str, str, list[int], list[str]]] = []
        self.images: dict[str, bool] = {}
        self._texts: dict[str, Counter[bytes]] = defaultdict(Counter)
        entry = dataset.catalogue
        assert entry is not None
        folder = folder_of(entry, raw_dir)
        # `os.path`, because Path.is_file raises an error for a name that is too long, as an image in the cell itself is.
        urls = entry.images_are == "urls"
        self._present = (lambda name: True) if urls else (lambda name: os.path.isfile(folder / name))
        self.rules = write_items(dataset, required_tables(dataset, raw_dir), self, raw_dir)

    @contextmanager
    def split(self, split: str) -> Iterator[Callable[..., None]]:
        """Yield ``add(id, text, labels=(), images=())``."""
        self.rows[split] = 0

        def add(item: str, text: str, labels: Sequence[int] = (), images: Sequence[str] = ()) -> None:
            self.rows[split] += 1
            if split == "label":
                self.names.append(text)
                return
            if split == "train":
                self.uses[list(labels)] += 1
                if len(self.examples) < SHOWN:
                    self.examples.append((item, text, list(labels), list(images)))
            self.per_item[split].append(len(labels))
            for name in images:
                if name not in self.images:
                    self.images[name] = self._present(name)
            self.images_per_item[split].append(sum(self.images[name] for name in dict.fromkeys(images)))
            self.words.append(len(text.split()))
            self.empty_texts += not text
            self.broken += "\ufffd" in text or re.search("Ã[\x80-\xbf©¤¶¼]|â€", text) is not None
            if text:
                self._texts[split][hashlib.blake2b(text.casefold().encode(), digest_size=8).digest()] += 1

        yield add
        if split == "label":
            self.uses = np.zeros(len(self.names), dtype=np.int64)

    @property
    def n_items(self) -> int:
        """Return the number of items of train and test."""
        return self.rows["train"] + self.rows["test"]

    def counts(self) -> list[str]:
        """Return the counts as lines to print."""
        per_item, images = (found["train"] + found["test"] for found in (self.per_item, self.images_per_item))
        without, left_out = per_item.count(0), sum(rules.get("unlabelled_left_out", 0) for rules in self.rules.values())
        return [
            f"items: {self.n_items:,} ({self.rows['train']:,} train, {self.rows['test']:,} test)",
            f"labels: {len(self.names):,}, {sum(per_item) / self.n_items:.2f} per item (at most {max(per_item)})",
            f"items without a label: {without:,} ({without / self.n_items:.1%})"
            + f"; {left_out:,} more are left out, to be tagged later (--keep-unlabelled)" * (left_out > 0),
            f"items with an image: {sum(n > 0 for n in images):,} ({sum(n > 0 for n in images) / self.n_items:.1%})",
            f"labels seen once in train: {int((self.uses == 1).sum()):,} ({(self.uses == 1).mean():.1%})",
        ]

    def shown(self) -> list[str]:
        """Return three items as they are understood."""
        lines = []
        for item, text, labels, images in self.examples:
            lines += [
                f"id {item}",
                f"  text:     {_cut(text)}",
                f"  labels:   {_cut(' · '.join(self.names[n] for n in labels))}",
            ]
            if images:
                lines.append(f"  images: {_cut(' · '.join(images))}")
        return lines

    def doubts(self, dataset: Dataset, report: Report) -> None:
        """Add warnings of what is odd in the whole table."""
        warn, entry = report.warnings.append, dataset.catalogue
        assert entry is not None
        names, rules = self.names, self.rules
        for separator in SEPARATORS:
            if separator == entry.separator or separator == "/":
                continue
            several = [name for name in names if separator in name]
            known = set(names)
            again = sum(part.strip() in known for name in several for part in name.split(separator))
            parts = sum(len(name.split(separator)) for name in several)
            if several and (separator in ("|", "||", ";", "\n", "\t", " > ") or again > 0.3 * parts):
                warn(
                    f"{len(several)} labels like {_cut(several[0], 60)!r}: is the separator {separator!r}? (--separator)"
                )
                break
        if not entry.fold_case:
            spellings: dict[str, list[str]] = defaultdict(list)
            for name in names:
                spellings[folded(name)].append(name)
            twice = [group for group in spellings.values() if len(group) > 1]
            if twice:
                warn(f"`{twice[0][0]}` and `{twice[0][1]}` are two labels ({len(twice)} such groups): --fold-case")
        n_test = self.rows["test"]
        if unseen := self.per_item["test"].count(0):
            warn(
                f"{unseen} of {n_test} test items have no label seen in training: at most {100 * (1 - unseen / n_test):.1f} % P@1 can be had"
            )
        if in_both := sum(n for key, n in self._texts["test"].items() if key in self._texts["train"]):
            warn(
                f"the same item is in train and test: {in_both} of {n_test} test items have the text of a training item"
            )
        for split in ("train", "test"):
            if repeated := rules[split].get("ids_repeated"):
                warn(f"{repeated} items of {split} repeat an id of another: is {entry.id!r} the column of ids? (--id)")
        copies = sum(n - 1 for n in self._texts["train"].values())
        if copies > 0.05 * self.rows["train"]:
            warn(f"{copies} items of train repeat the text of another one")
        if lost := sum(rules[split].get("labels_of_tags_only", 0) for split in ("train", "test")):
            warn(f"{lost} labels are nothing but HTML tags, which are removed: left out (--keep-html)")
        if names and sum(bool(_NUMBER.match(name)) for name in names) >= 0.5 * len(names):
            warn(f"labels are numbers, e.g. {names[0]}: is {entry.labels!r} the column of labels? (--labels)")
        if max(map(len, names)) > 200:
            warn(
                f"labels of up to {max(map(len, names)):,} characters: is {entry.labels!r} the column of labels? (--labels)"
            )
        per_item = self.per_item["train"]
        if max(per_item) == 1 and entry.labels_are == "values":
            warn("no item has more than one label: is a separator or a second column missing? (--separator, --labels)")
        once = (self.uses == 1).mean()
        if once > 0.8 and len(names) > 0.5 * self.rows["train"]:
            warn(
                f"{once:.0%} of the labels occur once in train, so little can be learned: are they the labels? (--labels)"
            )
        if len(names) < 2:
            warn("there is one label only: nothing can be told apart")
        if self.empty_texts > 0.05 * self.n_items:
            warn(f"{self.empty_texts} of {self.n_items} items have no text (--text)")
        if self.broken:
            warn(
                f"{self.broken} texts hold characters of a wrong encoding (`Ã¤`, `\ufffd`): export again, or --encoding"
            )
        if missing := sum(not there for there in self.images.values()):
            warn(f"{missing} of {len(self.images)} images are not in the folder (--image-folder)")
        with_image = {split: sum(n > 0 for n in found) for split, found in self.images_per_item.items()}
        if any(with_image.values()) and not all(with_image.values()):
            lacking, other = sorted(with_image, key=with_image.__getitem__)
            warn(
                f"no item of {lacking} has an image, but {with_image[other]} of {other} have (--images, --image-folder)"
            )
        if others := sum(rules[split].get("images_of_another_kind", 0) for split in ("train", "test")):
            warn(f"{others} images are neither inside the folder nor of the kind `{entry.images_are}`: left out")


def _cut(text: str, length: int = 100) -> str:
    text = text or "(none)"
    return text if len(text) <= length else text[: length - 3] + "..."


def facts_of(survey: Survey) -> dict[str, Any]:
    """Return the sizes on which defaults depend, as arguments of :func:`vixml.config.defaults.training_defaults`."""
    images = survey.images_per_item["train"] + survey.images_per_item["test"]
    return {
        "n_train": survey.rows["train"], "n_labels": len(survey.names), "max_images": max(images),
        "words": int(np.percentile(survey.words, 90)),
    }  # fmt: skip
