"""The flags of an experiment, and the values that are refused."""

import os

import pytest

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.detection.arguments import DetectionArguments
from peft_mudpt.lab.flags import make_parser, parse_flags
from peft_mudpt.lab.protocols import ProtocolOptions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shots": 0}, "--shots=0 is not at least 1"),
        ({"max_train_steps": 0}, "--max_train_steps=0 is not at least 1"),
        ({"per_device_train_batch_size": -1}, "--per_device_train_batch_size=-1 is not at least 1"),
        ({"learning_rate": 0.0}, "--learning_rate=0.0 is not more than 0"),
        ({"learning_rate": float("nan")}, "--learning_rate=nan is not more than 0"),
        ({"weight_decay": -0.1}, "--weight_decay=-0.1 is not at least 0"),
        ({"warmup_ratio": 1.0}, "--warmup_ratio=1.0 is not at least 0 and less than 1"),
        ({"template": "a photo"}, "--template='a photo' is not a text that holds {} once"),
        ({"protocol": "fewshot"}, "--protocol='fewshot' is not one of few-shot, base-to-new"),
        ({"method_kwargs": "{depth"}, "--method_kwargs '{depth' is not JSON"),
        ({"method_kwargs": "3"}, "--method_kwargs '3'"),
        ({"train_dir": "a", "dataset_name": "b"}, "--train_dir and --dataset_name"),
        ({"train_dir": "a", "dataset": "plain"}, "--train_dir and --dataset "),
        ({"test_dir": "a"}, "--test_dir needs --train_dir"),
        ({"train_dir": "a", "test_dir": "a"}, "--test_dir a equals --train_dir"),
        ({"train_dir": "a", "test_dir": "a/"}, "--test_dir a/ equals --train_dir"),
        ({"train_dir": "a/../b", "test_dir": os.path.abspath("b")}, "equals --train_dir"),
        ({"train_dir": "a", "test_dir": "a/b"}, "--train_dir a and --test_dir a/b"),
        ({"train_dir": "a/b", "test_dir": "a"}, "--train_dir a/b and --test_dir a"),
        ({"class_names": "a"}, "--class_names needs --train_dir"),
        ({"split": "a", "dataset_name": "b"}, "--split needs --train_dir"),
        (
            {"dataset": "imagenet_a", "coop_root": "."},
            "--dataset imagenet_a has test pictures only",
        ),
        ({"coop_root": "nowhere"}, "--coop_root nowhere"),
        ({"coop_root": "."}, "--coop_root needs --dataset"),
        ({"targets": "plain"}, "--targets needs --protocol cross-dataset or domain-generalization; found few-shot"),
        ({"train_dir": "a", "protocol": "cross-dataset"}, "cross-dataset with --train_dir needs --targets"),
        ({"output_dir": __file__}, f"--output_dir {__file__} is a file"),
        ({"train_dir": "a", "output_dir": "a/outputs/run"}, "--output_dir a/outputs/run lies in --train_dir a"),
        ({"train_dir": ".", "output_dir": "outputs"}, "--output_dir outputs lies in --train_dir ."),
        ({"train_dir": "a", "test_dir": "b", "output_dir": "b/"}, "--output_dir b/ lies in --test_dir b"),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": "latest"}, "--resume_from_checkpoint"),
        ({"push_to_hub": True}, "--push_to_hub needs --hub_model_id"),
        ({"push_to_hub": True, "hub_model_id": "a/b", "method": "zero_shot"}, "method zero_shot"),
        ({"push_to_hub": True, "hub_model_id": "a/b", "method": "spt"}, "method spt leaves none"),
    ],
)
def test_the_error_names_the_flag_and_its_value(fields, message):
    with pytest.raises(ValueError) as error:
        Arguments(**fields)
    assert message in str(error.value)


def test_a_link_to_the_training_folder_is_no_other_folder(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").symlink_to(tmp_path / "train")
    with pytest.raises(ValueError, match="--test_dir .* equals --train_dir"):
        Arguments(train_dir=str(tmp_path / "train"), test_dir=str(tmp_path / "test"))


@pytest.mark.parametrize(
    ("kind", "words", "model"),
    [
        (Arguments, [], "embedded"),
        (Arguments, ["--dataset", "noisy"], "embedded"),
        (Arguments, ["--train_dir", "a"], "openai/clip-vit-base-patch16"),
        (Arguments, ["--dataset_name", "user/a"], "openai/clip-vit-base-patch16"),
        (Arguments, ["--train_dir", "a", "--model_name_or_path", "b"], "b"),
        (Arguments, ["--train_dir", "a", "--model_name_or_path", "embedded"], "embedded"),
        (DetectionArguments, [], "embedded"),
        (DetectionArguments, ["--train_dir", "a"], "IDEA-Research/grounding-dino-tiny"),
    ],
)
def test_the_embedded_model_is_the_default_for_the_embedded_pictures_alone(kind, words, model):
    assert parse_flags(kind, words).model_name_or_path == model


def test_help_lists_the_flags_from_the_clip_to_the_output_below_titles():
    lines = [line.strip() for line in make_parser(Arguments).format_help().splitlines()]
    parts = ["the model:", "--model_name_or_path", "the method:", "--method", "the pictures:", "--dataset"]
    parts += ["which pictures are for", "--protocol", "training and testing:", "--optimizer"]
    parts += ["the cache:", "--feature_cache", "where the run", "--output_dir"]
    places = [next(i for i, line in enumerate(lines) if line.startswith(part)) for part in parts]
    assert places == sorted(places)


def test_a_part_of_the_arguments_has_only_the_options_of_its_class():
    part = Arguments(shots=2, method="coop").part(ProtocolOptions)
    assert part == ProtocolOptions(shots=2) and not hasattr(part, "method")


@pytest.mark.parametrize("words", [["--metod", "coop"], ["--metod=coop"]])
def test_an_unknown_flag_is_compared_with_the_known_ones(words):
    with pytest.raises(ValueError, match="Unknown arguments: --metod.* Did you mean --method[?]"):
        parse_flags(Arguments, words)
