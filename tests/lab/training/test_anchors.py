"""Anchors and the averaging of parameters, compared with the recorded numbers of PromptSRC."""

import json

import pytest
import torch
from torch.nn.functional import normalize

from peft_mudpt import convert_checkpoint
from peft_mudpt.classifier.classifier import MuDPTClassifierOutput
from peft_mudpt.lab.training.anchors import Anchors, image_anchor, logit_anchor, text_anchor
from peft_mudpt.lab.training.averaging import Averaging, RunningAverage
from peft_mudpt.lab.training.checkpoints import trainable_tensors
from peft_mudpt.lab.training.frozen_clip import FrozenClip, frozen
from peft_mudpt.lab.training.objectives import Anchored, CrossEntropy
from tests.test_golden import GOLDEN, Case, assert_near, backbone, read


__all__ = ["backbone"]  # a fixture


class PromptSRC(Case):
    """The recorded run of PromptSRC, with its loss computed by an `Objective`."""

    def __init__(self, backbone):
        super().__init__("promptsrc", backbone)
        self.options = json.loads(self.metadata["options"])
        weights = [self.options[f"{name}_LOSS_WEIGHT"] for name in ("TEXT", "IMAGE", "LOGIT")]
        self.frozen_clip = FrozenClip(self.model, self.tensors["text_bank"])
        self.objective = Anchored(CrossEntropy(), Anchors("l1", *weights), self.frozen_clip)
        self.batch = {"pixel_values": self.tensors["images"], "labels": self.tensors["labels"]}

    def output(self, pixel_values):
        """What a classifier of the recorded texts returns."""
        output = self.model(input_ids=self.inputs["input_ids"], pixel_values=pixel_values)
        return MuDPTClassifierOutput(
            logits=output.logits_per_image, image_features=output.image_embeds, class_features=output.text_embeds
        )

    def loss(self):
        return self.objective.loss(self.output, self.batch)


@pytest.fixture
def case(backbone):
    case = PromptSRC(backbone)
    yield case
    case.model.unload()


def test_each_anchor_equals_the_recorded_one(case):
    with torch.no_grad():
        output = case.output(case.batch["pixel_values"])
    recorded = case.tensors
    text = text_anchor(recorded["text_features"], recorded["text_bank"])
    image = image_anchor(recorded["image_features"], recorded["teacher/image_features"])
    for ours, name in [
        (text, "text_l1"),
        (image, "image_l1"),
        (logit_anchor(recorded["logits"], recorded["teacher/logits"]), "logits_kl"),
        (text_anchor(output.class_features, recorded["text_bank"]), "text_l1"),
        (logit_anchor(output.logits, recorded["teacher/logits"]), "logits_kl"),
    ]:
        assert_near(ours, recorded[f"loss_raw/{name}"].squeeze(), 1e-5)


def test_the_frozen_clip_of_an_adapted_model_equals_the_recorded_teacher(case):
    image_features = case.frozen_clip.image_features(case.batch["pixel_values"])
    assert_near(image_features, normalize(case.tensors["teacher/image_features"], dim=-1), 5e-5)
    assert_near(case.frozen_clip.logits(image_features), case.tensors["teacher/logits"], 5e-5)
    with frozen(case.model):
        texts = [case.model.get_text_features(ids).pooler_output for ids in case.tensors["teacher/input_ids"]]
    assert_near(torch.stack(texts).mean(dim=0), case.tensors["text_bank"], 5e-5)


def test_the_loss_and_its_gradients_equal_the_recorded_ones(case):
    loss = case.loss()
    assert_near(loss, case.tensors["loss"].squeeze(), 1e-5)
    loss.backward()
    gradients = {n.replace(".default.", "."): p.grad for n, p in trainable_tensors(case.model).items()}
    golden = case.converted("grad")
    assert gradients.keys() == golden.keys()
    for name in golden:
        assert_near(gradients[name], golden[name], 1e-5)


def test_five_epochs_and_their_average_equal_the_recorded_ones(case):
    numbers = {key: float(case.metadata[key]) for key in ("lr", "momentum", "weight_decay")}
    parameters = trainable_tensors(case.model)
    optimizer = torch.optim.SGD(parameters.values(), **numbers)
    averaging = Averaging(case.options["GPA_MEAN"], case.options["GPA_STD"])
    pictures = len(case.batch["labels"])
    average = RunningAverage(parameters, averaging.step_weights(5, pictures, pictures))
    losses = []
    for epoch in range(1, 6):
        loss = case.loss()
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch == 5:
            with torch.no_grad():
                final_logits = case.model(**case.inputs).logits_per_image
        after = {name.replace(".default.", "."): p.detach().clone() for name, p in parameters.items()}
        average.after_step(epoch)
        for name, golden in case.converted(f"epoch{epoch}").items():
            assert_near(after[name], golden, 5e-6)
    assert_near(torch.stack(losses), case.tensors["train/losses"], 1e-5)
    assert_near(final_logits, case.tensors["final_logits"], 5e-5)
    golden = convert_checkpoint({n: t for n, t in case.named("gpa").items() if n != "weights64"}, "promptsrc")[1]
    for name, parameter in parameters.items():
        assert_near(parameter.detach(), golden[name.replace(".default.", ".")], 5e-6)
    with torch.no_grad():
        assert_near(case.model(**case.inputs).logits_per_image, case.tensors["gpa_logits"], 5e-5)


@pytest.mark.parametrize(
    ("mean", "std", "recorded"),
    [(3, 1.5, "gpa"), (1, 1, "gpa_mu1_sigma1"), (5, 0.5, "gpa_mu5_sigma0.5"), (15, 1, "gpa_mu15_sigma1")],
)
def test_the_weights_of_epochs_and_the_average_equal_the_recorded_ones(mean, std, recorded):
    tensors, _ = read(GOLDEN / "promptsrc.safetensors")
    averaging, context = Averaging(mean, std), torch.zeros(4, 64)
    torch.testing.assert_close(averaging.epoch_weights(5), tensors[f"{recorded}/weights64"], atol=1e-14, rtol=0)
    average = RunningAverage({"context": context}, averaging.step_weights(5, 4, 4))
    for epoch in range(1, 6):
        context.copy_(tensors[f"epoch{epoch}/prompt_learner.ctx"])
        average.after_step(epoch)
    assert_near(context, tensors[f"{recorded}/prompt_learner.ctx"], 5e-6)


def test_the_weights_of_the_published_twenty_epochs_equal_the_recorded_ones():
    tensors, _ = read(GOLDEN / "promptsrc.safetensors")
    ours = Averaging(15, 1).epoch_weights(20)
    torch.testing.assert_close(ours, tensors["gpa_mu15_sigma1_n20/weights64"], atol=1e-14, rtol=0)
