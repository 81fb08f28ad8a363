"""SigLIP 2 of flexible resolution, NaFlex (arXiv 2502.14786). Those of fixed resolution have SigLIP's classes."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig, Siglip2Model, Siglip2TextModel, Siglip2VisionModel

from .base import part
from .bidirectional import mask_with_tokens
from .siglip import PromptedSiglipText, PromptedSiglipVision, SiglipFamily


NO_PIXELS = (
    "A Siglip2Model (NaFlex) takes images of any size as patches, in three tensors (pixel_values, "
    "pixel_attention_mask and spatial_shapes), but what was called gives a model one tensor of images (B, 3, H, W). "
    "Let the model compute the features, normalize(model.get_image_features(**inputs).pooler_output, dim=-1), and "
    "give them to MuDPTClassifier as image_features; or use a checkpoint of fixed resolution, which loads as "
    "SiglipModel."
)


class PromptedSiglip2Text(PromptedSiglipText):
    """Like `PromptedSiglipText`."""

    tower_class = Siglip2TextModel


class PromptedSiglip2Vision(PromptedSiglipVision):
    """
    Sequence: [patches, padding, prompts], where a mask hides the padding. The tower's attention head pools the patches
    only, because prompts are removed.
    """

    tower_class = Siglip2VisionModel
    argument_names: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask", "spatial_shapes")

    @classmethod
    def image_shape(cls, config: PretrainedConfig) -> NoReturn:
        raise ValueError(NO_PIXELS)

    @classmethod
    def image_size(cls, config: PretrainedConfig) -> None:
        return None

    def attach(self, tower: nn.Module) -> list[RemovableHandle]:
        hooks = super().attach(tower)
        if part(tower, "use_head"):
            hooks.append(part(tower, "head").register_forward_pre_hook(self.cut_mask))
        return hooks

    def prepare(self, tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Add columns for the prompts of the input to the mask."""
        args, kwargs = super().prepare(tower, args, kwargs)
        given = {**dict(zip(self.argument_names, args)), **kwargs}
        mask = given.get("pixel_attention_mask")  # (B, L)
        if mask is not None and not self.source.start(self.modality):
            n = self.source.num_tokens(self.modality)
            given["pixel_attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], n)], dim=1)
        return args[len(self.argument_names) :], given

    def cut_mask(self, head: nn.Module, args: tuple) -> tuple:
        """Take the columns of the prompts out of the mask of the head, which gets no prompts."""
        states, *masks = args  # (B, L, d), and (B, L or L + n) or None
        return states, *(mask if mask is None else mask[:, : states.shape[1]] for mask in masks)

    def mask_with_room(self, mask: torch.Tensor, n: int) -> torch.Tensor:
        return mask_with_tokens(mask, place=mask.shape[-1], n=n)


class Siglip2Family(SiglipFamily):
    """SigLIP 2 NaFlex: logits are exp(logit_scale) * cosine + logit_bias."""

    model_class = Siglip2Model
    text = PromptedSiglip2Text
    vision = PromptedSiglip2Vision
    return_loss_place = 6

    def image_features(self, model: nn.Module, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(NO_PIXELS)
