"""Reading CoOp's folder layouts, from small copies of them."""

import json

import pytest

from peft_mudpt import demo
from peft_mudpt.lab.data.catalogue import CATALOGUE
from peft_mudpt.lab.data.coop import read_coop
from peft_mudpt.lab.data.sources import DataOptions, load_data, load_named


SPLIT_FILES = [name for name, data_set in CATALOGUE.items() if data_set.layout == "split"]
VARIANTS_OF_IMAGENET = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def build_split(root, name, splits):
    data_set = CATALOGUE[name]
    for items in splits.values():
        for path, _, _ in items:
            touch(root / data_set.folder / data_set.images / path)
    (root / data_set.folder / data_set.split).write_text(json.dumps(splits))


def items(split):
    return [[f"a/{split}_{i}.jpg", 0, "rocking_chair"] for i in range(2)] + [[f"b/{split}.jpg", 1, "wild cat"]]


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_a_split_file_is_read_in_its_order_with_clean_names(tmp_path, name):
    build_split(tmp_path, name, {split: items(split) for split in ("train", "val", "test")})
    images, splits = read_coop(tmp_path, name)
    assert images == tmp_path / CATALOGUE[name].folder / CATALOGUE[name].images
    assert splits["val"] == [
        ("a/val_0.jpg", 0, "rocking chair"),
        ("a/val_1.jpg", 0, "rocking chair"),
        ("b/val.jpg", 1, "wild cat"),
    ]


def test_a_data_set_brings_its_template_and_its_splits(tmp_path):
    build_split(tmp_path, "dtd", {split: items(split) for split in ("train", "val", "test")})
    data = load_data(DataOptions(coop_root=str(tmp_path), dataset="dtd"))
    assert data.template == "{} texture." and data.class_names == ["rocking chair", "wild cat"]
    assert data.test["item"][:] == ["a/test_0.jpg", "a/test_1.jpg", "b/test.jpg"] and data.test["label"][:] == [
        0,
        0,
        1,
    ]
    assert data.train["image"][0]["path"] == str(tmp_path / "dtd" / "images" / "a" / "train_0.jpg")


def test_pictures_of_a_split_that_are_missing_are_named_and_counted(tmp_path):
    build_split(tmp_path, "caltech101", {split: items(split) for split in ("train", "val", "test")})
    for split in ("train", "test"):
        for path, _, _ in items(split)[:2]:
            (tmp_path / "caltech-101" / "101_ObjectCategories" / path).unlink()
    with pytest.raises(ValueError, match=r"4 of the 9 .* a/train_0.jpg, a/train_1.jpg, a/test_0.jpg, \.\.\."):
        read_coop(tmp_path, "caltech101")


@pytest.mark.parametrize("path", ["../secret.jpg", "a/../../secret.jpg", "{}/secret.jpg"])
def test_a_split_that_leads_out_of_its_pictures_is_refused(tmp_path, path):
    path = path.format(tmp_path / "dtd")
    build_split(tmp_path, "dtd", {"train": items("train"), "val": items("val"), "test": [[path, 0, "wild cat"]]})
    touch(tmp_path / "dtd" / "secret.jpg")
    with pytest.raises(ValueError, match="dtd .*secret.jpg"):
        read_coop(tmp_path, "dtd")


def test_the_label_of_an_aircraft_variant_is_its_line_in_the_list(tmp_path):
    folder = tmp_path / "fgvc_aircraft"
    for picture in ("1", "2", "3"):
        touch(folder / "images" / f"{picture}.jpg")
    (folder / "variants.txt").write_text("707-320\nModel B200\n")
    for split, lines in {"train": "2 Model B200\n1 707-320\n", "val": "3 707-320\n", "test": ""}.items():
        (folder / f"images_variant_{split}.txt").write_text(lines)
    _, splits = read_coop(tmp_path, "fgvc_aircraft")
    assert splits == {
        "train": [("2.jpg", 1, "Model B200"), ("1.jpg", 0, "707-320")],
        "val": [("3.jpg", 0, "707-320")],
        "test": [],
    }


def test_imagenet_trains_on_its_training_folders_and_tests_on_its_validation_folders(tmp_path):
    folder = tmp_path / "imagenet"
    for path in ("train/n02/x.JPEG", "train/n01/b.JPEG", "train/n01/a.JPEG", "val/n02/v.JPEG"):
        touch(folder / "images" / path)
    touch(folder / "images" / "val" / "n01" / "w.JPEG")
    (folder / "classnames.txt").write_text("n01 tench\nn02 great white shark\n")
    _, splits = read_coop(tmp_path, "imagenet")
    assert splits["train"] == [
        ("train/n01/a.JPEG", 0, "tench"),
        ("train/n01/b.JPEG", 0, "tench"),
        ("train/n02/x.JPEG", 1, "great white shark"),
    ]
    assert [item[0] for item in splits["test"]] == ["val/n01/w.JPEG", "val/n02/v.JPEG"] and splits["val"] == []


@pytest.mark.parametrize("name", VARIANTS_OF_IMAGENET)
def test_variants_of_imagenet_have_only_a_test_split(tmp_path, name):
    data_set = CATALOGUE[name]
    folders = {"imagenetv2": ("2", "10")}.get(name, ("n01", "n02"))
    for folder in folders:
        touch(tmp_path / data_set.folder / data_set.images / folder / "a.jpg")
    touch(tmp_path / data_set.folder / data_set.images / "README.txt")
    lines = {"imagenetv2": [f"n{i} class {i}" for i in range(11)]}.get(
        name, ["n01 tench", "n02 shark", "n03 never seen"]
    )
    (tmp_path / data_set.folder / "classnames.txt").write_text("\n".join(lines))
    _, splits = read_coop(tmp_path, name)
    names = ["class 2", "class 10"] if name == "imagenetv2" else ["tench", "shark"]
    assert [(label, class_name) for _, label, class_name in splits["test"]] == list(enumerate(names))
    assert splits["train"] == []


# A second copy of CoOp's DATASETS.md and hand-crafted prompts: data set, folder, folder of pictures, split, text.
FACTS = """
caltech101      caltech-101            101_ObjectCategories  split_zhou_Caltech101.json            a photo of a {}.
oxford_pets     oxford_pets            images                split_zhou_OxfordPets.json            a photo of a {}, a type of pet.
stanford_cars   stanford_cars          -                     split_zhou_StanfordCars.json          a photo of a {}.
oxford_flowers  oxford_flowers         jpg                   split_zhou_OxfordFlowers.json         a photo of a {}, a type of flower.
food101         food-101               images                split_zhou_Food101.json               a photo of {}, a type of food.
fgvc_aircraft   fgvc_aircraft          images                -                                     a photo of a {}, a type of aircraft.
sun397          sun397                 SUN397                split_zhou_SUN397.json                a photo of a {}.
dtd             dtd                    images                split_zhou_DescribableTextures.json   {} texture.
eurosat         eurosat                2750                  split_zhou_EuroSAT.json               a centered satellite photo of {}.
ucf101          ucf101                 UCF-101-midframes     split_zhou_UCF101.json                a photo of a person doing {}.
imagenet        imagenet               images                -                                     a photo of a {}.
imagenetv2      imagenetv2             imagenetv2-matched-frequency-format-val  -                  a photo of a {}.
imagenet_sketch imagenet-sketch        images                -                                     a photo of a {}.
imagenet_a      imagenet-adversarial   imagenet-a            -                                     a photo of a {}.
imagenet_r      imagenet-rendition     imagenet-r            -                                     a photo of a {}.
"""  # noqa: E501


def test_the_catalogue_holds_coops_eleven_data_sets_and_four_variants_of_imagenet():
    facts = [line.split(maxsplit=4) for line in FACTS.strip().splitlines()]
    assert [
        [name, b.folder, b.images or "-", b.split or "-", b.template] for name, b in CATALOGUE.items()
    ] == facts and len(facts) == 15


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("variants.txt", "707-320\n", None), ("images_variant_train.txt", "1\n", "line 1 ")],
)
def test_a_malformed_list_is_refused(tmp_path, file, content, message):
    folder = tmp_path / "fgvc_aircraft"
    touch(folder / "images" / "1.jpg")
    (folder / "variants.txt").write_text("707-320\n")
    for split in ("train", "val", "test"):
        (folder / f"images_variant_{split}.txt").write_text("1 707-320\n")
    (folder / file).write_text(content)
    if message is None:
        assert read_coop(tmp_path, "fgvc_aircraft")[1]["val"] == [("1.jpg", 0, "707-320")]
    else:
        with pytest.raises(ValueError, match=message):
            read_coop(tmp_path, "fgvc_aircraft")


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnist", "'mnist'.*caltech101"), ("dtd", "--coop_root .* dtd")],
)
def test_a_missing_data_set_is_named(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        load_named(name, str(tmp_path))


def test_a_malformed_split_file_is_refused(tmp_path):
    build_split(tmp_path, "dtd", {"train": items("train")})
    with pytest.raises(ValueError, match="split_zhou_DescribableTextures.json .*path, label, class"):
        read_coop(tmp_path, "dtd")


def test_without_a_root_the_error_lists_the_styles():
    with pytest.raises(ValueError, match=f"'dtd' .*{next(iter(demo.STYLES))}.*--coop_root"):
        load_data(DataOptions(dataset="dtd"))


@pytest.mark.parametrize("name", VARIANTS_OF_IMAGENET)
def test_a_data_set_for_testing_only_is_not_trained_on(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} .* imagenet; .*--targets {name}"):
        load_data(DataOptions(dataset=name, coop_root=str(tmp_path)))


def test_a_split_file_without_training_pictures_is_refused(tmp_path):
    build_split(tmp_path, "dtd", {"train": [], "val": [], "test": items("test")})
    with pytest.raises(ValueError, match="dtd .*training"):
        load_data(DataOptions(dataset="dtd", coop_root=str(tmp_path)))
