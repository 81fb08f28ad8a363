"""The training loop, compared with a plain loop and with resumed runs."""

import dataclasses
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate
from transformers import AutoProcessor, AutoTokenizer, CLIPConfig, CLIPModel

from peft_mudpt import demo
from peft_mudpt.classifier.classifier import MuDPTClassifier
from peft_mudpt.classifier.texts import tokenize_classes
from peft_mudpt.lab.data.loading import TrainingPictures
from peft_mudpt.lab.learner import Ground
from peft_mudpt.lab.methods import METHODS, find_method
from peft_mudpt.lab.recipe import Recipe
from peft_mudpt.lab.run_folder import own_checkpoints
from peft_mudpt.lab.training import pictures as training_pictures
from peft_mudpt.lab.training.checkpoints import Checkpoints, find_checkpoint, trainable_tensors
from peft_mudpt.lab.training.loop import build_schedule
from peft_mudpt.lab.training.objectives import CrossEntropy
from peft_mudpt.lab.training.pictures import train
from tests.conftest import reset_accelerator


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
NAMES = list(demo.CLASS_NAMES[:3])
TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor
TOKENS = tokenize_classes(TOKENIZER, NAMES, "{}.")


def recipe_of(**fields):
    facts = dict(objective="cross_entropy", optimizer="sgd", learning_rate=0.01, weight_decay=5e-4, steps=6)
    facts |= dict(warmup_steps=0, batch_size=4, gradient_accumulation_steps=1, augment=True, seed=3)
    return Recipe(**{**facts, **fields})


def learner(method):
    found = find_method(method)
    return found.apply(Ground(CLIPModel.from_pretrained(demo.MODEL_PATH), TOKENIZER, NAMES)).model


def trained(pictures, folder, recipe, method="mudpt", resume=None, every=None):
    """The parameters that a run learns, and its progress."""
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=recipe.gradient_accumulation_steps)
    model, identity = learner(method), {"seed": recipe.seed}
    checkpoints = Checkpoints(folder, identity, every, find_checkpoint(folder, resume, identity))
    classifier = model if method == "linear_probe" else MuDPTClassifier(model, NAMES, "{}.", TOKENIZER)
    progress = train(accelerator, classifier, pictures, PROCESSOR, recipe, checkpoints)
    return {name: tensor.detach().clone() for name, tensor in trainable_tensors(classifier).items()}, progress


def assert_equal(first, second):
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def stopped(pictures, tmp_path_factory):
    """The folder of a run that has saved a checkpoint."""
    reset_accelerator()
    folder = tmp_path_factory.mktemp("stopped")
    trained(pictures, folder, recipe_of(steps=2), method="coop", every=2)
    reset_accelerator()
    return folder


def test_training_equals_a_plain_loop_of_sgd_over_the_sequence_of_pictures(pictures, tmp_path):
    ours, progress = trained(pictures, tmp_path, recipe_of(warmup_steps=2))
    torch.manual_seed(0)
    model = learner("mudpt").train()
    parameters = {f"model.{name}": parameter for name, parameter in trainable_tensors(model).items()}
    momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    stream = TrainingPictures(pictures, 24, seed=3, crop_size=32, image_processor=PROCESSOR)
    rates = [1e-5, 1e-5, *(0.01 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4))]
    losses = []
    for step, rate in enumerate(rates):
        batch = default_collate([stream[4 * step + i] for i in range(4)])
        loss = cross_entropy(model(**TOKENS, pixel_values=batch["pixel_values"]).logits_per_image, batch["labels"])
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        losses.append(loss.item())
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients):
                momenta[name] = 0.9 * momenta[name] + gradient + 5e-4 * parameter
                parameter -= rate * momenta[name]
    for name, parameter in parameters.items():
        torch.testing.assert_close(ours[name], parameter.detach(), atol=1e-6, rtol=1e-5)
    assert progress.step == 6 and progress.loss == pytest.approx(sum(losses) / 6, rel=1e-4)


def learning_rates(recipe) -> list[float]:
    """The learning rate of each step of a run, and the one after its last step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    schedule = build_schedule(optimizer, recipe)
    rates = []
    for _ in range(recipe.steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def test_the_schedule_is_a_constant_and_then_a_cosine_to_zero():
    rates = learning_rates(recipe_of(steps=10, learning_rate=0.5, warmup_steps=2))
    assert rates[:3] == [1e-5, 1e-5, 0.5] and rates[6] == pytest.approx(0.25) and rates[10] == 0


def test_a_linear_warmup_rises_in_equal_steps_to_the_peak_and_then_follows_the_same_cosine():
    recipe = recipe_of(steps=12, learning_rate=0.50001, warmup_steps=4, warmup="linear")
    rates = learning_rates(recipe)
    assert rates[:5] == pytest.approx([0.00001, 0.12501, 0.25001, 0.37501, 0.50001])
    assert rates[4:] == learning_rates(dataclasses.replace(recipe, warmup="constant"))[4:]


@pytest.mark.parametrize("warmup", ["constant", "linear"])
def test_the_warmup_never_exceeds_a_peak_below_it(warmup):
    recipe = recipe_of(steps=10, learning_rate=1e-6, warmup_steps=4, warmup=warmup)
    assert learning_rates(recipe)[:5] == pytest.approx([1e-6] * 5)


def test_after_the_warmup_the_rate_falls_in_equal_steps_or_stays():
    peak = {"learning_rate": 0.01, "steps": 6, "warmup_steps": 2}
    assert learning_rates(recipe_of(**peak, decay="linear"))[2:] == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0])
    assert learning_rates(recipe_of(**peak, decay="constant"))[2:] == [0.01] * 5


def test_accumulated_forward_passes_equal_one_large_batch(pictures, tmp_path):
    large, _ = trained(pictures, tmp_path, recipe_of(steps=3))
    pieces, _ = trained(pictures, tmp_path, recipe_of(steps=3, batch_size=2, gradient_accumulation_steps=2))
    for name in large:
        torch.testing.assert_close(large[name], pieces[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("mudpt", "sgd"), ("cocoop_noise", "sgd"), ("lora", "adamw"), ("linear_probe", "adamw")],
)
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(pictures, tmp_path, method, optimizer):
    recipe = recipe_of(optimizer=optimizer)
    whole, _ = trained(pictures, tmp_path, recipe, method, every=4)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    resumed, progress = trained(pictures, tmp_path, recipe, method, resume="latest")
    assert progress.step == 6
    assert_equal(whole, resumed)


@pytest.mark.parametrize("source", ["lora", "attention"])
def test_a_resumed_run_with_dropout_ends_with_the_same_weights_bit_for_bit(pictures, tmp_path, monkeypatch, source):
    if source == "lora":
        lora = METHODS["lora"]
        lora = dataclasses.replace(lora, fields=lora.fields | {"lora_dropout": 0.5})
        monkeypatch.setitem(METHODS, "lora", lora)
    else:
        load = CLIPModel.from_pretrained
        config = CLIPConfig.from_pretrained(demo.MODEL_PATH)
        config.text_config.attention_dropout = config.vision_config.attention_dropout = 0.5
        monkeypatch.setattr(CLIPModel, "from_pretrained", lambda path: load(path, config=config))
    method = "lora" if source == "lora" else "mudpt"
    whole, _ = trained(pictures, tmp_path / "whole", recipe_of(), method)
    again, _ = trained(pictures, tmp_path / "again", recipe_of(), method, every=4)
    assert_equal(whole, again)
    torch.rand(7)  # the resumed process has drawn other numbers
    assert_equal(whole, trained(pictures, tmp_path / "again", recipe_of(), method, resume="latest")[0])


def test_fewer_steps_than_asked_are_an_error(pictures, tmp_path, monkeypatch):
    load = training_pictures.training_loader

    def short(accelerator, classifier, pictures, image_processor, recipe, known):
        return load(accelerator, classifier, pictures, image_processor, dataclasses.replace(recipe, steps=2), known)

    monkeypatch.setattr(training_pictures, "training_loader", short)
    with pytest.raises(RuntimeError, match="2 of 6 steps"):
        trained(pictures, tmp_path, recipe_of())


def test_a_resumed_run_with_accumulation_ends_with_the_same_weights(pictures, tmp_path):
    recipe = recipe_of(batch_size=2, gradient_accumulation_steps=2)
    whole, _ = trained(pictures, tmp_path, recipe, every=4)
    assert_equal(whole, trained(pictures, tmp_path, recipe, resume="latest")[0])


def test_a_run_that_resumes_at_its_end_trains_no_step(pictures, tmp_path, monkeypatch):
    whole, _ = trained(pictures, tmp_path, recipe_of(), every=6)
    monkeypatch.setattr(CrossEntropy, "loss", lambda *_: pytest.fail("a step was trained"))
    resumed, progress = trained(pictures, tmp_path, recipe_of(), resume="latest")
    assert progress.step == 6
    assert_equal(whole, resumed)


def test_a_checkpoint_holds_the_learned_parameters_and_no_weights_of_clip(pictures, tmp_path):
    weights, _ = trained(pictures, tmp_path, recipe_of(steps=2), method="coop", every=2)
    folder = tmp_path / "checkpoints" / "step_00000002"
    assert load_file(folder / "trainable.safetensors").keys() == weights.keys()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 60_000  # CLIP has 2.7 MB


def test_as_many_checkpoints_are_kept_as_asked_the_last_ones(pictures, tmp_path):
    torch.manual_seed(0)
    classifier = MuDPTClassifier(learner("coop"), NAMES, "{}.", TOKENIZER)
    train(Accelerator(), classifier, pictures, PROCESSOR, recipe_of(), Checkpoints(tmp_path, {}, 1, limit=3))
    assert [path.name for path in own_checkpoints(tmp_path)] == ["step_00000004", "step_00000005", "step_00000006"]


def test_an_incomplete_checkpoint_is_skipped(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "step_00000006.partial").mkdir()
    assert find_checkpoint(tmp_path, "latest", {"seed": 3}).name == "step_00000002"


def test_a_checkpoint_of_another_run_is_refused(stopped, pictures):
    with pytest.raises(ValueError, match="step_00000002 .*another run .*seed: 3 .*4"):
        trained(pictures, stopped, recipe_of(seed=4), method="coop", resume="latest")


@pytest.mark.parametrize("asked", ["nowhere", "."])
def test_a_folder_that_is_not_a_checkpoint_is_refused(tmp_path, asked):
    with pytest.raises(ValueError, match="--resume_from_checkpoint .*run.json"):
        find_checkpoint(tmp_path, asked, {})


@pytest.mark.parametrize("file", ["trainable.safetensors", "optimizer.bin", "random_states_0.pkl"])
@pytest.mark.parametrize("content", [None, b"", b"half"], ids=["missing", "empty", "other"])
def test_a_damaged_checkpoint_is_named(stopped, pictures, tmp_path, file, content):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "checkpoints" / "step_00000002" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint .*step_00000002 is damaged .*--overwrite_output_dir"):
        trained(pictures, tmp_path, recipe_of(steps=2), method="coop", resume="latest")


def test_without_any_checkpoint_latest_starts_at_the_beginning(tmp_path):
    assert find_checkpoint(tmp_path, "latest", {}) is None


def test_a_loss_that_is_not_finite_stops_training_and_the_error_names_the_learning_rate(pictures, tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss .*(nan|inf) .*step \d+.*--learning_rate.* 1e\+20"):
        trained(pictures, tmp_path, recipe_of(learning_rate=1e20), every=5)
    assert not (tmp_path / "checkpoints").exists()  # the loss diverged before step 5


@pytest.mark.parametrize("learning_rate", [1e6, 1e30])
def test_weights_that_diverge_with_a_finite_loss_stop_training(pictures, tmp_path, learning_rate):
    recipe = recipe_of(learning_rate=learning_rate, weight_decay=0.0)
    with pytest.raises(FloatingPointError, match=r"weight .*step \d+.*--learning_rate"):
        trained(pictures, tmp_path, recipe, method="linear_probe", every=6)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_is_started_over_keeps_its_newest_checkpoint(pictures, tmp_path):
    for _ in range(2):
        trained(pictures, tmp_path, recipe_of(), every=4)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
