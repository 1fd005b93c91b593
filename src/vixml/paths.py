"""Name and find the folder of every result below the folder of results. Nothing else writes these paths."""

from __future__ import annotations

import re
from pathlib import Path

_RUN = "runs/{dataset}/{run}/seed{seed}"

# Stage -> the folder that it writes, which is complete when it holds its manifest. Two stages may make the same kind of folder.
PLACES = {
    "prepare-model": "models/{model}",
    "prepare-vision": "vision/{vision}",
    "build-corpus": "data/{dataset}/corpus",
    "tokenize": "data/{dataset}/tokens/{model}-{max_len}",
    "render-images": "data/{dataset}/images",
    "fetch-images": "data/{dataset}/images",
    "embed-images": "data/{dataset}/embeddings/{vision}",
    "import-vectors": "data/{dataset}/embeddings/{vision}",
    "export-dataset": "exported/{dataset}",
    "train": _RUN + "/model",
    "build-index": _RUN + "/index",
    "measure-latency": _RUN + "/latency",
    "predict": _RUN + "/{split}/predictions",
    "score": _RUN + "/{split}/score",
}


def place(stage: str, results: Path | str = "results", **names: object) -> Path:
    """Return the folder that a stage writes.

    Args:
        stage: a key of :data:`PLACES`.
        results: the folder of all results.
        names: dataset, run, seed and the like; names that this stage does not need are ignored.

    Example:
        >>> place("train", dataset="picto", run="vixml-minilm-l3", seed=0).as_posix()
        'results/runs/picto/vixml-minilm-l3/seed0/model'
    """
    return Path(results, PLACES[stage].format(**names))


def find(stage: str, results: Path | str = "results") -> list[tuple[Path, dict[str, str]]]:
    """Return the folders of a stage that exist, finished or not, each with the names in its path, in order.

    Args:
        stage: a key of :data:`PLACES`.
        results: the folder of all results.

    Example:
        >>> import tempfile
        >>> results = tempfile.mkdtemp()
        >>> place("tokenize", results, dataset="picto", model="minilm-l3", max_len=32).mkdir(parents=True)
        >>> [names for _, names in find("tokenize", results)]
        [{'dataset': 'picto', 'model': 'minilm-l3', 'max_len': '32'}]
    """
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/.][^/]*)", PLACES[stage])  # a leading dot is that of a work folder
    folders = sorted(path for path in Path(results).glob(re.sub(r"\{\w+\}", "*", PLACES[stage])) if path.is_dir())
    matches = [(path, re.fullmatch(pattern, path.relative_to(results).as_posix())) for path in folders]
    return [(path, match.groupdict()) for path, match in matches if match]


def raw_dir(results: Path | str) -> Path:
    """Return the folder of downloaded files."""
    return Path(results, "raw")
