"""Choice of inference, and quality of its probabilities, for the report and the page that ``vixml fit`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vixml.report.charts import Series, line_chart
from vixml.report.results import Result, Results


@dataclass(frozen=True)
class Chosen:
    """One run whose inference was chosen: sentences, and charts as SVG text."""

    run: str
    sentences: tuple[str, ...]
    charts: tuple[str, ...]


def chosen_runs(results: Results) -> list[Chosen]:
    """Return the runs whose inference was chosen on held-out queries, the first seed of each."""
    return [_chosen(found[0]) for _, found in sorted(results.by_run.items()) if "choice" in found[0].scores]


def choice_sentence(choice: Mapping[str, Any]) -> str:
    """Say what was chosen, from the record in ``choice.json``."""
    moved = [(one["constant"].removeprefix("ridge."), one["value"]) for one in choice["trials"] if one["moved"]]
    start = next((value for name, value in moved if name == "method"), choice["inference"]["method"])
    moves = [f"{name} {value}" for name, value in moved if name != "method"]
    if choice["restriction"]:
        return f"It predicts by {choice['inference']['method']}: {choice['restriction']}."
    how = ", ".join([start, *(moves or ["as it was preset"] * (not moved))])
    n = len(choice.get("held_out_by", ()))
    of = f"{n} further trainings" if n > 1 else "training"
    caution = f" ({choice['caution']})" if choice.get("caution") else ""
    return f"Chosen on {choice['n_queries']:,} items held out of {of}: {how}{caution}."


def _chosen(result: Result) -> Chosen:
    scores, choice, run = result.scores, result.scores["choice"], f"{result.dataset}: {result.run}, seed {result.seed}"
    sentences, charts = [choice_sentence(choice)], []
    trials = choice["trials"]
    if len(trials) > 1:
        best = [trials[0]["p1"] + trials[0]["p5"]]
        for one in trials[1:]:
            best.append(one["p1"] + one["p5"] if one["moved"] else best[-1])
        numbers = tuple(range(1, len(trials) + 1))
        series = [
            Series("kept", numbers, tuple(best)),
            Series("tried", numbers, tuple(one["p1"] + one["p5"] for one in trials)),
        ]
        charts.append(line_chart(series, f"{run}: choice", "P@1 + P@5 of held-out queries (%)", "trial"))
    if found := scores.get("reliability"):
        predicted, true = ([100 * one[key] for one in found["bins"]] for key in ("predicted", "true"))
        series = [Series("measured", tuple(predicted), tuple(true)), Series("exact", (0.0, 100.0), (0.0, 100.0))]
        title = "true labels (%) by predicted probability (%)"
        charts.append(line_chart(series, f"{run}: reliability", title, "predicted probability (%)"))
        sentences.append(
            f"Probabilities were fitted on the held-out items. On {scores['split']} they are {100 * found['error']:.1f} points "
            "off on average (expected calibration error)."
        )
        sentences += [
            f"For a precision of {100 * one['precision']:.0f} %, the threshold gives {100 * one['reached']:.1f} % on "
            f"{scores['split']}, and {100 * one['recall']:.1f} % of the true labels."
            for one in found["thresholds"]
            if one["reached"] is not None
        ]
    return Chosen(run, tuple(sentences), tuple(charts))
