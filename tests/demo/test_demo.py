"""The embedded world holds what the examples promise."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, demo


def accuracy(style: str) -> float:
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH).eval()
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    pictures = demo.load_pictures(style, images_per_class=3, seed=7)
    images = processor.image_processor(pictures["image"][:], return_tensors="pt").pixel_values
    classifier = MuDPTClassifier(clip, demo.CLASS_NAMES, "a photo of a {}.", processor.tokenizer)
    right = classifier.predict_proba(images).argmax(dim=-1) == torch.tensor(pictures["label"][:])
    return right.float().mean().item()


@pytest.mark.parametrize("style", demo.PRETRAINING_STYLES)
def test_the_clip_knows_the_styles_it_was_trained_on(style):
    assert accuracy(style) > 0.9


def test_the_style_of_adaptation_is_hard_but_not_hopeless():
    assert demo.ADAPTATION_STYLE not in demo.PRETRAINING_STYLES
    assert 0.35 <= accuracy(demo.ADAPTATION_STYLE) <= 0.6


def test_the_clip_is_small_and_loads_in_full_precision():
    weights = load_file(f"{demo.MODEL_PATH}/model.safetensors")
    assert sum(w.numel() * w.element_size() for w in weights.values()) < 1.5e6
    assert CLIPModel.from_pretrained(demo.MODEL_PATH).dtype == torch.float32


def test_there_are_classes_enough_and_their_names_compose():
    assert len(set(demo.CLASS_NAMES)) == len(demo.CLASS_NAMES) >= 60
    assert {len(name.split()) for name in demo.CLASS_NAMES} == {3}


def test_the_tokenizer_takes_any_text():
    tokenizer = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").tokenizer
    text = "zebra crossing, 42 ünïcödé 斑马 !?"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_pictures_are_the_same_for_the_same_seed_only():
    draw = demo.load_pictures.__wrapped__  # world_drawn_once would give the first pictures again
    first, again, other = (draw("sunset", 1, seed)[0]["image"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_unknown_style_or_class_is_refused_by_name():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'sunrise'.*plain"):
        demo.paint(demo.CLASS_NAMES[0], "sunrise", rng)
    with pytest.raises(ValueError, match="'round square'"):
        demo.paint("round square", "plain", rng)
