"""Compare trials of training that are no options with ``all-labels``, on queries held out of PICTO's train (D34).

Trials replace functions of `vixml.training.train`; data, held-out queries and searches are those of `label_vectors.py`, whose
results of PRIME are compared too. Trainings make no report between epochs. Test data is not read.

    averaged      means of the weights over steps, of the training `all-labels`; `flat`: of one whose rates do not decay
    distilled     half of the loss is a softmax cross-entropy with local ridge votes of the trained model `all-labels`, each query
                  left out of its own votes; `distilled-folds`: of two models, each trained on the other half of the queries
    no-image      a query's images are left out of a batch with that probability
    encoded       label vectors are text vectors plus a vector that starts at 0
    bce           a binary cross-entropy of each pair instead of the softmax, from the log-odds of the batch
    epochs-20     twice as many epochs
    minilm-l6, smollm2     other encoders

    python benchmarks/training_trials.py text all-labels 0   # modality, trial, split: adds to the results
    python benchmarks/training_trials.py                     # prints paired differences from all-labels, pooled over splits
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import label_vectors
import measure
import numpy as np
import torch
from label_vectors import ALL, PRIMES, add, opened, paired_table, scores, trained
from torch import Tensor
from torch.nn import functional as F

from vixml.config.load import load_runs, merge
from vixml.config.run import Inference
from vixml.files import read_json
from vixml.models.encode import encode_items
from vixml.retrieval.ridge import ridge_weights
from vixml.retrieval.search import search
from vixml.retrieval.vote import Votes
from vixml.runtime import generator
from vixml.training import train
from vixml.training.all_labels import label_loss
from vixml.training.batches import Batch, EpochBatches
from vixml.training.train import State, Training

OUT = measure.RESULTS / "training_trials.json"
NO_IMAGE = 100  # purpose of its random numbers, beside those of vixml.runtime
L6 = {"encoder": {"model": "minilm-l6"}}
TRIALS: dict[str, dict[str, Any]] = {  # what differs from ALL
    "all-labels": {},  # and averaged, distilled
    "flat": {},  # and averaged
    "distilled-folds": {},
    "no-image-0.1": {},
    "no-image-0.3": {},
    "encoded": {"loss": {"text_weight": 1.0}},  # so that batches hold the texts of their labels; its loss is replaced
    "bce": {},
    "epochs-20": {"training": {"epochs": 20}},
    "minilm-l6": L6,
    "smollm2": {"mining": None},  # the decoder of config/presets/picto-decoder.yaml
    "minilm-l6-lr2e-4": L6 | {"optimizer": {"lr": 2e-4}},
}


def trained_in(training: Training, **replaced: Callable[..., Any]) -> None:
    """Train with some functions of the loop replaced."""
    with patch.multiple(train, epoch_report=lambda *_: None, **replaced):
        trained(training)


class Averages:
    """Means of the trained parameters over steps: exponential, and over the second half of the epochs."""

    def __init__(self, training: Training) -> None:
        half = training.total_steps // 2
        self.rates: dict[str, Callable[[int], float]] = {
            "averaged-0.95": lambda step: 0.05 / (1 - 0.95**step),
            "averaged-0.99": lambda step: 0.01 / (1 - 0.99**step),
            "averaged-last-half": lambda step: 1 / max(step - half, 1),
        }
        self.now = [p.detach() for p in training.model.parameters() if p.requires_grad]
        self.means = {name: [torch.zeros_like(p) for p in self.now] for name in self.rates}
        self.steps, self.step = 0, train.train_step

    def train_step(self, training: Training, state: State, batch: Batch) -> Tensor:
        """Take a step, then add the weights to the means."""
        loss = self.step(training, state, batch)
        self.steps += 1
        for name, rate in self.rates.items():
            torch._foreach_lerp_(self.means[name], self.now, rate(self.steps))
        return loss

    def use(self, name: str) -> None:
        """Set the model to a mean."""
        torch._foreach_copy_(self.now, self.means[name])


def without_images(share: float) -> Callable[..., EpochBatches]:
    """Return an ``epoch_batches`` that leaves out the images of a random share of the queries, others in each epoch."""

    def epoch_batches(training: Training, state: State) -> EpochBatches:
        queries = training.data.queries
        dropped = generator(training.seed, NO_IMAGE, state.epoch).random(len(queries)) < share
        queries = replace(queries, images=queries.images.select(~dropped[queries.images.row_ids()]))
        return EpochBatches(replace(training.data, queries=queries), training.config, training.seed, state.epoch)

    return epoch_batches


def binary_loss(training: Training, batch: Batch, queries: Tensor, _: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the binary cross-entropy of all pairs per true pair, as ``batch_loss`` does; it starts at the batch's log-odds."""
    candidates, vectors = batch.candidates, training.model.vectors
    if candidates.labels is not None:
        vectors = F.embedding(torch.from_numpy(candidates.labels), vectors)
    scores = queries @ F.normalize(vectors, dim=1).T / training.config.loss.temperature
    true = torch.zeros_like(scores)
    true[tuple(torch.from_numpy(candidates.pairs).T)] = 1
    total = F.binary_cross_entropy_with_logits(scores + true.mean().logit(), true, reduction="sum")
    return total / len(candidates.pairs), {"bce": total}


class Encoded:
    """Label vectors that are text vectors plus a vector that starts at 0.

    Gradients reach the encoder through the labels that a batch encodes; the others' text vectors are made anew every fourth step.
    """

    def __init__(self) -> None:
        self.texts, self.step = torch.zeros(0), train.train_step

    def train_step(self, training: Training, state: State, batch: Batch) -> Tensor:
        """Take a step; every fourth time encode all labels first."""
        if state.step_in_epoch % 4 == 0:
            self.encode(training)
        return self.step(training, state, batch)

    def encode(self, training: Training) -> None:
        """Make all text vectors anew."""
        self.texts = F.normalize(encode_items(training.model, training.data.labels, training.precision), dim=1)

    def start_vectors(self, training: Training, _: Tensor, __: np.ndarray | None, label_u: Tensor) -> None:
        """Start each label's own vector at 0."""
        self.texts = F.normalize(label_u, dim=1)
        training.model.vectors.detach().zero_()
        training.model.has_vector.copy_(torch.from_numpy(training.data.used_truth.counts() > 0))

    def batch_loss(self, training: Training, batch: Batch, queries: Tensor, u_labels: Tensor) -> tuple[Tensor, dict]:
        """Return the softmax loss against all labels that have training queries."""
        vectors = self.texts.index_copy(0, torch.from_numpy(batch.labels), F.normalize(u_labels.float(), dim=1))
        vectors = vectors + training.model.vectors
        loss = label_loss(queries, vectors, batch.candidates, training.config.loss.temperature)
        return loss, {"q_z": loss}

    @torch.no_grad()
    def finish(self, training: Training) -> None:
        """Set label vectors to those that were trained."""
        self.encode(training)
        training.model.vectors.add_(self.texts)


def votes_of_others(training: Training, rows: np.ndarray, voters: np.ndarray) -> Tensor:
    """Return the local ridge votes of training queries, each left out of its own: (n_train, n_labels) float32, rows sum to 1.

    Args:
        training: a trained run.
        rows, voters: (n,), (v,) int64 rows of train that get votes (those of others are 0), and that vote: more than 100.
    """
    data, how = training.data, Inference(method="local-ridge").ridge
    unit = F.normalize(encode_items(training.model, data.queries, training.precision), dim=1).numpy()
    nearest, cosines = search(unit[rows], unit[voters], how.neighbours + 1)
    last = np.argsort(voters[nearest] == rows[:, None], axis=1, kind="stable")[:, :-1]
    nearest, cosines = (np.take_along_axis(array, last, axis=1) for array in (nearest, cosines))
    weights = ridge_weights(nearest, cosines, unit[voters], how, training.device)
    votes = Votes.cast(nearest, weights, data.truth.take(voters)).summed(data.truth.n_cols, None)
    targets = np.zeros((len(data.truth), data.truth.n_cols), dtype=np.float32)
    targets[rows[votes.rows], votes.labels] = np.maximum(votes.weights, 0)
    return F.normalize(torch.from_numpy(targets), p=1, dim=1)


def votes_of_folds(training: Callable[[], Training]) -> Tensor:
    """Return votes as :func:`votes_of_others`, of models that have not seen the query: each is trained on the other half."""
    rows = training().data.rows
    is_first = np.random.default_rng(training().seed).permutation(len(rows)) < len(rows) // 2
    targets = []
    for half in (rows[is_first], rows[~is_first]):
        fold = training()
        fold = replace(fold, data=replace(fold.data, rows=half))
        trained_in(fold)
        targets.append(votes_of_others(fold, np.setdiff1d(rows, half), half))
    return sum(targets)


def distilling(targets: Tensor) -> Callable[..., tuple[Tensor, dict]]:
    """Return a ``batch_loss`` whose half is the softmax cross-entropy with targets."""
    hard_loss = train.batch_loss

    def batch_loss(training: Training, batch: Batch, queries: Tensor, u_labels: Tensor) -> tuple[Tensor, dict]:
        hard, terms = hard_loss(training, batch, queries, u_labels)
        labels = torch.from_numpy(training.data.trained_labels)
        logits = queries @ F.normalize(training.model.vectors[labels], dim=1).T / training.config.loss.temperature
        soft = F.cross_entropy(logits, targets[torch.from_numpy(batch.queries)][:, labels])
        return (hard + soft) / 2, terms | {"soft": soft}

    return batch_loss


def tried(modality: str, trial: str, split: int, results: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the forms of a trial when each is trained: name, processor seconds, and what :func:`scores` reads."""
    change = merge(ALL, TRIALS[trial])
    if trial == "smollm2":
        decoder = load_runs("config")["picto", f"{modality}-smollm2"].model_dump()
        change = merge(decoder, merge(change, {"training": {"validation": 0.15, "validation_split": split}}))
    training, *pairs = opened(modality, change, split, 0, results)
    started, hooks = time.process_time(), {}
    if trial.startswith("no-image"):
        hooks["epoch_batches"] = without_images(float(trial.rpartition("-")[2]))
    elif trial == "encoded":
        form = Encoded()
        hooks = {name: getattr(form, name) for name in ("train_step", "batch_loss", "start_vectors")}
    elif trial == "bce":
        hooks["batch_loss"] = binary_loss
    elif trial == "distilled-folds":
        hooks["batch_loss"] = distilling(votes_of_folds(lambda: opened(modality, change, split, 0, results)[0]))
    elif trial in ("all-labels", "flat"):
        means = Averages(training)
        hooks["train_step"] = means.train_step
        if trial == "flat":
            hooks["learning_rate_factor"] = lambda step, warmup, *_: min((step + 1) / warmup, 1)
    trained_in(training, **hooks)
    if trial == "encoded":
        form.finish(training)
    seconds = time.process_time() - started
    yield trial, seconds, training, *pairs
    if trial == "all-labels":
        student, started = opened(modality, change, split, 0, results)[0], time.process_time()
        trained_in(student, batch_loss=distilling(votes_of_others(training, training.data.rows, training.data.rows)))
        yield "distilled", seconds + time.process_time() - started, student, *pairs
    for name in means.rates if trial in ("all-labels", "flat") else ():
        means.use(name)
        yield name if trial == "all-labels" else f"{trial}-{name}", seconds, training, *pairs


def compared() -> list[dict[str, Any]]:
    """Return the results of trials, and those of PRIME in both forms with their refits."""
    primes = [row for row in read_json(label_vectors.OUT)["forms"] if row["form"].removesuffix("-refit-30") in PRIMES]
    return read_json(OUT)["forms"] + primes


def main() -> None:
    """Run one trial, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality", nargs="?", choices=["text", "vixml"])
    parser.add_argument("trial", nargs="?", choices=TRIALS)
    parser.add_argument("split", nargs="?", type=int, choices=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("results"), help="where PICTO was built")
    given = parser.parse_args()
    if given.modality:
        same = {"modality": given.modality, "split": given.split}
        for name, seconds, training, *pairs in tried(given.modality, given.trial, given.split, given.results):
            found = {"precision": training.precision, "seconds": seconds, "found": scores(training, *pairs)}
            add(OUT, "training_trials", [{**same, "form": name, **found}])
    print(paired_table(compared()))


if __name__ == "__main__":
    main()
