"""One flipped bit in any intermediate file of the miniature stops the stage that reads it, with one clear error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import flip_a_bit, run_stage
from tiny_world import Copy

from vixml.config.project import Project
from vixml.errors import VixmlError
from vixml.manifest import MANIFEST
from vixml.stages import Job

RUN = {"dataset": "picto", "run": "vixml-minilm-l3", "seed": 0}
# One job of each stage that reads what another one wrote, with the command's own options.
JOBS = {
    "tokenize": ({"dataset": "picto", "model": "minilm-l3", "max_len": 32}, ["--max-len", 32]),
    "render-images": ({"dataset": "picto"}, []),
    "embed-images": ({"dataset": "picto", "vision": "efficientnet-lite0"}, []),
    "export-dataset": ({"dataset": "picto"}, []),
    "train": (RUN, []),
    "build-index": (RUN, []),
    "measure-latency": (RUN, []),
    "predict": (RUN | {"split": "test"}, []),
    "score": (RUN | {"split": "test"}, []),
}
# Files of an input that a stage does not read, and so may be damaged.
NOT_READ = {
    ("tokenize", "model"): lambda name: not name.startswith("tokenizer"),
    ("embed-images", "images"): lambda name: name == "missing.parquet",
    ("export-dataset", "images"): lambda name: name == "missing.parquet",
}


@pytest.mark.parametrize("stage", JOBS)
def test_a_flipped_bit_stops_the_stage_that_reads_it(apart: Copy, monkeypatch, stage):
    monkeypatch.chdir(apart.root)
    names, options = JOBS[stage]
    job = Job(Project(Path("config"), Path("results")), stage, names)
    (job.out / MANIFEST).unlink(missing_ok=True)
    words = [names[name] for name in ("dataset", "run", "model", "vision") if name in names]
    options = [*options, *(["--split", "test"] if "split" in names else [])]
    tried = 0
    for name, folder in job.reads().items():
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        for path in files:
            if NOT_READ.get((stage, name), lambda name: False)(path.relative_to(folder).as_posix()):
                continue
            kept, times = path.read_bytes(), os.stat(path)
            flip_a_bit(path, 0.6)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk leaves them
            with pytest.raises(VixmlError) as caught:
                run_stage(stage, *words, *options)
            assert path.name in str(caught.value) and caught.value.hint, path
            assert not (job.out / MANIFEST).exists(), path
            path.write_bytes(kept)
            tried += 1
    assert tried >= 3


@pytest.mark.parametrize("file", ["test/score/scores.json", "model/training.json", "model/log.jsonl"])
def test_pages_are_not_written_from_a_damaged_result(apart: Copy, file):
    folder = "results/runs/picto/vixml-minilm-l3/seed0"
    flip_a_bit(apart.root / folder / file, 0.5)
    command = "make-report" if file.endswith("log.jsonl") else "make-tables"
    options = ("--tables", "table3", "--score", f"{folder}/test/score", "--out", "new")
    shown = apart.run("vixml", command, *options, check=False)
    assert "error: " in shown and Path(file).name in shown
    assert shown.count("what now:") == 1 and "Traceback" not in shown
    assert not (apart.root / "new").exists()
