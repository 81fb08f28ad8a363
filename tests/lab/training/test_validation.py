"""Tests on validation pictures during training: what they measure, what is kept, and when training stops."""

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from peft_mudpt.classifier.classifier import MuDPTClassifier
from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.run import run
from peft_mudpt.lab.run_classifier import load_classifier
from peft_mudpt.lab.schema import read_result
from peft_mudpt.lab.training.checkpoints import Checkpoints, find_checkpoint, trainable_tensors
from peft_mudpt.lab.training.pictures import train
from peft_mudpt.lab.training.validation import Validation
from tests.conftest import reset_accelerator
from tests.lab.test_experiment import save_pictures
from tests.lab.training.test_loop import NAMES, PROCESSOR, TOKENIZER, assert_equal, learner, recipe_of


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def train_dir(tmp_path_factory):
    # which the embedded CLIP confuses
    names = ("filled red star", "hollow red star", "filled red heart", "hollow red heart")
    return save_pictures(tmp_path_factory.mktemp("pictures"), 12, classes=names)


def finished(train_dir, folder, **flags):
    run(Arguments(train_dir=str(train_dir), shots=2, max_train_steps=4, output_dir=str(folder), **flags))
    reset_accelerator()
    return read_result(folder)


def test_the_tests_leave_what_is_learned_as_it_is_bit_for_bit(train_dir, tmp_path):
    finished(train_dir, tmp_path / "plain")
    finished(train_dir, tmp_path / "tested", eval_steps=1)
    assert_equal(*(load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "tested")))


def test_the_accuracy_is_that_of_the_saved_classifier_and_is_logged_and_stored(train_dir, tmp_path, monkeypatch):
    logged = {}
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: logged.update({step: values}))
    result = finished(train_dir, tmp_path, eval_steps=3, learning_rate=0.05)
    tests = result["validation"]["tests"]
    assert [test["step"] for test in tests] == [3, 4] and result["validation"]["kept_step"] == 4
    assert logged[3] == {"validation_accuracy": tests[0]["accuracy"]}
    items = result["items"]["validation"]
    found = load_classifier(tmp_path).predict([Image.open(f"{train_dir}/{item}") for item in items])
    right = [name == item.split("/")[0].replace("_", " ") for name, item in zip(found, items)]
    assert tests[-1]["accuracy"] == pytest.approx(100 * sum(right) / len(right))


class Scripted:
    """A training of six steps, in which the tests find the given accuracies."""

    def __init__(self, pictures, accuracies, folder=None, every=1, **options):
        torch.manual_seed(0)
        self.model, left = learner("coop"), iter(accuracies)
        classifier = MuDPTClassifier(self.model, NAMES, "{}.", TOKENIZER)
        self.seen = []  # the parameters at each test

        def measure():
            self.seen.append({name: tensor.detach().clone() for name, tensor in trainable_tensors(self.model).items()})
            return next(left)

        self.validation = Validation(measure, trainable_tensors(classifier), every, **options)
        checkpoints = None if folder is None else Checkpoints(folder, {}, 2, find_checkpoint(folder, "latest", {}))
        self.run = lambda: train(
            Accelerator(), classifier, pictures, PROCESSOR, recipe_of(), checkpoints, validation=self.validation
        )

    @property
    def learned(self):
        return {name: tensor.detach() for name, tensor in trainable_tensors(self.model).items()}


def test_the_best_parameters_are_kept_of_equal_ones_the_first(pictures):
    made = Scripted(pictures, [50, 70, 70, 60, 60, 65], keeps_best=True)
    progress = made.run()
    assert (progress.step, progress.kept_step) == (6, 2)
    assert_equal(made.learned, made.seen[1])


def test_without_being_asked_to_keep_the_best_the_last_step_counts(pictures):
    made = Scripted(pictures, [70, 50], every=4)
    progress = made.run()
    assert progress.validation == {4: 70, 6: 50} and progress.kept_step == 6
    assert_equal(made.learned, made.seen[1])


def test_training_stops_after_tests_in_a_row_that_are_not_better(pictures):
    made = Scripted(pictures, [50, 40, 60, 60, 55], patience=2, keeps_best=True)
    progress = made.run()
    assert (progress.step, progress.kept_step) == (5, 3) and progress.loss is not None
    assert_equal(made.learned, made.seen[2])


def test_a_resumed_run_remembers_its_tests_and_its_best_parameters(pictures, tmp_path):
    options = {"folder": tmp_path, "keeps_best": True}
    with pytest.raises(StopIteration):  # there is no fourth accuracy: it ends after the checkpoint of step 2
        Scripted(pictures, [50, 70, 60], **options).run()
    reset_accelerator()
    resumed = Scripted(pictures, [60, 60, 65, 65], **options)
    progress = resumed.run()
    assert progress.validation == {1: 50, 2: 70, 3: 60, 4: 60, 5: 65, 6: 65} and progress.kept_step == 2
    reset_accelerator()
    whole = Scripted(pictures, [50, 70, 60, 60, 65, 65], keeps_best=True)
    whole.run()
    assert_equal(resumed.learned, whole.learned)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"load_best_model_at_end": True}, "give --eval_steps"),
        ({"early_stopping_patience": 2}, "give --eval_steps"),
        ({"eval_steps": 2, "method": "zero_shot"}, "zero_shot takes no steps"),
        ({"eval_steps": 2, "method": "promptsrc", "early_stopping_patience": 2}, "averages what it learns"),
    ],
    ids=lambda value: "",
)
def test_what_does_not_go_together_is_refused(train_dir, tmp_path, flags, words):
    with pytest.raises(ValueError, match=words):
        finished(train_dir, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_a_run_without_validation_pictures_says_how_to_keep_some(tmp_path):
    train_dir = save_pictures(tmp_path / "few", 2)
    with pytest.raises(ValueError, match="--validation_shots"):
        finished(train_dir, tmp_path / "out", eval_steps=2)
