"""Templates: what is refused, and that the error names the way out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vixml.config.run import RunConfig
from vixml.config.template import has_field, parse_template


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("This product {images}{eos}", r"no \{text\}"),
        ("{text} {image}", r"did you mean \{images\}"),
        ("{text}{prompt}", r"known are \{text\}, \{images\}, \{eos\}"),
        ("{text} and {text}", "occurs twice"),
        ("{text} {images", "character 8"),
        ("{text}}", "character 7"),
        ("", r"no \{text\}"),
    ],
)
def test_refuses(template, says):
    with pytest.raises(ValueError, match=says):
        parse_template(template)
    with pytest.raises(ValidationError, match=says):
        RunConfig.model_validate({"encoder": {"template": template}, "modality": "text"})


def test_a_run_with_images_needs_a_place_for_them():
    with pytest.raises(ValidationError, match=r"has no \{images\}"):
        RunConfig.model_validate({"encoder": {"template": "{text}{eos}"}})
    # Late fusion keeps images outside.
    RunConfig.model_validate({"encoder": {"template": "{text}{eos}"}, "images": {"fusion": "late"}})


def test_the_labels_own_template_is_for_untrained_embedders():
    label = {"encoder": {"template": "{text}", "label_template": "a {text}"}, "modality": "text"}
    with pytest.raises(ValidationError, match="off the shelf"):
        RunConfig.model_validate(label)
    RunConfig.model_validate(label | {"method": "none", "training": {"epochs": 0}, "inference": {"labels_as": "u"}})


def test_has_field():
    assert has_field("{text}{images}", "images") and not has_field("{text}", "images")


def test_frozen_bfloat16_weights_are_not_computed_with_in_fp16():
    half = {"encoder": {"train": "lora", "weights": "bfloat16"}, "training": {"precision": "fp16"}}
    with pytest.raises(ValidationError, match=r"set training\.precision to bf16"):
        RunConfig.model_validate(half)
