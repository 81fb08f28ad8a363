"""What the demo answers, without its page."""

import shutil
import threading

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.classifier.class_texts import ClassTexts
from peft_mudpt.lab.probe import LinearProbe
from peft_mudpt.lab.schema import write_result
from peft_mudpt.lab.web_demo.demo import LONGEST_LIST, Demo, names_in
from peft_mudpt.lab.web_demo.spotlight import DIMMED, SIZE, spotlight
from peft_mudpt.rollout import attention_rollout
from tests.lab.report.made_results import result
from tests.lab.web_demo.conftest import CLASSES


PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor
OTHERS = ["red shape", "blue shape"]


@pytest.fixture(scope="module")
def asked(adapter):
    return Demo.load(adapter)


def test_the_answer_is_that_of_the_classifier(asked, adapter, star):
    classifier = MuDPTClassifier.from_pretrained(adapter)
    answer = asked.answer(star)
    assert list(answer.probabilities.items()) == classifier.top_k([star], 3)[0]
    assert "not calibrated" in answer.note


def test_other_classes_have_the_texts_of_the_adapter(asked, adapter, star):
    classifier = MuDPTClassifier.from_pretrained(adapter, OTHERS)
    assert list(asked.answer(star, OTHERS).probabilities.items()) == classifier.top_k([star], 2)[0]


def of_plain_clip(star, names, template, descriptions=None):
    """What the CLIP without an adapter answers."""
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    (found,) = MuDPTClassifier(clip, names, template, descriptions=descriptions).top_k([star], len(names))
    return pytest.approx(dict(found), abs=1e-5)


def test_without_the_adapter_it_is_the_plain_clip_with_its_own_texts(adapter, star):
    template = "a photo of a {}."
    asked = Demo(MuDPTClassifier.from_pretrained(adapter), ClassTexts.given(template))
    adapted = asked.answer(star)
    found = asked.answer(star, with_adapter=False)
    assert found.probabilities == of_plain_clip(star, CLASSES, template)
    assert "prompts" not in found.note and "without its adapter" in found.note
    assert asked.answer(star).probabilities == adapted.probabilities


def test_without_the_adapter_some_of_the_described_classes_can_be_asked_for(adapter, star):
    described = ClassTexts.given("a {}.", {name: [f"{name} here."] for name in CLASSES})
    some = {name: [f"{name} here."] for name in CLASSES[:2]}
    found = Demo(MuDPTClassifier.from_pretrained(adapter), described).answer(star, CLASSES[:2], with_adapter=False)
    assert found.probabilities == of_plain_clip(star, CLASSES[:2], "a {}.", some)


@pytest.mark.parametrize(
    ("stored", "template"),
    [
        ({"template": "a drawing of a {}."}, "a drawing of a {}."),
        ({"zero_shot_texts": {"template": ["a {}.", "one {}."], "descriptions": None}}, ["a {}.", "one {}."]),
    ],
    ids=["one", "several"],
)
def test_the_texts_of_the_plain_clip_are_those_of_the_zero_shot_test_of_the_run(
    adapter, star, tmp_path, stored, template
):
    run = shutil.copytree(adapter, tmp_path / "run")
    write_result(run, {**result(class_names=CLASSES), "validation": None, **stored})
    found = Demo.load(run).answer(star, with_adapter=False)
    assert found.probabilities == of_plain_clip(star, CLASSES, template)


def test_without_a_result_they_begin_with_the_words_that_the_prompts_started_from(star, tmp_path):
    words = "a picture of a"
    config = MuDPTConfig(class_names=CLASSES, class_template="{}.", text_prompt_init_text=words)
    get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).save_pretrained(tmp_path)
    found = Demo.load(tmp_path).answer(star, with_adapter=False)
    assert found.probabilities == of_plain_clip(star, CLASSES, f"{words} {{}}.")


def test_calibrated_probabilities_are_shown_for_the_classes_of_the_calibration(adapter, star):
    classifier = MuDPTClassifier.from_pretrained(adapter)
    rng = np.random.default_rng(0)
    labels = [label for label in range(3) for _ in range(10)]
    wrong = [(label + 1) % 3 if index % 10 == 0 else label for index, label in enumerate(labels)]
    classifier.calibrate([demo.paint(CLASSES[label], "faded", rng) for label in labels], wrong)
    asked = Demo(classifier)
    answer = asked.answer(star)
    assert list(answer.probabilities.values()) == [p for _, p in classifier.top_k([star], 3, calibrated=True)[0]]
    assert f"at temperature {classifier.temperature():.2f}" in answer.note
    assert "not calibrated" in asked.answer(star, OTHERS).note


def test_the_note_names_the_shares_of_the_rollout(asked, adapter, star):
    classifier = MuDPTClassifier.from_pretrained(adapter)
    pixels = PROCESSOR(demo.paint(CLASSES[0], "faded", np.random.default_rng(3)), return_tensors="pt").pixel_values
    rollout = attention_rollout(classifier.model, pixels)
    assert f"the prompts ({100 * float(rollout.prompts.sum()):.0f} %)" in asked.answer(star).note


def test_a_classifier_without_texts_takes_no_other_classes(star):
    probe = LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), CLASSES, PROCESSOR)
    asked = Demo(probe)
    assert not asked.takes_classes and not asked.has_adapter
    assert sorted(asked.answer(star, with_adapter=False).probabilities) == sorted(CLASSES)
    with pytest.raises(ValueError, match="only the classes"):
        asked.answer(star, OTHERS)


def test_requests_at_the_same_time_do_not_mix(asked, star):
    cases = [(classes, with_adapter) for classes in (CLASSES, OTHERS) for with_adapter in (True, False)] * 3
    expected = [asked.answer(star, *case).probabilities for case in cases]
    found = {}

    def ask(index):
        found[index] = asked.answer(star, *cases[index]).probabilities

    threads = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [found[index] for index in range(len(cases))] == expected


def test_a_text_that_is_too_long_is_refused_and_the_next_request_is_answered(asked, star):
    with pytest.raises(ValueError, match="token"):
        asked.answer(star, ["red " * 500, "blue"])
    assert next(iter(asked.answer(star).probabilities)) == CLASSES[0]


def test_a_file_that_is_no_picture_is_refused_without_its_path(asked, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read") as refusal:
        asked.answer(tmp_path / "broken.png")
    assert str(tmp_path) not in str(refusal.value)


def test_a_text_of_many_classes_is_refused_before_they_are_encoded():
    with pytest.raises(ValueError, match="characters"):
        names_in("\n".join(map(str, range(LONGEST_LIST))))


def test_names_are_the_lines_without_blanks():
    assert names_in("  cat \n\n sea lion\r\ndog") == ["cat", "sea lion", "dog"]


@pytest.mark.parametrize(("text", "word"), [("", "two"), ("cat\n \n", "two"), ("cat\ndog\ncat ", "'cat'")])
def test_too_few_names_and_names_that_repeat_are_refused(text, word):
    with pytest.raises(ValueError, match=word):
        names_in(text)


def test_the_spotlight_is_on_the_patch_with_the_largest_share():
    shares = torch.tensor([[0.01, 0.02], [0.3, 0.01]])
    picture = np.asarray(spotlight(torch.ones(3, 32, 32), shares))
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture[-1, 0].tolist() == [255] * 3
    assert picture[0, 0].tolist() == [round(255 * DIMMED)] * 3
