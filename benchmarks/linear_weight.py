"""Compare weights of the linear model and of the lexical vector on queries held out of train, for trained runs of PICTO.

    snakemake --cores all train --configfile config/best.yaml
    python benchmarks/linear_weight.py text-minilm-l3--vixml-new vixml-minilm-l3--vixml-new

Local ridge votes with 50 neighbours and prototypes; test is not read. The gain is that in P@1 + P@5 over votes without both, paired by
query, with its standard error: the mean over the seeds of a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np

from vixml.config.project import Project
from vixml.config.run import Inference
from vixml.data.corpus import Corpus, training_rows
from vixml.evaluation.choose import Precision, Split
from vixml.retrieval.approximate import Searcher
from vixml.retrieval.opened import HELD_OUT, TRAIN_AGAIN, OpenedRun
from vixml.stages import Job

WEIGHTS = [(lexical, linear) for lexical in (0, 0.15, 0.3) for linear in (0, 0.3, 0.5, 1)]


def held_out(project: Project, run: str, seed: int) -> Split:
    """Open the held-out queries of a trained run."""
    job = Job(project, "predict", {"dataset": "picto", "run": run, "seed": seed, "split": "test"})
    stages = {"index": "build-index", "embeddings": "embed-images", "lexical": "hash-texts"}
    corpus = Corpus.load(job.folder("build-corpus"))
    rows = training_rows(job.folder("train") / HELD_OUT, corpus.n("train"), TRAIN_AGAIN)
    inputs = {name: job.folder(stage) for name, stage in stages.items()}
    return Split(OpenedRun(corpus, inputs, job.run.images, seed, rows), Searcher(seed=seed))


def gains(precision: Precision, image_weight: float) -> list[tuple[float, ...]]:
    """Return P@1, P@5, gain and its error of each pair of weights."""
    found, first = [], None
    for lexical, linear in WEIGHTS:
        how = Inference(
            method="local-ridge", image_weight=image_weight, lexical_weight=lexical,
            ridge={"neighbours": 50, "linear_weight": linear},
        )  # fmt: skip
        percent = 100 * precision(how)
        first = percent if first is None else first
        gain = (percent - first).sum(axis=1)
        found.append((*percent.mean(axis=0), gain.mean(), gain.std(ddof=1) / len(gain) ** 0.5))
    return found


def main() -> None:
    """Print a table and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="trained runs of PICTO")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    project, compared = Project(Path("config"), given.results), []
    print("| run | lexical | linear | P@1 | P@5 | gain |\n|---|---:|---:|---:|---:|---:|")
    for run in given.runs:
        image_weight = 0.3 * project.run("picto", run).uses_images
        every = [gains(held_out(project, run, seed).precision, image_weight) for seed in given.seeds]
        means = np.mean(every, axis=0).tolist()
        for (lexical, linear), (p1, p5, gain, error) in zip(WEIGHTS, means, strict=True):
            print(f"| {run} | {lexical} | {linear} | {p1:.1f} | {p5:.1f} | {gain:+.1f} ± {error:.1f} |")
            row = {"run": run, "lexical_weight": lexical, "linear_weight": linear, "P@1": p1, "P@5": p5}
            compared.append(row | {"gain": gain, "error": error})
    document = {"benchmark": "linear_weight", "seeds": given.seeds, "rows": [], "compared": compared}
    measure.record(measure.RESULTS / "linear_weight.json", document)


if __name__ == "__main__":
    main()
