"""Calibrated probabilities, predictions that are certain enough, and sets of classes."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.calibration.calibration import Calibration
from peft_mudpt.calibration.temperature import fit_temperature
from tests.classifier.conftest import adapted


NAMES = ["filled red star", "hollow red star", "filled red heart", "hollow red heart"]
OTHERS = ["red star", "red heart", "blue star", "blue heart"]


def painted(number, seed):
    """Pictures of each class, and their classes by name."""
    rng = np.random.default_rng(seed)
    return [demo.paint(name, "faded", rng) for name in NAMES for _ in range(number)], [
        name for name in NAMES for _ in range(number)
    ]


@pytest.fixture(scope="module")
def held_out():
    return painted(10, seed=0)


@pytest.fixture(scope="module")
def plain(held_out):
    """The embedded CLIP without an adapter, calibrated."""
    classifier = MuDPTClassifier(CLIPModel.from_pretrained(demo.MODEL_PATH).eval(), NAMES, "{}.")
    classifier.calibrate(*held_out)
    return classifier


@pytest.fixture(scope="module")
def pictures():
    return painted(3, seed=1)[0]


@pytest.fixture(scope="module")
def logits(plain, pictures):
    pixels = plain.image_processor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        return plain(pixels).logits.double()


def another(classifier):
    """A classifier like the one given, which is not calibrated."""
    return MuDPTClassifier(classifier.model, NAMES, "{}.")


def remembering():
    """An adapter that remembers its classes."""
    return adapted("coop", class_names=NAMES, class_template="{}.", init_std=0.01)


def test_the_temperature_is_that_of_the_logits_of_the_pictures(plain, held_out):
    pixels = plain.image_processor(held_out[0], return_tensors="pt").pixel_values
    labels = [NAMES.index(name) for name in held_out[1]]
    with torch.no_grad():
        expected = fit_temperature(plain(pixels).logits, labels)
    assert plain.calibration.temperature == pytest.approx(expected, rel=1e-4)
    assert plain.calibration.pictures == 40
    assert another(plain).calibrate(held_out[0], labels) == plain.calibration


@pytest.mark.parametrize("calibrated", [None, True, False])
def test_probabilities_are_those_at_the_temperature_unless_the_caller_says_otherwise(
    plain, pictures, logits, calibrated
):
    temperature = 1.0 if calibrated is False else plain.calibration.temperature
    assert abs(plain.calibration.temperature - 1) > 0.1
    found = plain.predict_proba(pictures, calibrated=calibrated)
    torch.testing.assert_close(found.double(), (logits / temperature).softmax(dim=-1), atol=1e-5, rtol=0)
    ranked = [[p for _, p in row] for row in plain.top_k(pictures, k=4, calibrated=calibrated)]
    assert ranked == found.sort(dim=-1, descending=True).values.tolist()


def test_without_a_calibration_probabilities_are_those_of_the_logits(plain, pictures, logits):
    found = another(plain).predict_proba(pictures)
    torch.testing.assert_close(found.double(), logits.softmax(dim=-1), atol=1e-5, rtol=0)


def test_a_calibration_leaves_the_logits_as_they_are(plain, pictures, logits):
    pixels = plain.image_processor(pictures, return_tensors="pt").pixel_values
    classifier = another(plain)
    with torch.no_grad():
        assert torch.equal(classifier(pixels).logits.double(), logits)


def test_calibration_changes_no_prediction(plain, pictures):
    best, calibrated = (plain.top_k(pictures, k=4, calibrated=asked) for asked in (False, True))
    assert [[name for name, _ in row] for row in best] == [[name for name, _ in row] for row in calibrated]
    probabilities = plain.predict_proba(pictures, calibrated=True).sort(dim=-1, descending=True).values
    assert [[p for _, p in row] for row in calibrated] == probabilities.tolist()


def test_a_prediction_that_is_not_certain_enough_is_none(plain, pictures):
    probabilities = plain.predict_proba(pictures, calibrated=True).max(dim=-1).values
    limit = probabilities.median().item()
    found = plain.predict(pictures, min_confidence=limit)
    assert [name is not None for name in found] == (probabilities >= limit).tolist()
    assert [a for a in found if a] == [b for a, b in zip(found, plain.predict(pictures)) if a]


def test_sets_hold_the_classes_above_the_threshold_the_most_probable_first(plain, pictures, logits):
    inside = plain.calibration.sets(0.95)(logits)
    for found, row, mask in zip(plain.predict_sets(pictures, coverage=0.95), logits, inside, strict=True):
        order = row.argsort(descending=True).tolist()
        assert found == [NAMES[label] for label in order if mask[label]]


def test_a_picture_that_was_skipped_has_no_set(plain, pictures):
    with pytest.warns(UserWarning, match="1 of 2 pictures were skipped") as caught:
        found = plain.predict_sets(["gone.png", pictures[0]], errors="skip")
    assert found[0] is None and isinstance(found[1], list) and caught[0].filename == __file__


@pytest.mark.slow
def test_sets_hold_as_often_as_stated_on_two_thousand_new_pictures(plain):
    calibrated = another(plain)
    calibrated.calibrate(*painted(250, seed=2))
    new, labels = painted(500, seed=3)
    with torch.no_grad():
        logits = plain(plain.image_processor(new, return_tensors="pt").pixel_values).logits
    true = [NAMES.index(name) for name in labels]
    for coverage in (0.8, 0.9, 0.95):
        for per_class in (False, True):
            right = calibrated.calibration.sets(coverage, per_class)(logits)[range(2000), true].double().numpy()
            assert abs(right.mean() - coverage) < 0.02
            if per_class:  # each class has 500 pictures
                assert all(abs(part.mean() - coverage) < 0.06 for part in np.split(right, 4))


@pytest.mark.parametrize(
    "ask",
    [
        lambda c, p: c.predict_proba(p, calibrated=True),
        lambda c, p: c.top_k(p, calibrated=True),
        lambda c, p: c.predict(p, min_confidence=0.5),
        lambda c, p: c.predict_sets(p),
    ],
    ids=["predict_proba", "top_k", "predict", "predict_sets"],
)
def test_a_classifier_that_was_not_calibrated_says_how(ask, plain, pictures):
    with pytest.raises(ValueError, match=r"no calibration.*classifier.calibrate\(images, labels\)"):
        ask(MuDPTClassifier(plain.model, OTHERS, "{}."), pictures)


def test_logits_that_tell_no_more_than_chance_leave_no_temperature_but_sets(plain, pictures):
    classifier = another(plain)
    predicted = [NAMES[int(index)] for index in classifier.predict_proba(pictures).argmin(dim=-1)]
    with pytest.warns(UserWarning, match="12 pictures of the calibration determine no temperature"):
        classifier.calibrate(pictures, predicted)
    with pytest.raises(ValueError, match="determine no temperature"):
        classifier.predict_proba(pictures, calibrated=True)
    assert torch.equal(classifier.predict_proba(pictures), classifier.predict_proba(pictures, calibrated=False))
    assert all(name in found for name, found in zip(predicted, classifier.predict_sets(pictures)))


@pytest.mark.parametrize("label", ["blue heart", "crane"])
def test_a_label_that_is_not_the_name_of_one_class_is_refused(plain, pictures, label):
    classifier = MuDPTClassifier(plain.model, ["crane", "crane", "star"], "{}.")
    with pytest.raises(ValueError, match=f"labels holds '{label}', which is not the name of one class"):
        classifier.calibrate(pictures[:2], ["star", label])


@pytest.mark.parametrize("value", [-0.1, 1.5, "0.9"])
def test_a_confidence_out_of_range_is_refused(plain, value):
    with pytest.raises(ValueError, match="min_confidence=.* is not a number from 0 to 1"):
        plain.predict([], min_confidence=value)


def test_an_adapter_remembers_the_calibration_of_its_classes(tmp_path, held_out, pictures):
    classifier = MuDPTClassifier(remembering())
    calibration = classifier.calibrate(*held_out)
    classifier.model.save_pretrained(tmp_path)
    loaded = MuDPTClassifier.from_pretrained(tmp_path)
    assert loaded.calibration == calibration
    assert loaded.predict_sets(pictures) == classifier.predict_sets(pictures)
    assert MuDPTConfig.from_pretrained(tmp_path).calibration == calibration.as_dict()


@pytest.mark.parametrize("names, template", [(OTHERS, "{}."), (NAMES[::-1], "{}."), (NAMES, "a {}.")])
def test_the_calibration_of_other_classes_or_texts_is_not_used(tmp_path, held_out, names, template):
    model = remembering()
    MuDPTClassifier(model).calibrate(*held_out)
    noted = model.peft_config["default"].calibration
    other = MuDPTClassifier(model, names, template)
    assert other.calibration is None
    other.calibration = Calibration(3.0, [[0.0]] * 4)
    assert model.peft_config["default"].calibration == noted and other.calibration.temperature == 3.0


def test_each_adapter_has_its_own_calibration(held_out):
    model = remembering()
    model.add_adapter("other", MuDPTConfig.from_preset("coop", class_names=NAMES, class_template="{}."))
    classifier = MuDPTClassifier(model)
    first = classifier.calibrate(*held_out)
    model.set_adapter("other")
    assert classifier.calibration is None
    model.set_adapter("default")
    assert classifier.calibration == first
    with model.disable_adapter():
        assert classifier.calibration is None


def test_an_adapter_of_another_method_keeps_a_calibration_in_the_classifier(held_out, pictures):
    clip = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), LoraConfig(target_modules=["q_proj"])).eval()
    assert isinstance(clip, PeftModel)
    classifier = MuDPTClassifier(clip, NAMES, "{}.")
    calibration = classifier.calibrate(*held_out)
    again = MuDPTClassifier(clip, NAMES, "{}.")
    again.calibration = Calibration(**calibration.as_dict())
    assert again.predict_sets(pictures) == classifier.predict_sets(pictures)


def test_a_calibration_of_another_number_of_classes_is_refused(plain):
    with pytest.raises(ValueError, match="calibration is of 3 classes, but the classifier has 4"):
        another(plain).calibration = Calibration(1.0, [[0.0]] * 3)
