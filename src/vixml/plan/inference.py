"""Operations and memory of ranking labels: searches, votes, a linear model, and the choice of a method. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vixml.config.limits import LINEAR_TERMS
from vixml.data.lexical import DIM

if TYPE_CHECKING:
    from vixml.plan.cost import PlannedRun

# Constants of vixml.retrieval, which needs torch; a test reads them there.
COEFFICIENTS = 1 << 25  # of a linear model, at most
PANEL = 1 << 11  # columns of its system that are computed together
TABLES, GPU_TABLES = 512 * 2**20, 8192 * 2**20  # bytes of a search's temporary tables, in main memory and on a GPU
RIDGE_ON_GPU = 1.5 * 2**30  # bytes of neighbours in float64 and as they were read, and of kernel matrices
TRIALS = 25  # of a choice: seven methods, and two neighbours of each of nine constants
TERMS_OF_A_TEXT = 100  # of a short one, words and character n-grams
TERM = 32  # bytes of a term while a linear model is fitted: value and column, in float32, in float64 and transposed
SETS = 4  # of vectors with images or hashed terms that a choice holds: two weights, a third, and its rows before a copy


@dataclass(frozen=True)
class Ranking:
    """Cost of ranking labels for all test queries, as ``inference`` of a run says."""

    job: PlannedRun

    @property
    def method(self) -> str:
        """Return the method; of a run that chooses, the one it starts from."""
        method = self.job.config.inference.method
        return "local-ridge" if method == "chosen" else method

    @cached_property
    def label_vectors(self) -> int:
        """Return how many vectors of each label are searched."""
        ridge = self.job.config.inference.ridge
        if self.method == "local-ridge":
            return (ridge.prototype_weight > 0) + (ridge.text_weight > 0)
        return int(self.job.config.searches_labels)

    @property
    def votes(self) -> bool:
        """Return whether training queries vote."""
        return self.method in ("retrieval-augmented", "local-ridge", "knn")

    @property
    def neighbours(self) -> int:
        """Return the training queries that vote on a query."""
        how = self.job.config.inference
        asked = {
            "retrieval-augmented": how.retrieved_queries,
            "local-ridge": how.ridge.neighbours,
            "knn": how.neighbours,
        }
        return min(asked.get(self.method, 0), self.job.counts.n_train)

    @property
    def appended(self) -> int:
        """Return the length of what is appended to a text vector before training queries are compared: images, hashed terms."""
        how = self.job.config.inference
        return (self.job.image_dim if how.image_weight else 0) + (DIM if how.lexical_weight else 0)

    @property
    def system(self) -> int:
        """Return the size of a linear model's system of equations, the smaller of its terms and its texts; 0 without one."""
        linear = self.method == "local-ridge" and self.job.config.inference.ridge.linear_weight > 0
        return min(self.terms, self.job.counts.n_train) if linear or self.method == "linear" else 0

    @property
    def terms(self) -> int:
        """Return the terms that have coefficients in a linear model."""
        return min(LINEAR_TERMS, COEFFICIENTS // self.job.counts.n_labels)

    # -- operations -----------------------------------------------------------------------------------------------

    @property
    def repeated(self) -> float:
        """Return how often the test queries are ranked: once, and more for the trials of a choice on held-out queries.

        At most: trials share searches.
        """
        return 1 + TRIALS * self.choosing / self.job.counts.n_test

    @property
    def splits(self) -> int:
        """Return the number of trainings whose held-out queries inference may be chosen on."""
        return len(self.job.config.inference.chosen_on) or 1

    @property
    def choosing(self) -> int:
        """Return the number of queries that inference is chosen on; all of train at most, where other runs hold them out."""
        how = self.job.config.inference
        queries = self.job.counts.n_train if how.chosen_on else self.job.held_out
        return queries if how.method == "chosen" else 0

    @property
    def search_flop(self) -> float:
        """Return the operations of exact search, and of each query's kernel matrix and its decomposition."""
        counts, width = self.job.counts, self.job.shape.hidden
        voting = width + self.appended
        one = 2.0 * counts.n_labels * self.label_vectors * width
        one += 2.0 * counts.n_train * voting if self.votes else 0.0
        if self.method == "local-ridge":
            one += 2.0 * self.neighbours**2 * voting + self.neighbours**3 / 3
        return self.repeated * counts.n_test * one

    @property
    def n_votes(self) -> float:
        """Return the votes that are summed: one for each label of each neighbour."""
        counts = self.job.counts
        return self.repeated * counts.n_test * self.neighbours * self.job.pairs / counts.n_train

    @property
    def linear_flop(self) -> float:
        """Return the operations of a linear model: its system solved for all labels, and the texts scored."""
        if not self.system:
            return 0.0
        counts, models = self.job.counts, 1 + (self.splits if self.choosing else 0)
        texts = self.repeated * counts.n_test + (models * counts.n_train if self.system == counts.n_train else 0)
        solved = self.system**3 / 3 + 2.0 * self.system**2 * counts.n_labels
        return models * solved + 2.0 * texts * TERMS_OF_A_TEXT * counts.n_labels

    # -- bytes ----------------------------------------------------------------------------------------------------

    @property
    def result_bytes(self) -> float:
        """Return the size of the predictions: an int32 id and a float32 score each."""
        return 8.0 * self.job.counts.n_test * self.job.config.inference.top_k

    @property
    def host_bytes(self) -> float:
        """Return the main memory: results of all searches, vectors that are not memory-mapped, a linear model, tables."""
        how, counts = self.job.config.inference, self.job.counts
        of_labels = how.retrieved_labels if self.method == "retrieval-augmented" else how.top_k
        kept = self.neighbours + (self.label_vectors * of_labels if self.votes else 0)
        found = 2 * self.result_bytes + 8.0 * counts.n_test * kept
        tables = TABLES if self.votes or self.label_vectors else 0
        return found + self.voting_bytes + max(tables, self.linear_bytes)

    @property
    def voting_bytes(self) -> float:
        """Return the size of vectors that are made for this search: with images or hashed terms, or without the held-out rows."""
        one = 4.0 * (self.job.shape.hidden + self.appended)
        if self.appended:
            sets = SETS * self.splits if self.choosing else 1
            return one * (self.job.counts.n_train * sets + self.job.counts.n_test)
        return one * self.job.counts.n_train * self.splits if self.choosing else 0.0

    @property
    def linear_bytes(self) -> float:
        """Return the memory of fitting a linear model: sparse terms, and the largest of three moments.

        The system beside a panel of it; beside its decomposition, with all right sides; beside the coefficients.
        """
        size, n_labels, texts = self.system, self.job.counts.n_labels, self.job.counts.n_train
        if not size:
            return 0.0
        panel = 4 * size**2 + 20 * size * min(size, PANEL)
        solved = 8 * size**2 + (8 if size == texts else 12) * size * n_labels
        found = 4 * size**2 + 4 * (size + self.terms) * n_labels
        others = 4 * (self.splits - 1) * self.terms * n_labels  # a choice keeps the models of all its trainings
        return float(TERM * TERMS_OF_A_TEXT * texts + max(panel, solved, found) + others)

    def device_bytes(self, memory: float) -> float:
        """Return the memory of a GPU with ``memory`` bytes free: vectors that fit into half of it, tables, kernel matrices.

        A search copies what it searches; local ridge votes hold label vectors and training queries beside it.
        """

        def resident(rows: float, width: float) -> float:
            size = 4.0 * rows * width
            return size if 2 * size <= memory else 0.0

        counts, width = self.job.counts, self.job.shape.hidden
        labels = resident(counts.n_labels, width) if self.label_vectors else 0.0
        voters = resident(counts.n_train, width + self.appended) if self.votes else 0.0
        if self.method != "local-ridge":
            return max(labels, voters) + (GPU_TABLES if self.votes or self.label_vectors else 0.0)
        held = labels * self.label_vectors
        return max(voters + GPU_TABLES, (held + labels + GPU_TABLES) if labels else 0.0, held + voters + RIDGE_ON_GPU)
