"""The estimates of memory, against peaks that were measured: in MiB, with torch 2.13 on a CPU, of a whole process."""

import pytest

from peft_mudpt.lab.cost.cases import INFERENCE, OURS, PADDED, PLAIN, TRAINING, Case
from peft_mudpt.lab.cost.detectors import FROZEN, FULL, DetectorCase
from peft_mudpt.lab.cost.detectors import PLAIN as DETECTOR
from peft_mudpt.lab.cost.estimating import needed_bytes, needed_bytes_of_bank


MIB = 2**20


@pytest.mark.parametrize(
    ("way", "task", "classes", "batch_size", "autocast", "peak"),
    [
        (PLAIN, TRAINING, 10, 4, False, 1429),
        (PLAIN, TRAINING, 10, 32, False, 4406),
        (OURS, TRAINING, 100, 4, False, 1636),
        (PADDED, TRAINING, 50, 4, False, 2842),
        (PADDED, TRAINING, 200, 4, False, 6972),
        (PADDED, TRAINING, 50, 4, True, 2345),
        (PADDED, INFERENCE, 100, 4, False, 1313),
        (OURS, INFERENCE, 100, 4, False, 1092),
    ],
)
def test_the_estimate_for_a_clip_is_within_a_tenth_of_the_peak(way, task, classes, batch_size, autocast, peak):
    case = Case("vit_b16", task, classes, batch_size, autocast)
    assert needed_bytes(case, way) == pytest.approx(peak * MIB, rel=0.1)


@pytest.mark.parametrize(
    ("way", "task", "height", "peak"),
    [(FROZEN, TRAINING, 160, 1705), (FULL, TRAINING, 320, 4592), (DETECTOR, INFERENCE, 640, 1986)],
)
def test_the_estimate_for_a_detector_is_between_the_peak_and_two_times_the_peak(way, task, height, peak):
    case = DetectorCase("grounding_dino_tiny", task, classes=5, batch_size=1, picture_size=height)
    assert 0.95 * peak * MIB < needed_bytes(case, way) < 2 * peak * MIB


def test_only_the_padded_way_grows_with_classes_without_bound():
    cases = [Case("vit_b16", TRAINING, classes, 4) for classes in (10_000, 40_000)]
    padded, ours = ([needed_bytes(case, way) for case in cases] for way in (PADDED, OURS))
    assert padded[1] > 3.9 * padded[0] and ours[1] == ours[0]


def test_texts_of_each_image_are_counted_for_each_image():
    few, many = (needed_bytes(Case("vit_b16", TRAINING, 100, size, adapter="cocoop"), PADDED) for size in (1, 32))
    assert many > 20 * few


def test_the_estimate_grows_with_the_models_of_the_process_and_with_the_pictures():
    case = Case("vit_b16", TRAINING, 10, 4)
    assert needed_bytes(case, PLAIN, models=3) - needed_bytes(case, PLAIN) == pytest.approx(1140 * MIB, rel=0.01)
    assert needed_bytes_of_bank("vit_b16", 100_000) > 100_000 * 3 * 224**2 * 4
