"""`SDPTModel`: the PEFT tuner that adds, switches and removes SDPT adapters on a detector."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import nn

from ..checks import check_modules_to_save, check_sharing
from ..config import Modality
from ..prompt_tuner import PromptTuner
from ..settings import PromptConfig
from .config import SDPTConfig
from .families import FusionLayers, find_fusion
from .inverse import InverseProjection, check_invertible
from .layer import SDPTLayer
from .prototypes import FusionPrompts, UnifiedPrototypes, new_prompts


STREAMS: tuple[Modality, Modality] = ("vision", "text")  # in the order of the prompts

# Prompts larger than this many times the tokens beside them come from an ill-conditioned projection.
LARGE = 10


class SDPTModel(PromptTuner):
    """
    Synchronous Dual Prompt Tuning (SDPT, arXiv 2407.11414) on a detector of transformers that fuses text and image.

    Args:
        model ([`~transformers.GroundingDinoForObjectDetection`], [`~transformers.MMGroundingDinoForObjectDetection`],
            or the body or encoder of one): the model to be adapted, in place.
        config ([`SDPTConfig`]): the configuration of the adapter.
        adapter_name (`str`): the name of the adapter.

    It takes the same inputs as the base model, and returns the same outputs in the same shapes: hooks append prompts
    to both streams inside each fusion layer, and remove them again. See `sdpt.prototypes.UnifiedPrototypes` for the
    formulas. The rows of `encoder_attentions` that belong to fusion no longer sum to 1, because the attention on the
    prompts is cut off.

    Raises:
        ValueError: if the model has no supported encoder, its fusion layers are quantized, or the config does not fit
            it. The model stays as it was.

    Example:

        ```py
        >>> import peft_mudpt
        >>> from peft import get_peft_model
        >>> from transformers import GroundingDinoForObjectDetection

        >>> detector = GroundingDinoForObjectDetection.from_pretrained("IDEA-Research/grounding-dino-tiny")
        >>> model = get_peft_model(detector, peft_mudpt.SDPTConfig())
        ```
    """

    prefix: str = "sdpt_"
    tuner_layer_cls = SDPTLayer
    config_class = SDPTConfig

    def find_place(self, model: nn.Module) -> tuple[nn.Module, FusionLayers]:
        """The encoder and its fusion layers."""
        return find_fusion(model)

    def fill_in(self, config: PromptConfig, model: nn.Module, owner: nn.Module, place: FusionLayers) -> None:
        """Fill in the sizes; raise a ValueError if the config does not fit, or weights to invert are quantized."""
        config = cast(SDPTConfig, config)
        if config.inverts_projections:
            for projection in place.projections:
                check_invertible(projection)
        config.resolve(place.shape)

    def new_prompts(self, config: PromptConfig) -> FusionPrompts:
        """The parameters of a new adapter."""
        return new_prompts(cast(SDPTConfig, config))

    def check_modules_to_save(
        self, config: PromptConfig, model: nn.Module, place: FusionLayers, prompts: nn.Module
    ) -> None:
        """Refuse the attentions, the projections that are inverted, and what the functions of `checks` describe."""
        check_modules_to_save(config.modules_to_save, model, [*place.projections, *place.attentions], prompts)
        check_sharing(config.modules_to_save, model)

    def initialize(self, prompts: nn.Module, config: PromptConfig, place: FusionLayers) -> None:
        """Compute the inverse projections from the weights of the base model, if the adapter needs them."""
        if not isinstance(prompts, UnifiedPrototypes):
            return
        rcond = cast(SDPTConfig, config).rcond

        def inverse(modality: Modality) -> InverseProjection:
            return InverseProjection([place.projection(layer, modality) for layer in prompts.layers], rcond)

        prompts.vision_inverse = inverse("vision")
        prompts.text_inverse = inverse("text") if prompts.has_text_prompts else None
        _warn_of_large_prompts(prompts, place)


@torch.no_grad()
def _warn_of_large_prompts(prompts: UnifiedPrototypes, place: FusionLayers) -> None:
    if any(tensor.is_meta for tensor in (*prompts.parameters(), *prompts.buffers())):
        return

    def size_of_tokens(layer: int, modality: Modality) -> float:
        weight = getattr(place.norm(layer, modality), "weight", None)
        return 1.0 if weight is None or weight.is_meta else _rms(weight).item()  # of what the norm returns

    sizes = [
        (_rms(own).max().item(), size_of_tokens(layer, modality), layer, modality)
        for layer in prompts.layers
        for modality, own in zip(STREAMS, prompts(layer))
        if own is not None
    ]
    size, beside, layer, modality = max(sizes, key=lambda each: each[0] / max(each[1], 1e-12))
    if size > LARGE * beside:
        warnings.warn(
            f"The {modality} prompts of fusion layer {layer} are large: their root mean square is {size:.1f}, that of "
            f"the tokens beside them about {beside:.2g}, because the layer's projection is ill-conditioned. Smaller "
            "ones would come from rcond=1e-2 in SDPTConfig.",
            stacklevel=2,
        )


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    """Root mean square over the last axis."""
    return tensor.float().square().mean(-1).sqrt()
