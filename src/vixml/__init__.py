"""Reproduce ViXML (arXiv:2511.13189): extreme multi-label classification with language models and images.

Importing this package is cheap on purpose: no module here imports torch until a stage needs it.
"""

__version__ = "0.1.0"
