"""The networks: model folders, prompts, packed sequences, backbone, adapters, fusion and label prototypes."""

from vixml import torchvision_fix as _first  # noqa: F401 -- before any module of this package imports transformers
