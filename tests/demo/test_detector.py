"""The embedded detector, and the scenes on which it was trained."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline

from peft_mudpt import demo
from peft_mudpt.detection import FusionDetector
from peft_mudpt.lab.average_precision import average_precision
from peft_mudpt.lab.data.boxes import load_embedded_boxes


SHIFTED = sorted(set(demo.SCENE_STYLES) - {demo.SCENE_PRETRAINING_STYLE})


@cache
def detector() -> FusionDetector:
    return FusionDetector(AutoModelForZeroShotObjectDetection.from_pretrained(demo.DETECTOR_PATH), demo.SCENE_CLASSES)


@cache
def measured(style: str) -> float:
    scenes = load_embedded_boxes(style, 60, seed=7)
    found = detector().predict(scenes.pictures["image"], threshold=0, batch_size=60)
    return average_precision(scenes.pictures, found, scenes.class_names).map


def picture_of(example) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(example["image"]["bytes"])).convert("RGB")).astype(int)


def test_the_detector_finds_the_shapes_of_the_style_it_was_trained_on():
    assert measured(demo.SCENE_PRETRAINING_STYLE) > 0.75


@pytest.mark.parametrize("style", SHIFTED)
def test_a_shifted_style_is_harder(style):
    assert measured(style) < measured(demo.SCENE_PRETRAINING_STYLE) - 0.1


def test_the_detector_is_small_and_loads_in_full_precision():
    files = list(Path(demo.DETECTOR_PATH).iterdir())
    assert sum(path.stat().st_size for path in files) <= 2.2e6
    model = detector().model
    assert model.dtype == torch.float32 and 0.9e6 < model.num_parameters() < 1.1e6


def test_the_detector_is_of_the_kind_that_sdpt_expects():
    attention = detector().model.model.encoder.layers[0].fusion_layer.attn
    assert tuple(attention.vision_proj.weight.shape) == tuple(attention.text_proj.weight.shape) == (256, 64)
    assert detector().config.num_queries == 12 and detector().config.encoder_layers == 2


def test_the_detector_reads_the_order_of_the_names():
    scenes = load_embedded_boxes(demo.SCENE_PRETRAINING_STYLE, 60, seed=8)
    names = scenes.class_names[::-1]
    found = FusionDetector(detector().model, names).predict(scenes.pictures["image"], threshold=0.5, batch_size=60)
    right = [
        name in [scenes.class_names[label] for label in labels]
        for own, labels in zip(found, scenes.pictures["labels"][:])
        for name in own.names
    ]
    assert len(right) > 60 and np.mean(right) > 0.8


def test_the_tokenizer_takes_names_of_any_kind():
    names = ["RBC", "platelets", "blood cell #2", "café au lait"]
    assert FusionDetector(detector().model, names).captions == ["rbc. platelets. blood cell #2. café au lait."]
    tokenizer = AutoProcessor.from_pretrained(demo.DETECTOR_PATH, backend="pil").tokenizer
    for name in names:
        assert tokenizer.unk_token_id not in tokenizer(name).input_ids


def test_it_is_found_by_the_pipeline_of_transformers():
    model = AutoModelForZeroShotObjectDetection.from_pretrained(demo.DETECTOR_PATH)
    processor = AutoProcessor.from_pretrained(demo.DETECTOR_PATH, backend="pil")
    detect = pipeline(
        "zero-shot-object-detection",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )
    scene = demo.load_scenes("plain", 1, seed=4)[0]
    found = detect(
        Image.open(io.BytesIO(scene["image"]["bytes"])), candidate_labels=[f"{n}." for n in demo.SCENE_CLASSES]
    )
    assert {own["label"].rstrip(".") for own in found} <= set(demo.SCENE_CLASSES)


def test_scenes_are_the_same_for_the_same_seed_only():
    first, again, other = (demo.load_scenes("faded", 2, seed)[:] for seed in (1, 1, 2))
    assert first == again != other


def test_some_scenes_are_empty_and_others_show_several_shapes():
    numbers = [len(labels) for labels in demo.load_scenes("plain", 200, seed=0)["labels"][:]]
    assert min(numbers) == 0 and max(numbers) == 4 and 10 <= numbers.count(0) <= 40


@pytest.mark.parametrize("style", demo.SCENE_STYLES)
def test_boxes_fit_the_shapes_to_a_pixel(style):
    for example in demo.load_scenes(style, 30, seed=1):
        pixels = picture_of(example)  # (H, W, 3)
        shown = np.abs(pixels - pixels[0, 0]).max(-1) > 12  # (H, W)
        covered = np.zeros_like(shown)
        for left, top, right, bottom in example["boxes"]:
            rows, columns = slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))
            inside = np.argwhere(shown[rows, columns]) + [int(top), int(left)]
            edges = [*inside.min(0), *inside.max(0) + 1]  # top, left, bottom, right
            assert np.allclose(edges, [top, left, bottom, right], atol=2.0 if style == "outlined" else 1.3)
            covered[max(int(top) - 1, 0) : int(bottom) + 2, max(int(left) - 1, 0) : int(right) + 2] = True
        assert not (shown & ~covered).any()


def test_scenes_are_in_the_form_of_every_source_of_boxes():
    data = load_embedded_boxes("plain", 3, seed=5)
    assert data.class_names == list(demo.SCENE_CLASSES)
    assert data.pictures.column_names == ["image", "boxes", "labels", "ignored", "item"]
    assert data.pictures["item"][:] == ["plain[0]", "plain[1]", "plain[2]"]


def test_an_unknown_style_and_no_scene_are_refused_by_name():
    with pytest.raises(ValueError, match="'sunrise'.*faded"):
        demo.load_scenes("sunrise", 1, seed=0)
    with pytest.raises(ValueError, match="number=0"):
        demo.load_scenes("plain", 0, seed=0)
