"""`SDPTConfig`: the settings of an SDPT adapter, and the checks that refuse invalid values."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Optional, Union

from ..rules import LARGEST_COUNT, LARGEST_STD, TRUE_OR_FALSE, Rule, either, number, whole_number
from ..settings import PromptConfig, setting


class SDPTType(str, Enum):
    """The `peft_type` in `adapter_config.json`. PEFT finds a method by this string; `PeftType` need not have it."""

    SDPT = "SDPT"


class FusionShape(NamedTuple):
    """The sizes of a detector's fusion layers that an adapter must fit."""

    hidden_size: int
    embed_dim: int
    num_layers: int


def _is_layer(value: Any) -> bool:
    return whole_number(0).accepts(value)


LAYERS = Rule(
    f"a layer, counted from 0, or a non-empty list of different ones, each at most {LARGEST_COUNT:,}",
    lambda value: (
        _is_layer(value)
        or (isinstance(value, list) and bool(value) and all(map(_is_layer, value)) and len(set(value)) == len(value))
    ),
)
SIZE = either(whole_number(1), None)


@dataclass
class SDPTConfig(PromptConfig):
    """
    Configuration of an SDPT adapter (arXiv 2407.11414) for a detector whose encoder has fusion layers, in which text
    and image attend to each other. Each fusion layer gets K learned prototype tokens U (K, D) in the space where
    attention compares text and image. Fixed pseudo-inverses of the two projections into that space map them to
    prompts of both streams; see [`~peft_mudpt.sdpt.prototypes.UnifiedPrototypes`] for the formulas. With
    `unified_prototypes=False`, the prompts of both streams are learned themselves.

    When the adapter is created, `hidden_size`, `embed_dim` and `num_fusion_layers` are filled in, so that the saved
    config describes the adapter completely. Use a new config for another base model.

    Raises:
        ValueError: if a value breaks the rule of its field, or if fields contradict each other. The message names the
            fields and their values.
    """

    num_virtual_tokens: int = setting(10, "Number K of prototype tokens per fusion layer.", whole_number(1))
    layers_to_transform: Optional[Union[int, list[int]]] = setting(
        None, "The fusion layers that get prompts, counted from 0. None: all.", either(LAYERS, None)
    )
    init_range: float = setting(
        1.0,
        "Prototypes, or the prompts if unified_prototypes is False, start uniformly distributed between -init_range "
        "and init_range.",
        number(0, LARGEST_STD),
    )
    unified_prototypes: bool = setting(
        True,
        "The prompts of both streams are computed from the prototypes. False: each stream learns K prompts of its own "
        "per fusion layer, without pseudo-inverses. It shows what the prototypes contribute.",
        TRUE_OR_FALSE,
    )
    mask_text_prompts: bool = setting(
        False,
        "The image does not see the text prompts, as in the released code: prompts then reach only the text directly.",
        TRUE_OR_FALSE,
    )
    rcond: Optional[float] = setting(
        None,
        "The pseudo-inverses treat singular values below rcond times the largest one as zero. A larger value makes "
        "smaller prompts if the projections are ill-conditioned. None: rounding errors of float64 alone.",
        either(number(0, 1), None),
    )
    hidden_size: Optional[int] = setting(None, "Width d of both streams. Filled in from the base model.", SIZE)
    embed_dim: Optional[int] = setting(
        None, "Width D of the attention in the fusion layers. Filled in from the base model.", SIZE
    )
    num_fusion_layers: Optional[int] = setting(None, "Number of fusion layers. Filled in from the base model.", SIZE)

    method_type: ClassVar[SDPTType] = SDPTType.SDPT

    @property
    def inverts_projections(self) -> bool:
        """Whether the adapter computes its prompts by pseudo-inverses of the base model's projections."""
        return self.unified_prototypes and not self.folded

    def validate(self) -> None:
        """Check everything that does not depend on the base model; raise the ValueError that the class describes."""
        super().validate()
        if self.rcond is not None and not self.unified_prototypes:
            raise ValueError(
                f"rcond={self.rcond} is for the pseudo-inverses, but with unified_prototypes=False there are none. "
                "Leave rcond out."
            )

    def layers(self) -> list[int]:
        """The fusion layers that have prompts, after `resolve`."""
        if self.layers_to_transform is None:
            assert self.num_fusion_layers is not None, "resolve fills it in"
            return list(range(self.num_fusion_layers))
        return [self.layers_to_transform] if isinstance(self.layers_to_transform, int) else self.layers_to_transform

    def resolve(self, shape: FusionShape) -> None:
        """
        Fill in what depends on the base model. If this fails, the config stays unchanged.

        Args:
            shape: the sizes of the base model's fusion layers.

        Raises:
            ValueError: if the config is invalid or does not fit these sizes.
        """
        self.validate()
        resolved = copy(self)
        for name, size in zip(("hidden_size", "embed_dim", "num_fusion_layers"), shape):
            own = getattr(self, name)
            if own not in (None, size):
                raise ValueError(
                    f"This adapter was made for {name}={own}, but the base model has {name}={size}. Load it onto the "
                    "base model it was trained on; for a new adapter create a new SDPTConfig."
                )
            setattr(resolved, name, size)
        beyond = [layer for layer in resolved.layers() if layer >= shape.num_layers]
        if beyond:
            raise ValueError(
                f"layers_to_transform={self.layers_to_transform} names {beyond}, but the base model has only "
                f"{shape.num_layers} fusion layers, counted from 0. Choose at most {shape.num_layers - 1}."
            )
        vars(self).update(vars(resolved))
