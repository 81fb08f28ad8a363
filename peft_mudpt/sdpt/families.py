"""The supported detectors, and how to find their fusion layers. A new family is one entry of `FAMILIES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoEncoder
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import MMGroundingDinoEncoder

from ..config import MODALITIES, Modality
from ..towers.base import part
from .config import FusionShape


@dataclass(frozen=True)
class FusionFamily:
    """
    Where a family's encoder keeps the parts of its fusion layers, as dotted paths.

    Attributes:
        encoder_class: the class of the encoder in transformers.
        layers: in the encoder, the list of its layers.
        attention: in a layer, the attention between text and image.
        arguments: the attention's arguments: image tokens, text tokens, and the padding mask of each (True: padding).
        vision_norm, text_norm: in a layer, the norms whose outputs the attention takes.
        vision_projection, text_projection: in the attention, the linear maps of image and text tokens to the space in
            which it compares them.
    """

    encoder_class: type[nn.Module]
    layers: str = "layers"
    attention: str = "fusion_layer.attn"
    arguments: tuple[str, str, str, str] = (
        "vision_features",
        "text_features",
        "vision_attention_mask",
        "text_attention_mask",
    )
    vision_norm: str = "fusion_layer.layer_norm_vision"
    text_norm: str = "fusion_layer.layer_norm_text"
    vision_projection: str = "vision_proj"
    text_projection: str = "text_proj"


FAMILIES: tuple[FusionFamily, ...] = (FusionFamily(GroundingDinoEncoder), FusionFamily(MMGroundingDinoEncoder))

# By `model_type`: why a model that one would expect here is not supported.
_NO_FUSION = "Its text and image meet only where classes are scored, so it has no fusion layers. "
REFUSED = {
    "owlvit": _NO_FUSION,
    "owlv2": _NO_FUSION,
    "omdet-turbo": "It fuses text and image in its decoder, by an attention without a projection of each. ",
    "clip": "For CLIP, use MuDPTConfig. ",
    "siglip": "For SigLIP, use MuDPTConfig. ",
}


class FusionLayers(NamedTuple):
    """The fusion layers that were found in a model."""

    family: FusionFamily
    layers: tuple[nn.Module, ...]

    @property
    def attentions(self) -> list[nn.Module]:
        """The attention of each layer."""
        return [part(layer, self.family.attention) for layer in self.layers]

    def projection(self, layer: int, modality: Modality) -> nn.Module:
        """The map of one stream's tokens to the space in which the attention compares them."""
        return part(self.attentions[layer], getattr(self.family, f"{modality}_projection"))

    def norm(self, layer: int, modality: Modality) -> nn.Module:
        """The norm of one stream before the attention."""
        return part(self.layers[layer], getattr(self.family, f"{modality}_norm"))

    @property
    def projections(self) -> list[nn.Module]:
        """The projections of all layers and streams."""
        return [self.projection(layer, modality) for layer in range(len(self.layers)) for modality in MODALITIES]

    @property
    def shape(self) -> FusionShape:
        """The sizes that an adapter must fit."""
        projection = self.projection(0, "vision")
        return FusionShape(part(projection, "in_features"), part(projection, "out_features"), len(self.layers))


def find_fusion(model: nn.Module) -> tuple[nn.Module, FusionLayers]:
    """
    The encoder of a detector, and its fusion layers.

    Args:
        model: a detector, its body or its encoder, plain or with adapters.

    Raises:
        ValueError: if the model has no supported encoder, or several.
    """
    found = [
        (name, module, family)
        for name, module in model.named_modules()
        for family in FAMILIES
        if isinstance(module, family.encoder_class)
    ]
    if not found:
        model_type = getattr(getattr(model, "config", None), "model_type", "")
        supported = ", ".join(family.encoder_class.__name__ for family in FAMILIES)
        described = type(model).__name__ + (f" (model_type {model_type!r})" if model_type else "")
        raise ValueError(
            f"{described} is no detector that SDPT knows: it needs a model with one of the encoders {supported}, for "
            f"example transformers.GroundingDinoForObjectDetection. {REFUSED.get(model_type, '')}The model was left "
            "as it was."
        )
    if len(found) > 1:
        names = " and ".join(repr(name) for name, *_ in found)
        raise ValueError(f"{type(model).__name__} holds several encoders ({names}); adapt the detectors one by one.")
    ((_, encoder, family),) = found
    return encoder, FusionLayers(family, tuple(part(encoder, family.layers)))
