"""CLIP (arXiv 2103.00020), and OpenCLIP's models in the same classes."""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel

from .family import Family
from .text import PromptedCausalText
from .vision import PromptedVision


class PromptedCLIPText(PromptedCausalText):
    """Sequence: [BOS, prompts, words, EOS, padding], causal. The tower pools at EOS."""

    tower_class = CLIPTextModel
    can_be_shortened = True

    @classmethod
    def is_eos(cls, tower: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        if tower.eos_token_id == 2:  # CLIP's older rule: EOS is the largest id
            return ids == ids.amax(dim=1, keepdim=True)
        return super().is_eos(tower, ids)


class PromptedCLIPVision(PromptedVision):
    """Sequence: [CLS, patches, prompts]. The tower pools at CLS."""

    tower_class = CLIPVisionModel
    can_be_shortened = True


class CLIPFamily(Family):
    """CLIP: logits are exp(logit_scale) * cosine."""

    model_class = CLIPModel
    text = PromptedCLIPText
    vision = PromptedCLIPVision
