"""The stages of an experiment, called from Python without flags."""

import dataclasses
import json
from collections import Counter

import pytest
import torch
from accelerate import Accelerator

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.classification.experiment import Experiment
from peft_mudpt.lab.data import memory
from peft_mudpt.lab.data.sources import DataOptions, load_folders
from peft_mudpt.lab.experiment import execute, prepare
from peft_mudpt.lab.identity import what_was_asked
from peft_mudpt.lab.methods import METHODS
from peft_mudpt.lab.protocols import ProtocolOptions
from peft_mudpt.lab.recording import record
from peft_mudpt.lab.run import run
from peft_mudpt.lab.run_folder import hold
from peft_mudpt.lab.training.checkpoints import Checkpoints, trainable_tensors
from peft_mudpt.lab.training_options import TrainingOptions
from tests.conftest import reset_accelerator
from tests.lab.test_experiment import CLASSES, files, save_pictures


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures") / "train", 5)


def experiment(folder, method="coop", steps=3, seed=1, augmentation="auto", image_size=None, **fields):
    protocol = ProtocolOptions(shots=2, seed=seed)
    training = TrainingOptions(max_train_steps=steps, augmentation=augmentation, image_size=image_size)
    return Experiment(load_folders(folder), method, protocol=protocol, training=training, **fields)


def learned(plan):
    return {name: tensor.detach().clone() for name, tensor in trainable_tensors(plan.learner.model).items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_stages_give_the_same_result_as_the_flags(folder, tmp_path):
    outcome = execute(prepare(experiment(folder)))
    result = record(outcome, tmp_path / "python")
    reset_accelerator()
    options = {"method": "coop", "shots": 2, "max_train_steps": 3, "output_dir": str(tmp_path / "flags")}
    by_flags = run(Arguments(train_dir=folder, **options))
    timed = ("seconds", "peak_memory_bytes")
    assert {k: v for k, v in result.items() if k not in timed} == {k: v for k, v in by_flags.items() if k not in timed}
    assert files(tmp_path / "python") == files(tmp_path / "flags")
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("python", "flags")]
    assert weights[0] == weights[1]


def test_an_experiment_in_python_has_the_options_of_the_flags(folder):
    asked = experiment(folder, method_kwargs={"num_virtual_tokens": 2}, template="one {}").asked
    options = {"method": "coop", "method_kwargs": '{"num_virtual_tokens": 2}', "template": "one {}"}
    assert asked == what_was_asked(Arguments(train_dir=folder, shots=2, max_train_steps=3, **options))


def test_options_may_name_the_data(folder):
    named = Experiment(DataOptions(train_dir=folder), "zero_shot")
    assert named.asked["train_dir"] == folder and prepare(named).data.class_names == sorted(CLASSES)


def test_a_data_set_made_in_python_is_another_experiment_than_one_of_another_name(folder):
    mine = dataclasses.replace(load_folders(folder), name="mine", origin=None)
    assert Experiment(mine).asked["dataset"] == "mine" != Experiment(load_folders(folder)).asked["dataset"]


def test_two_runs_in_one_process_do_not_influence_each_other(folder):
    alone = [learned(execute(prepare(experiment(folder, seed=seed))).plan) for seed in (1, 2)]
    plans = [prepare(experiment(folder, seed=seed)) for seed in (1, 2)]
    together = [learned(execute(plan).plan) for plan in reversed(plans)][::-1]
    assert equal(alone[0], together[0]) and equal(alone[1], together[1])


def test_training_draws_on_from_where_preparing_stopped(folder, monkeypatch):
    states = []

    def initialize(model, loader):
        states.append(torch.get_rng_state())

    monkeypatch.setitem(METHODS, "coop", dataclasses.replace(METHODS["coop"], initialize=initialize))
    plan = prepare(experiment(folder, steps=1))
    states.append(torch.get_rng_state())
    torch.rand(1)
    execute(plan)
    assert torch.equal(*states)


@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}], ids=str)
def test_an_accelerator_with_other_options_than_the_experiment_is_refused(folder, options):
    (name,) = options
    asked = Experiment(load_folders(folder), "coop", training=TrainingOptions(**options))
    with pytest.raises(ValueError, match=name):
        prepare(asked, Accelerator())
    with pytest.raises(ValueError, match="gradient_accumulation_steps=4"):
        prepare(experiment(folder), Accelerator(gradient_accumulation_steps=4))


def test_a_run_leaves_no_hook_behind(folder, tmp_path):
    plan = prepare(experiment(folder))
    execute(plan, Checkpoints(tmp_path / "run", plan.experiment.asked, every=1))
    plan.accelerator.save_state(str(tmp_path / "state"))  # would call hooks that were left
    assert not list((tmp_path / "state").glob("*.safetensors"))


def test_preparing_and_executing_write_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = execute(prepare(experiment(folder)))
    assert outcome.summary["accuracy"] is not None and list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_result_is_not_overwritten(folder, tmp_path):
    record(execute(prepare(experiment(folder))), tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    other = execute(prepare(experiment(folder, "zero_shot")))
    with pytest.raises(ValueError, match="another run .*method"):
        record(other, tmp_path / "run")
    with pytest.raises(ValueError, match=f"{tmp_path / 'run'} .*this run"):
        record(execute(prepare(experiment(folder))), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_folder_in_which_another_run_is_training_is_not_recorded_to(folder, tmp_path):
    outcome = execute(prepare(experiment(folder, "zero_shot")))
    with hold(tmp_path, experiment(folder).asked):  # it has written no checkpoint yet
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(ValueError, match="process"):
            record(outcome, tmp_path)
        assert files(tmp_path) == {".lock", "run.json"} and (tmp_path / "run.json").read_bytes() == before


def test_a_method_may_initialize_its_parameters_from_the_training_pictures(folder, monkeypatch, tmp_path):
    seen = []

    def initialize(model, loader):
        batch = next(iter(loader))
        seen.append((type(model).__name__, batch["pixel_values"].shape, sorted(set(batch["labels"].tolist()))))
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(0.5)

    monkeypatch.setitem(METHODS, "coop", dataclasses.replace(METHODS["coop"], initialize=initialize))
    plan = prepare(experiment(folder, steps=1))
    execute(plan, Checkpoints(tmp_path, plan.experiment.asked, every=1))
    assert seen == [("PeftModel", (8, 3, 32, 32), [0, 1, 2, 3])]
    (started,) = learned(plan).values()
    assert (started - 0.5).abs().max() < 0.01  # one step at the warm-up rate changes little
    resumed = prepare(experiment(folder, steps=1))
    checkpoint = tmp_path / "checkpoints" / "step_00000001"
    execute(resumed, Checkpoints(tmp_path, resumed.experiment.asked, resume_from=checkpoint))
    assert len(seen) == 1, "a resumed run starts from its checkpoint, without the data"


def test_each_picture_is_decoded_once_and_a_method_without_image_prompts_encodes_it_once(folder, monkeypatch):
    opened, read = Counter(), memory.picture
    memory.MEMORY.begin(0)  # forgets the pictures of other runs
    monkeypatch.setattr(memory, "picture", lambda example: opened.update([example["item"]]) or read(example))
    plan = prepare(experiment(folder, steps=4, augmentation="none"))
    outcome = execute(plan)
    splits = plan.task.train, plan.task.validation, plan.task.tests["test"].pictures
    assert opened == dict.fromkeys((item for split in splits for item in split["item"][:]), 1)
    reset_accelerator()
    monkeypatch.setattr("peft_mudpt.lab.classification.experiment.has_fixed_image_features", lambda classifier: False)
    from_pixels = execute(prepare(experiment(folder, steps=4, augmentation="none")))
    assert outcome.metrics == from_pixels.metrics and plan.zero_shot == from_pixels.plan.zero_shot


def test_a_card_discloses_no_path_of_this_machine(folder, tmp_path):
    record(execute(prepare(experiment(folder))), tmp_path / "run")
    assert str(tmp_path) not in (tmp_path / "run" / "README.md").read_text()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["arguments"]["train_dir"] == "train"
