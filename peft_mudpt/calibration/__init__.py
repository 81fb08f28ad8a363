"""Makes probabilities mean something: temperature scaling, calibration error, and sets of classes with a coverage."""

from .calibration import Calibration
from .conformal import ConformalSets
from .reliability import Reliability, expected_calibration_error, measure_reliability
from .temperature import fit_temperature


__all__ = [
    "Calibration",
    "ConformalSets",
    "Reliability",
    "expected_calibration_error",
    "fit_temperature",
    "measure_reliability",
]
