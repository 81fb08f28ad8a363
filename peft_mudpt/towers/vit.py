"""ViT (arXiv 2010.11929): a vision tower without a text tower, alone or in a model with a head."""

from __future__ import annotations

from torch import nn
from transformers import ViTModel

from .vision import PromptedVision


class PromptedViT(PromptedVision):
    """
    Sequence: [CLS, patches, prompts]. Its layers stand in the tower itself, which is therefore its own encoder. A head
    that averages the prompts too, as for MAE, can read them from a forward hook on the last layer.
    """

    tower_class = ViTModel
    tower = "vit"
    projection = None  # features are not compared with those of texts
    encoder = ""
    position_embedding = "position_embeddings"
    patch_embedding = "patch_embeddings.projection"

    def remove(self, encoder: nn.Module, args: tuple, output):
        if not isinstance(output, tuple):
            return super().remove(encoder, args, output)
        last_hidden_state, *others = output  # return_dict=False
        return self._replace(last_hidden_state, self.source.num_tokens("vision")), *others
