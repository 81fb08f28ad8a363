"""Training objectives; the loop depends on none of them in particular."""

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy, normalize

from peft_mudpt import MuDPTClassifier
from peft_mudpt.lab.training.anchors import Anchors, image_anchor, logit_anchor, text_anchor
from peft_mudpt.lab.training.frozen_clip import FrozenClip, frozen_text_bank
from peft_mudpt.lab.training.objectives import OBJECTIVES, Anchored, Cosine, CrossEntropy, Objective, check_anchors
from peft_mudpt.lab.training.pictures import train
from tests.lab.training.test_loop import NAMES, PROCESSOR, TOKENIZER, learner, recipe_of


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def classifier_of(method="mudpt"):
    torch.manual_seed(0)
    return MuDPTClassifier(learner(method), NAMES, "{}.", TOKENIZER)


def batch_of(size):
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": images, "labels": torch.arange(size) % len(NAMES)}


def test_the_loss_is_the_cross_entropy_of_the_logits():
    classifier, batch = classifier_of(), batch_of(4)
    expected = cross_entropy(classifier(batch["pixel_values"]).logits, batch["labels"])
    torch.testing.assert_close(CrossEntropy().loss(classifier, batch), expected)


@pytest.mark.parametrize("method", ["mudpt", "fed_dpt"])
def test_the_cosine_loss_compares_each_picture_with_its_own_class(method):
    classifier, batch = classifier_of(method), batch_of(4)
    cosines = classifier(batch["pixel_values"]).logits / classifier.model.logit_scale.exp()
    expected = -sum(cosines[i, label] for i, label in enumerate(batch["labels"])) / 4
    torch.testing.assert_close(Cosine().loss(classifier, batch), expected)


def test_the_classifier_returns_the_normalized_features_of_its_logits():
    classifier, batch = classifier_of(), batch_of(2)
    output = classifier(pixel_values=batch["pixel_values"])
    features = classifier.model.get_image_features(pixel_values=batch["pixel_values"]).pooler_output
    torch.testing.assert_close(output.image_features, normalize(features, dim=-1))
    torch.testing.assert_close(output.class_features.norm(dim=-1), torch.ones(len(NAMES)))
    cosine = output.image_features @ output.class_features.t()
    torch.testing.assert_close(output.logits, cosine * classifier.model.logit_scale.exp())


def test_another_objective_is_minimized_and_called_after_every_step(pictures, monkeypatch):
    calls = []

    class Align(Objective):
        """Squared distance of each image from its own class."""

        def loss(self, classifier, batch):
            output = classifier(pixel_values=batch["pixel_values"])
            return (output.image_features - output.class_features[batch["labels"]]).square().sum(dim=-1).mean()

        def after_step(self, classifier, step, steps):
            calls.append((step, steps, classifier))

    monkeypatch.setitem(OBJECTIVES, "align", Align)
    classifier, batch = classifier_of(), batch_of(3)
    before = Align().loss(classifier.eval(), batch).item()
    recipe = recipe_of(objective="align", steps=20, augment=False)
    progress = train(Accelerator(), classifier, pictures, PROCESSOR, recipe)
    assert [step for step, _, _ in calls] == list(range(1, 21)) and calls[0][1:] == (20, classifier)
    assert progress.loss < before


ALL_THREE = Anchors("l1", 25, 10, 1)


def anchored(classifier, anchors=ALL_THREE):
    texts = [[f"{name}.", f"a photo of a {name}."] for name in NAMES]
    bank = frozen_text_bank(classifier.model, TOKENIZER, texts)
    return Anchored(CrossEntropy(), anchors, FrozenClip(classifier.model, bank))


def image_passes(classifier):
    """A list that grows by the batch size with each pass through the image tower."""
    passes = []
    tower = classifier.family.vision_tower(classifier.model)
    tower.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return passes


@pytest.mark.parametrize("method", ["mudpt", "lora"])
def test_an_anchored_loss_is_the_sum_of_its_weighted_terms(method):
    classifier, batch = classifier_of(method), batch_of(4)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    objective = anchored(classifier)
    bank = objective.frozen_clip.text_bank
    with classifier.model.disable_adapter(), torch.no_grad():
        features = classifier.model.get_image_features(batch["pixel_values"]).pooler_output
        frozen = normalize(features, dim=-1) @ normalize(bank, dim=-1).t() * classifier.model.logit_scale.exp()
    output = classifier(pixel_values=batch["pixel_values"])
    expected = cross_entropy(output.logits, batch["labels"])
    expected = expected + 25 * text_anchor(output.class_features, bank)
    expected = expected + 10 * image_anchor(output.image_features, features) + logit_anchor(output.logits, frozen)
    torch.testing.assert_close(objective.loss(classifier, batch), expected)


def test_the_cosine_anchor_is_one_minus_the_mean_cosine():
    features, bank = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 3.0], [5.0, 5.0]])
    torch.testing.assert_close(text_anchor(features, bank, "cosine"), torch.tensor(0.5))
    with pytest.raises(ValueError, match="kind='l2' .*l1, cosine"):
        text_anchor(features, bank, "l2")


def test_the_gradients_of_accumulated_anchored_batches_add_up():
    classifier, batch = classifier_of(), batch_of(4)
    objective, halves = anchored(classifier), [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2)]
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    whole = torch.autograd.grad(objective.loss(classifier, batch), parameters)
    parts = [torch.autograd.grad(objective.loss(classifier, half), parameters) for half in halves]
    for gradient, *half_gradients in zip(whole, *parts):
        torch.testing.assert_close(gradient, sum(half_gradients) / 2, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "anchors", "given", "passes"),
    [
        ("mudpt", ALL_THREE, False, [4, 4]),
        ("mudpt", ALL_THREE, True, [4]),  # the batch holds the frozen features
        ("mudpt", Anchors("cosine", 8), False, [4]),  # a text anchor needs no image
        ("coop", Anchors(logit_anchor_weight=1), False, [4]),  # the classifier's image features are the frozen ones
        ("lora", ALL_THREE, False, [4, 4]),
    ],
)
def test_the_frozen_clip_costs_at_most_one_image_pass(method, anchors, given, passes):
    classifier, batch = classifier_of(method), batch_of(4)
    objective = anchored(classifier, anchors)
    expected = objective.loss(classifier, batch)
    if given:
        batch["frozen_image_features"] = objective.frozen_clip.image_features(batch["pixel_values"])
    seen = image_passes(classifier)
    torch.testing.assert_close(objective.loss(classifier, batch), expected)
    assert seen == passes and objective.needs_frozen_image_features is (passes != [4] or given)


@pytest.mark.parametrize(
    ("method", "anchors", "message"),
    [
        ("coop", {"image_anchor_weight": 10}, "--image_anchor_weight 10 .*vision"),
        ("vpt_deep", {"text_anchor_weight": 25}, "--text_anchor_weight 25 .*text"),
        ("coop", {"text_anchor_weight": 25, "logit_anchor_weight": 1}, None),
        ("vpt_deep", {"image_anchor_weight": 10, "logit_anchor_weight": 1}, None),
        ("lora", {"text_anchor_weight": 25, "image_anchor_weight": 10}, None),
    ],
)
def test_an_anchor_of_features_that_do_not_change_is_refused(method, anchors, message):
    model = learner(method)
    if message is None:
        check_anchors(Anchors(**anchors), model)
    else:
        with pytest.raises(ValueError, match=message):
            check_anchors(Anchors(**anchors), model)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(value):
    with pytest.raises(ValueError, match=f"image_anchor_weight={value}"):
        Anchors(image_anchor_weight=value)
