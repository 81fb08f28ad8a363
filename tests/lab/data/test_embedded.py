"""Loading the embedded world."""

import numpy as np

from peft_mudpt import demo
from peft_mudpt.lab.data.loading import picture
from peft_mudpt.lab.data.options import DataOptions
from peft_mudpt.lab.data.sources import load_data


def test_every_style_of_the_embedded_world_is_a_data_set():
    data = load_data(DataOptions(dataset="plain"))
    assert (len(data.train), len(data.validation), len(data.test)) == (32 * 96, 4 * 96, 10 * 96)
    assert data.class_names == list(demo.CLASS_NAMES)
    assert np.asarray(picture(data.test[0])).shape == (32, 32, 3)
