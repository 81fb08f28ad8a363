"""The loss of a batch is the sum of the losses of its pictures, for unlike captions and any number of processes."""

from functools import partial

import pytest
import torch
from torch.nn.functional import pad
from transformers.loss.loss_grounding_dino import GroundingDinoForObjectDetectionLoss

from peft_mudpt.detection import FusionDetector, per_picture_loss
from tests.conftest import in_two_processes
from tests.detection import two_processes
from tests.detection.conftest import FAMILIES, build_detector


# Captions of 2, 1, 3 and 2 classes, and the objects of each picture; the last has none.
CAPTIONS = [
    [101, 200, 1012, 202, 203, 1012, 102],
    [101, 201, 1012, 102],
    [101, 208, 1012, 204, 205, 206, 1012, 207, 1012, 102],
    [101, 207, 1012, 200, 1012, 102],
]
OBJECTS = [[1, 0, 1], [0], [2, 1], []]


def batch(rows=range(4)):
    """Inputs of some of the four pictures, with captions padded to the longest of them."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    boxes = torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.3
    ids = [torch.tensor(CAPTIONS[i]) for i in rows]
    longest = max(map(len, ids))
    return dict(
        pixel_values=pixels[list(rows)],
        input_ids=torch.stack([pad(own, (0, longest - len(own))) for own in ids]),
        attention_mask=torch.stack([pad(torch.ones_like(own), (0, longest - len(own))) for own in ids]),
        labels=[
            {"class_labels": torch.tensor(OBJECTS[i], dtype=torch.long), "boxes": boxes[i, : len(OBJECTS[i])]}
            for i in rows
        ],
    )


@pytest.fixture(scope="module", params=[(f, a) for f in FAMILIES for a in (False, True)], ids=str)
def learner(request):
    family, auxiliary = request.param
    model = build_detector(family, auxiliary_loss=auxiliary, decoder_layers=3)
    model.loss_function = per_picture_loss
    return model


def by_transformers(model, i):
    """The loss of one picture, by transformers' own function, in one process."""
    model.loss_function = GroundingDinoForObjectDetectionLoss
    try:
        return model(**batch([i])).loss
    finally:
        model.loss_function = per_picture_loss


def test_the_loss_of_a_batch_is_the_sum_over_single_pictures_of_unlike_captions(learner):
    with torch.no_grad():
        singles = torch.stack([by_transformers(learner, i) for i in range(4)])
        for rows in ([0, 1, 2, 3], [2, 0, 1], [1, 0], [3], [3, 3]):
            expected = singles[rows].sum()
            assert torch.allclose(learner(**batch(rows)).loss, expected, rtol=2e-5)


def test_gradients_are_sums_over_single_pictures_too(learner):
    weight = learner.model.encoder.layers[0].fusion_layer.attn.vision_proj.weight
    single = sum(torch.autograd.grad(by_transformers(learner, i), weight)[0] for i in range(4))
    (together,) = torch.autograd.grad(learner(**batch()).loss, weight)
    assert torch.allclose(together, single, atol=1e-4 * single.abs().max().item())


def test_one_caption_and_the_number_of_all_boxes_give_the_published_loss():
    model = build_detector(auxiliary_loss=True)
    inputs = batch([0, 0, 0])
    inputs["labels"][1]["boxes"] = inputs["labels"][1]["boxes"].flip(-1)
    expected = model(**inputs)
    model.loss_function = partial(per_picture_loss, num_boxes=9)
    found = model(**inputs)
    assert torch.allclose(found.loss, expected.loss, rtol=1e-5)
    for name, part in found.loss_dict.items():
        assert torch.allclose(part, expected.loss_dict[name], rtol=1e-5), name
    assert [level.keys() for level in found.auxiliary_outputs] == [{"logits", "pred_boxes"}]


def test_the_mean_and_the_single_losses_are_of_the_same_pictures(learner):
    with torch.no_grad():
        losses = {}
        for reduction in ("sum", "mean", "none"):
            learner.loss_function = partial(per_picture_loss, reduction=reduction)
            losses[reduction] = learner(**batch()).loss
        learner.loss_function = per_picture_loss
    assert losses["none"].shape == (4,)
    assert torch.allclose(losses["none"].sum(), losses["sum"])
    assert torch.allclose(losses["none"].mean(), losses["mean"])


def test_padding_of_captions_and_more_objects_than_queries_are_no_matter():
    model = build_detector(num_queries=2)
    model.loss_function = per_picture_loss
    inputs = batch([0])
    padded = {
        **inputs,
        "input_ids": pad(inputs["input_ids"], (0, 5)),
        "attention_mask": pad(inputs["attention_mask"], (0, 5)),
    }
    assert torch.allclose(model(**padded).loss, model(**inputs).loss, rtol=1e-5)


def test_half_precision_has_a_loss():
    model = build_detector().bfloat16()
    model.loss_function = per_picture_loss
    inputs = batch()
    loss = model(**{**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}).loss
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_a_label_beyond_the_caption_of_its_own_picture_is_refused_with_both():
    model = build_detector()
    model.loss_function = per_picture_loss
    inputs = batch([0, 1])
    inputs["labels"][1]["class_labels"] = torch.tensor([1])
    with pytest.raises(ValueError, match=r"Picture 1 has class_labels \[1\], but its caption has 1 class"):
        model(**inputs)
    with pytest.raises(ValueError, match="labels has 1 entries for 2 pictures"):
        model(**{**inputs, "labels": inputs["labels"][:1]})


def test_a_detector_learns_its_classes_from_labels_of_all_captions(tokenizer):
    names = ["cat", "dog", "red star", "white blood cells", "bird"]
    model = build_detector(max_text_len=9)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    boxes = torch.full((1, 4), 0.5)
    labels = [{"class_labels": torch.tensor([label]), "boxes": boxes} for label in (1, 4)]
    none = {"class_labels": torch.empty(0, dtype=torch.long), "boxes": torch.empty(0, 4)}
    first = {"class_labels": torch.tensor([1]), "boxes": boxes}
    with torch.no_grad():
        split = FusionDetector(model, names, tokenizer, split_captions=True)(pixels, labels=labels)
        parts = [
            FusionDetector(model, names[:3], tokenizer)(pixels, labels=[first, none]).loss,
            FusionDetector(model, names[3:], tokenizer)(pixels, labels=[none, first]).loss,
        ]
        mean = FusionDetector(model, names, tokenizer, split_captions=True, loss_reduction="mean")(
            pixels, labels=labels
        )
    assert torch.allclose(split.loss, sum(parts), rtol=1e-6)
    assert torch.allclose(mean.loss * 2, split.loss, rtol=1e-6)
    assert set(split.loss_dict) >= {"loss_ce", "loss_bbox", "loss_giou"}


@pytest.mark.usefixtures("fresh_accelerator")
def test_two_processes_learn_from_unlike_captions_as_one_does(tmp_path):
    in_two_processes(two_processes.main, tmp_path)
    sums, numbers, gradients, prototypes = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)))
    assert numbers == (2, 2)
    model = two_processes.learner()
    alone = [two_processes.loss(model, [i]).item() for i in range(4)]
    assert sums[0] == pytest.approx(sum(alone[:2]), rel=1e-5)  # that of its own pictures
    assert sums[1] == pytest.approx(sum(alone[2:]), rel=1e-5)
    two_processes.loss(model, range(4), "mean").backward()
    for name, expected in two_processes.gradients(model).items():
        scale = expected.abs().max().item()
        for found in gradients:
            assert torch.allclose(found[name], expected, atol=1e-4 * scale + 1e-9), name
    expected = two_processes.trained_prototypes(range(4))
    for found in prototypes:
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_two_detectors_of_one_model_keep_their_own_reductions(tokenizer):
    model = build_detector()
    detectors = [FusionDetector(model, ["cat"], tokenizer, loss_reduction=each) for each in ("sum", "mean", "none")]
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.full((1, 4), 0.5)}] * 2
    losses = [detector(torch.zeros(2, 3, 32, 32), labels=labels).loss for detector in detectors]
    assert torch.allclose(losses[0], losses[2].sum()) and torch.allclose(losses[1], losses[2].mean())
    with pytest.raises(ValueError, match="loss_reduction='max'"):
        FusionDetector(model, ["cat"], tokenizer, loss_reduction="max")


def test_predictions_that_are_not_finite_make_the_loss_nan_with_a_gradient(tokenizer):
    detector = FusionDetector(build_detector(), ["cat", "dog"], tokenizer)
    with torch.no_grad():
        detector.model.bbox_embed[-1].layers[-1].bias.fill_(torch.nan)
    labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}]
    loss = detector.train()(torch.rand(1, 3, 64, 64), labels=labels).loss
    assert loss.isnan() and loss.requires_grad
