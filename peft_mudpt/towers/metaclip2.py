"""MetaCLIP 2 (arXiv 2507.22062)."""

from __future__ import annotations

from transformers import MetaClip2Model, MetaClip2TextModel, MetaClip2VisionModel

from .family import Family
from .text import PromptedCausalText
from .vision import PromptedVision


class PromptedMetaClip2Text(PromptedCausalText):
    """Like `PromptedCLIPText`, but EOS is always the token with id `eos_token_id`, even if that id is 2."""

    tower_class = MetaClip2TextModel
    can_be_shortened = True


class PromptedMetaClip2Vision(PromptedVision):
    """Sequence: [CLS, patches, prompts]. The tower pools at CLS."""

    tower_class = MetaClip2VisionModel
    can_be_shortened = True


class MetaClip2Family(Family):
    """MetaCLIP 2: logits are exp(logit_scale) * cosine."""

    model_class = MetaClip2Model
    text = PromptedMetaClip2Text
    vision = PromptedMetaClip2Vision
