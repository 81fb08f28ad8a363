"""transformers' pipeline with an adapted detector."""

import pytest
import torch
from peft import get_peft_model
from transformers import pipeline
from transformers.utils import logging

from peft_mudpt import SDPTConfig
from tests.detection.conftest import QUERIES, build_detector
from tests.detection.test_detector import picture


@pytest.fixture
def log(caplog):
    """What transformers logs; it hands nothing to other loggers unless it is asked to."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def test_the_pipeline_detects_with_the_prompts_of_an_adapter(model, tokenizer, image_processor, log):
    adapted = get_peft_model(build_detector(model.config.model_type), SDPTConfig())
    parts = dict(tokenizer=tokenizer, image_processor=image_processor)

    def detect(model):
        detector = pipeline("zero-shot-object-detection", model=model, **parts)
        return detector(picture(), candidate_labels=["cat.", "red star."], threshold=0)

    found = detect(adapted.get_base_model())
    assert len(found) == 2 * QUERIES and "not supported" not in log.text
    assert detect(adapted) == found  # the same, but transformers does not know the class
    assert "'PeftModel' is not supported" in log.text
    for label in ("cat.", "red star."):
        inputs = {**tokenizer(label, return_tensors="pt"), **image_processor(picture(), return_tensors="pt")}
        with torch.no_grad():
            best = adapted(**inputs).logits.sigmoid().max().item()  # over all tokens, "." included
        assert max(each["score"] for each in found if each["label"] == label) == pytest.approx(best)
    with adapted.disable_adapter():
        assert detect(adapted.get_base_model()) == detect(model) != found
