"""What one run asks of a machine, counted from its configuration: operations, memory, files (docs/cost.md). No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from vixml.config.run import RunConfig
from vixml.config.world import Counts, World
from vixml.errors import VixmlError
from vixml.reproduce.assumptions import TEXTS, UNKNOWN, WATCHED
from vixml.reproduce.shapes import Item, Shape, clustering_flop, items_of, layer_weights, shape_of

TABLES = 8  # tables of queries x labels that losses and their gradients hold at once
RESERVE = 1.5e9  # what a process holds before any work: libraries, a GPU's context


@dataclass(frozen=True)
class Job:
    """One run of one dataset.

    Attributes:
        config: the run.
        counts: sizes of the dataset.
        shape: of its language model.
        causal: whether that is a decoder.
        query: the average query.
        label: the average label.
        image_dim: length of an image vector.
        pairs: true pairs of the training queries.
    """

    config: RunConfig
    counts: Counts
    shape: Shape
    causal: bool
    query: Item
    label: Item
    image_dim: int
    pairs: float

    @classmethod
    def of(cls, world: World, dataset: str, config: RunConfig) -> Job:
        """Look up what a run needs.

        Raises:
            VixmlError: a dataset without counts, or a language model whose architecture is not known.
        """
        entry, model = world.datasets[dataset], world.text_models[config.encoder.model]
        if entry.expect is None:
            raise VixmlError(
                "the cost of a dataset without counts cannot be told",
                where=f"datasets.{dataset}.expect",
                found="nothing",
                hint="give n_train, n_test and n_labels: after build-corpus, counts.json in its folder has them",
            )
        causal = model.attention == "causal"
        query, label = items_of(dataset, entry, config, causal)
        shape = shape_of(config.encoder.model, model, config.encoder.layers)
        each = TEXTS.get(dataset, UNKNOWN).labels_per_query or float(entry.facts.get("avg_labels_per_query", 1.0))
        dim = world.vision_models[config.images.vision].dim
        return cls(config, entry.expect, shape, causal, query, label, dim, each * entry.expect.n_train)

    # -- sizes ----------------------------------------------------------------------------------------------------

    @cached_property
    def trained_queries(self) -> int:
        """Return how many training queries are not held out."""
        return self.counts.n_train - self.held_out

    @cached_property
    def held_out(self) -> int:
        """Return how many training queries are held out."""
        return round(self.counts.n_train * self.config.training.validation)

    @cached_property
    def batch(self) -> int:
        """Return the queries of a batch: fewer than configured only where there are no more."""
        return min(self.config.training.batch_size, self.trained_queries)

    @cached_property
    def batch_labels(self) -> float:
        """Return the mean labels of a full batch: one per query, or the distinct ones (docs/deviations.md D1).

        As if drawn evenly from all; a draw that favours some has fewer distinct ones.
        """
        n = self.counts.n_labels
        if self.config.training.label_copies == "kept":
            return float(self.batch)
        return n * -math.expm1(self.batch * math.log1p(-1 / n)) if n > 1 else 1.0

    @cached_property
    def stored_only(self) -> bool:
        """Return whether training reads stored vectors: the encoder is frozen and nothing in front of it learns."""
        return self.config.encoder.train == "frozen" and not self.config.uses_images

    @cached_property
    def free_vectors(self) -> int:
        """Return the parameters of the free vectors."""
        rows = min(self.config.prototype.free_vectors, self.counts.n_labels) if self.config.has_prototypes else 0
        return rows * self.shape.hidden

    @cached_property
    def rank(self) -> int:
        """Return the rank of the adapters; 0 without."""
        return self.config.encoder.lora.r if self.config.encoder.train == "lora" else 0

    @cached_property
    def trainable(self) -> int:
        """Return the parameters that learn."""
        d, found = self.shape.hidden, self.free_vectors
        if self.config.encoder.train == "full":
            found += self.shape.parameters
        found += self.shape.layers * self.shape.adapters(self.rank)
        if self.config.method == "PRIME":
            found += layer_weights(d, self.config.prototype.feedforward)
        if self.config.uses_images:
            found += self.image_dim * d
            if self.config.images.fusion == "late":
                found += layer_weights(d, self.config.images.late.feedforward)
        return found

    # -- operations -----------------------------------------------------------------------------------------------

    def encode(self, item: Item, *, train: bool = False) -> float:
        """Return the operations of encoding one item, with its share of a training step's backward pass.

        A forward pass takes 2 operations a weight and token. Going back takes 2 for the gradient of what entered and 2
        for that of the weight: the latter for what learns only. Gradient checkpointing adds a forward pass.
        """
        shape, encoder, late = self.shape, self.config.encoder, self.config.images.fusion == "late"
        linear = 2 * shape.layers * shape.linear * item.own
        adapters = 2 * shape.layers * shape.adapters(self.rank) * item.own
        attention = shape.layers * shape.attention(item.own, item.seen)
        projection = 2 * self.image_dim * shape.hidden * item.images
        fusion = 0.0
        if self.config.uses_images and late:
            tokens = 1 + item.images
            fusion = 2 * layer_weights(shape.hidden, self.config.images.late.feedforward) * tokens
            fusion += 4 * shape.hidden * tokens**2
        if not train:
            return linear + adapters + attention + projection + fusion
        again = 1 if encoder.gradient_checkpointing else 0
        if encoder.train == "full":
            passes, others = 3 + again, 3 + again
        elif encoder.train == "lora" or (self.config.uses_images and not late):
            passes, others = 2 + again, 3 + again
        else:
            passes, others = 1, 1
        return passes * linear + others * (adapters + attention) + 2 * projection + 3 * fusion

    @cached_property
    def prototype(self) -> float:
        """Return the operations of one label's prototype: a layer over three tokens."""
        if self.config.method != "PRIME":
            return 0.0
        return 6 * layer_weights(self.shape.hidden, self.config.prototype.feedforward) + 36 * self.shape.hidden

    @cached_property
    def all_labels(self) -> float:
        """Return the operations of encoding all labels."""
        return self.counts.n_labels * self.encode(self.label)

    @cached_property
    def step_flop(self) -> float:
        """Return the operations of all training steps: queries, labels, prototypes, table of scores."""
        batches = self.trained_queries / max(1, self.batch)  # the last one may be a part
        text = 0.0 if self.stored_only else 1.0
        one = self.batch * self.encode(self.query, train=True) * text
        one += self.batch_labels * (self.encode(self.label, train=True) * text + 3 * self.prototype)
        one += (2 if self.config.has_prototypes else 1) * 6 * self.batch * self.batch_labels * self.shape.hidden
        return self.config.training.epochs * batches * one

    @cached_property
    def watch_flop(self) -> float:
        """Return the operations around the steps: all items once at the start; labels and held-out queries each epoch;
        the training queries once more for the last centroids."""
        if not self.config.training.epochs:
            return 0.0
        start = self.counts.n_train * self.encode(self.query) + self.all_labels
        held, vectors = self.held_out, self.counts.n_labels * (3 if self.config.method == "PRIME" else 2)
        labels = self.counts.n_labels if held else min(self.counts.n_labels, WATCHED)
        each = labels * self.prototype
        each += 2 * held * (vectors + self.trained_queries) * self.shape.hidden
        if not self.stored_only:
            each += labels * self.encode(self.label) + held * self.encode(self.query)
        encoded = self.config.method == "PRIME" and self.config.prototype.last_centroids == "encoded"
        end = self.trained_queries * self.encode(self.query) if encoded and not self.stored_only else 0.0
        return start + self.config.training.epochs * each + end

    @cached_property
    def centroid_flop(self) -> float:
        """Return the operations of the centroids, before the first epoch and after each."""
        epochs = self.config.training.epochs
        return 2.0 * self.pairs * self.shape.hidden * (epochs + 1) if epochs and self.config.method == "PRIME" else 0.0

    @cached_property
    def cluster_flop(self) -> float:
        """Return the operations of balanced 2-means: groups for mining, clusters for free vectors."""
        training, mining, d = self.config.training, self.config.mining, self.shape.hidden
        if not training.epochs:
            return 0.0
        found = 0.0
        if self.config.has_prototypes:
            found += clustering_flop(self.counts.n_labels, self.free_vectors // d, d)
        if mining is not None:
            last = training.epochs - (mining.cluster == "end")  # nothing is clustered behind the last epoch
            for epoch in range(mining.start, last, mining.update):
                found += clustering_flop(self.trained_queries, mining.n_groups(self.trained_queries, epoch), d)
        return found

    @cached_property
    def host_flop(self) -> float:
        """Return what is bound by memory: centroids and 2-means."""
        return self.centroid_flop + self.cluster_flop

    @cached_property
    def index_flop(self) -> float:
        """Return the operations of encoding all queries and labels, once trained."""
        queries = self.counts.n_train + self.counts.n_test
        return queries * self.encode(self.query) + self.all_labels + self.counts.n_labels * self.prototype

    @cached_property
    def search_flop(self) -> float:
        """Return the operations of searching every test query's neighbours."""
        how, counts, width = self.config.inference, self.counts, self.shape.hidden
        among = {
            "label-search": counts.n_labels,
            "retrieval-augmented": counts.n_labels + counts.n_train,
            "knn": counts.n_train,
            "popularity": 0,
        }[how.method]
        width += self.image_dim if how.image_weight else 0
        return 2.0 * counts.n_test * among * width

    # -- memory ---------------------------------------------------------------------------------------------------

    @cached_property
    def weight_bytes(self) -> float:
        """Return what the language model's own weights take on the device."""
        wide = self.config.encoder.train == "full" or self.config.encoder.weights == "float32"
        kept = 4.0 * self.shape.parameters if wide else 2.0 * self.shape.parameters
        # Autocast keeps a half-precision copy of the wide weights that it multiplies with.
        half = wide and self.config.training.precision != "fp32"
        return kept + (2.0 * self.shape.layers * self.shape.linear if half else 0.0)

    @cached_property
    def label_buffers(self) -> float:
        """Return what is kept of every label beside the model: centroid, cluster."""
        each = 4 * self.shape.hidden + 1 if self.config.method == "PRIME" else 0
        return float(self.counts.n_labels * (each + (8 if self.config.has_prototypes else 0)))

    @cached_property
    def activation_bytes(self) -> float:
        """Return what a training step keeps for its backward pass."""
        late_frozen = self.config.encoder.train == "frozen" and self.config.images.fusion == "late"
        if self.stored_only or late_frozen or not self.config.training.epochs:
            return 0.0
        total = 0.0
        for item, n in ((self.query, self.batch), (self.label, self.batch_labels)):
            one, layers = self.shape.saved(item.seen, self.rank), self.shape.layers
            kept = layers * self.shape.hidden + one if self.config.encoder.gradient_checkpointing else layers * one
            total += n * item.own * kept
        return total * (4 if self.config.training.precision == "fp32" else 2)

    @cached_property
    def device_bytes(self) -> float:
        """Return the peak on the device: weights, what learns (with gradient and AdamW's two moments), activations, scores."""
        own = self.shape.parameters if self.config.encoder.train == "full" else 0
        found = RESERVE + self.weight_bytes + self.label_buffers + 4.0 * (self.trainable - own)
        if self.config.training.epochs:
            scores = 4.0 * TABLES * self.batch * self.batch_labels
            found += 12.0 * self.trainable + self.activation_bytes + scores
        return found

    @cached_property
    def host_bytes(self) -> float:
        """Return the peak in main memory: vectors of all queries and labels, raw and normalised; tokens; true pairs."""
        vectors = 8.0 * self.shape.hidden * (self.counts.n_train + self.counts.n_labels)
        loading = 4.0 * self.shape.parameters
        return RESERVE + max(loading, vectors + 16 * self.pairs) + self.token_bytes

    # -- files ----------------------------------------------------------------------------------------------------

    @cached_property
    def token_bytes(self) -> float:
        """Return the size of the tokens of all texts: int32 ids, int64 offsets."""
        queries = self.counts.n_train + self.counts.n_test
        return queries * (4 * self.query.text + 8) + self.counts.n_labels * (4 * self.label.text + 8)

    @cached_property
    def model_bytes(self) -> float:
        """Return the size of a trained model: what learned, and what is kept of every label."""
        return 4.0 * self.trainable + self.label_buffers

    @cached_property
    def checkpoint_bytes(self) -> float:
        """Return the size of the checkpoint that lies beside the model until it is trained."""
        return self.model_bytes + 8.0 * self.trainable + 4.0 * self.shape.hidden * self.counts.n_train

    @cached_property
    def index_bytes(self) -> float:
        """Return the size of the vectors of all queries and labels (twice, with prototypes), float32."""
        labels = self.counts.n_labels * (2 if self.config.has_prototypes else 1)
        return 4.0 * self.shape.hidden * (self.counts.n_train + self.counts.n_test + labels)

    @cached_property
    def prediction_bytes(self) -> float:
        """Return the size of the predictions: an int32 id and a float32 score each."""
        return 8.0 * self.counts.n_test * self.config.inference.top_k
