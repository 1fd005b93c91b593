"""Reproduce ViXML (arXiv:2511.13189): extreme multi-label classification with language models and images.

Importing this package is cheap on purpose: no module here imports torch until a stage needs it.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Tagger":
        from vixml.tagging.tagger import Tagger

        return Tagger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
