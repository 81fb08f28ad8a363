"""The forward hooks that insert prompts into a tower, overwrite them in later layers, and remove them at the end.

All model families share these hooks. They are registered once and hold no tensor and no module, only a
`PromptSource`, which they ask for prompts in every forward call. Enabling, disabling or switching an adapter therefore
only changes what the source returns, and `torch.compile` follows the change. Deep layers are all layers but the first,
whose prompts enter with the embeddings. One call computes the prompts of all deep layers, and the encoder passes them
to its layers as an argument. Because an argument belongs to one call, threads, exceptions and gradient checkpointing
cannot mix up the prompts of different calls.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Optional, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..config import Modality, TowerShape
from ..settings import NO_ADAPTER_PER_SAMPLE
from . import last_layer
from .last_layer import SHORTENED, Shortened


# Arguments of a tower's forward. The first comes from the caller: what the prompts depend on, one row per sample.
# transformers' towers pass arguments they do not know on to the encoder, and the encoder to its layers.
CONDITION = "mudpt_condition"
IMAGES = "mudpt_images"  # from the whole model to both towers (see `per_image`)
POOLED_ONLY = "mudpt_pooled_only"  # from the caller, who reads only the pooled tokens: which ones these are
INPUT_PROMPTS = "mudpt_input_prompts"  # from the tower to its encoder
DEEP_PROMPTS = "mudpt_deep_prompts"  # from the encoder to its layers, as are the masks of layers with inserted prompts
DEEP_MASK = "mudpt_deep_mask"


class PromptSource(Protocol):
    """The object that the hooks ask for the prompts of the active adapter."""

    def num_tokens(self, modality: Modality) -> int:
        """Number of prompt tokens that this tower uses at present; 0 if it runs without prompts."""

    def start(self, modality: Modality) -> int:
        """The layer at which the prompts enter this tower; 0 is the input, also if the tower has no prompts."""

    def prompts(
        self, modality: Modality, start: int, stop: Optional[int] = None, condition: Optional[torch.Tensor] = None
    ) -> dict[int, torch.Tensor]:
        """
        The prompts (b, n, d) of the layers from `start` up to but without `stop` (None: up to the last layer with
        prompts), by layer; layer 0 is the input. Layers without prompts of their own are missing. b is 1 if all
        samples share the prompts, or the batch size B if the prompts depend on `condition` (B, ...).
        """

    @property
    def text_depends_on_image(self) -> bool:
        """Whether the text tower needs a condition at present: the feature of an image, or noise in its place."""

    def image_condition(self, image_features: torch.Tensor) -> torch.Tensor:
        """The condition (B, D) of texts that belong to B images with these features (B, D), normalized or not."""

    @property
    def text_depends_on_class(self) -> bool:
        """Whether the text tower needs a condition at present: the text feature of each class in the frozen CLIP."""

    @property
    def num_class_contexts(self) -> int:
        """Number of classes with text prompts of their own. If it is not 0, a condition has the class of each text."""

    @property
    def num_domains(self) -> int:
        """Number of domains with prompts of their own. If it is not 0, a condition has the domain of each text."""

    @property
    def domain_temperature(self) -> float:
        """The temperature of the weights of domains, if there are domains."""

    def logit_shift(self) -> Optional[torch.Tensor]:
        """What is added to the model's logit scale and bias at present (2,); None: nothing."""


def part(module: nn.Module, path: str) -> Any:
    """The attribute at a dotted path of a module, or of a wrapper that forwards attributes to it; "": the module."""
    found: Any = module
    for name in path.split(".") if path else ():
        found = getattr(found, name)
    return found


class PromptedTower:
    """
    Base class for one kind of tower. Its class attributes say where the tower keeps its parts (as dotted paths), its
    methods are the hooks.

    The hooks insert prompts after the embeddings (or before a later layer, if the prompts start there), overwrite them
    before each later layer that has prompts of its own, and remove them after the last layer. The base model's outputs
    therefore have the same shapes as without prompts; only `attentions`, which relate all tokens, include the prompts.
    If called directly, `embeddings` returns the prompts too, and `encoder` expects them in its input.

    Args:
        source: the object that the hooks ask for prompts.

    Attributes:
        modality: `text` or `vision`.
        tower_class: the class of the tower in transformers.
        tower: where a whole model keeps the tower.
        projection: where a whole model keeps the module that projects the tower's pooled output to the feature; None
            if the tower projects by itself.
        embeddings, encoder: where the tower keeps these modules. "": the tower is its own encoder.
        layers: where the encoder keeps its layers.
        position_embedding: where the embeddings keep the module that maps positions (n,) to embeddings (n, d), or, of
            a vision tower, the parameter that holds these.
        attention_norm: where a layer keeps the LayerNorm before its attention.
        attention: where a layer keeps its attention.
        can_be_shortened: whether the tower pools one token of each text or image, and its layers pass arguments on to
            their attention, which takes `hidden_states` by name (see `last_layer`).
        ties_last_state: whether the last of the tower's hidden states is its last hidden state, without prompts.
    """

    modality: ClassVar[Modality]
    tower_class: ClassVar[type[nn.Module]]
    tower: ClassVar[str]
    projection: ClassVar[Optional[str]]
    embeddings: ClassVar[str] = "embeddings"
    encoder: ClassVar[str] = "encoder"
    layers: ClassVar[str] = "layers"
    position_embedding: ClassVar[str] = "position_embedding"
    attention_norm: ClassVar[str] = "layer_norm1"
    attention: ClassVar[str] = "self_attn"
    can_be_shortened: ClassVar[bool] = False
    ties_last_state: ClassVar[bool] = False

    def __init__(self, source: PromptSource):
        self.source = source

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        """
        The tokens before and after the n prompt tokens of `hidden` (B, L, d); None for a side that has no tokens in
        any sequence.
        """
        raise NotImplementedError

    @classmethod
    def shape(cls, tower: nn.Module) -> TowerShape:
        """The sizes of a tower that an adapter depends on."""
        layers = part(part(tower, cls.encoder), cls.layers)
        return TowerShape(part(tower, "config").hidden_size, len(layers))

    @classmethod
    def like(cls, tower: nn.Module) -> torch.Tensor:
        """The tensor of a tower whose device and dtype new prompts take."""
        positions = part(tower, f"{cls.embeddings}.{cls.position_embedding}")
        # the weight of whatever stands there: LoRA may have wrapped the module
        return positions if isinstance(positions, torch.Tensor) else positions.weight

    @classmethod
    def pooled(cls, output) -> torch.Tensor:
        """The pooled output (B, d), before the projection, from what the tower returns."""
        return output.pooler_output

    @classmethod
    def pooled_tokens(cls, hidden: torch.Tensor, which: Any) -> torch.Tensor:
        """The tokens (B', m, d) that are pooled among all tokens (B, L, d), if the tower can be shortened."""
        raise NotImplementedError

    @classmethod
    def feature_parts(cls, model: nn.Module) -> list[nn.Module]:
        """The modules of a whole model that features pass through: the tower, and its projection if there is one."""
        return [part(model, path) for path in (cls.tower, cls.projection) if path is not None]

    @classmethod
    def project(cls, model: nn.Module, pooled: torch.Tensor) -> torch.Tensor:
        """The features (B, D), not normalized, of a whole model from the tower's pooled output (B, d)."""
        return pooled if cls.projection is None else part(model, cls.projection)(pooled)

    @classmethod
    def hooked_modules(cls, tower: nn.Module) -> list[nn.Module]:
        """The modules that must stay in place so that the prompts reach the tower."""
        encoder = part(tower, cls.encoder)
        return [tower, part(tower, cls.embeddings), encoder, *part(encoder, cls.layers)]

    def attach(self, tower: nn.Module) -> list[RemovableHandle]:
        """Register the hooks on one tower."""
        _, embeddings, encoder, *layers = self.hooked_modules(tower)
        hooks = [
            tower.register_forward_pre_hook(self.prepare, with_kwargs=True),
            embeddings.register_forward_hook(self.insert),
            encoder.register_forward_pre_hook(self.hand_down, with_kwargs=True),
            *(
                layer.register_forward_pre_hook(partial(self.overwrite, index), with_kwargs=True)
                for index, layer in enumerate(layers)
            ),
            encoder.register_forward_hook(self.remove),
            tower.register_forward_hook(self.remove_from_hidden_states),
        ]
        if self.can_be_shortened:
            hooks += last_layer.attach(layers[-1], self.attention_norm, self.attention, self.pooled_tokens)
        return hooks

    def prepare(self, tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Adjust the tower's arguments for the inserted prompts; drop `CONDITION`, which only a subclass may use."""
        if self.source.num_tokens(self.modality) and kwargs.get("adapter_names") is not None:
            raise ValueError(NO_ADAPTER_PER_SAMPLE)
        return args, {name: value for name, value in kwargs.items() if name != CONDITION}

    def as_embedded(self, embeddings: nn.Module, prompts: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The input prompts (b, n, d) in the form in which they join the embedded tokens, which are on `device`."""
        return prompts

    def insert(self, embeddings: nn.Module, args: tuple, hidden: torch.Tensor) -> Optional[torch.Tensor]:
        """Insert input prompts computed without a condition; if there is one, `hand_down` replaces these prompts."""
        prompts = self.source.prompts(self.modality, 0, 1).get(0)  # (1, n, d)
        if prompts is None:
            return None
        return self._replace(hidden, 0, self.as_embedded(embeddings, prompts, hidden.device))  # -> (B, L + n, d)

    def hand_down(self, encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Compute the prompts of all deep layers in one call, and pass them to the layers as an argument."""
        condition, own = kwargs.get(CONDITION), kwargs.pop(INPUT_PROMPTS, None)
        kwargs.pop(IMAGES, None)  # the vision tower passes it on, if its layers need it
        if own is not None:  # (b, n, d), which the embeddings could not know
            hidden, *rest = args or (kwargs.pop("inputs_embeds"),)
            args = self._replace(hidden, own.shape[1], own), *rest  # (B, L + n, d), unchanged shape
        n, mask = self.source.num_tokens(self.modality), args[1] if len(args) > 1 else kwargs.get("attention_mask")
        if n and mask is not None and self.source.start(self.modality):
            kwargs = {**kwargs, DEEP_MASK: self.mask_with_room(mask, n)}
        pooled, shortened = kwargs.pop(POOLED_ONLY, None), self.shortened(encoder)
        if pooled is not None and shortened is not None:
            kwargs = {**kwargs, SHORTENED: Shortened(shortened, pooled)}
        if self._checkpoints_layers(encoder):
            # Each layer computes its own prompts, and again in the backward pass: reentrant checkpointing cannot
            # share a graph across layers.
            return args, kwargs
        prompts = self.source.prompts(self.modality, 1, condition=condition)
        kwargs.pop(CONDITION, None)
        return args, {**kwargs, DEEP_PROMPTS: prompts} if prompts else kwargs

    def shortened(self, encoder: nn.Module) -> Optional[int]:
        """The index of the layer that can be shortened now (see `last_layer`); None: all layers stay whole."""
        if not self.can_be_shortened or self._checkpoints_layers(encoder):
            return None
        return len(part(encoder, self.layers)) - 1

    def _checkpoints_layers(self, encoder: nn.Module) -> bool:
        layers = part(encoder, self.layers)
        return encoder.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers)

    def overwrite(self, index: int, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """
        Overwrite the prompt tokens that the previous layer returned with the prompts of deep layer `index`, or insert
        them if they start there.
        """
        # taken out of the arguments, because no layer knows them
        prompts, condition = kwargs.pop(DEEP_PROMPTS, None), kwargs.pop(CONDITION, None)
        mask = kwargs.pop(DEEP_MASK, None)
        if SHORTENED in kwargs and kwargs[SHORTENED].layer != index:
            del kwargs[SHORTENED]
        if prompts is None:
            prompts = self.source.prompts(self.modality, index, index + 1, condition) if index else {}
        own = prompts.get(index)
        if own is not None and index:
            hidden, *rest = args
            inserted = index == self.source.start(self.modality)
            args = self._replace(hidden, 0 if inserted else own.shape[1], own), *rest  # (B, L + n, d)
        if mask is not None and index >= self.source.start(self.modality):
            if len(args) > 1:
                args = args[0], mask, *args[2:]
            else:
                kwargs["attention_mask"] = mask
        return args, kwargs

    def mask_with_room(self, mask: torch.Tensor, n: int) -> torch.Tensor:
        """The encoder's attention mask for sequences into which n prompts were inserted above the input."""
        raise NotImplementedError

    def remove(self, encoder: nn.Module, args: tuple, output):
        """Remove the prompt tokens from the encoder's last hidden state."""
        n = self.source.num_tokens(self.modality)
        if n:
            output.last_hidden_state = self._replace(output.last_hidden_state, n)  # (B, L + n, d) -> (B, L, d)
        return output

    def remove_from_hidden_states(self, tower: nn.Module, args: tuple, output):
        """Remove the prompt tokens from the hidden states of all layers, if the caller has asked for hidden states."""
        n, start = self.source.num_tokens(self.modality), self.source.start(self.modality)
        if not n:
            return None

        def shortened(states):  # hidden states are (B, L + n, d); attentions, which have a fourth axis, stay
            if isinstance(states, tuple) and any(state is not None and state.dim() == 3 for state in states):
                # the first is the input of layer 0, the others are the outputs of the layers
                has_prompts = [index > start or start == 0 for index in range(len(states))]
                has_prompts[-1] &= not self.ties_last_state
                pairs = zip(states, has_prompts)
                return tuple(self._replace(state, n) if has and state is not None else state for state, has in pairs)
            return states

        if isinstance(output, tuple):  # return_dict=False
            return tuple(map(shortened, output))
        if output.get("hidden_states") is not None:  # a ModelOutput, or the plain dict of transformers' exporters
            output["hidden_states"] = shortened(output["hidden_states"])
        return output

    def _replace(self, hidden: torch.Tensor, n: int, prompts: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Replace the n prompt tokens of `hidden` by `prompts` (1 or B, m, d), or remove them if `prompts` is None."""
        before, after = self.split(hidden, n)
        batch_size = hidden.shape[0]  # not len(hidden), which torch.export would take for a constant
        if prompts is not None:
            if prompts.shape[0] != 1 and prompts.shape[0] != batch_size:
                raise ValueError(
                    f"{CONDITION} gives {self.modality} prompts for {prompts.shape[0]} samples, but the batch has "
                    f"{batch_size}. Give it one row per sample."
                )
            prompts = prompts.to(hidden).expand(batch_size, -1, -1)  # -> (B, m, d)
        parts = [part for part in (before, prompts, after) if part is not None]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
