"""Models of ``config/runs/*.yaml``: how one reported row is trained.

These classes are the one source of defaults, validation, the JSON schemas in ``config/schemas`` and ``docs/config.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vixml.config.template import has_field, parse_template

RankedBy = Literal[
    "label-search", "retrieval-augmented", "local-ridge", "knn", "popularity", "linear", "pecos", "napkinxc", "chosen"
]
PEERS = ("pecos", "napkinxc")  # methods of inference that are other software, fitted to texts

# --- What every model of a configuration file is built on.


# Every number has two bounds: beyond them it can only be a mistake, which memory or time would show hours later. A field with
# another bound is an `int` or `float` with both of its own: pydantic lets a type's bound win over the field's in silence.
Count = Annotated[int, Field(ge=1, le=1_000_000)]  # queries, labels, vectors
Natural = Annotated[int, Field(ge=0, le=1_000_000)]  # steps, epochs
Few = Annotated[int, Field(ge=1, le=4096)]  # layers, heads, processes, threads, requests, files
Width = Annotated[int, Field(ge=1, le=2**17)]  # components of a vector, tokens of a text
Pixels = Annotated[int, Field(ge=16, le=4096)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Rate = Annotated[float, Field(ge=1e-12, le=100)]
Positive = Annotated[float, Field(ge=1e-12, le=10_000)]
Weight = Annotated[float, Field(ge=0, le=10_000)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Refuse unknown keys, so that a misspelt key is an error and not a silent default, and true or false for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, accept: Any) -> Any:
        kept = accept(value)
        parts = zip(value, kept, strict=True) if isinstance(value, list) and isinstance(kept, list) else [(value, kept)]
        if any(isinstance(given, bool) and not isinstance(taken, bool) for given, taken in parts):
            raise ValueError("true and false are no numbers")
        return kept


# --- The part ``inference`` of ``config/runs/*.yaml``.


class Ridge(Strict):
    """Local ridge votes, ours: `votes / frequency^frequency_power + prototype_weight <q, z> + text_weight <q, u> + linear_weight linear(q)`."""

    neighbours: Few = Field(100, description="Number of training queries that each query's regression is fitted to.")
    bandwidth: float = Field(0.2, ge=1e-3, le=10_000, description="`h` of the kernel `exp((cosine - 1) / h)`.")
    regulariser: Annotated[float, Field(ge=1e-6, le=10_000)] = Field(
        0.2, description="Added to the kernel matrix's diagonal: the larger, the closer to a kernel-weighted vote."
    )
    frequency_power: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Power of the label's number of training queries that divides its votes; above 0 favours rare labels.",
    )
    prototype_weight: Weight = Field(
        0.3, description="Weight of the inner product with the prototype `z`; 0: no search among prototypes."
    )
    text_weight: Weight = Field(
        0.0, description="Weight of the inner product with the text vector `u`; 0: no search among text vectors."
    )
    linear_weight: Weight = Field(
        0.0, description="Weight of the score of a linear model on TF-IDF (method `linear`); 0: none is fitted."
    )


class Inference(Strict):
    """Method of ranking labels, and its constants."""

    method: RankedBy = Field(
        "label-search",
        description="`label-search`: maximum inner product over label vectors. `retrieval-augmented`: retrieve both labels and "
        "training queries, which vote for their labels (paper section 4.5). `local-ridge`: kernel ridge "
        "regression on the neighbouring training queries, plus label search (docs/deviations.md D33). `knn`: only neighbouring training "
        "queries vote. `popularity`: the most frequent training labels, for every query. `linear`: a linear model on TF-IDF, a "
        "baseline. `pecos`, `napkinxc`: other software on the same TF-IDF, PECOS XR-Linear and napkinXC's PLT "
        "(`vixml install-peers`). `chosen`: `local-ridge` with the constants given here, unless another method or other constants predict "
        "queries held out of *train* better (`vixml choose-inference`).",
    )
    labels_as: Literal["z", "u"] = Field("z", description="Label vectors: prototypes `z`, or plain text vectors `u`.")
    label_weight: float = Field(
        0.9, ge=0, le=1, description="`retrieval-augmented`: weight of retrieved labels; training queries get the rest."
    )
    retrieved_labels: Count = Field(100, description="`retrieval-augmented`: number of labels retrieved.")
    retrieved_queries: Count = Field(100, description="`retrieval-augmented`: number of training queries retrieved.")
    search: Literal["separate", "joint"] = Field(
        "separate",
        description="`retrieval-augmented`: two `separate` searches (the paper's), or one `joint` search over labels and "
        "training queries that keeps `retrieved_labels` of both (RAE-XMC; its `label_weight` is 0.5).",
    )
    neighbours: Count = Field(50, description="`knn`: number of training queries that vote.")
    temperature: Positive = Field(0.05, description="`knn` and `retrieval-augmented`: softmax temperature.")
    image_weight: Fraction = Field(
        0.0,
        description="`knn` and `local-ridge`: share of the squared norm of a query's vector for the mean image embedding; the text "
        "vector gets the rest. Labels are compared with the text vector.",
    )
    lexical_weight: Fraction = Field(
        0.0,
        description="`knn` and `local-ridge`: share of the squared norm for the lexical vector (hashed TF-IDF of words and "
        "character n-grams, `vixml hash-texts`); text and images share the rest.",
    )
    ridge: Ridge = Ridge()
    chosen_on: tuple[str, ...] = Field(
        (),
        description="`chosen`: runs of this dataset that were trained as this one, each without its own share of the training queries; "
        "all these queries together decide. Empty: the queries that this run's own training held out.",
    )
    top_k: Count = Field(100, description="Labels kept per query.")
    index: Literal["exact", "ivf", "hnsw"] = Field(
        "exact",
        description="How vectors are searched. `exact`: all of them. `ivf`, `hnsw`: a faiss index that visits only a part and "
        "may miss some, for millions of labels. Scores are exact inner products in any case.",
    )
    index_recall: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="`ivf`, `hnsw`: share of the exact top results to find, on a sample of the queries."
    )


# How a training is carried out, not what it learns: no reason to train again, or to leave a checkpoint behind.
CARRIED_OUT = {"encoder": {"kernels"}, "training": {"workers", "checkpoint_minutes", "items_at_once"}}
Method = Literal["PRIME", "NGAME", "DEXA", "all-labels", "none"]


class Lora(Strict):
    """Low-rank adapters on every linear projection of attention and MLP (paper, appendix A); everything else stays frozen."""

    r: Width = Field(256, description="Rank.")
    alpha: Positive = Field(256, description="Scale.")
    dropout: Fraction = Field(0.0, description="Dropout on the adapters' input.")
    rank_stabilised: bool = Field(True, description="Scale by `alpha / sqrt(r)` (rsLoRA); `false`: by `alpha / r`.")


class Encoder(Strict):
    """The language model that maps queries and labels to vectors (paper section 3.1)."""

    model: str = Field("minilm-l3", description="Entry of config/models.yaml.")
    layers: Few | None = Field(
        None, description="Number of first layers to keep, and the final norm; `null`: all (docs/deviations.md D15)."
    )
    max_len: Annotated[int, Field(ge=3, le=2**17)] = Field(
        32, description="Text tokens to keep, with an encoder's special tokens, without images and prompt."
    )
    template: str = Field(
        "{images}{text}",
        description="The prompt, with placeholders `{text}`, `{images}` and `{eos}`, e.g. `This product text {text} and its "
        "image {images}{eos}` (paper equation 4; encoders have no words, equation 3). Each piece of words is "
        "tokenized separately, without special tokens and without leading or trailing spaces.",
    )
    first_token: Literal["once", "each-piece"] = Field(
        "once",
        description="Where a decoder's tokenizer adds its first token (Llama, Gemma): `once` before the whole prompt, or before "
        "`each-piece`, including the text (docs/deviations.md D14).",
    )
    text_position: Literal["after-images", "fixed"] = Field(
        "after-images",
        description="Position of a text that follows images. `after-images`: the next position. `fixed`: as if every item had "
        "`images.per_item` images (docs/deviations.md D6).",
    )
    label_template: str | None = Field(
        None, description="Prompt for labels, for off-the-shelf embedders; `null`: the same as `template`."
    )
    train: Literal["full", "lora", "frozen"] = Field(
        "full",
        description="`full` trains all weights, `lora` trains adapters, `frozen` trains only the parts on top (prototype "
        "network, free vectors, image projection).",
    )
    lora: Lora = Lora()
    dropout: Fraction | None = Field(None, description="Dropout inside the encoder; `null` keeps the checkpoint's own.")
    pooling: Literal["mean", "last"] = Field(
        "mean", description="Sentence vector: mean over all tokens, including prompt and images, or the last token."
    )
    centre: bool = Field(
        False,
        description="Subtract the mean vector: the batch mean in training, a stored mean at inference. For language models whose "
        "vectors are nearly parallel (docs/deviations.md D16).",
    )
    weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Type of frozen weights in memory; trained weights are always float32. `bfloat16` is for runs in half "
        "precision: if `training.precision` resolves to fp32, so do the weights.",
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory.")
    kernels: Literal["plain", "liger"] = Field(
        "plain",
        description="`liger`: fused norm, rotary embedding and MLP kernels from liger-kernel (the extra `gpu`). Without the "
        "package or a GPU, training warns and uses `plain` kernels. Results are equal up to rounding; the manifest "
        "records which were used.",
    )

    @property
    def frozen_weights(self) -> str:
        """Return the type of frozen weights; ``float32`` where there are none."""
        return "float32" if self.train == "full" else self.weights

    @field_validator("template", "label_template")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is not None:
            parse_template(value)
        return value


class LateFusion(Strict):
    """Late fusion of a text vector and image embeddings: one layer of self-attention (MUFIN)."""

    heads: Few = Field(1, description="Attention heads.")
    feedforward: Width = Field(1024, description="Width of the feed-forward block.")
    dropout: Fraction = Field(0.1, description="Dropout.")


class Images(Strict):
    """Images of the items: how many, and where they enter."""

    vision: str = Field("efficientnet-lite0", description="Frozen vision encoder, an entry of config/models.yaml.")
    per_item: int = Field(3, ge=1, le=16, description="Maximum number of images used per item.")
    fusion: Literal["early", "late"] = Field(
        "early",
        description="`early`: image tokens inside the language model (ViXML, paper equations 3 and 4). `late`: text and images "
        "are encoded separately, then fused by self-attention (MUFIN).",
    )
    late: LateFusion = LateFusion()
    control: Literal["none", "shuffled", "constant"] = Field(
        "none",
        description="Controls without information about the item, in every split; the gain from images must vanish. `shuffled`: "
        "another item's images. `constant`: the same `per_item` images for all, which shows what image positions add "
        "by themselves.",
    )


class Prototype(Strict):
    """PRIME's label prototype network (PRIME, section 3); DEXA uses only its free vectors."""

    heads: Few = Field(8, description="Attention heads of the one transformer layer.")
    feedforward: Width = Field(1024, description="Width of its feed-forward block.")
    dropout: Fraction = Field(0.1, description="Dropout of the network.")
    free_vectors: Count = Field(65536, description="Learnable vectors, shared by balanced clusters of labels.")
    init: Literal["xavier", "label-mean", "zeros"] = Field(
        "xavier", description="Initial free vectors: random (`xavier`), their cluster's mean (`label-mean`), or zero."
    )
    last_centroids: Literal["stored", "encoded"] = Field(
        "stored",
        description="Centroids after the last epoch, for inference: means of the query vectors `stored` during it, as between "
        "epochs, or of all training queries `encoded` once more, without dropout (docs/deviations.md D26).",
    )
    text_start: Weight = Field(
        0.5,
        description="`all-labels` and `training.refit_epochs`: a label's vector starts at its centroid plus `text_start` times its "
        "text vector.",
    )
    unit_text: bool = Field(
        False,
        description="Normalise the text vector before it enters the network. A decoder's raw vectors are up to 40 times longer "
        "than free vectors and centroids, and dominate them (docs/deviations.md D17).",
    )


class Loss(Strict):
    """Triplet loss with online hard negatives and a dynamic margin: the four terms of PRIME in ViXML; or a softmax over all labels."""

    negatives: Count = Field(10, description="Hardest in-batch negatives per row.")
    margin_min: Weight = Field(0.1, description="Lower clamp of the margin |s_p - s_n|.")
    margin_max: Weight = Field(0.3, description="Upper clamp of the margin; equal clamps give a fixed margin (NGAME).")
    temperature: float = Field(
        0.1,
        ge=1e-3,
        le=10_000,
        description="Temperature of the softmax weights over violating negatives; `all-labels`: of the softmax over labels.",
    )
    ties: Literal["none", "half"] = Field(
        "none",
        description="Gradient of a hinge that is exactly 0, where the dynamic margin puts every gap between its clamps: `none`, "
        "or `half` of it, with equal weights in rows without violators (docs/deviations.md D21).",
    )
    weight_gradient: bool = Field(
        False, description="Let the gradient flow through the softmax weights (docs/deviations.md D3)."
    )
    draws: Literal["shared", "per-term"] = Field(
        "shared",
        description="Draw of a query's positive: `shared` by all terms, or `per-term` (docs/deviations.md D23).",
    )
    regulariser: Weight = Field(
        0.1, description="Weight of the regulariser R, which makes the prototype improve on the text vector."
    )
    regulariser_margin: Weight = Field(0.1, description="Margin inside R.")
    regulariser_negatives: Literal["u", "z"] = Field(
        "u", description="Vectors whose hardest negatives R compares: `u` or `z` (docs/deviations.md D22)."
    )
    regulariser_gradient: Literal["z", "both"] = Field(
        "z", description="Where R's gradient flows: into the prototypes only, or into `both` (docs/deviations.md D2)."
    )
    regulariser_halves: Literal["sum", "mean"] = Field(
        "sum", description="How R combines its two parts, positives and negatives (docs/deviations.md D22)."
    )

    text_weight: Weight = Field(
        0.0,
        description="`all-labels`: weight of the softmax over the text vectors `u` of the batch's drawn labels, which keeps `u` useful "
        "for labels without training queries. 0: training encodes queries alone.",
    )
    sampled_labels: Count | None = Field(
        None,
        description="`all-labels` and `training.refit_epochs`: number of labels that a step draws beside the positives of its batch; "
        "their terms are scaled up, so that the sum over labels keeps its expectation. `null`: all labels.",
    )

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if value == "all-labels":
            raise ValueError(
                "the softmax over all labels is a method: set `method: all-labels`, or `preset: all-labels`"
            )
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Loss:
        if self.margin_min > self.margin_max:
            raise ValueError("loss.margin_min must not exceed loss.margin_max")
        return self


class Mining(Strict):
    """NGAME batches: groups of similar queries, concatenated at random."""

    start: Natural = Field(
        10, description="First epoch (from 0) with clustering, at its `cluster`; earlier batches are random."
    )
    update: Count = Field(5, description="Number of epochs between two clusterings.")
    size: Count = Field(16, description="Queries per group at the start.")
    double_at: list[Natural] = Field(
        [20, 40, 60, 80, 100, 120],
        max_length=64,
        description="Epochs at which the size doubles, effective at the next clustering.",
    )
    cluster: Literal["start", "end"] = Field(
        "start",
        description="Cluster queries at the `start` of an epoch, for that epoch, or at its `end`, for the next one. With `end`, "
        "the first mined epoch is `start` + 1, and doublings come one epoch later, too (docs/deviations.md D24).",
    )
    groups: Literal["exact", "power-of-two"] = Field(
        "exact",
        description="Queries / `size`, rounded up (`exact`), or the next power of two (docs/deviations.md D25).",
    )


class Optimizer(Strict):
    """AdamW with linear decay."""

    lr: Rate = Field(5e-4, description="Peak learning rate of the language model.")
    lr_new: Rate = Field(5e-4, description="Peak learning rate of image projection, free vectors, prototype network.")
    lr_labels: Rate = Field(
        5e-3, description="Peak learning rate of the label vectors of `all-labels` and `training.refit_epochs`."
    )
    weight_decay: Weight = Field(0.01, description="Weight decay of the parameters that `weight_decay_on` selects.")
    weight_decay_on: Literal["matrices", "all-but-layernorm"] = Field(
        "matrices",
        description="`matrices`: biases, norms, free vectors and label vectors do not decay. `all-but-layernorm`: norms do, unless their "
        "parameter is called `LayerNorm.weight`, so those of the prototype network and of DistilBERT's layers decay, "
        "too (docs/deviations.md D28).",
    )
    eps: Positive = Field(1e-6, description="AdamW epsilon.")
    warmup_steps: Natural = Field(100, description="Steps of linear warm-up.")
    warmup_from: Literal["first-step", "zero"] = Field(
        "first-step", description="First rate: the `first-step` of the ramp, or `zero` (docs/deviations.md D27)."
    )
    warmup_steps_new: Natural | None = Field(
        None,
        description="Steps of linear warm-up for the new parts; `null`: `warmup_steps`. With fewer steps, they learn before the "
        "language model does; otherwise, an untrained prototype network may pull all queries to one point "
        "(docs/deviations.md D4).",
    )
    clip_norm: Positive | None = Field(None, description="Clip the gradient's global norm; `null` does not clip.")


class TrainingBudget(Strict):
    """The training budget and how it is executed."""

    epochs: Natural = Field(150, description="Passes over the training queries; 0 keeps the model untrained.")
    refit_epochs: Natural = Field(
        0,
        description="Passes over the stored vectors of the training queries after the last epoch, which fit one vector per label "
        "against all labels (docs/deviations.md D34); 0: none.",
    )
    batch_size: int = Field(
        2048, ge=2, le=1_000_000, description="Queries per batch; each contributes one positive label."
    )
    positives: Literal["inverse-propensity", "uniform"] = Field(
        "inverse-propensity", description="How the one positive label of each query in the batch is drawn."
    )
    label_copies: Literal["merged", "kept"] = Field(
        "merged",
        description="A label drawn by several queries of a batch is one candidate (`merged`), or one per query (`kept`; "
        "docs/deviations.md D1).",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="`auto`: fp16 on a GPU, or bf16 with frozen bfloat16 weights; bf16 on processors with AVX-512 BF16 or AMX; "
        "fp32 elsewhere. The environment variable `VIXML_PRECISION` (fp32, bf16 or fp16) replaces `auto`. The "
        "manifest records the choice.",
    )
    validation: Fraction = Field(
        0.0, description="Share of *train* queries held out for diagnostics and tuning; test selects nothing."
    )
    validation_split: Seed = Field(
        0,
        description="Which share of the queries is held out: train is shuffled once, and each number takes the next share, so that "
        "shares 0 to `1 / validation - 1` have no query in common.",
    )
    checkpoint_minutes: float = Field(
        10.0,
        ge=1e-12,
        le=1e6,
        description="Minimum minutes between checkpoints; each epoch ends with one. Saving takes at most 1 % of the "
        "time.",
    )
    workers: Annotated[int, Field(ge=0, le=4096)] | None = Field(
        None,
        description="Processes that assemble batches; results do not depend on it. `null`: with a GPU one less than "
        "the job's threads, between one and four; otherwise none.",
    )
    items_at_once: Count | None = Field(
        None,
        description="Maximum number of queries and labels that are encoded together. A larger batch is encoded in "
        "parts, all but the last one twice: less memory with the same gradient (each part draws its own "
        "dropout). `null`: the whole batch. After running out of memory, set a smaller value to resume "
        "from the checkpoint.",
    )


class Start(Strict):
    """An earlier model of the same catalogue to start from; `vixml fit NAME --from MODEL` writes it."""

    folder: str = Field(description="Model folder of `vixml pack`.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of its `model.json`, which names every file.")


class RunRow(Strict):
    """Row of a run in tables."""

    label: str = Field("", description="The row's name, e.g. `MiniLM-L3`.")
    note: str = Field("", description="One sentence that a reader needs to know.")


class RunConfig(Strict):
    """One run. The defaults are the paper's encoder recipe with images (Table 3)."""

    reuse: str | None = Field(
        None,
        description="Use the trained model of another run of this dataset, and share its configuration: only `inference` and "
        "`row` may differ. Nothing is trained or encoded again.",
    )
    method: Method = Field(
        "PRIME",
        description="Base method (paper, Table 5). `PRIME`: prototype network. `NGAME`: text vectors alone. `DEXA`: text vector "
        "plus one free vector of the label's cluster. `all-labels`, ours: one vector per label, trained by a softmax over all labels "
        "(docs/deviations.md D34). `none`: nothing is trained, for baselines.",
    )
    modality: Literal["text", "text+image"] = Field("text+image", description="Input of the encoder.")
    encoder: Encoder = Encoder()
    images: Images = Images()
    prototype: Prototype = Prototype()
    loss: Loss = Loss()
    mining: Mining | None = Field(Mining(), description="`null`: random batches throughout.")
    optimizer: Optimizer = Optimizer()
    training: TrainingBudget = TrainingBudget()
    inference: Inference = Inference()
    start: Start | None = Field(
        None,
        description="Start from an earlier model instead of the published one: language model, image projection, prototype network, "
        "and the free vectors or label vectors of labels with the same text.",
    )
    row: RunRow = RunRow()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.method == "none" and self.training.epochs:
            raise ValueError("method 'none' has nothing to train: set training.epochs to 0")
        how = self.inference
        for name in ("image_weight", "lexical_weight"):
            if getattr(how, name) and how.method not in ("knn", "local-ridge", "chosen"):
                raise ValueError(f"inference.{name} is for inference.method 'knn', 'local-ridge' and 'chosen' only")
        if how.method in ("local-ridge", "chosen") and how.ridge.prototype_weight and not self.has_prototypes:
            raise ValueError(
                f"method {self.method!r} has no prototypes: set inference.ridge.prototype_weight to 0, "
                "and text_weight above 0"
            )
        if how.chosen_on and how.method != "chosen":
            raise ValueError("inference.chosen_on is for inference.method 'chosen' only")
        if self.searches_labels and self.inference.labels_as == "z" and not self.has_prototypes:
            raise ValueError(f"method {self.method!r} has no prototypes to search: set inference.labels_as to 'u'")
        if self.training.precision == "fp16" and self.encoder.frozen_weights == "bfloat16":
            raise ValueError(
                "frozen weights in bfloat16 cannot be computed with in fp16: set training.precision to bf16"
            )
        # A run that trains nothing may stand beside trained ones in a file, whose `base` sets them.
        if self.loss.text_weight and self.method not in ("all-labels", "none"):
            raise ValueError(f"loss.text_weight is for method 'all-labels', not for {self.method!r}: set it to 0")
        if self.loss.sampled_labels and not self.learns_vectors and self.method != "none":
            raise ValueError(f"loss.sampled_labels is for method 'all-labels', not for {self.method!r}: set it to null")
        if self.method == "all-labels" and self.training.refit_epochs:
            raise ValueError("method 'all-labels' learns label vectors in training: set training.refit_epochs to 0")
        if self.method == "all-labels" and self.loss.text_weight == 0 and self.training.label_copies == "kept":
            raise ValueError(
                "training.label_copies: a step of method 'all-labels' encodes no labels; leave it at merged"
            )
        if self.encoder.label_template is not None and self.training.epochs:
            raise ValueError("encoder.label_template is for embedders off the shelf: set training.epochs to 0")
        if self.uses_images and self.images.fusion == "early":
            for name in ("template", "label_template"):
                value = getattr(self.encoder, name)
                if value is not None and not has_field(value, "images"):
                    raise ValueError(f"encoder.{name} has no {{images}}, but the run reads images: {value!r}")
        return self

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings of this run that a stage obeys, as JSON values; a change of any other reruns nothing.

        The stage is ``train`` or ``predict``; what encoding obeys is part of the training.
        """
        if stage == "predict":
            # All else about the run shows in the hashes of what a prediction reads.
            reads_images = self.needs_encoder and self.inference.image_weight > 0
            return self.model_dump(mode="json", include={"inference", "images"} if reads_images else {"inference"})
        # Neither how labels are searched nor how a training is carried out is part of what it learns.
        left_out = {"row": True, "inference": True, **CARRIED_OUT}
        left_out["start"] = {"folder"} if self.start else True  # where it lies is no setting
        return self.model_dump(mode="json", exclude=left_out | ({} if self.uses_images else {"images": True}))

    @property
    def uses_images(self) -> bool:
        """Return whether the encoder reads images."""
        return self.modality == "text+image"

    @property
    def has_prototypes(self) -> bool:
        """Return whether labels have vectors ``z`` beside their text vectors ``u``."""
        return self.method in ("PRIME", "DEXA") or self.learns_vectors

    @property
    def learns_vectors(self) -> bool:
        """Return whether each label has a vector of its own, learned against all labels."""
        return self.method == "all-labels" or self.training.refit_epochs > 0

    @property
    def searches_labels(self) -> bool:
        """Return whether inference reads label vectors."""
        return self.inference.method in ("label-search", "retrieval-augmented")

    @property
    def needs_encoder(self) -> bool:
        """Return whether inference needs encoded vectors at all."""
        return self.inference.method not in ("popularity", "linear") and not self.is_peer

    @property
    def is_peer(self) -> bool:
        """Return whether inference is other software, fitted to texts."""
        return self.inference.method in PEERS

    @property
    def needs_embeddings(self) -> bool:
        """Return whether any part of the run reads image vectors."""
        return self.needs_encoder and (self.uses_images or self.inference.image_weight > 0)


@dataclass(frozen=True)
class SeededRun:
    """One resolved run of a dataset with one seed of everything random."""

    dataset: str
    run: str
    seed: int
    config: RunConfig

    def __str__(self) -> str:
        return f"{self.run} seed {self.seed}"

    @property
    def names(self) -> dict[str, Any]:
        """Return dataset, run and seed, for a record."""
        return {"dataset": self.dataset, "run": self.run, "seed": self.seed}

    @property
    def resolved(self) -> dict[str, Any]:
        """Return the names and the resolved configuration, for a manifest."""
        return self.names | self.config.model_dump()
