"""What is refused of logits and labels."""

import pytest
import torch

from peft_mudpt.calibration.calibration import Calibration
from peft_mudpt.calibration.reliability import measure_reliability
from peft_mudpt.calibration.temperature import fit_temperature


LOGITS = torch.zeros(2, 3)
FITS = pytest.mark.parametrize(
    "fit", [fit_temperature, Calibration.fit, measure_reliability], ids=lambda f: f.__qualname__
)


@FITS
@pytest.mark.parametrize("logits", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 1), torch.zeros(2, 3).long()])
def test_logits_of_another_shape_or_type_are_refused(fit, logits):
    with pytest.raises(ValueError, match=r"tensor \(.*must be \(N, C\) in floating point"):
        fit(logits, [0, 1])


@FITS
@pytest.mark.parametrize("labels", [[0], [0.0, 1.0], [True, False], [[0], [1]]], ids=str)
def test_labels_of_another_number_or_type_are_refused(fit, labels):
    with pytest.raises(ValueError, match="labels has the shape .*class index for each of the 2 pictures"):
        fit(LOGITS, labels)


@FITS
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_named(fit, label):
    with pytest.raises(ValueError, match=f"labels holds {label}, but .* from 0 to 2"):
        fit(LOGITS, [0, label])


@FITS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(fit, value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit(torch.tensor([[0.0, value, 0.0], [1.0, 0.0, 0.0]]), [0, 1])
