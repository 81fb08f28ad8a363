"""`Format`: how one published implementation stores the parameters of one method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from ..config import MODALITIES, Modality, MuDPTConfig


# Published name -> name in `MultiModalPrompts`. "<prompts>.<i>" is layer i of a stack; "<prompts>.deep" is all layers
# after the first.
Names = dict[str, str]
Depths = dict[Modality, int]  # number of layers with prompts in each tower, including the input


@dataclass(frozen=True)
class Format:
    """
    How one published implementation stores the parameters of one method.

    Attributes:
        methods: the names of the method that users may give, the one in its own code first.
        code: whose code it is.
        preset: the preset of the method.
        input: names of the parameters that are needed at every depth.
        deep: names of the parameters of the layers after the first. `{layer}` stands for the number of such a layer,
            of which the input is 0; `{before}` is one less, for code that counts these layers from 0. Parameters
            without a number have no influence at depth 1, and may then be missing.
        vision_is_optional: whether the code can also train without visual prompts.
        may_be_class_specific: whether each class may have a context of its own (CoOp's CSC).
        mark: the beginning of names that tell files of this code from others with the same parameters.
    """

    methods: tuple[str, ...]
    code: str
    preset: str
    input: Names
    deep: Names = field(default_factory=dict)
    vision_is_optional: bool = False
    may_be_class_specific: bool = False
    mark: Optional[str] = None

    @property
    def fused(self) -> bool:
        """Whether the prompts of one tower inform those of the other. Both towers then have the same depth."""
        return MuDPTConfig.from_preset(self.preset).fusion_direction != "none"

    @property
    def towers(self) -> tuple[Modality, ...]:
        """The towers of which files hold parameters."""
        owners = {tower_of(ours) for ours in self.input.values()}
        return tuple(modality for modality in MODALITIES if modality in owners)

    @property
    def learner(self) -> str:
        """The beginning of the names that a file lacks if only the prompt learner was saved; "" if it was never."""
        return next((name.removesuffix("ctx") for name in self.input if name.endswith("learner.ctx")), "")

    def names(self, depths: Depths) -> dict[str, Optional[str]]:
        """
        The names of all parameters in a file.

        Args:
            depths: the depths of the towers in `towers`.

        Returns:
            Published name -> name in `MultiModalPrompts`, the layers of each stack in order; None for a parameter
            without influence at these depths.
        """
        names: dict[str, Optional[str]] = {
            published: ours for published, ours in self.input.items() if depths[tower_of(ours)]
        }
        for published, ours in self.deep.items():
            depth = depths[tower_of(ours)]
            if is_numbered(published):
                names |= {numbered(published, layer): numbered(ours, layer) for layer in range(1, depth)}
            else:
                names[published] = ours if depth > 1 else None
        return names


def tower_of(ours: str) -> Modality:
    """The tower whose depth decides how many parameters of this kind there are: of networks, the text tower."""
    return "vision" if ours.startswith("vision_prompts.") else "text"


def is_numbered(published: str) -> bool:
    """Whether a name in `Format.deep` stands for one parameter per layer."""
    return "{" in published


def numbered(name: str, layer: int) -> str:
    """A name in `Format.deep` for one layer."""
    return name.format(layer=layer, before=layer - 1)
