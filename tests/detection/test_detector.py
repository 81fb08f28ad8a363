"""The detector: scores per class, boxes in pixels, batches, thresholds, and what it refuses."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import GroundingDinoProcessor

from peft_mudpt import SDPTConfig
from peft_mudpt.detection import FusionDetector
from peft_mudpt.detection.batches import padded
from tests.conftest import build_clip
from tests.detection.conftest import QUERIES, build_detector


NAMES = ["cat", "red star", "white blood cells"]


def picture(seed=0, width=40, height=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def detector(model, tokenizer, image_processor):
    return FusionDetector(model, NAMES, tokenizer, image_processor)


def test_the_score_of_a_class_is_that_of_its_best_token(detector, model, image_processor):
    pixels = image_processor(picture(), return_tensors="pt").pixel_values
    with torch.no_grad():
        found = detector(pixels)
        ids = torch.tensor([[101, 200, 1012, 202, 203, 1012, 204, 205, 206, 209, 1012, 102]])
        plain = model(pixels, ids)
    tokens = [[1], [3, 4], [6, 7, 8, 9]]
    for label, own in enumerate(tokens):
        assert torch.equal(found.logits[..., label], plain.logits[..., own].max(-1).values)
    assert torch.equal(found.pred_boxes, plain.pred_boxes)


def test_the_caption_and_the_boxes_in_pixels_are_those_of_transformers(detector, model, tokenizer, image_processor):
    image = picture(width=60)
    inputs = GroundingDinoProcessor(image_processor, tokenizer)(image, [NAMES], return_tensors="pt")
    assert inputs.input_ids.tolist() == [tokenizer(detector.captions[0]).input_ids]
    with torch.no_grad():
        output = model(**inputs)
    expected = image_processor.post_process_object_detection(output, threshold=0, target_sizes=[(40, 60)])[0]["boxes"]
    (found,) = detector.predict([image], threshold=0, top_k=QUERIES * len(NAMES))
    assert len(found) == QUERIES * len(NAMES)
    distance = (found.boxes[:, None] - expected).abs().amax(-1).amin(1)  # of each to the nearest of transformers
    assert distance.max() < 1e-4


def test_what_is_found_in_a_picture_does_not_depend_on_the_others_of_the_batch(detector):
    pictures = [picture(0), picture(1), picture(2, width=60), picture(3, height=50)]
    together = detector.predict(pictures, threshold=0, top_k=5, batch_size=4)
    for image, found in zip(pictures, together):
        (alone,) = detector.predict([image], threshold=0, top_k=5)
        assert torch.equal(found.labels, alone.labels)
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-4) and torch.allclose(found.scores, alone.scores)


def test_top_k_and_threshold_keep_the_best_over_all_classes(detector):
    (everything,) = detector.predict([picture()], threshold=0, top_k=1000)
    assert everything.scores.tolist() == sorted(everything.scores.tolist(), reverse=True)
    assert everything.names == [NAMES[label] for label in everything.labels]
    (best,) = detector.predict([picture()], threshold=0, top_k=4)
    assert torch.equal(best.boxes, everything.boxes[:4]) and torch.equal(best.labels, everything.labels[:4])
    threshold = everything.scores[2].item()
    (above,) = detector.predict([picture()], threshold=threshold)
    assert len(above) == (everything.scores > threshold).sum()
    (none,) = detector.predict([picture()], threshold=1)
    assert len(none) == 0 and none.boxes.shape == (0, 4)


def test_it_predicts_in_evaluation_mode_and_leaves_the_modes_of_all_parts_as_they_were(tokenizer, image_processor):
    detector = FusionDetector(build_detector(), NAMES, tokenizer, image_processor)
    expected = detector.predict([picture()], threshold=0)[0]
    detector.train()
    detector.model.model.encoder.eval()
    modes = [module.training for module in detector.modules()]
    found = detector.predict([picture()], threshold=0)[0]
    assert torch.equal(found.scores, expected.scores)
    assert [module.training for module in detector.modules()] == modes


def test_split_captions_score_each_class_as_a_detector_of_its_caption_does(tokenizer, image_processor):
    names = ["cat", "dog", "red star", "white blood cells", "bird"]
    model = build_detector(max_text_len=9)
    with pytest.raises(ValueError, match=r"16 tokens, but max_text_len is 9.*split_captions=True"):
        FusionDetector(model, names, tokenizer)
    detector = FusionDetector(model, names, tokenizer, image_processor, split_captions=True)
    assert detector.captions == ["cat. dog. red star.", "white blood cells. bird."]
    pixels = image_processor(picture(), return_tensors="pt").pixel_values
    with torch.no_grad():
        found = detector(pixels)
        first, second = (FusionDetector(model, own, tokenizer)(pixels) for own in (names[:3], names[3:]))
    assert found.logits.shape == (1, 2 * QUERIES, 5)
    assert torch.equal(found.logits[:, :QUERIES, :3], first.logits)
    assert torch.equal(found.logits[:, QUERIES:, 3:], second.logits)
    assert found.logits[:, :QUERIES, 3:].isneginf().all() and found.logits[:, QUERIES:, :3].isneginf().all()
    assert torch.equal(found.pred_boxes, torch.cat([first.pred_boxes, second.pred_boxes], dim=1))
    (detections,) = detector.predict([picture()], threshold=0, top_k=1000)
    assert len(detections) == QUERIES * 5  # a class that is not in a caption is not found by it


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "class_names="),
        (["cat", " "], "class_names="),
        ("cat", "class_names="),
        (["st. bernard"], r"'st\. bernard' contains '\.' or '\?'"),
        (["cat", "dog?"], r"'dog\?' contains"),
        (["cat", "Cat"], "'cat' and 'Cat' are the same"),
        (["unheard", "unseen"], "'unheard' and 'unseen' are the same"),
        (["cat", "\u200b"], "no token"),
        (["cat " * 40], "40 tokens"),
    ],
)
def test_names_that_cannot_be_classes_of_a_caption_are_refused_by_name(names, words, tokenizer):
    with pytest.raises(ValueError, match=words):
        FusionDetector(build_detector(), names, tokenizer)


def test_a_caption_may_be_exactly_as_long_as_max_text_len(tokenizer, image_processor):
    detector = FusionDetector(build_detector(max_text_len=7), ["cat", "red star"], tokenizer, image_processor)
    assert len(detector.predict([picture()], threshold=0, top_k=1)[0]) == 1


def test_other_models_and_tokenizers_are_refused_by_name(tokenizer):
    with pytest.raises(ValueError, match="CLIPModel.*GroundingDinoForObjectDetection"):
        FusionDetector(build_clip(), NAMES, tokenizer)
    with pytest.raises(ValueError, match="tokenizer"):
        FusionDetector(build_detector(), NAMES)

    class Other:
        input_ids = [1, 2, 3]

    with pytest.raises(ValueError, match=r"\[1, 2, 3\] of '\.'"):
        FusionDetector(build_detector(), NAMES, lambda *_, **__: Other())


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(threshold=2), "threshold=2"),
        (dict(threshold=float("nan")), "threshold=nan"),
        (dict(top_k=0), "top_k=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(errors="ignore"), "errors='ignore'"),
    ],
)
def test_bad_options_are_refused_by_name(options, words, detector):
    with pytest.raises(ValueError, match=words):
        detector.predict([picture()], **options)


def test_a_picture_that_cannot_be_read_is_named_or_skipped(detector):
    pictures = [picture(), "no such file.jpg", picture(1)]
    with pytest.raises(ValueError, match="picture 1, no such file.jpg"):
        detector.predict(pictures)
    with pytest.warns(UserWarning, match="1 of 3 pictures were skipped"):
        found = detector.predict(pictures, threshold=0, errors="skip")
    assert found[1] is None and len(found[0]) and len(found[2])
    assert detector.predict([]) == []


def test_scores_that_are_not_finite_are_refused_with_the_position(tokenizer, image_processor):
    model = build_detector()
    with torch.no_grad():
        model.class_embed[-1].bias.fill_(torch.nan)
    detector = FusionDetector(model, NAMES, tokenizer, image_processor)
    with pytest.raises(ValueError, match="picture 0 are not finite"):
        detector.predict([picture()])


def test_it_detects_in_half_precision(tokenizer, image_processor):
    detector = FusionDetector(build_detector().bfloat16(), NAMES, tokenizer, image_processor)
    assert len(detector.predict([picture()], threshold=0, top_k=3)[0]) == 3


def test_pictures_of_several_sizes_are_padded_on_the_right_and_at_the_bottom():
    batch = padded([torch.ones(3, 4, 6), torch.ones(3, 5, 2)])
    assert batch["pixel_values"].shape == (2, 3, 5, 6) and batch["pixel_mask"].shape == (2, 5, 6)
    assert torch.equal(batch["pixel_values"][:, 0], batch["pixel_mask"].float())
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [24, 10]


def test_a_label_that_is_no_class_is_refused_with_its_picture(detector):
    wrong = [{"class_labels": torch.tensor([3]), "boxes": torch.full((1, 4), 0.5)}]
    with pytest.raises(ValueError, match=r"Picture 0 has class_labels \[3\].*3 classes"):
        detector(torch.zeros(1, 3, 32, 32), labels=wrong)


@pytest.mark.slow
def test_an_adapted_detector_exports_and_the_exported_program_finds_the_same(tokenizer):
    model = get_peft_model(build_detector(), SDPTConfig(num_virtual_tokens=4)).eval()
    detector = FusionDetector(model, NAMES, tokenizer)
    pixels, mask = torch.randn(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.long)
    with torch.no_grad():
        expected = detector(pixels, mask)
        found = torch.export.export(detector, (pixels, mask), strict=False).module()(pixels, mask)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.pred_boxes, expected.pred_boxes)
