"""Classifying pictures with a saved adapter."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.lab.experiment import execute, prepare
from peft_mudpt.lab.recording import record
from peft_mudpt_cli import predict as command
from tests.conftest import reset_accelerator
from tests.lab.test_experiment import save_pictures
from tests.lab.test_stages import experiment


CLASS_NAMES = ["filled red star", "filled orange star", "filled red heart"]
EARLIER = Path(__file__).parents[1] / "earlier"


def run(*words) -> int:
    """Do what the words ask for, as the script does, but without turning errors into one line."""
    return command.run(command.make_parser().parse_args([*map(str, words)]))


def save_adapter(folder: Path, config) -> Path:
    """Save an adapter with large random weights, so that it changes the predictions clearly."""
    torch.manual_seed(0)
    get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).save_pretrained(folder)
    return folder


def mudpt_config(**fields) -> MuDPTConfig:
    return MuDPTConfig(**{"init_std": 0.3, "class_names": CLASS_NAMES, "class_template": "{}.", **fields})


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter"), mudpt_config())


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory) -> Path:
    """An adapter that stores neither its classes nor their template."""
    return save_adapter(tmp_path_factory.mktemp("forgetful"), mudpt_config(class_names=None, class_template=None))


@pytest.fixture(scope="module")
def lora(tmp_path_factory) -> Path:
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    return save_adapter(tmp_path_factory.mktemp("lora"), config)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files = [folder / f"{i}.png" for i in range(3)]
    for file in files:
        demo.paint(CLASS_NAMES[0], "sunset", rng).save(file)  # here CLIP's probabilities are not close to 0 or 1
    return files


@pytest.fixture
def predict(capsys):
    """Run the script, and read from its output the probabilities in percent: by picture, then by class as printed."""

    def probabilities(*words) -> dict[str, dict[str, float]]:
        run(*words)
        printed: dict[str, dict[str, float]] = {}
        file = None
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("  "):
                percent, name = line.split(" %  ")
                printed[file][name] = float(percent)
            else:
                file = line
                printed[file] = {}
        return printed

    return probabilities


@torch.no_grad()
def expected(adapter: Path, picture: Image.Image, class_names: list[str], template: str) -> dict[str, float]:
    """The probabilities in percent from the whole model's forward, most probable first."""
    model = PeftModel.from_pretrained(CLIPModel.from_pretrained(demo.MODEL_PATH), adapter).eval()
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    texts = [template.replace("{}", name) for name in class_names]
    inputs = processor(text=texts, images=picture, padding=True, return_tensors="pt")
    percents = model(**inputs).logits_per_image.softmax(dim=-1)[0].mul(100).tolist()
    return dict(sorted(zip(class_names, percents), key=lambda pair: -pair[1]))


def assert_same(printed: dict[str, float], wanted: dict[str, float]) -> None:
    assert list(printed) == list(wanted)
    assert printed == pytest.approx(wanted, abs=0.051)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> Path:
    """An adapter that remembers what ten pictures of each class told about its probabilities."""
    folder, rng = tmp_path_factory.mktemp("calibrated"), np.random.default_rng(1)
    config = mudpt_config(init_std=0.02)
    classifier = MuDPTClassifier(get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).eval())
    labels = [name for name in CLASS_NAMES for _ in range(10)]
    classifier.calibrate([demo.paint(name, "scribbled", rng) for name in labels], labels)
    classifier.model.save_pretrained(folder)
    return folder


def test_confidence_and_sets_are_printed(calibrated, pictures, capsys):
    run(calibrated, *pictures, "--top", 1, "--min_confidence", 0.9, "--coverage", 0.9)
    printed = capsys.readouterr().out
    classifier = MuDPTClassifier.from_pretrained(calibrated)
    best = classifier.top_k(pictures, k=1, calibrated=True)
    for file, ((name, probability),), found in zip(pictures, best, classifier.predict_sets(pictures)):
        lines = [str(file), f"  {100 * probability:5.1f} %  {name}"]
        lines += ["  not confident: below 90 %"] if probability < 0.9 else []
        lines += [f"  set at 90 %: {','.join(found) or 'no class is probable enough'}"]
        assert "\n".join([*lines, ""]) in printed


def test_confidence_and_sets_are_written(calibrated, pictures, tmp_path, run_script, fresh_accelerator):
    flags = ["--calibrated", "--min_confidence", 0.5, "--coverage", 0.9, "--output", tmp_path / "x.csv"]
    assert run_script("predict.py", calibrated, *pictures, *flags).code == 0
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classifier = MuDPTClassifier.from_pretrained(calibrated)
    confident = [name is not None for name in classifier.predict(pictures, min_confidence=0.5)]
    assert [row["confident"] for row in rows] == [str(each).lower() for each in confident]
    assert [row["set"] for row in rows] == [",".join(found) for found in classifier.predict_sets(pictures)]


def test_an_adapter_that_is_not_calibrated_is_refused_before_anything_is_written(
    adapter, pictures, tmp_path, run_script, fresh_accelerator
):
    done = run_script("predict.py", adapter, *pictures, "--coverage", 0.9, "--output", tmp_path / "x.csv")
    assert done.code == 2 and "--coverage cannot be answered" in done.stderr and list(tmp_path.iterdir()) == []
    assert "--validation_shots" in done.stderr and "--classes" not in done.stderr


@pytest.mark.parametrize("flag", [None, "--calibrated", "--no_calibrated"])
def test_probabilities_are_calibrated_unless_the_user_says_otherwise(calibrated, pictures, capsys, flag):
    run(calibrated, pictures[0], "--top", 1, *filter(None, [flag]))
    printed, classifier = capsys.readouterr(), MuDPTClassifier.from_pretrained(calibrated)
    is_calibrated = flag != "--no_calibrated"
    ((_, probability),) = classifier.top_k(pictures[:1], k=1, calibrated=is_calibrated)[0]
    assert f"  {100 * probability:5.1f} %  " in printed.out
    said = f"calibrated, at temperature {classifier.temperature():.2f}." if is_calibrated else "not calibrated."
    assert said in printed.err


def test_it_says_why_probabilities_are_not_calibrated(adapter, calibrated, pictures, capsys):
    run(adapter, pictures[0])
    assert "not calibrated, because no validation pictures" in capsys.readouterr().err
    run(calibrated, pictures[0], "--classes", "red star,blue heart")
    assert "not calibrated, because the calibration of the run is for its own classes" in capsys.readouterr().err


@pytest.mark.parametrize("other", [("--classes", "red star,blue heart"), ("--template", "a {}.")], ids=lambda x: x[0])
def test_an_adapter_that_is_calibrated_for_other_classes_or_texts_says_so(calibrated, pictures, other):
    with pytest.raises(ValueError, match="^--calibrated cannot be answered.* Leave out --classes and --template") as e:
        run(calibrated, *pictures, "--calibrated", *other)
    assert "--validation_shots" not in str(e.value)


def test_several_texts_of_each_class_are_used_and_counted(capsys, pictures, tmp_path):
    config = mudpt_config(class_template=None, class_templates=["{}.", "one {}", "a photo of {} here"])
    save_adapter(tmp_path, config)
    run(tmp_path, pictures[0], "--top", 1)
    texts, file, best = capsys.readouterr().out.splitlines()
    assert texts == f"{3 * len(CLASS_NAMES)} texts of {len(CLASS_NAMES)} classes, such as '{CLASS_NAMES[0]}.'"
    ((name, probability),) = MuDPTClassifier.from_pretrained(tmp_path).top_k([file], k=1)[0]
    assert best == f"  {100 * probability:5.1f} %  {name}"


class TestProbabilities:
    def test_they_equal_those_of_the_whole_model(self, predict, adapter, pictures):
        printed = predict(adapter, *pictures)
        assert list(printed) == [str(file) for file in pictures]
        for file in pictures:
            assert_same(printed[str(file)], expected(adapter, Image.open(file), CLASS_NAMES, "{}."))

    def test_they_depend_on_the_adapter(self, predict, adapter, lora, pictures):
        options = (pictures[0], "--classes", ",".join(CLASS_NAMES), "--template", "{}.")
        assert predict(adapter, *options) != predict(lora, *options)

    def test_other_classes_can_be_given(self, predict, adapter, pictures):
        printed = predict(adapter, pictures[0], "--classes", "hollow red star, filled red star")
        wanted = expected(adapter, Image.open(pictures[0]), ["hollow red star", "filled red star"], "{}.")
        assert_same(printed[str(pictures[0])], wanted)

    def test_another_template_can_be_given(self, predict, adapter, pictures):
        printed = predict(adapter, pictures[0], "--template", "a drawing of a {}")
        wanted = expected(adapter, Image.open(pictures[0]), CLASS_NAMES, "a drawing of a {}")
        assert_same(printed[str(pictures[0])], wanted)

    def test_underscores_in_given_class_names_are_kept(self, predict, adapter, pictures):
        printed = predict(adapter, pictures[0], "--classes", "red_star,blue_heart")
        wanted = expected(adapter, Image.open(pictures[0]), ["red_star", "blue_heart"], "{}.")
        assert_same(printed[str(pictures[0])], wanted)

    def test_quotes_keep_a_name_with_a_comma_together(self, predict, adapter, pictures):
        printed = predict(adapter, pictures[0], "--classes", 'red star, "heart, filled","5"" disk"')
        wanted = expected(adapter, Image.open(pictures[0]), ["red star", "heart, filled", '5" disk'], "{}.")
        assert_same(printed[str(pictures[0])], wanted)

    def test_top_limits_the_printed_classes(self, predict, adapter, pictures):
        printed = predict(adapter, pictures[0], "--top", 2)[str(pictures[0])]
        wanted = expected(adapter, Image.open(pictures[0]), CLASS_NAMES, "{}.")
        assert_same(printed, dict(list(wanted.items())[:2]))

    def test_five_classes_are_printed_by_default(self, predict, adapter, pictures):
        printed = predict(adapter, pictures[0], "--classes", ",".join(demo.CLASS_NAMES))
        assert len(printed[str(pictures[0])]) == 5

    def test_many_pictures_are_split_into_batches(self, adapter, pictures, monkeypatch, capsys):
        monkeypatch.setattr(command, "BATCH_SIZE", 2)
        run(adapter, *pictures, "--top", 1)
        assert capsys.readouterr().out.splitlines()[::2] == [str(file) for file in pictures]

    def test_a_picture_is_rotated_as_its_metadata_says(self, predict, adapter, pictures, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: rotate clockwise for display
        lying = Image.open(pictures[2]).transpose(Image.Transpose.ROTATE_90)
        lying.save(tmp_path / "lying.png", exif=exif)
        printed = predict(adapter, tmp_path / "lying.png", pictures[2])
        assert printed[str(tmp_path / "lying.png")] == printed[str(pictures[2])]

    def test_another_clip_can_be_given(self, predict, forgetful, pictures, tmp_path):
        moved = save_adapter(tmp_path, mudpt_config())
        config = json.loads((moved / "adapter_config.json").read_text())
        (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/clip"}))
        printed = predict(moved, pictures[0], "--model_name_or_path", demo.MODEL_PATH)
        assert_same(printed[str(pictures[0])], expected(moved, Image.open(pictures[0]), CLASS_NAMES, "{}."))

    def test_lora_takes_its_classes_from_result_json(self, predict, pictures, tmp_path):
        config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        save_adapter(tmp_path, config)
        result = json.loads((EARLIER / "lora" / "result.json").read_text(encoding="utf-8"))
        result |= {"class_names": CLASS_NAMES, "template_after_prompts": "a photo of a {}."}
        (tmp_path / "result.json").write_text(json.dumps(result))
        printed = predict(tmp_path, pictures[0])
        wanted = expected(tmp_path, Image.open(pictures[0]), CLASS_NAMES, "a photo of a {}.")
        assert_same(printed[str(pictures[0])], wanted)


class TestMistakes:
    @pytest.fixture(autouse=True)
    def no_model_is_loaded(self, monkeypatch):
        monkeypatch.setattr(CLIPModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("a model was loaded"))

    def test_a_folder_without_an_adapter_is_named(self, predict, pictures, tmp_path):
        with pytest.raises(ValueError, match=f"{tmp_path} .*no adapter_config.json"):
            predict(tmp_path, pictures[0])

    def test_an_adapter_that_is_missing_is_named(self, predict, pictures):
        with pytest.raises(ValueError, match="no/where .*Hub"):
            predict("no/where", pictures[0])

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "null",
            "[]",
            "[" * 100_000,
            '{"peft_type": ["LORA"]}',
            '{"peft_type": "LORA", "base_model_name_or_path": [1]}',
        ],
        ids=lambda content: content[:40],
    )
    def test_a_config_that_cannot_be_read_is_named(self, predict, pictures, tmp_path, content):
        (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(ValueError, match=f"{tmp_path} .*unreadable adapter_config.json"):
            predict(tmp_path, pictures[0])

    def test_classes_that_the_adapter_does_not_store_must_be_given(self, predict, forgetful, pictures):
        with pytest.raises(ValueError, match="classes.*--classes"):
            predict(forgetful, pictures[0])

    def test_the_classes_of_lora_without_a_result_must_be_given(self, predict, lora, pictures):
        with pytest.raises(ValueError, match="classes.*--classes"):
            predict(lora, pictures[0])

    def test_a_template_that_the_adapter_does_not_store_must_be_given(self, predict, forgetful, pictures):
        with pytest.raises(ValueError, match="text of a class.*--template"):
            predict(forgetful, pictures[0], "--classes", "star,heart")

    def test_a_quote_that_is_not_closed_is_named(self, predict, adapter, pictures):
        with pytest.raises(ValueError, match="--classes 'cat,\"dog' "):
            predict(adapter, pictures[0], "--classes", 'cat,"dog')

    @pytest.mark.parametrize("classes", ["star", "", "star,", '"star,heart"'])
    def test_fewer_than_two_classes_are_refused(self, predict, adapter, pictures, classes):
        with pytest.raises(ValueError, match="--classes .*at least two"):
            predict(adapter, pictures[0], "--classes", classes)

    def test_a_class_given_in_two_forms_of_unicode_is_named(self, predict, adapter, pictures):
        with pytest.raises(ValueError, match="--classes names 'caf\u00e9' more than once"):
            predict(adapter, pictures[0], "--classes", "caf\u00e9,cafe\u0301")

    def test_a_class_given_twice_is_named(self, predict, adapter, pictures):
        with pytest.raises(ValueError, match="--classes names 'star' more than once"):
            predict(adapter, pictures[0], "--classes", "star,heart, star")

    @pytest.mark.parametrize("template", ["a photo.", "{} or {}", ""])
    def test_a_template_without_one_place_for_the_class_is_refused(self, predict, adapter, pictures, template):
        with pytest.raises(ValueError, match=f"template='{template}' is not a text that holds {{}} once"):
            predict(adapter, pictures[0], "--template", template)

    def test_top_must_be_at_least_one(self, predict, adapter, pictures):
        with pytest.raises(ValueError, match="--top 0 "):
            predict(adapter, pictures[0], "--top", 0)

    def test_a_clip_in_a_folder_of_another_machine_is_named(self, predict, pictures, tmp_path):
        mudpt_config(base_model_name_or_path="/gone/clip").save_pretrained(tmp_path)
        (tmp_path / "adapter_model.safetensors").touch()
        with pytest.raises(ValueError, match="/gone/clip .*--model_name_or_path"):
            predict(tmp_path, pictures[0])

    def test_a_clip_that_the_adapter_does_not_name_must_be_given(self, predict, pictures, tmp_path):
        mudpt_config().save_pretrained(tmp_path)
        (tmp_path / "adapter_model.safetensors").touch()
        with pytest.raises(ValueError, match="CLIP.*--model_name_or_path"):
            predict(tmp_path, pictures[0])


def test_pictures_that_cannot_be_read_do_not_stop_the_others(adapter, pictures, tmp_path, monkeypatch, capsys):
    demo.paint(CLASS_NAMES[0], "noisy", np.random.default_rng(0)).save(tmp_path / "half.jpg")
    whole = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) - 200])
    (tmp_path / "text.png").write_text("no picture")
    bad = [tmp_path / "half.jpg", tmp_path / "text.png", tmp_path / "gone.png"]
    files = [bad[0], pictures[0], bad[1], bad[2], pictures[1]]
    monkeypatch.setattr(command, "BATCH_SIZE", 2)
    assert run(adapter, *files, "--top", 1) == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines()[::2] == [str(pictures[0]), str(pictures[1])]
    count, *listed = printed.err.splitlines()[-4:]  # a progress bar stands before them
    assert count.startswith("3 of 5 ")
    assert [line.split(" cannot be read: ")[0] for line in listed] == [str(file) for file in bad]


@pytest.fixture(
    scope="module", params=[("lora", 48), ("linear_probe", None), ("linear_probe", 48), ("zero_shot", 48)], ids=str
)
def run_of_another_method(request, tmp_path_factory):
    """The folder of a run whose classes no config stores, and the classifier that the run tested."""
    reset_accelerator()
    method, image_size = request.param
    training = tmp_path_factory.mktemp("training") / "train"
    outcome = execute(prepare(experiment(save_pictures(training, 5), method, image_size=image_size)))
    folder = tmp_path_factory.mktemp(method)
    record(outcome, folder)
    reset_accelerator()
    plan = outcome.plan
    return folder, plan.backbone.classifier(plan.learner.model, plan.task.class_names, plan.template_after_prompts)


def test_every_run_classifies_as_it_was_tested(predict, run_of_another_method, pictures):
    folder, tested = run_of_another_method
    printed = predict(folder, *pictures, "--top", 3)
    for file, best in zip(pictures, tested.top_k(pictures, 3)):
        assert_same(printed[str(file)], {name: 100 * probability for name, probability in best})


def test_the_predictions_of_every_run_can_be_written(predict, run_of_another_method, pictures, tmp_path):
    folder, tested = run_of_another_method
    predict(folder, *pictures, "--output", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["class"].to_pylist()
    assert found == tested.predict(pictures)


@pytest.mark.parametrize("options", [("--classes", "star,heart"), ("--template", "{}.")])
def test_a_linear_probe_knows_no_other_classes_and_no_texts(predict, pictures, tmp_path, options):
    (tmp_path / "linear_probe.safetensors").touch()
    with pytest.raises(ValueError, match=f"{tmp_path} .*linear probe.*--classes and --template"):
        predict(tmp_path, pictures[0], *options)


def test_a_clip_of_another_width_is_refused(predict, adapter, pictures, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "vision_hidden_size": 128}))
    with pytest.raises(ValueError, match="vision_hidden_size=128.*96 wide"):
        predict(tmp_path, pictures[0])


class TestOutput:
    def test_a_folder_becomes_a_file_with_a_row_per_picture(self, predict, adapter, pictures, tmp_path):
        output = tmp_path / "out.csv"
        predict(adapter, pictures[0].parent, "--output", output, "--top", 2, "--num_workers", 0)
        with open(output, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["picture"] for row in rows] == list(map(str, pictures))
        for row in rows:
            wanted = expected(adapter, Image.open(row["picture"]), CLASS_NAMES, "{}.")
            found = {row[f"class{rank}"]: 100 * float(row[f"probability{rank}"]) for rank in ("", "_2")}
            assert_same(found, dict(list(wanted.items())[:2]))

    def test_an_error_is_in_its_row_and_counted(self, adapter, pictures, tmp_path, run_script):
        contents = [pictures[0].read_bytes(), b"no picture", pictures[1].read_bytes()]
        pq.write_table(pa.table({"image": contents, "n": range(3)}), tmp_path / "in.parquet")
        words = (adapter, tmp_path / "in.parquet", "--output", tmp_path / "out.parquet")
        for said in ("predictions of 2 of 3 pictures\n", "predictions of 2 of 3 pictures already\n"):
            done = run_script("predict.py", *words)
            assert done.code == 1 and said in done.stdout
            assert done.stdout.splitlines()[-1].startswith(f"{tmp_path / 'out.parquet.json'} tells how")
            assert done.stderr.splitlines()[-1].startswith("1 has no answer")
        rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert [row["picture"] for row in rows] == ["row 0", "row 1", "row 2"]
        assert [row["error"] and row["error"].split(":")[0] for row in rows] == [None, "row 1 cannot be read", None]

    def test_predictions_for_other_classes_are_not_mixed(self, predict, adapter, pictures, tmp_path):
        command = (adapter, *pictures, "--output", tmp_path / "out.csv")
        predict(*command)
        with pytest.raises(ValueError, match="classes: .*filled red heart.* there, .*star.* here"):
            predict(*command, "--classes", "star,heart")
        predict(*command, "--classes", "star,heart", "--overwrite")
        assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("heart") == len(pictures)

    def test_a_parquet_file_can_be_printed_too(self, predict, adapter, pictures, tmp_path):
        pq.write_table(pa.table({"photo": list(map(str, pictures))}), tmp_path / "in.parquet")
        assert predict(adapter, tmp_path / "in.parquet") == predict(adapter, *pictures)

    def test_files_that_are_left_aside_are_counted(self, adapter, pictures, tmp_path, capsys):
        (tmp_path / "a.png").write_bytes(pictures[0].read_bytes())
        (tmp_path / "note.txt").touch()
        run(adapter, tmp_path)
        assert "left aside: 1 .txt" in capsys.readouterr().err

    def test_a_path_that_does_not_exist_is_named_before_anything_is_written(
        self, predict, adapter, pictures, tmp_path
    ):
        missing, output = tmp_path / "photos", tmp_path / "out.csv"
        with pytest.raises(ValueError, match=f"{missing} does not exist"):
            predict(adapter, pictures[0], missing, "--output", output)
        assert not list(tmp_path.glob("out.csv*"))

    def test_several_processes_need_an_output(self, predict, adapter, pictures, monkeypatch):
        monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
        with pytest.raises(ValueError, match="2 processes .*--output"):
            predict(adapter, pictures[0])
