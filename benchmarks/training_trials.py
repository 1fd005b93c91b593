"""Compare trials of training that are no options with ``all-labels``, on queries held out of PICTO's train (D34).

Trials replace functions of `vixml.training.train`; data, held-out queries and searches are those of `label_vectors.py`, whose
results of PRIME are compared too. Trainings make no report between epochs. Test data is not read.

    averaged      the mean of weights over steps, of the training `all-labels` itself
    distilled     half of the loss is a softmax cross-entropy with local ridge votes of the trained model `all-labels`, each query
                  left out of its own votes; `distilled-folds`: of two models, each trained on the other half of the queries
    no-image      a query's images are left out of a batch with that probability
    encoded       label vectors are text vectors plus a vector that starts at 0; `encoded-u`: text vectors alone
    minilm-l6     a larger encoder

    python benchmarks/training_trials.py text all-labels 0   # modality, trial, split: adds to the results
    python benchmarks/training_trials.py                     # prints paired differences from all-labels, pooled over splits
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import label_vectors
import measure
import numpy as np
import torch
from label_vectors import ALL, opened, scores, trained
from torch import Tensor
from torch.nn import functional as F

from vixml.config.load import merge
from vixml.config.run import Inference
from vixml.files import read_json
from vixml.models.encode import encode_items
from vixml.ragged import Ragged
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
    "distilled-folds": {},
    "no-image-0.1": {},
    "no-image-0.3": {},
    "encoded": {"loss": {"text_weight": 1.0}},  # so that batches hold the texts of their labels; its loss is replaced
    "encoded-u": {"loss": {"text_weight": 1.0}},
    "encoded-every-step": {},
    "minilm-l6": L6,
    "minilm-l6-lr2e-4": L6 | {"optimizer": {"lr": 2e-4}},
}
MEASURES = {
    "z P@1": ("z", 0),
    "z P@5": ("z", 1),
    "u P@1": ("u", 0),
    "precise P@1": ("precise", 0),
    "P@5": ("precise", 1),
}


@contextmanager
def replaced(**functions: Callable[..., Any]) -> Iterator[None]:
    """Replace functions of the training loop, and the reports between epochs by nothing."""
    with patch.multiple(train, epoch_report=lambda *_: None, **functions):
        yield


class Averages:
    """Means of the trained parameters over steps: exponential, and over the second half of the epochs."""

    def __init__(self, training: Training) -> None:
        self.now = [p for p in training.model.parameters() if p.requires_grad]
        half, self.steps = training.total_steps // 2, 0
        self.rates: dict[str, Callable[[int], float]] = {
            "averaged-0.95": lambda step: 0.05 / (1 - 0.95**step),
            "averaged-0.99": lambda step: 0.01 / (1 - 0.99**step),
            "averaged-last-half": lambda step: 1 / max(step - half, 1),
        }
        self.means = {name: [torch.zeros_like(p) for p in self.now] for name in self.rates}

    @torch.no_grad()
    def count(self, loss: Tensor) -> Tensor:
        """Add the present weights to the means."""
        self.steps += 1
        for name, rate in self.rates.items():
            torch._foreach_lerp_(self.means[name], [p.detach() for p in self.now], rate(self.steps))
        return loss

    @torch.no_grad()
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


class EveryLabel(EpochBatches):
    """Batches that encode all labels."""

    def __getitem__(self, index: int) -> Batch:
        batch, labels = super().__getitem__(index), np.arange(len(self.data.labels))
        return replace(batch, labels=labels, parts=tuple(self._parts(batch.queries, labels)))


class Encoded:
    """Label vectors that are text vectors plus a vector that starts at 0.

    Gradients reach the encoder through the labels that a batch encodes; the others' text vectors are made anew every fourth step.
    """

    def __init__(self, free: bool) -> None:
        self.free, self.texts = free, torch.zeros(0)

    def hooks(self, every_label: bool) -> dict[str, Callable[..., Any]]:
        """Return the functions that replace those of the training loop."""
        hooks = {"batch_loss": self.batch_loss, "start_vectors": self.start_vectors}
        if every_label:
            return hooks | {"epoch_batches": lambda t, s: EveryLabel(t.data, t.config, t.seed, s.epoch)}
        step = train.train_step

        def train_step(training: Training, state: State, batch: Batch) -> Tensor:
            if state.step_in_epoch % 4 == 0:
                self.encode(training)
            return step(training, state, batch)

        return hooks | {"train_step": train_step}

    def encode(self, training: Training) -> None:
        """Make all text vectors anew."""
        self.texts = F.normalize(encode_items(training.model, training.data.labels, training.precision), dim=1)

    def start_vectors(self, training: Training, _: Tensor, __: np.ndarray | None, label_u: Tensor) -> None:
        """Start each label's own vector at 0."""
        self.texts = F.normalize(label_u, dim=1)
        training.model.vectors.detach().zero_()
        training.model.has_vector.copy_(torch.from_numpy(training.data.used_truth.counts() > 0))

    def batch_loss(
        self, training: Training, batch: Batch, queries: Tensor, u_labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the softmax loss against all labels that have training queries."""
        vectors = self.texts.index_copy(0, torch.from_numpy(batch.labels), F.normalize(u_labels.float(), dim=1))
        vectors = vectors + training.model.vectors if self.free else vectors
        loss = label_loss(queries, vectors, batch.candidates, training.config.loss.temperature)
        return loss, {"q_z": loss}

    @torch.no_grad()
    def finish(self, training: Training) -> None:
        """Set label vectors to those that were trained."""
        self.encode(training)
        training.model.vectors.add_(self.texts)


def votes_of_others(training: Training, rows: np.ndarray | None = None, voters: np.ndarray | None = None) -> Tensor:
    """Return the local ridge votes of training queries, each left out of its own: (n_train, n_labels) float32, rows sum to 1.

    Args:
        training: a trained run.
        rows: (n,) int64 rows of train that get votes; None: all in use. Rows of others are 0.
        voters: (v,) int64 rows that vote; None: all in use.
    """
    data, how = training.data, Inference(method="local-ridge").ridge
    rows, voters = data.rows if rows is None else rows, data.rows if voters is None else voters
    unit = F.normalize(encode_items(training.model, data.queries, training.precision), dim=1).numpy()
    nearest, cosines = search(unit[rows], unit[voters], how.neighbours + 1)
    last = np.argsort(voters[nearest] == rows[:, None], axis=1, kind="stable")[:, :-1]
    nearest, cosines = (np.take_along_axis(array, last, axis=1) for array in (nearest, cosines))
    weights = ridge_weights(nearest, cosines, unit[voters], how, training.device)
    votes = Votes.cast(nearest, weights, data.truth.take(voters)).summed(data.truth.n_cols, None)
    targets = torch.zeros(len(data.truth), data.truth.n_cols)
    targets[torch.from_numpy(rows[votes.rows]), torch.from_numpy(votes.labels.astype(np.int64))] = torch.from_numpy(
        np.maximum(votes.weights, 0).astype(np.float32)
    )
    return targets / targets.sum(1, keepdim=True).clamp_min(1e-6)


def votes_of_folds(training: Callable[[], Training]) -> Tensor:
    """Return votes as :func:`votes_of_others`, of models that have not seen the query: each is trained on the other half."""
    rows = training().data.rows
    is_first = np.random.default_rng(training().seed).permutation(len(rows)) < len(rows) // 2
    targets = []
    for half in (rows[is_first], rows[~is_first]):
        fold = training()
        fold = replace(fold, data=replace(fold.data, rows=half))
        with replaced():
            trained(fold)
        targets.append(votes_of_others(fold, np.setdiff1d(rows, half), half))
    return sum(targets)


def distilling(targets: Tensor) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Return a ``batch_loss`` whose half is the softmax cross-entropy with targets."""
    hard_loss = train.batch_loss

    def batch_loss(
        training: Training, batch: Batch, queries: Tensor, u_labels: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        hard, terms = hard_loss(training, batch, queries, u_labels)
        labels = torch.from_numpy(training.data.trained_labels)
        logits = queries @ F.normalize(training.model.vectors[labels], dim=1).T / training.config.loss.temperature
        soft = F.cross_entropy(logits, targets[torch.from_numpy(batch.queries)][:, labels])
        return (hard + soft) / 2, terms | {"soft": soft}

    return batch_loss


def tried(
    modality: str, trial: str, split: int, results: Path
) -> Iterator[tuple[str, Training, np.ndarray, Ragged, float]]:
    """Yield the forms of a trial when each is trained: name, the run, what :func:`scores` reads, and processor seconds."""
    change = merge(ALL, TRIALS[trial])
    training, cold, whole = opened(modality, change, split, 0, results)

    def timed(training: Training, **hooks: Callable[..., Any]) -> float:
        started = time.process_time()
        with replaced(**hooks):
            trained(training)
        return time.process_time() - started

    if trial == "all-labels":
        means, step = Averages(training), train.train_step
        seconds = timed(training, train_step=lambda *given: means.count(step(*given)))
        yield trial, training, cold, whole, seconds
        started = time.process_time()
        targets = votes_of_others(training)
        seconds += time.process_time() - started
        for name in means.rates:
            means.use(name)
            yield name, training, cold, whole, seconds
        training = opened(modality, change, split, 0, results)[0]
        yield "distilled", training, cold, whole, seconds + timed(training, batch_loss=distilling(targets))
    elif trial == "distilled-folds":
        started = time.process_time()
        targets = votes_of_folds(lambda: opened(modality, change, split, 0, results)[0])
        seconds = time.process_time() - started
        yield trial, training, cold, whole, seconds + timed(training, batch_loss=distilling(targets))
    elif trial.startswith("no-image"):
        hook = without_images(float(trial.rpartition("-")[2]))
        yield trial, training, cold, whole, timed(training, epoch_batches=hook)
    elif trial.startswith("encoded"):
        form = Encoded(free=trial != "encoded-u")
        seconds = timed(training, **form.hooks(trial == "encoded-every-step"))
        form.finish(training)
        yield trial, training, cold, whole, seconds
    else:
        yield trial, training, cold, whole, timed(training)


def hits(row: dict[str, Any], search: str, at: int) -> np.ndarray:
    """Return each held-out query's precision at 1 (``at`` 0) or 5 (1), in percent."""
    return np.array([int(digit) for digit in row["found"][search]["hits"][at]]) * (100 / (1, 5)[at])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of docs/results.md: paired differences from ``all-labels`` on the same splits, pooled."""
    found = {tuple(row[key] for key in ("modality", "form", "split")): row for row in rows if not row.get("items")}
    lines = [f"| difference from `all-labels` | splits | {' | '.join(MEASURES)} | CPU s |"]
    lines += ["|---|---:|" + "---:|" * (len(MEASURES) + 1)]
    for modality, form in dict.fromkeys(key[:2] for key in found):
        splits = [s for s in (0, 1, 2) if (modality, form, s) in found and (modality, "all-labels", s) in found]
        if not splits or form == "all-labels":
            continue
        cells = []
        for measured in MEASURES.values():
            pairs = [(hits(found[modality, of, s], *measured) for of in (form, "all-labels")) for s in splits]
            gains = np.concatenate([mine - base for mine, base in pairs])
            cells.append(f"{gains.mean():+.1f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.1f}")
        seconds = np.mean([found[modality, form, s]["seconds"] for s in splits])
        lines.append(f"| {modality}, {form} | {len(splits)} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run one trial, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality", nargs="?", choices=["text", "vixml"])
    parser.add_argument("trial", nargs="?", choices=TRIALS)
    parser.add_argument("split", nargs="?", type=int, choices=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("results"), help="where PICTO was built")
    given = parser.parse_args()
    if given.modality:
        key = {"modality": given.modality, "split": given.split}
        for name, training, cold, whole, seconds in tried(given.modality, given.trial, given.split, given.results):
            found = scores(training, cold, whole)
            new = {**key, "form": name, "precision": training.precision, "seconds": seconds, "found": found}
            old = read_json(OUT)["forms"] if OUT.exists() else []
            old = [row for row in old if label_vectors.key_of(row) != label_vectors.key_of(new)]
            measure.record(OUT, {"benchmark": "training_trials", "rows": [], "forms": [*old, new]})
            print({k: {m: round(v, 1) for m, v in f.items() if m != "hits"} for k, f in found.items()}, flush=True)
    rows = read_json(OUT)["forms"]
    primes = [row for row in read_json(label_vectors.OUT)["forms"] if row["form"].startswith("prime")]
    print(table(rows + primes))


if __name__ == "__main__":
    main()
