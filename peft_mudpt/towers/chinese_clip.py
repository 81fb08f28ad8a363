"""Chinese CLIP (arXiv 2211.01335)."""

from __future__ import annotations

from transformers import ChineseCLIPModel, ChineseCLIPTextModel, ChineseCLIPVisionModel

from .bidirectional import PromptedBertText
from .family import Family
from .vision import PromptedVision


class PromptedChineseCLIPText(PromptedBertText):
    """Sequence: [CLS, prompts, words, SEP, padding]. The whole model projects the state of CLS."""

    tower_class = ChineseCLIPTextModel


class PromptedChineseCLIPVision(PromptedVision):
    """Sequence: [CLS, patches, prompts]. The tower pools at CLS."""

    tower_class = ChineseCLIPVisionModel
    can_be_shortened = True


class ChineseCLIPFamily(Family):
    """Chinese CLIP: logits are exp(logit_scale) * cosine."""

    model_class = ChineseCLIPModel
    text = PromptedChineseCLIPText
    vision = PromptedChineseCLIPVision
    return_loss_place = 5
