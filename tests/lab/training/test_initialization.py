"""Vision prompts that start from the training pictures of a run, and SPT, which combines them with a head."""

import pytest
import torch
from peft import PeftConfig
from torch.utils.data import DataLoader

from peft_mudpt import MuDPTClassifier, export_classifier
from peft_mudpt.lab.classification.experiment import Experiment
from peft_mudpt.lab.data.loading import TestPictures
from peft_mudpt.lab.data.sources import load_folders
from peft_mudpt.lab.experiment import execute, prepare
from peft_mudpt.lab.protocols import ProtocolOptions
from peft_mudpt.lab.recording import record
from peft_mudpt.lab.run_classifier import load_classifier
from peft_mudpt.lab.training.checkpoints import Checkpoints, trainable_tensors
from peft_mudpt.lab.training.initialization import initialize
from peft_mudpt.lab.training_options import TrainingOptions
from tests.lab.test_experiment import save_pictures


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures") / "train", 4)


def experiment(folder, method="ivlp", start="random", steps=2, **fields):
    training = TrainingOptions(max_train_steps=steps, augmentation="crop", prompt_initialization=start)
    protocol = ProtocolOptions(shots=2, seed=3)
    return Experiment(load_folders(folder), method, protocol=protocol, training=training, **fields)


def vision_prompts(plan):
    return plan.classifier.model.prompt_learner.mudpt_adapters["default"].vision_prompts


def note(plan):
    return plan.classifier.model.peft_config["default"].prompt_initialization


@torch.no_grad()
@pytest.mark.parametrize("method", ["ivlp", "spt"])
def test_prompts_start_at_tokens_of_the_training_pictures_without_augmentation(folder, method):
    plan = prepare(experiment(folder, method))
    image_processor = plan.backbone.image_processor
    initialize(plan.accelerator, plan.classifier.model, plan.task.train, image_processor, plan.recipe)
    loader = DataLoader(TestPictures(plan.task.train, image_processor), len(plan.task.train))
    patches = plan.backbone.load_clip().vision_model.embeddings.patch_embedding(next(iter(loader))["pixel_values"])
    tokens = patches.flatten(2).transpose(1, 2).flatten(0, 1)  # (B * L, d)
    distances = torch.cdist(vision_prompts(plan)[0], tokens, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distances.amin(dim=1) < 1e-5).all()
    assert note(plan) == {"method": "random", "seed": 3, "num_images": 8}


def test_a_resumed_run_ends_with_the_same_weights_and_the_same_note(folder, tmp_path):
    def learned(plan):
        return {name: tensor.detach() for name, tensor in trainable_tensors(plan.learner.model).items()}

    whole = prepare(experiment(folder, steps=3))
    execute(whole, Checkpoints(tmp_path, whole.experiment.asked, every=2))
    resumed = prepare(experiment(folder, steps=3))
    checkpoint = tmp_path / "checkpoints" / "step_00000002"
    execute(resumed, Checkpoints(tmp_path, resumed.experiment.asked, resume_from=checkpoint))
    first, second = learned(whole), learned(resumed)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert note(whole) == note(resumed) is not None


def test_the_start_is_part_of_the_identity_of_a_run(folder):
    starts = [experiment(folder, start=start).asked["prompt_initialization"] for start in (None, "kmeans")]
    assert starts == [None, "kmeans"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("zero_shot", "zero_shot has no prompts"),
        ("linear_probe", "no active MuDPT adapter"),
        ("lora", "no active MuDPT adapter"),
        ("coop", "vision_prompt_depth"),
        ("maple", "fusion_combine='replace'"),
    ],
)
def test_methods_without_vision_prompts_of_their_own_are_refused(folder, method, message):
    with pytest.raises(ValueError, match=f"--prompt_initialization mean_pool.*{message}"):
        prepare(experiment(folder, method, start="mean_pool"))


def test_too_many_prompts_for_the_tokens_of_a_picture_are_refused_by_the_name_of_the_flag(folder):
    plan = prepare(experiment(folder, "vpt_head", start="mean_pool"))  # a picture has 16 tokens
    with pytest.raises(ValueError, match="--prompt_initialization mean_pool: .* 20 prompts"):
        execute(plan)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """The plan of a run that was trained, its parameters before, its result and its folder."""
    plan = prepare(experiment(folder, "spt", start=None, method_kwargs={"num_virtual_tokens": 3}))
    before = {name: tensor.clone() for name, tensor in plan.learner.model.named_parameters()}
    run_folder = tmp_path_factory.mktemp("spt") / "run"
    return plan, before, record(execute(plan), run_folder), run_folder


class TestSPT:
    """Vision prompts and a linear head, without texts."""

    def test_prompts_and_head_alone_are_trained(self, trained):
        plan, before, _, _ = trained
        changed = [name for name, p in plan.learner.model.named_parameters() if not torch.equal(p, before[name])]
        assert sorted(name.rsplit(".", 1)[-1] for name in changed) == ["bias", "vision_prompts", "weight"]
        assert {"head.weight", "head.bias"} < set(changed)

    def test_the_result_says_how_the_prompts_started(self, trained):
        _, _, result, run_folder = trained
        assert result["prompt_initialization"] == "random"
        assert PeftConfig.from_pretrained(run_folder).prompt_initialization["num_images"] == 8

    def test_adapter_and_head_are_saved_and_loaded_for_prediction(self, trained):
        plan, _, result, run_folder = trained
        weights = [run_folder / name for name in ("adapter_model.safetensors", "linear_probe.safetensors")]
        assert result["adapter_bytes"] == sum(file.stat().st_size for file in weights)
        pixels = torch.randn(2, 3, 32, 32)
        expected = plan.classifier.eval().predict_proba(pixels)
        assert torch.equal(load_classifier(run_folder).predict_proba(pixels), expected)

    @pytest.mark.slow
    def test_it_is_exported_with_its_prompts(self, trained, tmp_path):
        pixels = torch.randn(2, 3, 32, 32)
        classifier = load_classifier(trained[-1])
        file = export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export")
        expected = classifier.predict_proba(pixels)
        torch.testing.assert_close(torch.export.load(file).module()(pixels), expected, atol=1e-5, rtol=0)

    def test_its_adapter_is_not_taken_for_one_that_classifies_by_texts(self, trained):
        with pytest.raises(ValueError, match="class_names"):
            MuDPTClassifier.from_pretrained(trained[-1])

    def test_without_pictures_it_is_vpt_with_a_head(self, folder):
        plan = prepare(experiment(folder, "vpt_head", start=None))
        assert plan.recipe.prompt_initialization is None
        execute(plan)
        assert note(plan) is None
