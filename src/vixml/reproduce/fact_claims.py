"""Sentences of the paper with a number in them: what of ours each would be computed from, and what it is."""

from __future__ import annotations

from pathlib import Path

from vixml.errors import VixmlError
from vixml.reproduce.claims import Claim, read_csv
from vixml.reproduce.facts import Fact, FactLine, FactSection, FactTable
from vixml.reproduce.grid import Sources
from vixml.reproduce.results import hours_over_seeds, metric_over_seeds
from vixml.reproduce.specs import ClaimRow, FactsSpec
from vixml.reproduce.verdicts import Verdict

SEEDS_OF_SD = 5  # the paper's
# Times that the paper states (config/reported/other_facts.csv) -> our run.
STATED = {
    "ViXML DistilBERT (PRIME), LF-AmazonTitles-1.3M, without image embedding": ("LF-AmazonTitles-1.3M", "vixml-distilbert"),
    "ViXML Qwen2.5-3B-Instruct, LF-AmazonTitles-1.3M": ("LF-AmazonTitles-1.3M", "vixml-qwen2.5-3b"),
    "x axis TT (hours)": ("LF-AmazonTitles-131K", "vixml-qwen2.5-7b"),  # the longest run that it draws
    "BERT text-only, length 32": ("LF-AmazonTitles-131K", "text-bert"),
    "BERT ViXML": ("LF-AmazonTitles-131K", "vixml-bert"),
    "Qwen2.5-3B-I text-only": ("LF-AmazonTitles-131K", "text-qwen2.5-3b"),
    "Qwen2.5-3B-I ViXML": ("LF-AmazonTitles-131K", "vixml-qwen2.5-3b"),
}  # fmt: skip


def claims_table(spec: FactsSpec, sources: Sources, config_dir: Path | str) -> FactTable:
    """Build the table: every sentence of other_facts.csv that is no latency has exactly one row.

    Raises:
        VixmlError: a sentence without a row, or a row without a sentence.
    """
    path = Path(config_dir) / "reported" / "other_facts.csv"
    published = {
        (row["topic"], row["item"]): row for _, row in read_csv(path) if not row["topic"].startswith("latency")
    }
    asked = {(row.topic, row.item): row for row in spec.claims}
    if published.keys() != asked.keys():
        odd = sorted(published.keys() ^ asked.keys())[0]
        raise VixmlError(
            "the table of claims and the published facts are not in step",
            where=f"config/tables/{spec.id}.yaml: claims",
            found=f"{odd} in {'the table' if odd in asked else path} only",
            hint="give each sentence one row",
        )
    lines = []
    for key, row in published.items():
        ours, verdict = _ours(asked[key], sources)
        printed = f"{row['value']} {row['unit']}".strip()
        lines.append(FactLine(f"{row['topic']}: {row['item']}", (Fact("value", printed, ours, verdict),), row["where"]))
    return FactTable(spec, ("value",), (FactSection("Printed in the text", True, tuple(lines)),))


def best_previous(row: ClaimRow, sources: Sources) -> Claim:
    """Return the published value that a gain is counted from: one of Table 7.

    Raises:
        VixmlError: none, or more than one.
    """
    selected = [
        claim
        for claim in sources.claims
        if (claim.table, claim.dataset, claim.metric) == ("Table 7", row.dataset, row.metric)
        and claim.selected_by(row.claim)
    ]
    if len(selected) != 1:
        raise VixmlError(
            "a gain is counted from one published value",
            where=f"config/tables/claims.yaml: {row.topic}, {row.item}",
            found=f"{len(selected)} cells of Table 7 with {row.claim}",
            hint="name more columns of reported_results.csv under `claim`",
        )
    return selected[0]


def _ours(row: ClaimRow, sources: Sources) -> tuple[str | None, Verdict]:
    if row.how == "none":
        return None, Verdict("not-comparable", row.why)
    if row.how == "gain":
        best_previous(row, sources)  # also where nothing was run: a wrong selector is seen at once
    results = [sources.results.of(row.dataset or "", run) for run in row.runs]
    if not all(results):
        missing = ", ".join(run for run, found in zip(row.runs, results, strict=True) if not found)
        return None, Verdict("not-run", "; ".join(filter(None, (f"needs {missing} of {row.dataset}", row.why))))
    comparable = Verdict("not-comparable", row.why or "computed from runs of ours; the paper gives no interval")
    if row.how == "sd":
        found = metric_over_seeds(results[0], row.metric)
        if found is None or found.sd is None or found.n < SEEDS_OF_SD:
            return None, Verdict("not-run", f"{len(results[0])} of {SEEDS_OF_SD} seeds")
        return f"{found.sd:.3f} points ({found.n} seeds)", comparable
    if row.how == "gain":
        found = metric_over_seeds(results[0], row.metric)
        printed = best_previous(row, sources)
        if found is None:
            return None, Verdict("not-run")
        return f"{found.mean - printed.value:+.2f} points over {printed.printed}", comparable
    hours = [hours_over_seeds(found) for found in results]
    if any(found is None for found in hours):
        return None, Verdict("not-run", "nothing was trained")
    if row.how == "hours":
        return f"{hours[0].mean:.2f} h", comparable
    return f"{100 * (hours[0].mean / hours[1].mean - 1):+.0f} %", comparable
