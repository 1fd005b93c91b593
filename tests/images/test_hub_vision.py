"""Vision models of the model hub: known to the registry, refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from vixml.config.load import load_world
from vixml.errors import VixmlError
from vixml.images.vision import load_vision

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.mark.parametrize("name", ["siglip2", "vit"])
def test_a_model_of_the_hub_is_refused_and_the_supported_kind_named(name, tmp_path):
    with pytest.raises(VixmlError, match="no vision model of this kind") as caught:
        load_vision(load_world(CONFIG), name, tmp_path, "cpu", "fp32")
    assert (caught.value.found, caught.value.expected) == ("hub", "wheel-efficientnet-lite0")
