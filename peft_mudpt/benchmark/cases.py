"""What is measured: three ways to do the same training step and the same inference."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from .. import demo
from ..classifier import MuDPTClassifier, tokenize_classes
from ..config import MuDPTConfig


# padded: texts padded to the text tower's full length and encoded anew for each batch, as published code does.
# ours: MuDPTClassifier. plain: CLIP's image tower alone, without prompts and without texts, which is the limit.
PADDED, OURS, PLAIN = "padded", "ours", "plain"
WAYS = (PADDED, OURS, PLAIN)
TRAINING, INFERENCE = "training", "inference"
TASKS = (TRAINING, INFERENCE)
MODELS = {
    "tiny": CLIPConfig.from_pretrained(demo.MODEL_PATH),
    "vit_b16": CLIPConfig(vision_config={"patch_size": 16}),
}
WORDS_PER_NAME = 4  # at most; ImageNet's names have one to a few


@dataclass(frozen=True)
class Case:
    """
    One cell of the benchmark.

    Args:
        model: one of `MODELS`; the weights are random.
        task: training or inference.
        classes: number of classes (C).
        batch_size: images at a time (B).
        autocast: bfloat16 autocast, or float32.
        compiled: whether our way and plain CLIP go through `torch.compile`.
    """

    model: str
    task: str
    classes: int
    batch_size: int
    autocast: bool = False
    compiled: bool = False


def build_model(name: str, device: str) -> torch.nn.Module:
    """A CLIP of this size with the default MuDPT adapter."""
    torch.manual_seed(0)
    config = MODELS[name]
    tokens = {field: getattr(MODELS["tiny"].text_config, field) for field in ("bos_token_id", "eos_token_id")}
    config.text_config.update(tokens)  # of the embedded tokenizer, which is the one at hand
    return get_peft_model(CLIPModel(config), MuDPTConfig()).to(device)


def class_names(classes: int) -> list[str]:
    """Names of one to four words, each of them one token."""
    words = sorted({word for name in demo.CLASS_NAMES for word in name.split()})
    draw = random.Random(0)
    return [" ".join(draw.choices(words, k=draw.randint(1, WORDS_PER_NAME))) for _ in range(classes)]


def way_to_run(way: str, case: Case, model: torch.nn.Module) -> Callable[[], torch.Tensor]:
    """One step of a case, ready to be called again and again. It returns what comes out of the model."""
    device, size = model.device, model.config.vision_config.image_size
    pixel_values = torch.randn(case.batch_size, 3, size, size, device=device)
    labels = torch.arange(case.batch_size, device=device) % case.classes
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    names = class_names(case.classes)
    if way == PADDED:
        tokens = tokenize_classes(tokenizer, names, "{}.")
        # prompts and text together are as long as the text tower takes
        room = model.config.text_config.max_position_embeddings - model.peft_config["default"].num_tokens("text")
        padded = tokenizer.pad(tokens, padding="max_length", max_length=room, return_tensors="pt").to(device)

        def logits() -> torch.Tensor:
            return model(**padded, pixel_values=pixel_values).logits_per_image
    elif way == OURS:
        classifier = MuDPTClassifier(model, names, "{}.", tokenizer)
        run = torch.compile(classifier) if case.compiled and case.task == TRAINING else classifier

        def logits() -> torch.Tensor:
            return run(pixel_values).logits
    else:
        clip = model.get_base_model()
        encode = torch.compile(clip.get_image_features) if case.compiled else clip.get_image_features
        class_features = normalize(torch.randn(case.classes, model.config.projection_dim, device=device), dim=-1)
        pixel_values.requires_grad_(case.task == TRAINING)  # or there would be no backward pass

        def logits() -> torch.Tensor:
            with model.disable_adapter():
                features = encode(pixel_values=pixel_values).pooler_output
            return features if case.task == INFERENCE else features @ class_features.t()

    def step() -> torch.Tensor:
        with torch.set_grad_enabled(case.task == TRAINING):
            with torch.autocast(device.type, torch.bfloat16, enabled=case.autocast):
                output = logits()
            if case.task == TRAINING:
                cross_entropy(output.float(), labels).backward()
                model.zero_grad(set_to_none=True)
        return output.detach()

    return step
