"""Few-shot draws of pictures with boxes."""

import json
from pathlib import Path

import pytest

from peft_mudpt.lab.data.boxes import sample_few_shot_boxes


RECORDED = json.loads((Path(__file__).parents[3] / "golden" / "fewshot_draws.json").read_text(encoding="utf-8"))
IDS = sorted(image["id"] for image in RECORDED["annotations"]["images"])
LABELS = [
    [own["category_id"] - 1 for own in RECORDED["annotations"]["annotations"] if own["image_id"] == key] for key in IDS
]


@pytest.mark.parametrize("name", RECORDED["draws"])
def test_the_draws_are_the_recorded_ones_of_the_published_rule(name):
    shots, seed = (int(word) for word in name.replace(" shots, seed", "").split())
    assert [IDS[i] for i in sample_few_shot_boxes(LABELS, shots, seed)] == RECORDED["draws"][name]


def test_pictures_without_boxes_are_never_drawn_and_rare_classes_give_what_they_have():
    labels = [[], [0], [0, 1], [0], []]
    assert sample_few_shot_boxes(labels, 5, 0) == [1, 2, 3]
    assert sample_few_shot_boxes(labels, 1, 0) == [1, 2]


@pytest.mark.parametrize("shots, seed, words", [(0, 0, "shots=0"), (1, -1, "seed=-1"), (1.5, 0, "shots=1.5")])
def test_bad_numbers_are_refused_by_name(shots, seed, words):
    with pytest.raises(ValueError, match=words):
        sample_few_shot_boxes([[0]], shots, seed)
