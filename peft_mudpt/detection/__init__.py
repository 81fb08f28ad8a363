"""Detects objects by their class names with a fusion detector, GroundingDINO or MM-GroundingDINO."""

from .detections import Detections
from .detector import FusionDetector
from .loss import per_picture_loss


__all__ = ["Detections", "FusionDetector", "per_picture_loss"]
