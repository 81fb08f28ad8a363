"""The classes and data sets that a protocol uses for training and testing."""

import pytest

from peft_mudpt import demo
from peft_mudpt.lab.data.catalogue import CROSS_DATASET_TARGETS
from peft_mudpt.lab.data.draws import draw
from peft_mudpt.lab.data.embedded import load_embedded
from peft_mudpt.lab.data.folders import load_folders
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.protocols import ProtocolOptions, lay_out, summarize, target_names
from tests.lab.data.test_folders import save_pictures


@pytest.fixture(scope="module")
def data():
    return load_embedded("faded")


def task_of(data, **fields):
    options = ProtocolOptions(shots=2, **fields)
    return lay_out(options, data, draw(data, options.shots, options.seed))


def named(pictures, class_names):
    """The class name of each picture."""
    return [class_names[label] for label in pictures["label"][:]]


def test_few_shot_trains_and_tests_on_all_classes(data):
    task = task_of(data)
    assert len(task.train) == 2 * 96 and list(task.tests) == ["test"] and len(task.tests["test"].pictures) == 960
    assert task.class_names == task.tests["test"].class_names == list(demo.CLASS_NAMES)


def test_base_to_new_trains_on_the_base_classes_and_tests_each_half_separately(data):
    task = task_of(data, protocol="base-to-new")
    assert task.class_names == task.tests["base"].class_names == list(demo.CLASS_NAMES[:48])
    assert task.tests["new"].class_names == list(demo.CLASS_NAMES[48:])
    for test in task.tests.values():
        # item i of the embedded test split shows class i // 10
        right = [demo.CLASS_NAMES[int(item.split("[")[1][:-1]) // 10] for item in test.pictures["item"][:]]
        assert named(test.pictures, test.class_names) == right and len(right) == 480


def test_base_to_new_trains_on_the_base_pictures_of_the_few_shot_draw(data):
    whole, base = task_of(data).train, task_of(data, protocol="base-to-new").train
    assert base["item"][:] == [example["item"] for example in whole if example["label"] < 48]


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalization"])
def test_the_source_and_the_targets_are_tested(data, protocol):
    task = task_of(data, protocol=protocol, targets="plain, dark")
    assert list(task.tests) == ["faded", "plain", "dark"]
    assert task.tests["dark"].pictures["item"][0] == "dark/test[0]"


def test_the_embedded_worlds_targets_are_its_other_styles():
    names = target_names(ProtocolOptions(protocol="domain-generalization"), DataOptions())
    assert set(names) == set(demo.STYLES) - {"faded"}


def test_coops_targets_are_the_other_data_sets_or_the_variants_of_imagenet(tmp_path):
    imagenet, dtd = (DataOptions(name, coop_root=str(tmp_path)) for name in ("imagenet", "dtd"))
    cross_dataset = ProtocolOptions(protocol="cross-dataset")
    assert target_names(cross_dataset, imagenet) == list(CROSS_DATASET_TARGETS)
    assert len(CROSS_DATASET_TARGETS) == 10
    variants = target_names(ProtocolOptions(protocol="domain-generalization"), imagenet)
    assert variants == ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
    assert "dtd" not in target_names(cross_dataset, dtd)


@pytest.mark.parametrize("protocol", ["few-shot", "base-to-new"])
def test_validation_uses_only_validation_pictures_of_the_training_classes(data, protocol):
    task = task_of(data, protocol=protocol, evaluate_on="validation")
    assert list(task.tests) == ["validation"] and task.tests["validation"].class_names == task.class_names
    assert all(item.startswith("faded/validation[") for item in task.tests["validation"].pictures["item"][:])
    assert len(task.tests["validation"].pictures) == 2 * len(task.class_names)


@pytest.mark.parametrize(
    ("targets", "message"), [("plain,plain", "'plain'"), ("faded", "'faded'"), (",", "--targets ','")]
)
def test_repeated_missing_or_source_targets_are_refused(data, targets, message):
    with pytest.raises(ValueError, match=message):
        task_of(data, protocol="cross-dataset", targets=targets)


def test_a_search_without_validation_pictures_is_refused(tmp_path):
    folders = load_folders(save_pictures(tmp_path / "pictures", {"cat": 1, "dog": 1}))
    with pytest.raises(ValueError, match="pictures .*validation.*two pictures"):
        options = ProtocolOptions(shots=1, evaluate_on="validation")
        lay_out(options, folders, draw(folders, options.shots, options.seed, options.evaluate_on))


def accuracies(**values):
    return {name: None if value is None else {"accuracy": value} for name, value in values.items()}


def summary_of(protocol, metrics, **fields):
    return summarize(ProtocolOptions(protocol=protocol, **fields), metrics, DataOptions())


def test_the_summary_of_base_to_new_has_the_harmonic_mean():
    summary = summary_of("base-to-new", accuracies(base=80.0, new=60.0))
    assert summary == {"base": 80.0, "new": 60.0, "harmonic_mean": pytest.approx(2 * 80 * 60 / 140)}


def test_a_method_that_cannot_name_new_classes_has_no_harmonic_mean():
    summary = summary_of("base-to-new", accuracies(base=80.0, new=None))
    assert summary == {"base": 80.0, "new": None, "harmonic_mean": None}


def test_the_summary_of_targets_is_their_mean_without_the_source():
    metrics = accuracies(faded=90.0, plain=50.0, dark=40.0)
    assert summary_of("cross-dataset", metrics, targets="plain,dark") == {"source": 90.0, "mean_of_targets": 45.0}
    del metrics["faded"]
    assert summary_of("cross-dataset", metrics, targets="plain,dark") == {"source": None, "mean_of_targets": 45.0}


@pytest.mark.parametrize(("metrics", "accuracy"), [({"test": {"accuracy": 7.5}}, 7.5), ({}, None)])
def test_the_summary_of_few_shot_is_the_accuracy_if_there_is_one(metrics, accuracy):
    assert summary_of("few-shot", metrics) == {"accuracy": accuracy}
