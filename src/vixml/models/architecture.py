"""What is asked of a network's class before it is built."""

from __future__ import annotations

import inspect

from transformers import MODEL_MAPPING, PretrainedConfig


def without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """Return the arguments that leave a pooler out, where the network has one.

    BERT's pooler belongs to next-sentence prediction; pooling token vectors leaves it without a gradient.

    Example:
        >>> from transformers import BertConfig, LlamaConfig
        >>> without_pooler(BertConfig()), without_pooler(LlamaConfig())
        ({'add_pooling_layer': False}, {})
    """
    known = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}
