"""Detects objects by their class names with a fusion detector, GroundingDINO or MM-GroundingDINO."""

from .detections import Detections
from .detector import FusionDetector
from .loading import prepare_detector_for_peft
from .loss import per_picture_loss


__all__ = ["Detections", "FusionDetector", "per_picture_loss", "prepare_detector_for_peft"]
