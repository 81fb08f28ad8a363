"""Experiments by flags, run in this process."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from peft import PeftConfig
from PIL import Image as images
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPModel, SiglipConfig, SiglipModel

from peft_mudpt import demo
from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.run import run
from peft_mudpt.lab.run_folder import lock
from peft_mudpt.lab.schema import FIELDS
from peft_mudpt.lab.storage import write_json
from peft_mudpt.lab.training.objectives import CrossEntropy
from tests.conftest import reset_accelerator
from tests.towers.test_families import TEXT, VISION


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
CLASSES = ("filled red star", "hollow blue heart", "filled green cross", "hollow purple arrow")


def save_pictures(folder: Path, per_class: int, style="faded", seed=3, classes=CLASSES) -> str:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name.replace(" ", "_")).mkdir(parents=True)
        for i in range(per_class):
            demo.paint(name, style, rng).save(folder / name.replace(" ", "_") / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Flags for folders of pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    train = save_pictures(folder / "train", 3)
    return {"train_dir": train, "test_dir": save_pictures(folder / "test", 5, style="scribbled", seed=4)}


def ask(tmp_path, pictures, **fields) -> Arguments:
    fields = {"shots": 2, "max_train_steps": 2, "output_dir": str(tmp_path / "run"), **pictures, **fields}
    return Arguments(**fields)


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@torch.no_grad()
def plain_clips_hits(test_dir: str, template: str) -> dict[str, int]:
    """The number of pictures of each class that CLIP's own forward classifies correctly."""
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH).eval()
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    names = sorted(CLASSES)
    hits = {}
    for label, name in enumerate(names):
        shown = [images.open(path) for path in sorted((Path(test_dir) / name.replace(" ", "_")).iterdir())]
        inputs = processor(
            text=[template.replace("{}", n) for n in names], images=shown, padding=True, return_tensors="pt"
        )
        hits[name] = int((clip(**inputs).logits_per_image.argmax(dim=-1) == label).sum())
    return hits


def test_a_run_saves_an_adapter_its_card_and_its_result(tmp_path, pictures, capsys):
    result = run(ask(tmp_path, pictures))
    expected = {"README.md", "adapter_config.json", "adapter_model.safetensors", "result.json", "run.json"}
    assert files(tmp_path / "run") == expected
    assert json.loads((tmp_path / "run" / "result.json").read_text()).keys() == FIELDS.keys()
    assert (tmp_path / "run" / "adapter_model.safetensors").stat().st_size == result["adapter_bytes"]
    assert "import peft_mudpt" in (tmp_path / "run" / "README.md").read_text()
    assert "reloaded                  equal logits" in capsys.readouterr().out


@pytest.mark.parametrize("template", [None, "one {} here"])
def test_zero_shot_accuracy_is_plain_clips_own(tmp_path, pictures, template):
    result = run(ask(tmp_path, pictures, method="zero_shot", template=template))
    hits = plain_clips_hits(pictures["test_dir"], template or "a photo of a {}.")
    assert result["zero_shot"]["test"]["classes"] == {name: [n, 5] for name, n in hits.items()}
    assert result["summary"]["accuracy"] == pytest.approx(100 * sum(hits.values()) / 20)
    assert result["metrics"] == result["zero_shot"] and result["steps"] == 0 and result["learning_rate"] is None
    assert files(tmp_path / "run") == {"result.json", "run.json"}


def test_training_improves_the_accuracy_on_the_training_pictures(tmp_path, pictures):
    same = shutil.copytree(pictures["train_dir"], tmp_path / "same")
    for file in same.glob("*/*"):  # equal files would be left out of training
        images.open(file).save(file, compress_level=1)
    fields = {**pictures, "test_dir": str(same), "max_train_steps": 40, "learning_rate": 0.01}
    result = run(ask(tmp_path, fields, shots=3))
    assert result["summary"]["accuracy"] > result["zero_shot"]["test"]["accuracy"]
    assert result["steps"] == 40 and result["loss"] < 1.0


def test_a_result_lists_the_drawn_items(tmp_path, pictures):
    result = run(ask(tmp_path, pictures, method="zero_shot"))
    items = result["items"]
    assert len(items["train"]) == 8 and len(items["validation"]) == 4
    assert not set(items["train"]) & set(items["validation"])
    assert all((Path(pictures["train_dir"]) / item).is_file() for item in items["train"] + items["validation"])


def test_the_adapter_stores_its_classes_and_their_template(tmp_path, pictures):
    run(ask(tmp_path, pictures, method="maple"))
    config = PeftConfig.from_pretrained(tmp_path / "run")
    assert config.class_names == sorted(CLASSES) and config.class_template == "of a {}."


def test_a_linear_probe_saves_its_layer(tmp_path, pictures):
    result = run(ask(tmp_path, pictures, method="linear_probe", augmentation="crop"))
    weights = load_file(tmp_path / "run" / "linear_probe.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"weight": (4, 64), "bias": (4,)}
    assert result["trainable_parameters"] == 4 * 65


def test_a_method_that_cannot_name_new_classes_has_no_accuracy_on_them(tmp_path, pictures):
    result = run(ask(tmp_path, pictures, method="linear_probe", protocol="base-to-new"))
    assert result["metrics"]["base"] is not None and result["metrics"]["new"] is None
    assert result["summary"]["harmonic_mean"] is None and result["class_names"] == sorted(CLASSES)[:2]


@pytest.mark.parametrize("method", ["mudpt", "linear_probe"])
def test_a_clip_of_another_family_can_be_adapted(tmp_path, pictures, method, capsys):
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    processor.save_pretrained(tmp_path / "siglip")
    text = TEXT | dict(vocab_size=len(processor.tokenizer), projection_size=48)
    config = SiglipConfig(text_config=text, vision_config=VISION | dict(image_size=32))
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    result = run(ask(tmp_path, pictures, method=method, model_name_or_path=str(tmp_path / "siglip")))
    assert result["steps"] == 2 and result["metrics"]["test"]["accuracy"] is not None
    assert method == "linear_probe" or "reloaded                  equal logits" in capsys.readouterr().out


def test_targets_are_tested_without_training(tmp_path, pictures):
    result = run(ask(tmp_path, pictures, method="lora", protocol="cross-dataset", targets="plain"))
    assert list(result["metrics"])[1:] == ["plain"] and len(result["metrics"]["plain"]["classes"]) == 96
    assert result["summary"]["mean_of_targets"] == result["metrics"]["plain"]["accuracy"]


def test_the_result_lists_the_words_nearest_to_the_prompts(tmp_path, pictures):
    words = run(ask(tmp_path, pictures, method="mudpt"))["nearest_words"]
    assert [token[0]["word"] for token in words] == ["a", "photo", "of", "a"]  # two steps change the prompts little


def test_the_same_run_again_returns_its_result_without_training(tmp_path, pictures, capsys):
    first = run(ask(tmp_path, pictures))
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert run(ask(tmp_path, pictures)) == json.loads(json.dumps({"schema_version": 4, **first}))
    assert "already done" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written


def test_another_run_may_use_the_folder_only_if_it_overwrites(tmp_path, pictures):
    run(ask(tmp_path, pictures))
    with pytest.raises(ValueError, match="another run .method: 'mudpt' .*'zero_shot'"):
        run(ask(tmp_path, pictures, method="zero_shot"))
    run(ask(tmp_path, pictures, method="zero_shot", overwrite_output_dir=True))
    assert files(tmp_path / "run") == {"result.json", "run.json"}


def add(train):
    shutil.copy(train / "hollow_blue_heart" / "0.png", train / "hollow_blue_heart" / "9.png")


def remove(train):
    (train / "hollow_blue_heart" / "0.png").unlink()


def replace(train):
    shutil.copy(train / "hollow_blue_heart" / "0.png", train / "filled_red_star" / "0.png")


def exchange(train):
    for before, after in (
        ("filled_red_star", "x"),
        ("hollow_blue_heart", "filled_red_star"),
        ("x", "hollow_blue_heart"),
    ):
        (train / before).rename(train / after)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, "training pictures: 1 added .hollow_blue_heart/9.png"),
        (remove, "training pictures: 1 removed .hollow_blue_heart/0.png"),
        (replace, "training pictures: 1 replaced .filled_red_star/0.png"),
        (exchange, "training pictures: 6 replaced .filled_red_star/0.png"),
    ],
)
def test_a_run_whose_pictures_changed_is_neither_done_nor_resumed(tmp_path, pictures, change, said):
    train = tmp_path / "train"
    fields = {**pictures, "train_dir": str(shutil.copytree(pictures["train_dir"], train)), "shots": 9}
    run(ask(tmp_path, fields, method="zero_shot"))
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    write_json(tmp_path / "stopped" / "run.json", identity)
    write_json(tmp_path / "stopped" / "checkpoints" / "step_00000001" / "run.json", identity)
    change(train)
    for folder in ("run", "stopped"):
        with pytest.raises(ValueError, match=f"another run .*{said}.*--overwrite_output_dir"):
            run(ask(tmp_path, fields, method="zero_shot", output_dir=str(tmp_path / folder)))


def test_test_pictures_that_changed_make_another_run(tmp_path, pictures):
    test = shutil.copytree(pictures["test_dir"], tmp_path / "test")
    fields = {**pictures, "test_dir": str(test), "method": "zero_shot"}
    run(ask(tmp_path, fields))
    remove(test)
    with pytest.raises(ValueError, match="test pictures: 1 removed"):
        run(ask(tmp_path, fields))


def test_the_precision_of_the_launcher_belongs_to_the_run(tmp_path, pictures, monkeypatch):
    run(ask(tmp_path, pictures, method="zero_shot"))
    reset_accelerator()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="mixed_precision: not given there, 'bf16' here"):
        run(ask(tmp_path, pictures, method="zero_shot"))


def test_steps_that_the_launcher_would_accumulate_are_refused(tmp_path, pictures, monkeypatch):
    run(ask(tmp_path, pictures, method="zero_shot"))
    reset_accelerator()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    for folder in ("run", "new"):
        with pytest.raises(ValueError, match="gradient_accumulation_steps=4"):
            run(ask(tmp_path, pictures, method="zero_shot", output_dir=str(tmp_path / folder)))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_process_uses_is_refused_before_any_work(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("peft_mudpt.lab.run.select", None)  # would fail
    with lock(tmp_path / "run"), pytest.raises(ValueError, match="process"):
        run(ask(tmp_path, pictures))


def interrupt_at(step, monkeypatch) -> None:
    """Press Ctrl-C when a step is done."""

    def after_step(self, classifier, done, steps):
        if done == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(CrossEntropy, "after_step", after_step)


def test_an_interrupted_run_says_how_to_go_on_and_the_same_command_goes_on(tmp_path, pictures, monkeypatch, capsys):
    fields = {**pictures, "method": "coop", "max_train_steps": 3, "checkpointing_steps": 2}
    run(ask(tmp_path, fields, output_dir=str(tmp_path / "whole")))
    reset_accelerator()
    with (
        monkeypatch.context() as patched,
        pytest.raises(KeyboardInterrupt, match="same command goes on .*step_00000002"),
    ):
        interrupt_at(3, patched)
        run(ask(tmp_path, fields))
    reset_accelerator()
    capsys.readouterr()
    run(ask(tmp_path, fields))
    assert re.search(r"goes on from +.*step_00000002", capsys.readouterr().out)
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1] and files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_run_that_is_interrupted_before_its_first_checkpoint_leaves_nothing(tmp_path, pictures, monkeypatch):
    interrupt_at(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="starts again"):
        run(ask(tmp_path, pictures, method="coop"))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_is_not_used_is_noted(tmp_path, pictures, monkeypatch, capsys):
    fields = {**pictures, "method": "coop", "max_train_steps": 3, "checkpointing_steps": 1}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_at(3, patched)
        run(ask(tmp_path, fields))
    earlier = tmp_path / "step_00000001"  # as if the user had kept it
    shutil.copytree(tmp_path / "run" / "checkpoints" / "step_00000002", earlier)
    reset_accelerator()
    capsys.readouterr()
    run(ask(tmp_path, fields, resume_from_checkpoint=str(earlier)))
    assert re.search(r"note +.*step_00000002 is ignored: --resume_from_checkpoint latest", capsys.readouterr().out)


def test_a_readme_of_the_user_is_not_replaced(tmp_path, pictures):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("my notes")
    with pytest.raises(ValueError, match="README.md.*--overwrite_output_dir"):
        run(ask(tmp_path, pictures))
    assert files(tmp_path / "run") == {"README.md"}


def test_validation_reads_no_test_picture(tmp_path, pictures):
    fields = {**pictures, "test_dir": save_pictures(tmp_path / "test", 1, seed=4)}
    for path in (tmp_path / "test").glob("*/*"):
        path.write_bytes(b"would be refused if it were read")
    result = run(ask(tmp_path, fields, evaluate_on="validation"))
    assert list(result["metrics"]) == list(result["zero_shot"]) == ["validation"]


@pytest.mark.parametrize("splits", [["train"], ["test"], ["train", "test"]])
def test_corrupt_pictures_stop_the_run_before_it_writes_and_all_are_listed(tmp_path, splits):
    fields = {
        "train_dir": save_pictures(tmp_path / "train", 2),
        "test_dir": save_pictures(tmp_path / "test", 1, seed=4),
    }
    broken = [folder / "0.png" for split in splits for folder in sorted((tmp_path / split).iterdir())]
    for file in broken:
        file.write_bytes(f"no picture: {file}".encode())
    with pytest.raises(ValueError, match=f"^{len(broken)} of ") as refused:
        run(ask(tmp_path, fields))
    assert all(f"{file} cannot be read" in str(refused.value) for file in broken)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "mudp"}, "Unknown method 'mudp'"),
        ({"method_kwargs": '{"prompt_depth": 99}'}, "prompt_depth"),
        ({"protocol": "cross-dataset", "targets": "nowhere"}, "'nowhere' .*--coop_root"),
        ({"resume_from_checkpoint": "nowhere"}, "--resume_from_checkpoint nowhere"),
        ({"with_tracking": True, "report_to": "tensorboard"}, "tensorboard"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:accelerate")  # of a tracker that is not installed
def test_mistakes_stop_the_run_before_it_writes(tmp_path, pictures, fields, message):
    with pytest.raises(ValueError, match=message):
        run(ask(tmp_path, pictures, **fields))
    assert not (tmp_path / "run").exists()


class Notebook(GeneralTracker):
    """An instance of it is a tracker that accelerate does not know by name, and so does not ask to be installed."""

    name = "notebook"
    requires_logging_directory = False
    tracker = None

    def __init__(self, logged):
        super().__init__()
        self.logged = logged

    def store_init_configuration(self, values):
        self.logged.append(values["method"])

    def log(self, values, step, **options):
        self.logged.append((step, set(values)))


def test_losses_and_results_are_tracked(tmp_path, pictures):
    logged = []

    run(ask(tmp_path, pictures, with_tracking=True, report_to=Notebook(logged)))
    assert logged == ["mudpt", (2, {"loss", "learning_rate"}), (2, {"accuracy"})]


def test_trackers_are_told_the_project_and_the_name_of_the_run(tmp_path, pictures, monkeypatch):
    told = []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *given, **options: told.append((given, options)))
    given = {"report_to": Notebook([]), "tracker_project": "stars", "run_name": "first"}
    run(ask(tmp_path, pictures, with_tracking=True, **given))
    ((project,), options) = told[0]
    assert project == "stars" and options["init_kwargs"]["wandb"] == {"name": "first"}


def test_a_run_is_pushed_with_our_card(tmp_path, pictures, monkeypatch):
    pushed = {}

    def create_repo(self, repo_id, **options):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, folder_path, repo_id, **options):
        pushed[repo_id] = (Path(folder_path) / "README.md").read_text()

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    run(ask(tmp_path, pictures, method="coop"))
    for sentence in ("", "My own sentence."):  # the second time, the card is no longer the one that the run wrote
        with open(tmp_path / "run" / "README.md", "a") as card:
            card.write(sentence)
        pushed.clear()
        run(ask(tmp_path, pictures, method="coop", push_to_hub=True, hub_model_id="somebody/shapes"))
        assert list(pushed) == ["somebody/shapes"] and 'adapter = "somebody/shapes"' in pushed["somebody/shapes"]
        assert pushed["somebody/shapes"].endswith(sentence)
