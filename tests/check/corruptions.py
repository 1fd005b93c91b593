"""Corruptions of a small tree of results (checked_tree.py), each with the stage and the message that must report it.

Each corrupts one thing. Most also update the folder's manifest, so that not only a hash differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from checked_tree import change_array, seal
from safetensors.numpy import load_file, save_file

from vixml.files import read_json, sha256_json, write_json
from vixml.provenance import MANIFEST

DATA = "data/picto"
SEED = "runs/picto/searching/seed0"
EMBEDDINGS, INDEX, PREDICTED = f"{DATA}/embeddings/eyes", f"{SEED}/index", f"{SEED}/test/predictions"


def raw_altered(results: Path) -> None:
    file = results / "raw" / "icon_mcp-0.1.0-py3-none-any.whl"
    file.parent.mkdir()
    file.write_bytes(b"short")


def not_as_registered(results: Path) -> None:
    path = results.parent / "config" / "datasets.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("n_train: 30", "n_train: 31"), encoding="utf-8")


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    """Alter bytes of a file; it keeps its size and can still be read."""

    def spoil(results: Path) -> None:
        data = (results / name).read_bytes()
        assert old in data and len(old) == len(new)
        (results / name).write_bytes(data.replace(old, new, 1))

    return spoil


def written(name: str, text: str, seal_it: bool = False) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        (results / name).write_text(text, encoding="utf-8")
        if seal_it:
            seal((results / name).parent)

    return spoil


def removed(name: str) -> Callable[[Path], None]:
    return lambda results: (results / name).unlink()


def value(name: str, at: object, number: float, folder: str | None = None) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        change_array(results / name, at, number)
        seal(results / folder if folder else (results / name).parent)

    return spoil


def keys(name: str, **changed: object) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        write_json(results / name, read_json(results / name) | changed)
        seal((results / name).parent)

    return spoil


def rebuilt(folder: str) -> Callable[[Path], None]:
    """Let a stage have run again with another result, which is in order by itself."""

    def spoil(results: Path) -> None:
        (results / folder / "note.txt").write_text("a file more", encoding="utf-8")
        seal(results / folder)

    return spoil


def a_row_less(results: Path) -> None:
    folder = results / DATA / "tokens" / "tiny-8" / "test"
    offsets = np.load(folder / "offsets.npy")
    np.save(folder / "values.npy", np.load(folder / "values.npy")[: offsets[-2]])
    np.save(folder / "offsets.npy", offsets[:-1])
    header = read_json(folder / "header.json")
    write_json(folder / "header.json", header | {"n_rows": len(offsets) - 2, "n_values": int(offsets[-2])})
    seal(folder.parent)


def not_finite(kind: str, number: int) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        file = results / SEED / "model" / "model.safetensors"
        tensors = load_file(file)
        tensors[kind].reshape(-1)[number] = np.inf
        save_file(tensors, file)
        seal(file.parent)

    return spoil


def a_bfloat16_that_is_not_a_number(results: Path) -> None:
    import torch
    from safetensors.torch import save_file as save

    file = results / SEED / "model" / "model.safetensors"
    save({"x": torch.tensor([1.0, -3e38, float("nan")], dtype=torch.bfloat16)}, file)
    seal(file.parent)


def another_label_ranked(results: Path) -> None:
    folder = results / SEED / "test" / "predictions"
    labels = np.load(folder / "labels.npy")
    # The last label becomes the worst of all, with its true score.
    vectors, queries = (np.load(results / SEED / "index" / f"{name}.npy") for name in ("label_z", "test"))
    worst = int(np.argmin(vectors @ queries[5]))
    labels[5, -1] = worst
    scores = np.load(folder / "scores.npy")
    scores[5, -1] = vectors[worst] @ queries[5]
    np.save(folder / "labels.npy", labels)
    np.save(folder / "scores.npy", scores)
    seal(folder)


def through_an_index(results: Path, recall: float) -> None:
    """Turn the predictions into those of an approximate index that misses one of 120 labels."""
    another_label_ranked(results)
    path = results / SEED / "test" / "predictions" / MANIFEST
    manifest = read_json(path)
    manifest["config"]["inference"] |= {"index": "ivf", "index_recall": recall}
    manifest["config_sha256"] = sha256_json(manifest["config"])
    write_json(path, manifest)


def moved(results: Path) -> None:
    (results / SEED).rename((results / SEED).with_name("seed1"))


def another_score(results: Path) -> None:
    path = results / SEED / "test" / "score" / "scores.json"
    scores = read_json(path)
    scores["metrics"]["P@5"] += 0.01
    write_json(path, scores)
    seal(path.parent)


CORRUPTIONS = [
    ("data", "altered or cut short", raw_altered),
    ("data", "does not hold what it counts", keys(f"{DATA}/corpus/counts.json", n_test=13)),
    ("data", "does not have the counts of the registry", not_as_registered),
    ("data", "not the one that its stage wrote", replaced(f"{DATA}/corpus/train.parquet", b"train 0", b"trail 0")),
    ("data", "not a JSON file", written(f"{DATA}/corpus/manifest.json", "{")),
    ("data", "a manifest lacks a part", written(f"{DATA}/corpus/manifest.json", '{"schema_version": 1}')),
    ("data", "filter|missing", removed(f"{DATA}/corpus/filter_test/values.npy")),
    ("tokens", "not those of the corpus", a_row_less),
    ("tokens", "out of range", value(f"{DATA}/tokens/tiny-8/label/values.npy", 3, 50, f"{DATA}/tokens/tiny-8")),
    ("tokens", "made from another corpus .* stale", rebuilt(f"{DATA}/corpus")),
    ("images", "image store does not match its store.json", keys(f"{DATA}/images/store.json", n_images=16)),
    ("images", "store is not that of the corpus", keys(f"{DATA}/images/store.json", n_images=16, missing=[4, 15])),
    ("images", "vector has a wrong norm", value(f"{EMBEDDINGS}/vectors.npy", (7, 2), np.nan)),
    ("images", "vector has a wrong norm", value(f"{EMBEDDINGS}/vectors.npy", 7, 0)),
    ("images", "vector has a wrong norm", value(f"{EMBEDDINGS}/vectors.npy", 4, 1)),
    ("images", "made from another images", rebuilt(f"{DATA}/images")),
    ("model", "weight is not finite", not_finite("a", 5)),
    ("model", "weight is not finite", not_finite("c", 6)),
    ("model", "weight is not finite", a_bfloat16_that_is_not_a_number),
    ("model", "record of something else", keys(f"{SEED}/model/training.json", seed=3)),
    ("model", "result of something else", moved),
    ("model", "is missing", removed("models/tiny/tokenizer.json")),
    ("index", "not of length 1", value(f"{INDEX}/label_z.npy", (19, 0), 2.0)),
    ("index", "not of length 1", value(f"{INDEX}/train.npy", (0, 0), np.nan)),
    ("index", "its stage did not write", written(f"{INDEX}/label_w.npy", "left over")),
    ("index", "made from another trained", rebuilt(f"{SEED}/model")),
    ("predictions", "not that of an exact search", another_label_ranked),
    ("predictions", "not the inner products", value(f"{PREDICTED}/scores.npy", (0, 0), 1.5)),
    ("predictions", "predicted twice", value(f"{PREDICTED}/labels.npy", (2, slice(0, 2)), 1)),
    ("predictions", "label does not exist", value(f"{PREDICTED}/labels.npy", (2, 0), 20)),
    ("predictions", "made from another index", rebuilt(INDEX)),
    ("scores", "P@5 is not that of the predictions", another_score),
    ("scores", "something else than its folder", keys(f"{SEED}/validation/score/scores.json", split="test")),
    ("scores", "not a JSON file", written(f"{SEED}/test/score/scores.json", "{", seal_it=True)),
    ("scores", "does not hold what it should", written(f"{SEED}/test/score/scores.json", "[]", seal_it=True)),
]  # fmt: skip
