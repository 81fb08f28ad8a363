"""A classifier of the embedded world, what it is made of, and what it must answer."""

import pytest
import torch
from packaging.version import Version
from peft import get_peft_model
from transformers import AutoTokenizer, CLIPModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.classifier.texts import tokenize_classes


OLDER_TORCH = Version(torch.__version__) < Version("2.13")
NAMES = ["red star", "blue heart", "green cross"]


def adapted(preset="mudpt", **fields):
    """The embedded CLIP with an adapter whose prompts are large enough to matter."""
    torch.manual_seed(1)
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    return get_peft_model(clip, MuDPTConfig.from_preset(preset, **{"init_std": 0.5, **fields})).eval()


def expected_logits(model, tokenizer, pixel_values, template="{}."):
    """By the model's own forward."""
    return model(**tokenize_classes(tokenizer, NAMES, template), pixel_values=pixel_values).logits_per_image


def refuse_masks(module, query, key, value, attention_mask, **kwargs):
    assert attention_mask is None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def assert_fresh(classifier, tokenizer, pixel_values):
    """What it remembers is what the model says now."""
    with torch.no_grad():
        expected = expected_logits(classifier.model, tokenizer, pixel_values)
        torch.testing.assert_close(classifier(pixel_values).logits, expected, atol=1e-4, rtol=1e-5)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_PATH)


@pytest.fixture
def pixel_values():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def classifier(model, tokenizer):
    return MuDPTClassifier(model, NAMES, "{}.", tokenizer)
