"""Whether a checkpoint is stored in a format: the depths of its prompts, and the names that are missing or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

import torch

from .format import Depths, Format, is_numbered, numbered, tower_of


class Match(NamedTuple):
    """
    How a checkpoint compares with a format.

    Attributes:
        format: the format.
        learned: the learned parameters, by the names that they have in the whole model.
        depths: the depth of the prompts of each tower.
        names: see `Format.names`.
    """

    format: Format
    learned: dict[str, torch.Tensor]
    depths: Depths
    names: dict[str, Optional[str]]

    @property
    def missing(self) -> list[str]:
        """The parameters that the format needs and the checkpoint lacks."""
        return [name for name, ours in self.names.items() if ours is not None and name not in self.learned]

    @property
    def unknown(self) -> list[str]:
        """The parameters of the checkpoint that the format does not have."""
        return [name for name in self.learned if name not in self.names]

    @property
    def fits(self) -> bool:
        """Whether no parameter is missing or unknown."""
        return not self.missing and not self.unknown

    def faults(self) -> str:
        """The missing and the unknown parameters, for messages."""
        return f"missing parameters: {_listed(self.missing)}, unknown parameters: {_listed(self.unknown)}"


def match(form: Format, learned: Mapping[str, torch.Tensor]) -> Match:
    """
    Compare a checkpoint with a format.

    Args:
        form: the format.
        learned: the learned parameters. If only the prompt learner was saved, they lack its name.
    """
    if "ctx" in learned:
        towers = ("image_encoder.", "text_encoder.")
        learned = {n if n.startswith(towers) else f"{form.learner}{n}": tensor for n, tensor in learned.items()}
    depths = _depths(form, learned)
    return Match(form, dict(learned), depths, form.names(depths))


def _depths(form: Format, learned: Mapping[str, torch.Tensor]) -> Depths:
    """Infer the depths from the numbers of layers in names, and from the lengths of stacks of deep prompts."""
    depths: Depths = dict.fromkeys(form.towers, 1)
    for published, ours in form.deep.items():
        tower = tower_of(ours)
        depths[tower] = max(depths[tower], _deepest(published, ours, learned))
    if form.fused:
        depths = dict.fromkeys(depths, max(depths.values()))
    if form.vision_is_optional and not any(name in learned for name in form.names(depths) if _is_visual(name)):
        depths["vision"] = 0
    return depths


def _is_visual(published: str) -> bool:
    return published.startswith("image_encoder.")


def _deepest(published: str, ours: str, learned: Mapping[str, torch.Tensor]) -> int:
    """The depth for which one entry of `Format.deep` gives evidence."""
    if is_numbered(published):
        # no deeper than the file has parameters: a mistyped number must not make millions of missing names
        return next((layer + 1 for layer in range(len(learned), 0, -1) if numbered(published, layer) in learned), 1)
    if ours.endswith(".deep") and published in learned:
        return 1 + len(learned[published])
    return 1


def _listed(names: list[str], most: int = 8) -> str:
    if not names:
        return "none"
    return f"{names[:most]}" + (f" and {len(names) - most} more" if len(names) > most else "")
