"""How one reported row is trained: the models behind ``config/runs/*.yaml``.

These classes are the one source of defaults, validation, the JSON schemas in ``config/schemas`` and ``docs/config.md``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Refuse unknown keys, so that a misspelt key is an error and not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Encoder(Strict):
    """The language model that maps queries and labels to vectors (paper section 3.1)."""

    model: str = Field("minilm-l3", description="Entry of config/models.yaml.")
    max_len: int = Field(32, ge=3, description="Text tokens kept, special tokens included; images are not counted.")
    train: Literal["full", "frozen"] = Field(
        "full", description="`frozen` trains only what sits on top (prototype network, free vectors, image projection)."
    )
    dropout: Fraction | None = Field(None, description="Dropout inside the encoder; `null` keeps the checkpoint's own.")
    pooling: Literal["mean"] = Field("mean", description="Sentence vector: mean over all attended tokens.")


class Images(Strict):
    """Image tokens in front of the text, `V ⊕ E` (paper equation 3)."""

    vision: str = Field("efficientnet-lite0", description="Frozen vision encoder, an entry of config/models.yaml.")
    per_item: int = Field(3, ge=1, le=16, description="Images used of each item, at most.")
    shuffle: bool = Field(
        False,
        description="Control: give every item another item's images, in every split. The gain of images must vanish.",
    )


class Prototype(Strict):
    """PRIME's label prototype network (PRIME, section 3)."""

    heads: int = Field(8, ge=1, description="Attention heads of the one transformer layer.")
    feedforward: int = Field(1024, ge=1, description="Width of its feed-forward part.")
    dropout: Fraction = Field(0.1, description="Its dropout.")
    free_vectors: int = Field(65536, ge=1, description="Learnable vectors, shared by balanced clusters of labels.")
    init: Literal["xavier", "label-mean"] = Field(
        "xavier",
        description="Free vectors start at random (encoder script) or at their cluster's mean (decoder script).",
    )


class Loss(Strict):
    """Triplet loss with online hard negatives and the dynamic margin; the four terms of PRIME in ViXML."""

    negatives: int = Field(10, ge=1, description="Hardest in-batch negatives per row.")
    margin_min: float = Field(0.1, ge=0, description="Lower clamp of the margin |s_p - s_n|.")
    margin_max: float = Field(0.3, ge=0, description="Upper clamp; equal clamps give a fixed margin (NGAME).")
    temperature: Positive = Field(0.1, description="Softmax weights over violating negatives.")
    regulariser: float = Field(
        0.1, ge=0, description="Weight of R, which asks the prototype to improve on the text vector."
    )
    regulariser_margin: float = Field(0.1, ge=0, description="Margin inside R.")

    @model_validator(mode="after")
    def _ordered(self) -> Loss:
        if self.margin_min > self.margin_max:
            raise ValueError("loss.margin_min must not exceed loss.margin_max")
        return self


class Mining(Strict):
    """NGAME batches: groups of similar queries, concatenated at random."""

    start: int = Field(10, ge=0, description="First epoch (from 0) with mined batches; random batches before.")
    update: int = Field(5, ge=1, description="Epochs between two clusterings.")
    size: int = Field(16, ge=1, description="Queries per group at the start.")
    double_at: list[int] = Field([20, 40, 60, 80, 100, 120], description="Epochs at which the group size doubles.")


class Optimizer(Strict):
    """AdamW with linear decay."""

    lr: Positive = Field(5e-4, description="Peak learning rate of the language model.")
    lr_new: Positive = Field(
        5e-4, description="Peak learning rate of image projection, free vectors, prototype network."
    )
    weight_decay: float = Field(0.01, ge=0, description="Not applied to biases, LayerNorm and free vectors.")
    eps: Positive = Field(1e-6, description="AdamW epsilon.")
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up.")
    warmup_steps_new: int | None = Field(
        None,
        ge=0,
        description="Steps of warm-up of the new parts, if they shall be ahead of the language model: an untrained "
        "prototype network pulls all queries to one place (docs/deviations.md, D4). `null`: as `warmup_steps`.",
    )
    clip_norm: Positive | None = Field(None, description="Clip the gradient's global norm; `null` does not clip.")


class Training(Strict):
    """The budget and how it is carried out."""

    epochs: int = Field(150, ge=0, description="Passes over the training queries; 0 keeps the model untrained.")
    batch_size: int = Field(2048, ge=2, description="Queries a batch; each brings one positive label.")
    positives: Literal["inverse-propensity", "uniform"] = Field(
        "inverse-propensity", description="How a query's one positive label of the batch is drawn."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="`auto`: fp16 on a GPU; bf16 on processors with AVX-512 BF16 or AMX; fp32 elsewhere. "
        "The choice is written in the manifest.",
    )
    validation: Fraction = Field(
        0.0,
        description="Share of *train* queries held out for diagnostics and tuning. Test data never selects anything.",
    )
    checkpoint_minutes: Positive = Field(
        10.0, description="Minutes between checkpoints, besides one at each epoch's end."
    )
    workers: int = Field(0, ge=0, description="Processes that assemble batches; results do not depend on it.")


class Inference(Strict):
    """How a trained (or untrained) encoder ranks labels."""

    method: Literal["label-search", "knn", "popularity"] = Field(
        "label-search",
        description="`label-search`: maximum inner product over label vectors. `knn`: neighbouring training queries vote "
        "for their labels. `popularity`: the most frequent training labels, for everyone.",
    )
    labels_as: Literal["z", "u"] = Field("z", description="Label vectors: prototypes `z`, or plain text vectors `u`.")
    neighbours: int = Field(50, ge=1, description="`knn`: training queries that vote.")
    temperature: Positive = Field(0.05, description="`knn`: softmax temperature of the votes.")
    image_weight: Fraction = Field(
        0.0,
        description="`knn`: share of the squared norm given to the mean of the raw image vectors, beside the text vector.",
    )
    top_k: int = Field(100, ge=1, description="Labels kept per query.")


class Row(Strict):
    """Where a run stands in the tables, in the reader's words."""

    label: str = Field("", description="The row's name, e.g. `MiniLM-L3`.")
    note: str = Field("", description="What a reader must know of it, one sentence.")


class RunConfig(Strict):
    """One run. The defaults are the paper's encoder recipe with images (Table 3)."""

    method: Literal["PRIME", "none"] = Field(
        "PRIME", description="Base method; `none` for yardsticks without a prototype network."
    )
    modality: Literal["text", "text+image"] = Field("text+image", description="What the encoder reads.")
    encoder: Encoder = Encoder()
    images: Images = Images()
    prototype: Prototype = Prototype()
    loss: Loss = Loss()
    mining: Mining | None = Field(Mining(), description="`null` keeps random batches throughout.")
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    inference: Inference = Inference()
    row: Row = Row()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.method == "none" and self.training.epochs:
            raise ValueError("method 'none' has nothing to train: set training.epochs to 0")
        if self.inference.image_weight and self.inference.method != "knn":
            raise ValueError("inference.image_weight is for inference.method 'knn' only")
        return self

    @property
    def uses_images(self) -> bool:
        """Return whether the encoder reads images."""
        return self.modality == "text+image"

    @property
    def needs_encoder(self) -> bool:
        """Return whether inference needs encoded vectors at all."""
        return self.inference.method != "popularity"

    @property
    def needs_bank(self) -> bool:
        """Return whether any part of the run reads image vectors."""
        return self.needs_encoder and (self.uses_images or self.inference.image_weight > 0)
