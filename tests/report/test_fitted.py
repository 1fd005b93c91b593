"""What ``vixml fit`` says below its table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from vixml.report import fitted


def test_a_run_without_a_label_is_called_by_its_name(monkeypatch):
    hits = {"tagger": np.ones(4), "knn": np.zeros(4)}
    found = {run: SimpleNamespace(dataset="shop", run=run, metrics={"P@1": 100 * hits[run].mean()}) for run in hits}
    project = SimpleNamespace(results="results", run=lambda *_: SimpleNamespace(row=SimpleNamespace(label=None)))
    monkeypatch.setattr(fitted.Corpus, "load", lambda _: None)
    monkeypatch.setattr(fitted, "best_labels", lambda _, result, k: (None, hits[result.run][:, None]))
    sentence = fitted._against_baseline(project, found, "tagger")
    assert sentence == "tagger: ahead of the best baseline, knn (+100.0 ± 0.0 points of P@1)."
