"""The parameters of one adapter, and how the effective prompts of each tower and layer are computed from them."""

from __future__ import annotations

from typing import ClassVar, Optional

import torch
from torch import nn

from ..config import MODALITIES, Modality, MuDPTConfig
from .fusion import InjectionModel


class MultiModalPrompts(nn.Module):
    """
    The parameters of one adapter (MuDPT, arXiv 2306.11400). T_i and V_i are the raw (learned) text and vision prompts
    of layer i, F is the text-to-vision and H the vision-to-text injection model. The towers see the effective prompts

        text    T^_0 = T_0          T^_i = T_i + H(V_i)    i >= 1
        vision  V^_i = V_i + F(T_i)                        i >= 0

    Both directions read the raw prompts. In layers without fusion, the effective prompts are the raw ones. With
    `fusion_combine="replace"`, the shift H(V_i) or F(T_i) replaces the raw prompts instead of being added to them.

    Args:
        config: a config that `MuDPTConfig.resolve` has filled in.

    Attributes:
        text_prompts: raw text prompts (layers, n, d_t), d_t being the text width; None if there are none.
        vision_prompts: raw vision prompts (layers, n, d_v), d_v being the vision width; None if there are none.
        text_to_vision, vision_to_text: the injection models F and H; None for a direction without fusion.
        num_tokens: modality -> number n of prompt tokens per layer; 0 for a tower without prompts.
        depth: modality -> number of layers with prompts; 0 for a tower without prompts.
        text_depends_on_image: whether the text prompts depend on a condition, such as an image's feature. If so, text
            features can be neither cached nor folded nor exported. False in this class; a subclass can set it to True
            if it overrides `for_batch`.
    """

    text_depends_on_image: ClassVar[bool] = False
    text_prompts: Optional[torch.Tensor]
    vision_prompts: Optional[torch.Tensor]

    def __init__(self, config: MuDPTConfig):
        super().__init__()
        self.num_tokens = {modality: config.num_tokens(modality) for modality in MODALITIES}
        self.depth = {modality: config.depth(modality) for modality in MODALITIES}
        self.combine = config.fusion_combine

        def width(modality: Modality) -> int:
            size = config.text_hidden_size if modality == "text" else config.vision_hidden_size
            assert size is not None, "MuDPTConfig.resolve fills it in"
            return size

        def raw_prompts(modality: Modality) -> Optional[torch.Tensor]:
            depth = config.owned_depth(modality)
            if not depth:
                return None
            return torch.randn(depth, config.num_tokens(modality), width(modality)) * config.init_std  # (layers, n, d)

        def injection_model(source: Modality, target: Modality) -> Optional[InjectionModel]:
            layers = config.fused_layers(source)
            if not layers:
                return None
            return InjectionModel(
                width(source), width(target), layers, network=config.fusion_type, sharing=config.fusion_sharing
            )

        for modality in MODALITIES:
            prompts, name = raw_prompts(modality), f"{modality}_prompts"
            if config.folded:  # constants: buffers are saved and moved like parameters, and nothing can train them
                self.register_buffer(name, prompts)
            else:
                self.register_parameter(name, None if prompts is None else nn.Parameter(prompts))
        self.text_to_vision = injection_model("text", "vision")
        self.vision_to_text = injection_model("vision", "text")
        self._fused_layers = {"vision": config.fused_layers("text"), "text": config.fused_layers("vision")}

    def forward(self, modality: Modality, layers: range) -> torch.Tensor:
        """The effective prompts (len(layers), n, d) that one tower gets at these layers; layer 0 is the input."""
        if modality == "text":
            own, source, injection_model = self.text_prompts, self.vision_prompts, self.vision_to_text
        else:
            own, source, injection_model = self.vision_prompts, self.text_prompts, self.text_to_vision
        tied = self._fused_layers[modality]
        fused = range(max(layers.start, tied.start), min(layers.stop, tied.stop))
        if not fused:
            # a copy: FSDP and ZeRO-3 free the memory of this module's parameters after its forward
            return _slice(own, layers).clone()
        assert injection_model is not None
        shift = injection_model(fused, _slice(source, fused))  # (len(fused), n, d)
        parts = [_slice(own, fused) + shift if self.combine == "add" else shift]
        if layers.start < fused.start:
            parts.insert(0, _slice(own, range(layers.start, fused.start)))
        if fused.stop < layers.stop:
            parts.append(_slice(own, range(fused.stop, layers.stop)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def for_batch(self, modality: Modality, layers: range, condition: Optional[torch.Tensor] = None) -> torch.Tensor:
        """
        The effective prompts (1, len(layers), n, d), which all samples of a batch share; `condition` is ignored. A
        subclass whose prompts depend on `condition` (B, ...) returns (B, len(layers), n, d) if a condition is given.
        """
        return self(modality, layers)[None]


def _slice(prompts: Optional[torch.Tensor], layers: range) -> torch.Tensor:
    """The rows (len(layers), n, d) of one tower's raw `prompts` that belong to these layers."""
    assert prompts is not None, "only layers that own prompts are asked for"
    return prompts[layers.start : layers.stop]
