"""The parameters of one adapter, and how the effective prompts of each tower and layer are computed from them."""

from __future__ import annotations

from typing import Literal, Optional, Union

import torch
from torch import nn

from ..config import MODALITIES, Modality, MuDPTConfig
from .conditioning import ClassTokens, ImageShift, check_condition
from .contexts import ClassContexts, Contexts, DomainContexts
from .fusion import InjectionModel
from .logit_shift import LogitShift


# The tower from which the injection model of each tower reads.
SOURCE: dict[Modality, Modality] = {"text": "vision", "vision": "text"}


class MultiModalPrompts(nn.Module):
    """
    The parameters of one adapter (MuDPT, arXiv 2306.11400). T_i and V_i are the raw (learned) text and vision prompts
    of layer i, F is the text-to-vision and H the vision-to-text injection model. The towers see the effective prompts

        text    T^_0 = T_0          T^_i = T_i + H(V_i)    i >= 1
        vision  V^_i = V_i + F(T_i)                        i >= 0

    Both directions read the raw prompts. In layers without fusion, the effective prompts are the raw ones. With
    `fusion_combine="replace"`, the shift H(V_i) or F(T_i) replaces the raw prompts instead of being added to them.
    F and H never read what a condition changes (see `forward`).

    Args:
        config: a config that `MuDPTConfig.resolve` has filled in.

    Attributes:
        text_prompts: raw text prompts (layers, n, d_t), d_t being the text width; None if there are none.
        vision_prompts: raw vision prompts (layers, n, d_v), d_v being the vision width; None if there are none.
        text_to_vision, vision_to_text: the injection models F and H; None for a direction without fusion.
        num_tokens: modality -> number n of prompt tokens per layer; 0 for a tower without prompts.
        layers: modality -> the layers with prompts; empty for a tower without prompts.
        image_shift: the meta-net of `conditioning="image"` or `"noise"`; otherwise None.
        class_tokens: the meta-net of `conditioning="class"`; otherwise None.
        class_contexts, domain_contexts: the text prompts of the input with `class_specific_context`, or with
            `num_domains`; otherwise None. `text_prompts` then has the layers above.
        domain_temperature: see `MuDPTConfig`.
        logit_shift: the shifts of the logit scale and bias; None if none is learned.
    """

    text_prompts: Optional[torch.Tensor]
    vision_prompts: Optional[torch.Tensor]

    def __init__(self, config: MuDPTConfig):
        super().__init__()
        self.num_tokens = {modality: config.num_tokens(modality) for modality in MODALITIES}
        self.layers = {modality: config.layers(modality) for modality in MODALITIES}
        self._owned = {modality: config.owned_layers(modality) for modality in MODALITIES}
        self.combine = config.fusion_combine

        def width(modality: Modality) -> int:
            size = config.text_hidden_size if modality == "text" else config.vision_hidden_size
            assert size is not None, "MuDPTConfig.resolve fills it in"
            return size

        def raw_prompts(modality: Modality) -> Optional[torch.Tensor]:
            layers, n = config.owned_layers(modality), config.num_tokens(modality)
            return torch.randn(len(layers), n, width(modality)) * config.init_std if layers else None  # (layers, n, d)

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
        self.image_shift: Optional[ImageShift] = None
        self.class_tokens: Optional[ClassTokens] = None
        self.class_contexts: Optional[ClassContexts] = None
        self.domain_contexts: Optional[DomainContexts] = None
        self.domain_temperature = config.domain_temperature
        learns_logits = config.learn_logit_scale or config.learn_logit_bias
        self.logit_shift = LogitShift(config) if learns_logits else None
        if config.class_specific_context:
            assert config.num_classes is not None, "MuDPTConfig refuses it"
            sizes = config.num_classes, config.num_tokens("text"), width("text")
            self.class_contexts = ClassContexts(*sizes, config.init_std)
        if config.num_domains is not None:
            sizes = config.num_domains, config.num_tokens("text"), width("text")
            self.domain_contexts = DomainContexts(*sizes, config.init_std)
        if config.conditioning != "none":
            assert config.feature_size is not None, "MuDPTConfig.resolve fills it in"
            sizes = config.feature_size, config.meta_net_reduction, width("text")
            if config.conditioning == "class":
                self.class_tokens = ClassTokens(config.class_token_layer, config.num_tokens("text"), *sizes)
                if config.folded:
                    self.class_tokens.meta_net.make_constant()
            else:
                self.image_shift = ImageShift(config.start("text"), *sizes, noise=config.conditioning == "noise")

    @property
    def text_depends_on_image(self) -> bool:
        """Whether each image has text features of its own, so that they can be neither cached nor folded."""
        return self.image_shift is not None

    @property
    def text_depends_on_class(self) -> bool:
        """Whether the text prompts of each class depend on its text feature in the frozen CLIP."""
        return self.class_tokens is not None

    def image_condition(self, image_features: torch.Tensor) -> torch.Tensor:
        """What the text prompts of B images depend on (B, D), from the features (B, D) of these images."""
        assert self.image_shift is not None, "asked only if the text prompts depend on the image"
        return self.image_shift.condition(image_features)

    @property
    def contexts(self) -> Optional[Contexts]:
        """The text prompts of the input that have a number; None if all texts share their prompts."""
        return self.domain_contexts if self.class_contexts is None else self.class_contexts

    @property
    def class_token_layer(self) -> Optional[int]:
        """The layer before which the tokens of each class replace the text prompts; None if there are none."""
        return None if self.class_tokens is None else self.class_tokens.layer

    def forward(
        self,
        modality: Union[Modality, Literal["logits"]],
        layers: range = range(0),
        condition: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """
        What one tower gets at these layers, or the logits. Everything that the model asks for goes through this
        method, because FSDP and ZeRO-3 have the weights of this module in memory only during its forward.

        Args:
            modality: the tower; "logits" for what is added to the logit scale and bias.
            layers: layers with prompts, of which 0 is the input; or, with a condition, `class_token_layer` alone.
            condition: what text prompts depend on, one row per sample: features (B, D), the classes (B,) with
                `class_specific_context`, or the domains (B,) with `num_domains`; None: nothing. Other prompts ignore
                it.

        Returns:
            The effective prompts (b, len(layers), n, d), or the tokens of the classes. b is 1 if all samples share
            them, otherwise B. For the logits, the shifts (2,) of `logit_shift`.

        Raises:
            ValueError: if the text prompts depend on the condition, and it has another shape or type.
        """
        if modality == "logits":
            assert self.logit_shift is not None, "asked only if it is learned"
            return self.logit_shift()
        if modality == "text" and self.contexts is not None and layers.start == self.layers["text"].start:
            own = self.contexts(condition)[:, None]  # (B, 1, n, d)
            if len(layers) == 1:
                return own
            rest = self.effective(modality, layers[1:])[None].expand(len(own), -1, -1, -1)
            return torch.cat([own, rest], dim=1)
        if modality == "text" and condition is not None:
            if self.class_tokens is not None and layers.start == self.class_token_layer:
                check_condition(condition, self.class_tokens.meta_net.feature_size)
                return self.class_tokens(condition)[:, None]  # (B, 1, n, d)
            if self.image_shift is not None:
                check_condition(condition, self.image_shift.meta_net.feature_size)
                return self.image_shift(self.effective(modality, layers)[None], layers, condition)
        return self.effective(modality, layers)[None]

    def effective(self, modality: Modality, layers: range) -> torch.Tensor:
        """The effective prompts (len(layers), n, d) without a condition, as in the formulas of the class."""
        injection_model = self.vision_to_text if modality == "text" else self.text_to_vision
        tied = self._fused_layers[modality]
        fused = range(max(layers.start, tied.start), min(layers.stop, tied.stop))
        if not fused:
            # a copy: FSDP and ZeRO-3 free the memory of this module's parameters after its forward
            return self._own(modality, layers).clone()
        assert injection_model is not None
        shift = injection_model(fused, self._own(SOURCE[modality], fused))  # (len(fused), n, d)
        parts = [self._own(modality, fused) + shift if self.combine == "add" else shift]
        if layers.start < fused.start:
            parts.insert(0, self._own(modality, range(layers.start, fused.start)))
        if fused.stop < layers.stop:
            parts.append(self._own(modality, range(fused.stop, layers.stop)))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _own(self, modality: Modality, layers: range) -> torch.Tensor:
        """The raw prompts (len(layers), n, d) of one tower at these layers."""
        prompts, start = getattr(self, f"{modality}_prompts"), self._owned[modality].start
        assert prompts is not None, "only layers that own prompts are asked for"
        return prompts[layers.start - start : layers.stop - start]
