"""Start a training from an earlier model of the same catalogue (``start`` of a run): labels are matched by their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from vixml.config.run import Encoder, Start
from vixml.errors import VixmlError, expect_equal
from vixml.files import read_json, sha256_file
from vixml.models.siamese import Siamese

HEADER, CONFIG, LANGUAGE, HEAD = "model.json", "config.json", "language/model.safetensors", "head.safetensors"
LABELS, VECTORS = "labels/items.parquet", "labels/z.npy"
FREE, CLUSTER, NETWORK = "prototypes.free.weight", "cluster", "backbone.network."
AGAIN = "name another model folder: `vixml fit NAME --from MODEL`"


@dataclass(frozen=True)
class Earlier:
    """The networks of a model folder of ``vixml pack``.

    Attributes:
        folder: where it is.
        language: weights of its language model, with the whole vocabulary; empty where only adapters were trained.
        head: everything else that was learned.
        labels: text of each of its labels -> row.
        vectors: (n, dim) float32, its label vectors ``z``; None for a model without them.
    """

    folder: Path
    language: dict[str, Tensor]
    head: dict[str, Tensor]
    labels: dict[str, int]
    vectors: np.ndarray | None = None

    @classmethod
    def open(cls, start: Start, encoder: Encoder) -> Earlier:
        """Read the folder, whose files are verified, for a run with this encoder.

        Raises:
            VixmlError: it is missing, damaged, another one than that which the run names, or what its language model learned has
                no place in the run's.
        """
        folder = Path(start.folder)
        header = folder / HEADER
        if not header.is_file():
            what, expected = "no model folder to start from", f"a folder with {HEADER}"
            raise VixmlError(what, where=folder, expected=expected, hint=AGAIN)
        what = "the model folder to start from is another one now"
        expect_equal(sha256_file(header), start.sha256, what, where=header, hint=AGAIN)
        files = read_json(header)["files"]
        for name in {CONFIG, LANGUAGE, HEAD, LABELS, VECTORS} & files.keys():
            what = "a file of the model folder to start from was altered"
            expect_equal(sha256_file(folder / name), files[name]["sha256"], what, where=folder / name, hint=AGAIN)
        _expect_same_encoder(folder / CONFIG, encoder)
        names = pq.ParquetFile(folder / LABELS).read(columns=["id", "text"]).to_pydict()
        texts = [text or key for key, text in zip(names["id"], names["text"], strict=True)]
        language = load_file(folder / LANGUAGE) if LANGUAGE in files else {}
        vectors = np.load(folder / VECTORS, allow_pickle=False) if VECTORS in files else None
        return cls(folder, language, load_file(folder / HEAD), {text: row for row, text in enumerate(texts)}, vectors)

    @torch.no_grad()
    def restore(self, model: Siamese) -> None:
        """Set the language model, the image projection and the prototype network to the earlier ones.

        Raises:
            VixmlError: another language model, or a part of another size.
        """
        network, kept = model.backbone.network, {}
        table = network.get_input_embeddings().weight
        for name, tensor in model.learned_state().items():
            key = name.removeprefix(NETWORK)
            # Computed anew from the items there are now.
            if name in (FREE, "backbone.row_of", CLUSTER) or name.startswith(("centroid", "has_centroid", "centre")):
                continue
            found = self.head.get(name, self.language.get(key) if name.startswith(NETWORK) else None)
            if found is None and not name.startswith(NETWORK):
                continue  # a part that the earlier run had not, such as an image projection: it stays new
            rows = model.backbone.row_of
            if found is not None and rows is not None and tensor.data_ptr() == table.data_ptr():
                found = found[: len(rows)][rows.cpu() >= 0]
            if found is None or found.shape != tensor.shape:
                raise VixmlError(
                    "the model folder to start from holds another language model or parts of other sizes",
                    where=f"{self.folder}: {name}",
                    found="nothing" if found is None else tuple(found.shape),
                    expected=tuple(tensor.shape),
                    hint="start from a model that was trained with these settings",
                )
            kept[name] = found
        model.load_learned_state({**model.learned_state(), **kept})

    @torch.no_grad()
    def label_vectors(self, model: Siamese, labels: Sequence[str]) -> int:
        """Set the vector of each label that the earlier model had to its ``z`` there; return how many it had."""
        known = [(row, self.labels[text]) for row, text in enumerate(labels) if text in self.labels]
        if self.vectors is None or self.vectors.shape[1] != model.vectors.shape[1] or not known:
            return 0
        now, before = np.array(known).T
        model.vectors[torch.from_numpy(now).to(model.device)] = torch.from_numpy(self.vectors[before]).to(model.device)
        return len(known)

    @torch.no_grad()
    def free_vectors(self, model: Siamese, labels: Sequence[str]) -> int:
        """Set each free vector to the mean of those that its labels had, where they had any; return how many had."""
        old, free = self.head.get(FREE), model.prototypes.free.weight
        known = [(row, self.labels[text]) for row, text in enumerate(labels) if text in self.labels]
        if old is None or old.shape[1] != free.shape[1] or not known:
            return 0
        now, before = torch.tensor(known).T
        clusters = model.cluster.cpu()[now]
        total = torch.zeros(free.shape).index_add_(0, clusters, old[self.head[CLUSTER][before]])
        counts = torch.bincount(clusters, minlength=len(free))
        has = counts > 0
        free[has.to(free.device)] = (total[has] / counts[has, None]).to(free.device)
        return len(known)


def _expect_same_encoder(path: Path, now: Encoder) -> None:
    """Check that all that the earlier language model learned is a part of the new one: whole weights, or adapters."""
    before = read_json(path)["encoder"]
    same = all(before[key] == getattr(now, key) for key in ("model", "layers"))
    # A frozen one learned nothing: it is the published model, as good a start for all weights.
    if same and (before["train"] == now.train or (before["train"], now.train) == ("frozen", "full")):
        return
    keys = ("model", "layers", "train")
    found, expected = (", ".join(f"{key}: {one[key]}" for key in keys) for one in (before, now.model_dump()))
    what = "the model folder to start from holds another language model, or one that was trained in another way"
    hint = f"set these keys of the run's `encoder` to those of the folder, or {AGAIN}"
    raise VixmlError(what, where=f"{path}: encoder", found=found, expected=expected, hint=hint)
