import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import CLIPModel

from peft_mudpt import MuDPTConfig, demo


CLASSES = ["filled red star", "hollow red star", "filled red heart"]


@pytest.fixture(scope="package")
def adapter(tmp_path_factory):
    """A saved adapter of the embedded CLIP. With it, the star is the most probable class; without it, it is not."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapter")
    config = MuDPTConfig(class_names=CLASSES, class_template="{}.", init_std=0.1)
    get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def star(tmp_path_factory):
    """A picture of the first class."""
    file = tmp_path_factory.mktemp("pictures") / "star.png"
    demo.paint(CLASSES[0], "faded", np.random.default_rng(3)).save(file)
    return file
