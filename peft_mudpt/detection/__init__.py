"""Detects objects by their class names with a fusion detector, GroundingDINO or MM-GroundingDINO."""

from .detector import Detections, FusionDetector
from .loss import per_picture_loss


__all__ = ["Detections", "FusionDetector", "per_picture_loss"]
