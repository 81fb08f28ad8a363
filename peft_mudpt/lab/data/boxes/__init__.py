"""Pictures with boxes: loads data sets for detection, samples few pictures, moves boxes with their pictures."""

from .augmentation import BoxAugmentation
from .coco import load_coco_json
from .embedded import load_embedded_boxes
from .few_shot_boxes import FewShotBoxes, draw_boxes
from .from_objects import boxes_from_dataset, load_boxes_from_hub
from .loading import TrainingBoxes, collate_boxes
from .options import BoxDataOptions
from .records import BoxData
from .sampling import sample_few_shot_boxes
from .sources import load_box_data
from .voc import load_voc
from .yolo import load_yolo


__all__ = [
    "BoxAugmentation",
    "BoxData",
    "BoxDataOptions",
    "FewShotBoxes",
    "TrainingBoxes",
    "boxes_from_dataset",
    "collate_boxes",
    "draw_boxes",
    "load_box_data",
    "load_boxes_from_hub",
    "load_coco_json",
    "load_embedded_boxes",
    "load_voc",
    "load_yolo",
    "sample_few_shot_boxes",
]
