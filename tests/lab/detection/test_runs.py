"""Runs that adapt the embedded detector."""

import dataclasses
import io
import json

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import AutoModelForZeroShotObjectDetection

from peft_mudpt import SDPTConfig, demo
from peft_mudpt.detection import FusionDetector
from peft_mudpt.lab import execute, prepare, record
from peft_mudpt.lab.data.boxes import load_embedded_boxes
from peft_mudpt.lab.detection.arguments import DetectionArguments
from peft_mudpt.lab.detection.methods import METHODS
from peft_mudpt.lab.identity import what_was_asked
from peft_mudpt.lab.method import Method
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.run import run
from peft_mudpt.lab.schema import read_result, read_results
from peft_mudpt.lab.training.checkpoints import Checkpoints, trainable_tensors
from tests.conftest import reset_accelerator
from tests.lab.detection.conftest import experiment, scenes


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
ALWAYS = {"result.json", "run.json", "detections.png"}


def learned(plan):
    return {name: tensor.detach().clone() for name, tensor in trainable_tensors(plan.learner.model).items()}


@pytest.mark.parametrize(
    ("method", "numbers", "files"),
    [
        ("zero_shot", 0, set()),
        ("sdpt", 2 * 10 * 256, ADAPTER_FILES),
        ("sdpt_released", 2 * 10 * 256, ADAPTER_FILES),
        ("dual_prompts", 2 * 2 * 10 * 64, ADAPTER_FILES),
        ("lora", 2 * 6 * 4 * (64 + 256), ADAPTER_FILES),
        ("full", None, {"config.json", "model.safetensors"}),
    ],
)
def test_each_method_learns_its_numbers_and_leaves_files_that_load_again(data, tmp_path, method, numbers, files):
    plan = prepare(experiment(data, method))
    before = {name: tensor.clone() for name, tensor in plan.learner.model.state_dict().items()}
    result = record(execute(plan), tmp_path / "run")  # raises if the files do not load again
    assert {path.name for path in (tmp_path / "run").iterdir()} == ALWAYS - {"run.json"} | files | {"run.json"}
    assert read_result(tmp_path / "run")["metrics"] == json.loads(json.dumps(result["metrics"]))
    trained = learned(plan)
    assert numbers in (None, sum(tensor.numel() for tensor in trained.values()))
    after = plan.learner.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(trained) or method == "full"  # it shares weights under several names


def test_average_precision_is_that_of_pycocotools_for_the_boxes_of_the_detector(data):
    metrics = prepare(experiment(data, "zero_shot")).zero_shot["test"]
    model = AutoModelForZeroShotObjectDetection.from_pretrained(demo.DETECTOR_PATH)
    found = FusionDetector(model, data.class_names).predict(data.test["image"], threshold=0)
    images = [{"id": i, "width": 64, "height": 64} for i in range(len(data.test))]
    boxes = [
        {"id": 1000 * i + j + 1, "image_id": i, "category_id": label + 1, "iscrowd": 0, "bbox": [x, y, r - x, b - y]}
        for i, example in enumerate(data.test)
        for j, ((x, y, r, b), label) in enumerate(zip(example["boxes"], example["labels"]))
    ]
    coco = COCO()
    categories = [{"id": label + 1} for label in range(len(data.class_names))]
    annotations = [{**box, "area": box["bbox"][2] * box["bbox"][3]} for box in boxes]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    detections = [
        {"image_id": i, "category_id": label + 1, "score": score, "bbox": [x, y, r - x, b - y]}
        for i, own in enumerate(found)
        for (x, y, r, b), label, score in zip(own.boxes.tolist(), own.labels.tolist(), own.scores.tolist())
    ]
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = [100 * value for value in evaluation.stats[:3]]
    assert [metrics[name] for name in ("map", "ap50", "ap75")] == pytest.approx(expected, abs=1e-9)
    assert metrics["pictures"] == len(data.test) and 0 < metrics["map"] < 100


def test_the_stages_give_the_same_result_as_the_flags(tmp_path, folder):
    options = {"shots": 1, "max_train_steps": 2, "train_dir": folder, "augmentation": "none"}
    by_flags = run(DetectionArguments(output_dir=str(tmp_path / "flags"), **options))
    reset_accelerator()
    arguments = DetectionArguments(**options)
    result = record(execute(prepare(arguments.experiment())), tmp_path / "python")
    timed = ("seconds", "peak_memory_bytes")
    assert {k: v for k, v in result.items() if k not in timed} == {k: v for k, v in by_flags.items() if k not in timed}
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("python", "flags")]
    assert weights[0] == weights[1]


def test_the_same_command_again_returns_the_result_and_another_is_refused(tmp_path, folder, capsys):
    options = {"shots": 1, "output_dir": str(tmp_path / "run"), "method": "zero_shot", "train_dir": folder}
    first = run(DetectionArguments(**options))
    reset_accelerator()
    assert run(DetectionArguments(**options))["metrics"] == json.loads(json.dumps(first["metrics"]))
    assert "already done" in capsys.readouterr().out
    reset_accelerator()
    with pytest.raises(ValueError, match="another run .*shots: 1 there, 2 here"):
        run(DetectionArguments(**{**options, "shots": 2}))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sdpt", "full"])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(data, tmp_path, method):
    whole = execute(prepare(experiment(data, method, steps=3))).plan
    reset_accelerator()
    plan = prepare(experiment(data, method, steps=3))
    execute(plan, Checkpoints(tmp_path, plan.experiment.asked, every=2))
    reset_accelerator()
    resumed = prepare(experiment(data, method, steps=3))
    checkpoint = tmp_path / "checkpoints" / "step_00000002"
    execute(resumed, Checkpoints(tmp_path, resumed.experiment.asked, resume_from=checkpoint))
    first, second = learned(whole), learned(resumed)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_full_tuning_trains_every_weight_that_the_loss_reaches(data):
    plan = prepare(experiment(data, "full"))
    batch = {"pixel_values": torch.rand(1, 3, 64, 64)}
    batch["labels"] = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}]
    plan.detector.train()(**batch).loss.backward()
    parameters = dict(plan.learner.model.named_parameters())
    assert [name for name, own in parameters.items() if own.requires_grad and own.grad is None] == []
    assert 0.9 * plan.learner.model.num_parameters() < plan.trainable_parameters < plan.learner.model.num_parameters()


def test_the_run_tells_what_it_uses_and_what_it_found(tmp_path, folder, capsys):
    options = {"shots": 1, "max_train_steps": 1, "train_dir": folder, "augmentation": "none"}
    run(DetectionArguments(output_dir=str(tmp_path / "run"), **options))
    printed = capsys.readouterr().out
    for words in (
        "detector",
        "embedded",
        "trainable parameters      5,120",
        "zero-shot mAP",
        "mAP after",
        "AP50 after",
        "drawn shapes only",
    ):
        assert words in printed


def test_the_adapter_remembers_its_classes(data, tmp_path):
    record(execute(prepare(experiment(data))), tmp_path / "run")
    detector = FusionDetector.from_pretrained(tmp_path / "run")
    assert detector.class_names == data.class_names
    assert len(detector.predict(data.test["image"][:1], threshold=0, top_k=3)[0]) == 3


def test_test_pictures_are_drawn_with_labels_and_with_what_was_found_before_and_after(data, tmp_path):
    record(execute(prepare(experiment(data))), tmp_path / "run")
    sheet = Image.open(io.BytesIO((tmp_path / "run" / "detections.png").read_bytes()))
    shown = sum(bool(boxes) for boxes in data.test["boxes"][:])
    assert sheet.width == shown * (240 + 8) + 8 and sheet.height == 3 * (240 + 26) + 8


def test_a_validated_run_reads_no_test_picture(data):
    plan = prepare(experiment(data, evaluate_on="validation"))
    train, validation = (
        {image["bytes"] for image in part["image"]} for part in (plan.task.train, plan.task.validation)
    )
    assert list(plan.task.tests) == ["validation"] and train and validation and not train & validation
    assert not {image["bytes"] for image in data.test["image"]} & (train | validation)


@pytest.mark.parametrize("package", ["pycocotools", "scipy"])
def test_a_missing_package_is_named_before_any_work(data, monkeypatch, package):
    monkeypatch.setattr("peft_mudpt.optional.find_spec", lambda name: None if name == package else name)
    with pytest.raises(ImportError, match=f"needs {package}: pip install .*detection"):
        prepare(experiment(data))


def test_augmentation_of_pictures_needs_its_package_unless_it_is_turned_off(data, monkeypatch):
    monkeypatch.setattr("peft_mudpt.optional.find_spec", lambda name: None if name == "monai" else name)
    own = dataclasses.replace(data, origin=dataclasses.replace(data.origin, train_dir="my_boxes"))
    with pytest.raises(ImportError, match="--augmentation none.* needs monai: pip install"):
        experiment(own).check()
    experiment(own, augmentation="none").check()
    experiment(data).check()  # scenes of 64 pixels are not augmented


def test_options_that_determine_the_result_are_the_identity():
    asked = what_was_asked(DetectionArguments(shots=3))
    assert asked == DetectionArguments(shots=3).experiment().asked and asked["task"] == "object-detection"
    assert "output_dir" not in asked and "per_device_eval_batch_size" not in asked
    assert {"augmentation", "bad_boxes", "train_split", "seed", "shots"} <= asked.keys()


def test_an_unknown_method_names_those_of_detection():
    with pytest.raises(ValueError, match=f"'coop'; the known methods are {', '.join(METHODS)}"):
        DetectionArguments(method="coop")


@pytest.mark.slow
def test_sdpt_learns_a_shifted_style_and_with_masked_text_prompts_it_hardly_does():
    shifted = scenes("faded", train=30, test=30)
    gained = {}
    for method in ("sdpt", "sdpt_released"):
        reset_accelerator()
        outcome = execute(prepare(experiment(shifted, method, steps=40, shots=5)))
        gained[method] = outcome.summary["map"] - outcome.plan.zero_shot["test"]["map"]
    assert gained["sdpt"] > 10 and gained["sdpt_released"] < gained["sdpt"] / 2


def test_a_new_method_is_one_record(data, tmp_path, monkeypatch):
    record_of_method = Method(
        "sdpt_of_one",
        "SDPT with one token",
        "2407.11414",
        adapter=SDPTConfig,
        fields={"num_virtual_tokens": 1},
        objective="per_picture_loss",
        optimizer="adamw",
        learning_rate=0.1,
    )
    monkeypatch.setitem(METHODS, record_of_method.name, record_of_method)
    result = record(execute(prepare(experiment(data, record_of_method.name))), tmp_path / "run")
    assert (
        result["trainable_parameters"] == 2 * 256 and "(`sdpt_of_one`" in (tmp_path / "run" / "README.md").read_text()
    )
    assert "\n| sdpt_of_one | " in markdown_report(read_results(tmp_path), {})


def test_scenes_of_the_test_are_other_ones_than_those_of_training():
    first, second = load_embedded_boxes("faded", 5, 0).pictures["image"][:], scenes().test["image"][:]
    assert not any(one in second for one in first)


def test_a_diverged_run_says_so_and_names_the_learning_rate(data):
    with pytest.raises(FloatingPointError, match="--learning_rate, now 1e.06"):
        execute(prepare(experiment(data, learning_rate=1e6, steps=10)))


def test_two_data_sets_are_refused_by_their_flags(folder):
    with pytest.raises(ValueError, match="--dataset and --train_dir name two data sets"):
        DetectionArguments(dataset="gray", train_dir=folder)
