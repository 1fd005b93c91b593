"""Compare forms of training on queries held out of PICTO's train, with a tenth of the labels held out whole (D34).

A label held out whole has no training query, as labels that are new to a catalogue; its pairs with the held-out queries remain. Each
form is trained once per split and searched by z, by u, and with local ridge votes. Test data is not read. Nothing is timed but the
processor time of the trainings. A small catalogue is a random part of train, with the settings that `vixml new` writes for its size.

    python benchmarks/label_vectors.py text all-labels 0      # modality, form, split: adds to the results
    python benchmarks/label_vectors.py text prime 0 --items 600   # a small catalogue
    python benchmarks/label_vectors.py                        # prints the table
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
from torch.nn import functional as F

from vixml.config.defaults import training_defaults
from vixml.config.load import load_runs, load_world, merge
from vixml.config.run import Inference, RunConfig, SeededRun
from vixml.files import read_json
from vixml.models.encode import all_prototypes, encode_items
from vixml.models.inputs import RunInputs
from vixml.progress import Quiet
from vixml.ragged import Ragged
from vixml.retrieval.ranking import Queries, rank_labels
from vixml.runtime import choose_device
from vixml.training.checkpoint import Checkpoint
from vixml.training.train import State, Training, TrainingView, fit, new_state, open_training, refit_labels

OUT = measure.RESULTS / "label_vectors.json"
COLD = 0.1  # share of labels held out whole
ALL = {"method": "all-labels"}
PRIMES = ("prime", "official")
VECTORS = {"training": {"refit_epochs": 1}}  # to have label vectors, which are left out of the scores before the refit
FORMS: dict[str, dict[str, Any]] = {
    "prime": VECTORS,
    "official": VECTORS,  # PRIME in the form of the official code
    "all-labels": ALL,
    "all-labels-u0.1": ALL | {"loss": {"text_weight": 0.1}},
    "all-labels-u0.3": ALL | {"loss": {"text_weight": 0.3}},
    "all-labels-u1": ALL | {"loss": {"text_weight": 1.0}},
}
REFIT = {"training": {"refit_epochs": 30}}  # of the same trained model
RIDGE = {"frequency_power": 0.0, "prototype_weight": 0.3, "text_weight": 0.0}
BALANCED = {"frequency_power": 0.1, "prototype_weight": 0.3, "text_weight": 0.2}
SEARCHES = {
    "z": {"labels_as": "z"},
    "u": {"labels_as": "u"},
    "augmented": {"method": "retrieval-augmented", "label_weight": 0.5},
    "precise": {"method": "local-ridge", "ridge": RIDGE},
    "balanced": {"method": "local-ridge", "ridge": BALANCED},
}


def opened(
    modality: str, change: dict[str, Any], split: int, items: int, results: Path
) -> tuple[Training, np.ndarray, Ragged]:
    """Return a form of training that is ready to train, whether each label is cold, and the whole truth.

    Args:
        modality: ``text`` or ``vixml``.
        change: what differs from the run ``form-{modality}-split{split}``.
        split: which queries are held out, and which labels.
        items: training items of a small catalogue; 0: all.
        results: where PICTO was built.
    """
    base = load_runs("config")["picto", f"form-{modality}-split{split}"]
    size = {}
    if items:
        size = {key: training_defaults(items, items)[key] for key in ("prototype", "optimizer", "training")}
        size["training"]["validation"] = base.training.validation
    config = RunConfig.model_validate(merge(merge(base.model_dump(), size), change))
    data, device, model = results / "data/picto", choose_device("cpu", 1), config.encoder.model
    embeddings = data / "embeddings/efficientnet-lite0" if config.uses_images else None
    inputs = RunInputs(data / "corpus", data / f"tokens/{model}-32", embeddings, results / "models" / model)
    propensity = load_world("config").datasets["picto"].propensity
    training = open_training(SeededRun("picto", "form", split, config), propensity, inputs, device)
    whole = training.data.truth
    cold = np.zeros(whole.n_cols, dtype=bool)
    cold[np.random.default_rng(split).permutation(whole.n_cols)[: round(COLD * whole.n_cols)]] = True
    warm = whole.select(~cold[whole.values])
    rows = training.data.rows
    if items:
        rows = np.sort(np.random.default_rng(split).permutation(rows)[:items])
    rows = rows[warm.lengths[rows] > 0]
    return replace(training, data=replace(training.data, truth=warm, rows=rows)), cold, whole


def trained(training: Training) -> State:
    """Train a form; return its state."""
    state = new_state(training)
    with tempfile.TemporaryDirectory() as folder:
        fit(training, state, Checkpoint(Path(folder), {}, 1e6), TrainingView(Quiet(), "form", 1))
    return state


def scores(training: Training, cold: np.ndarray, whole: Ragged) -> dict[str, Any]:
    """Return precision and recall of the held-out queries for every search, in percent, and hits for paired comparisons."""
    data, model, held = training.data, training.model, training.held_out
    u = encode_items(model, data.labels, training.precision)
    vectors = {"u": F.normalize(u, dim=1).numpy(), "z": all_prototypes(model, u).numpy()}
    voters, queries = (
        F.normalize(encode_items(model, data.queries.take(rows), training.precision), dim=1).numpy()
        for rows in (data.rows, held)
    )
    truth, found = whole.take(held), {}
    of_cold = truth.select(cold[truth.values])
    for name, change in SEARCHES.items():
        how = Inference.model_validate({"method": "label-search", "top_k": 100} | change)
        labels, _ = rank_labels(Queries(queries, queries), vectors, voters, data.used_truth, how)
        hits, hits_cold = (np.stack([np.isin(top, t.row(i)) for i, top in enumerate(labels)]) for t in (truth, of_cold))
        n, n_cold = truth.lengths, of_cold.lengths
        has = n_cold > 0
        found[name] = {
            "P@1": 100 * float(hits[:, 0].mean()),
            "P@5": 100 * float(hits[:, :5].mean()),
            "R@100": 100 * float((hits.sum(1) / np.maximum(n, 1)).mean()),
            "cold R@10": 100 * float((hits_cold[:, :10].sum(1)[has] / n_cold[has]).mean()),
            "cold R@100": 100 * float((hits_cold.sum(1)[has] / n_cold[has]).mean()),
            "hits": ["".join(map(str, n)) for n in (hits[:, 0].astype(int), hits[:, :5].sum(1))],
        }
    return found


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a row is a result of."""
    return tuple(row.get(name, 0) for name in ("modality", "form", "split", "items"))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of docs/results.md."""
    names = ["P@1 by z", "P@5", "R@100", "P@1 by u", "precise", "P@5", "balanced", "P@5"]
    names += ["cold: R@10 by z", "R@100 by z", "R@10 precise", "R@10 balanced"]
    lines = [f"| held-out queries | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for row in rows:
        modality, form, split, items = key_of(row)
        z, u, *votes = (row["found"][name] for name in ("z", "u", "precise", "balanced"))
        values = [z["P@1"], z["P@5"], z["R@100"], u["P@1"]]
        values += [one[key] for one in votes for key in ("P@1", "P@5")]
        values += [z["cold R@10"], z["cold R@100"], *(one["cold R@10"] for one in votes)]
        cells = [f"{value:.1f}" for value in values]
        title = f"{modality}, {form}" + (f", split {split}" if split else "") + (f", {items} items" if items else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(row: dict[str, Any], base: dict[str, Any], search: str) -> np.ndarray:
    """Return what a form gains over another on each held-out query: (3, n), P@1, P@5 and their sum, in percent."""
    mine, other = (np.array([list(map(int, digits)) for digits in of["found"][search]["hits"]]) for of in (row, base))
    one, five = (mine - other) * np.array([[100], [20]])
    return np.stack([one, five, one + five])


def paired_table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of paired differences from ``all-labels`` on the same splits, pooled, ± their standard error."""
    found = {tuple(row[key] for key in ("modality", "form", "split")): row for row in rows if not row.get("items")}
    titles = [f"{measured} {search}" for search in ("by z", "precise") for measured in ("P@1", "P@5", "both,")]
    lines = [f"| held-out queries, against `all-labels` | queries | {' | '.join(titles)} | CPU s |"]
    lines += ["|---|" + "---:|" * (len(titles) + 2)]
    for modality, form in sorted({key[:2] for key in found}):
        splits = [s for s in (0, 1, 2) if {(modality, form, s), (modality, "all-labels", s)} <= set(found)]
        if not splits or form == "all-labels":
            continue
        pairs = [(found[modality, form, s], found[modality, "all-labels", s]) for s in splits]
        pooled = [np.concatenate([gains(*pair, search) for pair in pairs], axis=1) for search in ("z", "precise")]
        n = pooled[0].shape[1]
        cells = [f"{of.mean():+.1f} ± {of.std(ddof=1) / n**0.5:.1f}" for of in np.concatenate(pooled)]
        seconds = np.mean([row["seconds"] for row, _ in pairs])
        lines.append(f"| {modality}, {form} | {n:,} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def add(path: Path, benchmark: str, new: list[dict[str, Any]]) -> None:
    """Write results beside those of other forms, in place of earlier ones of the same."""
    replaced = {key_of(row) for row in new}
    rows = [row for row in read_json(path)["forms"] if key_of(row) not in replaced] if path.exists() else []
    measure.record(path, {"benchmark": benchmark, "cold": COLD, "rows": [], "forms": [*rows, *new]})


def main() -> None:
    """Train one form, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality", nargs="?", choices=["text", "vixml"])
    parser.add_argument("form", nargs="?", choices=FORMS)
    parser.add_argument("split", nargs="?", type=int, choices=[0, 1, 2])
    parser.add_argument("--items", type=int, default=0, help="training items of a small catalogue; 0: all of PICTO's")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where PICTO was built")
    given = parser.parse_args()
    rows = read_json(OUT)["forms"] if OUT.exists() else []
    if given.modality:
        started = time.process_time()
        change = FORMS[given.form]
        if given.form == "official":
            run = load_runs("config")["picto", f"form-{given.modality}-official-split{given.split}"]
            change = merge(run.model_dump(), change)
        training, *pairs = opened(given.modality, change, given.split, given.items, given.results)
        state = trained(training)
        if given.form in PRIMES:
            training.model.has_vector.zero_()
        of = {given.form: (scores(training, *pairs), time.process_time() - started)}
        if given.form in PRIMES:
            name, started = f"{given.form}-refit-30", time.process_time()
            config = RunConfig.model_validate(merge(training.config.model_dump(), REFIT))
            refit_labels(replace(training, config=config), state, TrainingView(Quiet(), name, 1))
            of[name] = scores(training, *pairs), time.process_time() - started
        same = {name: getattr(given, name) for name in ("modality", "split", "items")}
        new = [
            {**same, "form": name, "precision": training.precision, "seconds": s, "found": found}
            for name, (found, s) in of.items()
        ]
        add(OUT, "label_vectors", new)
        rows = new
    print(table(rows))


if __name__ == "__main__":
    main()
