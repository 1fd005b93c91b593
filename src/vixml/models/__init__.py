"""The networks: weights made ready, packed backbone, early fusion, prototype network, Siamese model."""

from vixml import torchvision_fix as _first  # noqa: F401 -- before any module of this room imports transformers
