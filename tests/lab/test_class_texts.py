"""Several texts of each class in a run: who uses them, what is stored, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import demo
from peft_mudpt.classifier.class_texts import ClassTexts
from peft_mudpt.classifier.templates import IMAGENET
from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.classification.experiment import Experiment
from peft_mudpt.lab.data.folders import load_folders
from peft_mudpt.lab.experiment import execute, prepare
from peft_mudpt.lab.protocols import ProtocolOptions
from peft_mudpt.lab.recording import record
from peft_mudpt.lab.run import run
from peft_mudpt.lab.run_classifier import load_classifier
from peft_mudpt.lab.training_options import TrainingOptions
from tests.conftest import reset_accelerator
from tests.lab.test_experiment import CLASSES, save_pictures


pytestmark = pytest.mark.usefixtures("fresh_accelerator")
NAMES = sorted(CLASSES)
TEMPLATES = ["a drawing of a {}.", "{}", "one {} here"]
DESCRIPTIONS = {name: [f"something {name.split()[1]}.", "a shape"][: 1 + i % 2] for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    train = save_pictures(folder / "train", 2)
    return train, save_pictures(folder / "test", 5, style="scribbled", seed=4)


def experiment(folders, method="zero_shot", protocol="few-shot", **fields):
    return Experiment(
        load_folders(*folders),
        method,
        protocol=ProtocolOptions(protocol, shots=2),
        training=TrainingOptions(max_train_steps=1),
        **fields,
    )


@torch.no_grad()
def plain_clips_predictions(test_dir, texts):
    """The predictions of plain CLIP by item, from a loop over the texts and its own methods."""
    clip, processor = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoProcessor.from_pretrained(demo.MODEL_PATH)
    classes = []
    for own in texts:
        inputs = [processor(text=[text], return_tensors="pt") for text in own]
        features = [clip.get_text_features(**each).pooler_output[0] for each in inputs]
        classes.append(sum(feature / feature.norm() for feature in features))
    classes = torch.stack([mean / mean.norm() for mean in classes])
    found = {}
    for file in sorted(Path(test_dir).rglob("*.png")):
        pixels = processor.image_processor(Image.open(file).convert("RGB"), return_tensors="pt").pixel_values
        best = (clip.get_image_features(pixels).pooler_output[0] @ classes.t()).argmax()
        found[f"{file.parent.name}/{file.name}"] = NAMES[best]
    return found


def texts_of(templates, descriptions):
    return [[t.replace("{}", n) for t in templates or []] + (descriptions or {}).get(n, []) for n in NAMES]


def predictions(metrics):
    return {item: name for found in metrics["test"]["predictions"].values() for item, name in found.items()}


@pytest.mark.parametrize(
    "texts",
    [{"templates": TEMPLATES}, {"descriptions": DESCRIPTIONS}, {"templates": TEMPLATES, "descriptions": DESCRIPTIONS}],
    ids=lambda texts: "+".join(texts),
)
def test_zero_shot_clip_has_the_mean_over_the_texts(folders, texts):
    zero_shot = prepare(experiment(folders, **texts)).zero_shot
    expected = plain_clips_predictions(folders[1], texts_of(texts.get("templates"), texts.get("descriptions")))
    assert predictions(zero_shot) == expected


@pytest.fixture(scope="module", params=["vpt_shallow", "lora", "zero_shot"])
def finished(request, folders, tmp_path_factory):
    """A run of a method without text prompts, its folder and the classifier that it tested."""
    reset_accelerator()
    outcome = execute(prepare(experiment(folders, request.param, templates=TEMPLATES, descriptions=DESCRIPTIONS)))
    folder = tmp_path_factory.mktemp(request.param)
    result = record(outcome, folder)
    reset_accelerator()
    return (
        result,
        folder,
        outcome.plan.backbone.classifier(outcome.plan.learner.model, NAMES, outcome.plan.class_texts),
    )


class TestWithoutTextPrompts:
    def test_a_method_classifies_by_them(self, finished):
        assert finished[2].class_texts == texts_of(TEMPLATES, DESCRIPTIONS)

    def test_what_it_leaves_classifies_by_them_too(self, finished):
        _, folder, tested = finished
        loaded = load_classifier(folder).eval()
        pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert loaded.class_texts == tested.class_texts
        torch.testing.assert_close(loaded.predict_proba(pixels), tested.predict_proba(pixels), atol=1e-6, rtol=0)
        assert load_classifier(folder, ["star", "heart"], "{}!").class_texts == [["star!"], ["heart!"]]
        with pytest.raises(ValueError, match=r"holds no texts of \['star'\]"):
            load_classifier(folder, ["star", NAMES[0]])

    def test_the_result_holds_them(self, finished):
        result, folder, _ = finished
        texts = {"template": TEMPLATES, "descriptions": DESCRIPTIONS}
        stored = json.loads((folder / "result.json").read_text())
        assert result["class_texts"] == stored["class_texts"] == stored["zero_shot_texts"] == texts
        assert stored["template"] is stored["template_after_prompts"] is None
        asked = stored["arguments"]
        assert asked["templates"].startswith("3 templates") and asked["descriptions"].startswith("4 classes")

    def test_the_card_says_how_many_there_are(self, finished):
        card = finished[1] / "README.md"
        if finished[0]["method"] != "zero_shot":
            text = card.read_text()
            words = "3 templates ('a drawing of a {}.', ...) and 6 descriptions of 4 classes"
            assert text.count(f"the mean over `{words}`") == 2


def test_text_prompts_keep_their_template_and_zero_shot_clip_uses_the_texts(folders, tmp_path, capsys):
    train, test = folders
    (tmp_path / "t.txt").write_text("\n".join(TEMPLATES))
    options = dict(train_dir=train, test_dir=test, shots=2, max_train_steps=1)
    arguments = Arguments(
        method="coop",
        templates=str(tmp_path / "t.txt"),
        output_dir=str(tmp_path / "run"),
        template="one {}",
        **options,
    )
    result = run(arguments)
    assert result["class_texts"] is None and result["zero_shot_texts"]["template"] == TEMPLATES
    assert predictions(result["zero_shot"]) == plain_clips_predictions(test, texts_of(TEMPLATES, None))
    config = PeftConfig.from_pretrained(tmp_path / "run")
    assert (config.class_template, config.class_templates, config.class_descriptions) == ("{}", None, None)
    printed = capsys.readouterr().out
    assert (
        "texts of zero-shot        3 templates" in printed
        and "text of a class           learned prompts, then {} (" in printed
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"templates": TEMPLATES}, ClassTexts(tuple(TEMPLATES))),
        ({"descriptions": DESCRIPTIONS}, ClassTexts((), DESCRIPTIONS)),
        ({"template": "one {}"}, ClassTexts(IMAGENET)),
    ],
    ids=["templates", "descriptions", "one template"],
)
def test_anchors_of_a_method_with_text_prompts_refer_to_them(folders, texts, expected):
    assert prepare(experiment(folders, "coop", **texts)).anchor_texts == expected


def test_descriptions_cover_the_new_classes(folders):
    asked = experiment(folders, protocol="base-to-new", descriptions=DESCRIPTIONS)
    outcome = execute(prepare(asked))
    assert outcome.plan.task.class_names == NAMES[:2] and set(outcome.metrics) == {"base", "new"}
    only_base = {name: DESCRIPTIONS[name] for name in NAMES[:2]}
    with pytest.raises(ValueError, match=f"--descriptions holds no texts of .*{NAMES[2][:10]}"):
        prepare(experiment(folders, protocol="base-to-new", descriptions=only_base))


@pytest.mark.parametrize("method", ["zero_shot", "linear_probe"])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"descriptions": {**DESCRIPTIONS, "cat": ["furry"]}},
            r"--descriptions holds texts of \['cat'\], but the classes",
        ),
        ({"descriptions": {NAMES[0]: ["a shape"]}}, "--descriptions holds no texts of "),
        (
            {"templates": TEMPLATES, "template": "a {}."},
            "--template and --templates .*method (zero_shot|linear_probe)",
        ),
        ({"templates": ["a photo."]}, r"template\[0\]='a photo.'"),
    ],
    ids=["unknown", "missing", "both", "no place"],
)
def test_texts_that_do_not_fit_the_run_are_refused(folders, method, texts, message):
    with pytest.raises(ValueError, match=message):
        prepare(experiment(folders, method, **texts))


def test_a_run_is_the_same_wherever_the_files_are_and_another_if_their_content_is(folders, tmp_path):
    def asked(name, sentence):
        (tmp_path / name).write_text(json.dumps({**DESCRIPTIONS, NAMES[0]: [sentence]}))
        return Arguments(train_dir=folders[0], descriptions=str(tmp_path / name)).experiment().asked

    assert asked("a.json", "a shape") == asked("b.json", "a shape") != asked("b.json", "a drawing")
