"""Schemas of requests and answers, from which the OpenAPI page is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vixml.serving.limits import MOST_LABELS, MOST_VOTERS, RANKED

# Lists end here before their entries are looked at; a server's own limits are lower.
FAR, FEW_KEYS = 1 << 12, 64


def few_keys(value: Any) -> Any:
    """Refuse an object of very many keys with one error, not with one per key."""
    if isinstance(value, dict) and len(value) > FEW_KEYS:
        raise ValueError(f"{len(value)} keys")
    return value


class Schema(BaseModel):
    """A part of a request or an answer; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, value: Any) -> Any:
        return few_keys(value)


class Item(Schema):
    """Something to tag: a text, images, or both."""

    text: str = Field("", description="Its text.")
    fields: Annotated[dict[str, str | None] | None, BeforeValidator(few_keys)] = Field(
        None,
        description="In place of `text`: the columns of the training table that form it (`text_fields` of /v1/models).",
    )
    images: list[str] = Field(
        [],
        max_length=FAR,
        description="Images, best first: base64 or data URLs of PNG, JPEG, WebP, GIF, BMP or SVG files; with "
        "`--allow-urls` also web addresses. The model reads the first `images_per_item` (/v1/models).",
    )


def _as_item(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


ItemOrText = Annotated[Item, BeforeValidator(_as_item, json_schema_input_type=str | Item)]
Label = Annotated[str, Field(min_length=1, max_length=1000)]


class TagOptions(Schema):
    """Options for each item of a request."""

    k: int = Field(10, ge=1, le=MOST_LABELS, description="Labels per item.")
    voters: int = Field(3, ge=0, le=MOST_VOTERS, description="Training items named with a label, at most.")
    labels: list[Label] = Field(
        [],
        max_length=FAR,
        description="Labels that the model lacks. They compete in this request only: nothing is stored, and nobody else's "
        "tags change.",
    )
    labels_offset: float = Field(
        0.0, ge=-10, le=10, description="Added to the similarity of those labels; below 0 it favours the known ones."
    )


class TagRequest(TagOptions):
    """Items to tag."""

    items: list[ItemOrText] = Field(min_length=1, max_length=FAR, description="Texts, or objects with text and images.")


class TagForm(TagOptions):
    """One item to tag, as a form: the fields of a TagRequest, its images as files."""

    text: str = Field("", description="Its text.")
    images: list[Annotated[str, Field(json_schema_extra={"format": "binary"})]] = Field([], description="Files.")


class VoterOut(Schema):
    """A training item near the item, which has the label."""

    id: str
    text: str
    similarity: float = Field(description="Cosine of the two items' vectors.")
    image: str | None = Field(description="Path of its thumbnail on this server; null if it has none.")


class TagOut(Schema):
    """A label of an item."""

    label: str
    id: str
    score: float = Field(description="Orders the labels of one item; no probability.")
    probability: float | None = Field(description="That the label is true; null where the model cannot tell.")
    added: bool = Field(description="Whether the request added it.")
    voters: list[VoterOut] = Field(
        description="Nearest first. Where `votes` (/v1/models) is false they explain the label only."
    )


class AddedOut(Schema):
    """Rank of a label of the request."""

    label: str
    rank: int | None = Field(description=f"From 1; null if it is not among the first {RANKED}.")
    score: float | None


class Tagged(Schema):
    """The labels of one item."""

    tags: list[TagOut] = Field(description="Best first.")
    added: list[AddedOut] = Field(description="The labels of the request, as far as it adds any.")
    notes: list[str] = Field(description="What was not looked at, and why.")


class TagResponse(Schema):
    """One entry per item, in order."""

    model: str
    items: list[Tagged]


class EmbeddingRequest(Schema):
    """Texts to encode, in the form of OpenAI's API."""

    input: Annotated[
        list[ItemOrText],
        BeforeValidator(
            lambda value: [value] if isinstance(value, (str, dict)) else value,
            json_schema_input_type=str | list[str | Item],
        ),
        Field(min_length=1, max_length=FAR, description="A text or several; also objects as in /v1/tags."),
    ]
    model: str | None = Field(None, description="Id of the model (/v1/models); this server has one.")
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    dimensions: int | None = Field(None, description="If given, the length of this model's vectors.")
    user: str | None = Field(None, description="Not looked at.")


class EmbeddingOut(Schema):
    """The vector of one input, of unit length."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(Schema):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Schema):
    """One vector per input, in order."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingOut]
    usage: Usage


class ModelOut(Schema):
    """This server's model and limits."""

    id: str
    object: Literal["model"]
    created: int = Field(description="0: a model folder has no date.")
    owned_by: str
    title: str
    n_labels: int
    dim: int = Field(description="Length of a vector.")
    reads_images: bool
    images_per_item: int = Field(description="Images of an item that the model reads; 0 if it reads text only.")
    text_fields: list[str] = Field(description="Columns of the training table that formed the text.")
    votes: bool = Field(description="Whether training items vote; otherwise they only explain a label.")
    adds_labels: bool = Field(description="Whether a request may add labels.")
    max_items: int
    max_images: int
    max_labels: int
    max_text: int = Field(description="Characters of an item's text.")
    max_body: int = Field(description="Bytes of a request.")
    urls: bool = Field(description="Whether web addresses of images are fetched.")


class ModelList(Schema):
    """The models of this server: one."""

    object: Literal["list"]
    data: list[ModelOut]


class ErrorDetail(Schema):
    """Reason for refusing a request."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorOut(Schema):
    """An error, in the form of OpenAI's API."""

    error: ErrorDetail


class Health(Schema):
    """State of the server: can it tag?"""

    status: Literal["ok", "failed"]
