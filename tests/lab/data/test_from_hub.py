"""Loading data sets of the Hub."""

from dataclasses import replace

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as images

from peft_mudpt.lab.data.loading import picture
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_data


def hub(monkeypatch, columns=None, **splits):
    """Let `load_dataset` return these splits, whatever its arguments are."""
    monkeypatch.setattr("datasets.load_dataset", lambda *arguments: DatasetDict(splits))
    return DataOptions(dataset_name="someone/animals", **columns or {})


def examples(number, names=("cat", "wild_dog"), image="image", label="label"):
    features = Features({image: Image(), label: ClassLabel(names=list(names)), "note": Value("string")})
    pictures = [images.new("RGB", (4, 4), (i, i, i)) for i in range(number)]
    labels = [i % len(names) for i in range(number)]
    return Dataset.from_dict({image: pictures, label: labels, "note": ["x"] * number}, features=features)


def test_a_hub_data_set_brings_its_class_names_and_splits(monkeypatch):
    data = load_data(hub(monkeypatch, train=examples(4), validation=examples(2), test=examples(3)))
    assert data.class_names == ["cat", "wild dog"] and data.name == "someone/animals"
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 3)
    assert data.test["item"][:] == ["test[0]", "test[1]", "test[2]"] and data.test["label"][:] == [0, 1, 0]
    assert picture(data.train[3]).getpixel((0, 0)) == (3, 3, 3)


def test_a_data_set_in_a_folder_is_named_after_it_without_its_path(monkeypatch, tmp_path):
    (tmp_path / "pets").mkdir()
    options = replace(hub(monkeypatch, train=examples(4)), dataset_name=str(tmp_path / "pets"))
    assert load_data(options).name == "pets"


def test_columns_of_a_hub_data_set_may_have_other_names(monkeypatch):
    splits = {"train": examples(4, image="img", label="fine_label")}
    with pytest.raises(ValueError, match=r"no column 'image'.*--image_column.*img .*fine_label"):
        load_data(hub(monkeypatch, **splits))
    named = hub(monkeypatch, {"image_column": "img", "label_column": "fine_label"}, **splits)
    assert load_data(named).train["label"][:] == [0, 1, 0, 1]


def test_a_label_column_of_strings_is_refused_with_the_way_out(monkeypatch):
    arguments = hub(monkeypatch, {"label_column": "note"}, train=examples(4))
    with pytest.raises(ValueError, match=r"'note' .*ClassLabel.*class_encode_column\('note'\)"):
        load_data(arguments)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": examples(4)}, r"--dataset_name someone/animals .*'train'.*\['test'\]"),
        ({"train": examples(2, names=("cat",))}, r"at least two classes.* someone/animals .*\['cat'\]"),
    ],
)
def test_a_hub_data_set_that_cannot_be_used_is_refused(monkeypatch, splits, message):
    with pytest.raises(ValueError, match=message):
        load_data(hub(monkeypatch, **splits))


def test_validation_is_used_for_testing_if_the_test_split_has_no_labels(monkeypatch):
    unlabeled = examples(2).remove_columns("label").add_column("label", [-1, -1])
    unlabeled = unlabeled.cast_column("label", ClassLabel(names=["cat", "wild_dog"]))
    data = load_data(hub(monkeypatch, train=examples(4), validation=examples(3), test=unlabeled))
    assert data.validation is None and data.test["item"][:] == ["validation[0]", "validation[1]", "validation[2]"]
