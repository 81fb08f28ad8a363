"""Batches for training a detector, and augmentation that moves boxes."""

import pytest
import torch
from transformers import GroundingDinoImageProcessor

from peft_mudpt.detection.boxes import centers, corners
from peft_mudpt.lab.data.boxes import load_coco_json
from peft_mudpt.lab.data.boxes.augmentation import BoxAugmentation
from peft_mudpt.lab.data.boxes.loading import TrainingBoxes, collate_boxes
from tests.lab.data.boxes.conftest import write_coco


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    path = write_coco(tmp_path_factory.mktemp("data") / "coco")
    return load_coco_json(path, path.parent / "images").pictures


@pytest.fixture(scope="module")
def image_processor():
    return GroundingDinoImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})


def test_corners_and_centers_are_inverse_to_each_other():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9]])
    assert torch.allclose(centers(boxes), torch.tensor([[0.3, 0.55, 0.4, 0.7]]))
    assert torch.allclose(corners(centers(boxes)), boxes)


def test_labels_equal_those_of_transformers_for_a_single_picture(pictures, image_processor):
    samples = TrainingBoxes(pictures, 3, 0, image_processor)
    found = {sample["picture"]: sample for sample in (samples[i] for i in range(3))}
    from PIL import Image

    example = pictures[0]
    annotations = [
        dict(
            image_id=0, category_id=label, bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]], area=1.0, iscrowd=0
        )
        for box, label in zip(example["boxes"], example["labels"])
    ]
    image = Image.open(example["image"]["path"])
    expected = image_processor(image, annotations=dict(image_id=0, annotations=annotations), return_tensors="pt")
    assert torch.equal(found[0]["pixel_values"], expected.pixel_values[0])
    assert torch.allclose(found[0]["labels"]["boxes"], expected.labels[0]["boxes"], atol=1e-6)
    assert torch.equal(found[0]["labels"]["class_labels"], expected.labels[0]["class_labels"])


def test_a_batch_is_padded_and_its_boxes_stay_relative_to_their_pictures(pictures, image_processor):
    samples = [TrainingBoxes(pictures, 3, 0, image_processor)[i] for i in range(3)]
    batch = collate_boxes(samples)
    assert batch["pixel_values"].shape == (3, 3, *batch["pixel_mask"].shape[1:])
    for sample, own in zip(samples, batch["labels"]):
        assert own is sample["labels"]
    by_picture = dict(zip([sample["picture"] for sample in samples], batch["labels"]))
    assert by_picture[1]["boxes"].shape == (0, 4) and by_picture[1]["class_labels"].dtype == torch.long
    assert len(by_picture[2]["class_labels"]) == 0  # a crowd
    assert torch.allclose(corners(by_picture[0]["boxes"])[0], torch.tensor([4 / 40, 3 / 30, 20 / 40, 15 / 30]))


def test_every_epoch_has_each_picture_once_and_a_sample_depends_on_its_index_only(pictures, image_processor):
    samples = TrainingBoxes(pictures, 9, 5, image_processor)
    numbers = [samples[i]["picture"] for i in range(9)]
    assert [sorted(numbers[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert samples[7]["picture"] == numbers[7] and samples[7]["epoch"] == 2


class TestAugmentation:
    @pytest.fixture(autouse=True)
    def monai(self):
        pytest.importorskip("monai")

    def marked(self):
        """A picture whose pixels are 1 in its box only."""
        pixels, boxes = torch.zeros(3, 40, 60), torch.tensor([[6.0, 10.0, 26.0, 30.0]])
        pixels[:, 10:30, 6:26] = 1
        return pixels, boxes

    def test_a_flip_moves_the_box_with_the_picture_exactly(self):
        pixels, boxes = BoxAugmentation(flip=1, smallest_zoom=1)(*self.marked(), seed=0)
        assert boxes.tolist() == [[34, 10, 54, 30]]
        assert torch.equal(pixels, self.marked()[0].flip(-1)) and type(pixels) is torch.Tensor
        unchanged, same = BoxAugmentation(flip=0, smallest_zoom=1)(*self.marked(), seed=0)
        assert torch.equal(unchanged, self.marked()[0]) and torch.equal(same, self.marked()[1])

    @pytest.mark.parametrize("seed", range(5))
    def test_a_smaller_picture_has_its_box_in_the_same_place(self, seed):
        pixels, boxes = BoxAugmentation(flip=0, smallest_zoom=0.5)(*self.marked(), seed=seed)
        height, width = pixels.shape[1:]
        assert 0.5 <= height / 40 <= 1 and width / 60 == pytest.approx(height / 40, abs=1 / 40)
        expected = torch.tensor([6 / 60, 10 / 40, 26 / 60, 30 / 40])
        assert torch.allclose(boxes[0] / torch.tensor([width, height, width, height]), expected, atol=1 / 40)
        lit = (pixels[0] > 0.5).nonzero()
        assert torch.allclose(boxes[0, [1, 0]], lit.min(0).values.float(), atol=1)
        assert torch.allclose(boxes[0, [3, 2]], lit.max(0).values.float() + 1, atol=1)

    def test_the_seed_decides_and_pictures_without_boxes_are_changed_too(self):
        augmentation, empty = BoxAugmentation(), torch.empty(0, 4)
        first, again, other = (augmentation(*self.marked(), seed=seed)[0] for seed in (1, 1, 3))
        assert torch.equal(first, again) and first.shape != other.shape
        pixels, boxes = augmentation(self.marked()[0], empty, seed=1)
        assert torch.equal(pixels, first) and boxes.shape == (0, 4)

    def test_samples_of_a_run_are_augmented_by_seed_and_index(self, pictures, image_processor):
        samples, again = (TrainingBoxes(pictures, 9, 5, image_processor, BoxAugmentation()) for _ in range(2))
        last = again[8]
        assert torch.equal(samples[8]["pixel_values"], last["pixel_values"])
        assert torch.equal(samples[8]["labels"]["boxes"], last["labels"]["boxes"])
        own = [i for i in range(9) if samples[i]["picture"] == 0]
        assert len({tuple(samples[i]["pixel_values"].shape) for i in own}) > 1

    @pytest.mark.parametrize(
        "options", [dict(flip=2), dict(smallest_zoom=0), dict(smallest_zoom=1.5), dict(flip=None)]
    )
    def test_numbers_out_of_range_are_refused_by_name(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            BoxAugmentation(**options)
