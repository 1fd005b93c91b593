"""Result folders in the true format, made in a temporary folder: numbers are invented, files are not."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import yaml
from corpus_data import CorpusData, Items
from PIL import Image

from vixml.config.load import read_yaml
from vixml.files import save_array, sha256_json, write_json, write_text
from vixml.images.store import write_store
from vixml.manifest import describe_outputs, with_digest
from vixml.provenance import stage
from vixml.ragged import Ragged

REPO = Path(__file__).resolve().parents[1]

METRICS = {"P@1": 50.0, "P@3": 40.0, "P@5": 35.0, "PSP@1": 30.0, "PSP@5": 33.0, "R@100": 80.0}
# run -> (P@1, minutes of training or None)
PICTO = {
    "popularity": (4.7, None),
    "label-search-minilm-l3": (19.6, None),
    "knn-text-minilm-l3": (60.6, None),
    "knn-vixml-minilm-l3": (65.3, None),
    "frozen-text-minilm-l3": (56.6, 0.5),
    "frozen-vixml-minilm-l3": (58.2, 0.9),
    "text-minilm-l3": (49.9, 3.0),
    "vixml-minilm-l3": (55.7, 4.1),
    "vixml-minilm-l3--shuffled": (48.3, 4.2),
    "text-minilm-l3--slow": (51.5, 3.0),
    "text-minilm-l3--long": (56.9, 14.0),
    "vixml-minilm-l3--long": (61.6, 19.0),
}
JITTER = {0: 0.0, 1: 0.6, 2: -0.4}


def write_manifest(folder: Path, command: str, config: dict, seconds: float = 1.5, **changes: dict) -> None:
    """Write what `vixml.provenance.stage` writes, with a fixed time and machine."""
    outputs = describe_outputs(folder)
    write_json(
        folder / "manifest.json",
        with_digest({
            "schema_version": 1,
            "stage": command,
            "config": config,
            "config_sha256": sha256_json(config),
            "inputs": {"corpus": {"path": "results/data/picto/corpus", "sha256": "1" * 64}},
            "outputs": outputs,
            "outputs_sha256": sha256_json(outputs),
            "facts": {},
            "versions": {"python": "3.11.7", "vixml": "0.1.0", "numpy": "2.4.6"},
            "source": {"commit": "c0ffee" + "0" * 34, "modified": False},
            "machine": {"processor": "Test Processor", "cores": 2, "threads": 1, "gpu": None},
            "started_at": "2026-01-02T03:04:05+00:00",
            "wall_seconds": seconds,
            "peak_memory_mb": 512.0,
            "environment": {"packages": 1, "sha256": "0" * 64},
            "command": f"vixml {command} --seed {config['seed']}",
            **changes,
        }),
    )  # fmt: skip


def write_result(
    results: Path,
    dataset: str,
    run: str,
    seed: int,
    metrics: dict[str, float],
    *,
    minutes: float | None = None,
    split: str = "test",
    n_queries: int = 30,
    trained_as: str | None = None,
) -> Path:
    """Write the folders of one run and seed; return its score folder."""
    base = results / "runs" / dataset / run / f"seed{seed}"
    config = {"dataset": dataset, "run": run, "seed": seed, "training": {"epochs": 4}}
    if minutes is not None:
        model = base / "model"
        model.mkdir(parents=True)
        write_json(
            model / "training.json",
            {
                "schema_version": 1, "dataset": dataset, "run": run, "seed": seed, "epochs": 4, "steps": 72,
                "seconds": minutes * 60, "hours": minutes / 60, "samples_per_second": 310.0,
                "device": "Test Processor", "precision": "fp32",
            },
        )  # fmt: skip
        lines = [
            {"epoch": e, "step": 18 * (e + 1), "loss": 0.3 - 0.05 * e + 0.001 * seed, "loss/q_u": 0.1, "loss/q_z": 0.08,
             "cosine_queries": 0.2, "P@1/u": 20.0 + 5 * e, "P@1/z": 30.0 + 5 * e}
            for e in range(4)
        ]  # fmt: skip
        write_text(model / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_manifest(model, "train", config, minutes * 60)
    score = base / split / "score"
    score.mkdir(parents=True)
    write_json(
        score / "scores.json",
        {
            "schema_version": 1, "dataset": dataset, "run": run, "seed": seed, "split": split, "trained_as": trained_as or run,
            "metrics": metrics, "n_queries": n_queries,
        },
    )  # fmt: skip
    write_manifest(score, "score", config)
    return score


def write_picto(results: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> list[Path]:
    """Write every run of the PICTO blocks with these seeds; return the score folders."""
    folders = []
    for run, (p1, minutes) in PICTO.items():
        for seed in seeds if minutes is not None else (0,):
            metrics = METRICS | {"P@1": p1 + JITTER[seed] if minutes is not None else p1}
            time = None if minutes is None else minutes * (1 + 0.05 * seed)
            folders.append(write_result(results, "picto", run, seed, metrics, minutes=time))
    return folders


def png(shade: int) -> bytes:
    """Return a small grey image."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), shade).save(stream, format="PNG")
    return stream.getvalue()


def write_corpus(results: Path, n_test: int = 30, n_labels: int = 8) -> tuple[Path, Path]:
    """Write a small corpus and its image store; return both folders. Query 0 has no image, image 1 is missing."""
    data = results / "data" / "picto"
    names = {"train": 4, "test": n_test, "label": n_labels}
    items = {split: Items.of([f"{split} {i} <&>" for i in range(n)]) for split, n in names.items()}
    n_images = n_test
    images = {
        "train": Ragged.from_rows([[]] * 4, n_images),
        "test": Ragged.from_rows([[] if i == 0 else list(dict.fromkeys((i, 1))) for i in range(n_test)], n_images),
        "label": Ragged.from_rows([[]] * n_labels, n_images),
    }
    labels = {
        "train": Ragged.from_rows([[0, 1]] * 4, n_labels),
        "test": Ragged.from_rows([sorted({i % n_labels, (i + 3) % n_labels}) for i in range(n_test)], n_labels),
    }
    keys = [f"icon-{i}" for i in range(n_images)]
    corpus = CorpusData(items, labels, keys, [f"pack:{key}.svg" for key in keys], images)
    with stage(data / "corpus", "build-corpus", config={}, inputs={}) as work:
        corpus.write(work)
    with stage(data / "images", "render-images", config={}, inputs={}) as work:
        write_store(work, [(i, keys[i], None if i == 1 else png(i)) for i in range(n_images)], n_images, 2)
    return data / "corpus", data / "images"


def write_predictions(score: Path, n_test: int = 30, n_labels: int = 8, shift: int = 0) -> None:
    """Write predictions beside a score folder: query i answers i, i + 1, ... (mod n_labels)."""
    folder = score.parent / "predictions"
    folder.mkdir()
    labels = (np.arange(n_test)[:, None] + np.arange(n_labels)[None, :] + shift) % n_labels
    save_array(folder / "labels.npy", labels.astype(np.int32))
    save_array(folder / "scores.npy", np.zeros(labels.shape, dtype=np.float32))
    seed = int(score.parent.parent.name.removeprefix("seed"))
    write_manifest(folder, "predict", {"seed": seed, "shift": shift})


def copy_config(folder: Path) -> None:
    """Copy the project's config with every PICTO run in it, so that a test may change it.

    The paper's datasets and runs are left out: a test that needs one calls :func:`register_real`.
    """
    for part in ("reported", "tables", "figures"):
        shutil.copytree(REPO / "config" / part, folder / part)
    shutil.copyfile(REPO / "config" / "models.yaml", folder / "models.yaml")
    world = read_yaml(REPO / "config" / "datasets.yaml")
    world["datasets"] = {name: entry for name, entry in world["datasets"].items() if entry["builder"] == "picto"}
    (folder / "datasets.yaml").write_text(yaml.safe_dump(world, sort_keys=False), encoding="utf-8")
    (folder / "runs").mkdir()
    shapes = [read_yaml(path) for path in sorted((folder / "tables").glob("*.yaml"))]
    shown = [row["run"] for shape in shapes for block in shape.get("measured", []) for row in block["rows"]]
    runs = "".join(
        f"  {run}: {{modality: {'text+image' if 'vixml' in run else 'text'}}}\n"
        for run in dict.fromkeys([*PICTO, *shown])
        if run != "popularity"
    )
    popularity = (
        "  popularity: {method: none, modality: text, training: {epochs: 0}, inference: {method: popularity}}\n"
    )
    (folder / "runs" / "picto.yaml").write_text(f"dataset: picto\nruns:\n{runs}{popularity}", encoding="utf-8")


def register_real(config_dir: Path, stand_in: bool = False, vision_stand_in: bool = False) -> None:
    """Register the paper's dataset, with and without its own vision encoder."""
    path = config_dir / "datasets.yaml"
    entry = (
        f"  LF-AmazonTitles-131K: {{title: LF-AmazonTitles-131K, builder: picto, stand_in: {str(stand_in).lower()},"
        " expect: {n_train: 294805, n_test: 134835, n_labels: 131073}}\n"
    )
    path.write_text(path.read_text(encoding="utf-8").rstrip("\n") + "\n" + entry, encoding="utf-8")
    (config_dir / "runs" / "real.yaml").write_text(
        "dataset: LF-AmazonTitles-131K\nruns:\n  text-minilm-l3: {modality: text}\n  vixml-minilm-l3: {}\n",
        encoding="utf-8",
    )
    if not vision_stand_in:
        models = config_dir / "models.yaml"
        text = models.read_text(encoding="utf-8")
        models.write_text(text.replace("stand_in: true", "stand_in: false"), encoding="utf-8")


PUBLISHED = {"P@1": 41.72, "P@5": 20.16, "PSP@1": 36.17, "R@100": 64.68}


def write_real(
    results: Path, run: str = "text-minilm-l3", spread: float = 0, shift: float = 0, seeds: tuple[int, ...] = (0, 1, 2)
) -> list[Path]:
    """Write results on the paper's dataset around its published MiniLM-L3 text row."""
    found = {seed: {name: value + shift + spread * (seed - 1) for name, value in PUBLISHED.items()} for seed in seeds}
    return [write_result(results, "LF-AmazonTitles-131K", run, seed, values) for seed, values in found.items()]
