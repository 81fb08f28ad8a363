"""Adversarial pictures: attacks on a CLIP, and prompts that are learned from what the attacks find.

Pictures are attacked as pixels in [0, 1], before the image processor normalizes them.
"""

from .apgd import APGD
from .attacks import PGD
from .bank import AdversarialBank
from .pixels import Normalization


__all__ = ["APGD", "PGD", "AdversarialBank", "Normalization"]
