"""TIPSv2 (transformers 5.14 and later)."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import nn
from transformers import PretrainedConfig, Tipsv2Model, Tipsv2TextModel, Tipsv2VisionModel

from .base import part
from .bidirectional import PromptedBidirectionalText
from .family import Family
from .vision import PromptedVision


class PromptedTipsv2Text(PromptedBidirectionalText):
    """
    Sequence: [prompts, words, padding]. The tower pools the mean of all tokens but padding. Prompts of the input count
    in it as words do; prompts that start above the input do not. Positions are sinusoidal. The embeddings of tokens
    are multiplied by a scale, those of prompts are not: prompts start from scaled words.
    """

    tower_class = Tipsv2TextModel
    projection = None
    tokens_before = 0

    @classmethod
    def like(cls, tower: nn.Module) -> torch.Tensor:
        return super().token_table(tower)  # positions have no weight

    @classmethod
    def token_table(cls, tower: nn.Module) -> torch.Tensor:
        return super().token_table(tower) * part(tower, f"{cls.embeddings}.embed_scale")

    @classmethod
    def embed_tokens(cls, tower: nn.Module, ids: list[int]) -> torch.Tensor:
        return super().embed_tokens(tower, ids) * part(tower, f"{cls.embeddings}.embed_scale")

    def remove(self, encoder: nn.Module, args: tuple, output: Any) -> Any:
        """Leave the prompts of the input for the mean, whose mask has their columns."""
        return super().remove(encoder, args, output) if self.source.start(self.modality) else output

    def remove_from_hidden_states(self, tower: nn.Module, args: tuple, output: Any) -> Any:
        """Remove the prompts of the input from the last hidden state, too."""
        n = self.source.num_tokens(self.modality)
        if n and not self.source.start(self.modality):
            if isinstance(output, tuple):  # return_dict=False
                output = self._replace(output[0], n), *output[1:]
            else:
                output["last_hidden_state"] = self._replace(output["last_hidden_state"], n)
        return super().remove_from_hidden_states(tower, args, output)

    @classmethod
    def pooled_states(cls, tower: nn.Module, states: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        if mask is None:
            return states.mean(dim=1)
        return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class PromptedTipsv2Vision(PromptedVision):
    """Sequence: [CLS, registers, patches, prompts]. The tower pools at CLS, and takes images of any size."""

    tower_class = Tipsv2VisionModel
    projection = None
    layers = "layer"
    patch_embedding = "patch_embeddings.projection"
    position_embedding = "position_embeddings"
    attention_norm = "norm1"
    attention = "attention"
    num_heads = "num_attention_heads"

    @classmethod
    def resize(cls, tower: nn.Module, image_size: int) -> None:
        """Nothing to do: the tower interpolates its position embeddings in each forward."""

    @classmethod
    def first_patch(cls, tower: nn.Module) -> int:
        return super().first_patch(tower) + part(tower, "config").num_register_tokens


class Tipsv2Family(Family):
    """TIPSv2: logits are cosine / temperature."""

    model_class = Tipsv2Model
    text = PromptedTipsv2Text
    vision = PromptedTipsv2Vision
    return_loss_place = 6

    def logit_scale(self, model: nn.Module) -> torch.Tensor:
        return 1 / part(model, "temperature")

    def feature_size(self, config: PretrainedConfig) -> int:
        return config.text_config.hidden_size
