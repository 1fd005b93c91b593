"""Make ``import torchvision`` work beside a torch built for processors. Import this before transformers or open_clip.

The package index has torchvision compiled for GPU builds of torch alone. Beside another build its compiled operators cannot be
loaded, and since transformers imports torchvision wherever it is installed, not even a text model could be opened then.
Nothing here calls those operators (they find boxes in images); they only have to have a declaration. Where the compiled
operators load, nothing is done.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def _compiled_operators_load() -> bool:
    found = importlib.util.find_spec("torchvision")
    folders = [] if found is None else [Path(folder) for folder in found.submodule_search_locations or ()]
    for library in (path for folder in folders for path in sorted(folder.glob("_C*.so"))):
        try:
            torch.ops.load_library(library)
        except OSError:
            return False
    return True


# Declared at import, once per process, and kept: a library's declarations end with it.
_library = None
if not _compiled_operators_load():
    _library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):  # those that torchvision's Python code names when it is imported
        _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
