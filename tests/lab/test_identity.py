"""When two runs are the same experiment."""

from dataclasses import replace

import pytest

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.differences import differences
from peft_mudpt.lab.identity import as_identity, is_identity, to_share, what_was_asked
from peft_mudpt.lab.methods import METHODS


def asked(**fields):
    return what_was_asked(Arguments(**fields))


def test_the_folder_of_a_run_is_not_part_of_its_identity():
    here, there = asked(output_dir="a", checkpointing_steps=5), asked(output_dir="b", per_device_eval_batch_size=7)
    assert here == there != asked(seed=2)


def test_a_flag_that_an_earlier_version_lacks_has_its_default():
    earlier = {name: value for name, value in asked(seed=2).items() if name != "augmentation"}
    assert differences(earlier, asked(seed=2)) == ""
    named = differences(earlier, asked(seed=2, augmentation="none"))
    assert named.startswith("augmentation: 'auto' ") and "'none'" in named and ";" not in named


def test_a_flag_that_only_another_version_knows_makes_another_run():
    assert differences({**asked(), "later": 1}, asked()).startswith("later: 1 ")


def test_another_number_of_processes_makes_another_run():
    assert differences({**asked(), "processes": 2}, asked()) == "processes: 2 there, 1 here"
    assert differences({**asked(), "processes": 1}, asked()) == ""


def test_another_loss_makes_another_run(monkeypatch):
    before = asked()
    monkeypatch.setitem(METHODS, "mudpt", replace(METHODS["mudpt"], objective="distance"))
    assert differences(before, asked()).startswith("objective: 'cross_entropy'")


def test_a_run_of_an_earlier_version_minimized_cross_entropy():
    earlier = {name: value for name, value in asked().items() if name != "objective"}
    assert differences(earlier, asked()) == ""


def test_a_run_of_an_earlier_version_had_a_constant_warmup():
    earlier = {name: value for name, value in asked().items() if name != "warmup"}
    assert "warmup: 'constant' there, 'linear' here" in differences(earlier, asked())
    assert differences(earlier, asked(warmup="constant", optimizer="sgd")) == ""


@pytest.mark.parametrize(("method", "now"), [("mudpt", "sgd"), ("maple", None), ("lora", None)])
def test_a_run_of_an_earlier_version_had_the_optimizer_of_that_time(method, now):
    earlier = {name: value for name, value in asked(method=method).items() if name != "warmup"}
    assert as_identity(earlier)["optimizer"] == now
    assert as_identity({**earlier, "optimizer": "adamw"})["optimizer"] == "adamw"
    assert as_identity(asked(method=method))["optimizer"] is None


@pytest.mark.parametrize(("flags", "same"), [((4, 0.05), True), ((None, 0.0), True), ((10, 0.1), False)])
def test_the_kind_of_a_warmup_without_steps_does_not_matter(flags, same):
    steps, ratio = flags
    runs = (asked(warmup=warmup, max_train_steps=steps, warmup_ratio=ratio) for warmup in ("linear", "constant"))
    assert (differences(*runs) == "") is same


def test_the_earlier_spelling_of_a_protocol_is_the_same_protocol():
    now = asked(protocol="domain-generalization")
    assert differences({**now, "protocol": "domain-generalisation"}, now) == ""


@pytest.mark.parametrize(("other", "same"), [('{"prompt_depth":3}', True), ('{"prompt_depth": 2}', False)])
def test_method_kwargs_are_compared_by_value_not_by_spelling(other, same):
    one = asked(method_kwargs='{"prompt_depth": 3}')
    assert (differences(one, asked(method_kwargs=other)) == "") is same


def test_method_kwargs_without_a_field_are_the_same_as_none():
    assert differences(asked(method_kwargs="{}"), asked()) == ""


@pytest.mark.parametrize("spelling", ["pets/", "./pets", "../here/pets", "link", "absolute"])
def test_a_folder_is_the_same_however_its_path_is_spelled(tmp_path, monkeypatch, spelling):
    pets = tmp_path / "here" / "pets"
    pets.mkdir(parents=True)
    (tmp_path / "here" / "link").symlink_to(pets)
    monkeypatch.chdir(tmp_path / "here")
    other = str(pets) if spelling == "absolute" else spelling
    assert differences(asked(train_dir="pets"), asked(train_dir=other)) == ""


def test_a_stored_path_does_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    stored = as_identity(asked(train_dir="pets"))
    monkeypatch.chdir("/")
    assert differences(stored, asked(train_dir=str(tmp_path / "pets"))) == ""


def test_no_mixed_precision_is_the_default():
    assert differences(asked(mixed_precision="no"), asked()) == ""
    assert differences(asked(mixed_precision="bf16"), asked()).startswith("mixed_precision: 'bf16'")


@pytest.mark.parametrize("files", [["config.json"], {"config.json": 1}, "config.json"])
def test_what_holds_no_fingerprints_of_files_is_no_identity(files):
    assert is_identity({**asked(), "model_files": {"config.json": "a"}}) and is_identity({**asked()})
    assert not is_identity({**asked(), "model_files": files})


def test_shared_options_hold_folder_names_without_paths():
    assert to_share(asked(dataset_name="/home/someone/birds"))["dataset_name"] == "birds"
    shared = to_share(asked(train_dir="/home/someone/birds", model_name_or_path="openai/clip"))
    assert (shared["train_dir"], shared["model_name_or_path"]) == ("birds", "openai/clip")


@pytest.mark.parametrize("name", ["dataset_name", "test_dir", "coop_root", "model_name_or_path", "a_later_flag"])
def test_no_absolute_path_is_shared_whatever_the_flag(name):
    assert to_share({**asked(), name: "/home/someone/birds"})[name] == "birds"


def test_a_template_is_no_path():
    assert to_share(asked(template="/a {}."))["template"] == "/a {}."
