"""Runs that are held near the frozen CLIP, from the options to the result."""

import pytest
import torch
from torch.nn.functional import normalize

from peft_mudpt.classifier.bank import text_bank
from peft_mudpt.classifier.templates import IMAGENET
from peft_mudpt.lab.classification import plan as classification_plan
from peft_mudpt.lab.classification.experiment import Experiment
from peft_mudpt.lab.data.sources import load_folders
from peft_mudpt.lab.experiment import execute, prepare
from peft_mudpt.lab.protocols import ProtocolOptions
from peft_mudpt.lab.recording import record
from peft_mudpt.lab.training_options import TrainingOptions
from tests.lab.test_experiment import CLASSES, save_pictures


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures") / "train", 3)


def experiment(folder, method, method_kwargs=None, **options):
    training = TrainingOptions(max_train_steps=2, **options)
    return Experiment(
        load_folders(folder),
        method,
        method_kwargs=method_kwargs or {},
        protocol=ProtocolOptions(shots=2),
        training=training,
    )


def test_the_result_and_the_card_of_promptsrc_say_how_it_was_trained(folder, tmp_path):
    result = record(execute(prepare(experiment(folder, "promptsrc"))), tmp_path / "run")
    weights = {"text_anchor_weight": 25, "image_anchor_weight": 10, "logit_anchor_weight": 1}
    assert result["anchors"] == {"text_anchor": "l1", **weights}
    assert result["averaging"] == {"mean": 1.5, "std": 0.1}  # 2 epochs of 8 pictures
    card = (tmp_path / "run" / "README.md").read_text()
    assert "text (l1) 25, image 10, logits 1" in card and "mean 1.5 and std 0.1" in card


def test_a_run_without_anchors_has_none_in_its_result(folder, tmp_path):
    result = record(execute(prepare(experiment(folder, "coop"))), tmp_path / "run")
    assert result["anchors"] is None and result["averaging"] is None


def test_the_bank_holds_the_frozen_features_of_clips_templates(folder, monkeypatch):
    banks, train = [], classification_plan.train

    def watched(*args, **options):
        banks.append(args[-1].text_bank)
        return train(*args, **options)

    monkeypatch.setattr(classification_plan, "train", watched)
    plan = prepare(experiment(folder, "coop", text_anchor="cosine", text_anchor_weight=8))
    execute(plan)
    texts = [[template.replace("{}", name) for template in IMAGENET] for name in sorted(CLASSES)]
    expected = text_bank(plan.backbone.load_clip(), plan.backbone.tokenizer, texts, normalize_each=False)
    torch.testing.assert_close(normalize(banks[0], dim=-1), normalize(expected, dim=-1))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mudpt", {"image_anchor_weight": 10}, "--image_anchor_weight 10"),
        ("linear_probe", {"logit_anchor_weight": 1}, "--logit_anchor_weight 1.* linear_probe"),
        ("zero_shot", {"text_anchor_weight": 1}, "--text_anchor_weight 1.* zero_shot"),
    ],
)
def test_an_anchor_that_does_not_fit_the_method_is_refused_before_training(folder, method, options, message):
    kwargs = {"vision_prompt_depth": 0, "fusion_direction": "none"} if method == "mudpt" else {}
    with pytest.raises(ValueError, match=message):
        prepare(experiment(folder, method, kwargs, **options))
