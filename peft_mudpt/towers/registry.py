"""The supported model families, and how to find them and their towers. A new family is one entry of `FAMILIES`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple, Optional

import transformers
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ..config import MODALITIES, Modality
from .altclip import AltCLIPFamily
from .base import PromptedTower, part
from .chinese_clip import ChineseCLIPFamily
from .clip import CLIPFamily
from .family import Family
from .metaclip2 import MetaClip2Family
from .siglip import SiglipFamily
from .siglip2 import Siglip2Family
from .vit import PromptedViT


FAMILIES: tuple[Family, ...] = (
    CLIPFamily(),
    MetaClip2Family(),
    SiglipFamily(),
    Siglip2Family(),
    AltCLIPFamily(),
    ChineseCLIPFamily(),
)
# Towers that belong to no dual encoder.
SINGLE_TOWERS: tuple[type[PromptedTower], ...] = (PromptedViT,)

# By `model_type`: why a model that one would expect here is not supported.
REFUSED: dict[str, str] = {
    "grounding-dino": "For detectors, use SDPTConfig. ",
    "mm-grounding-dino": "For detectors, use SDPTConfig. ",
}

# Families that the installed transformers may lack.
if find_spec("transformers.models.tipsv2") is None:
    REFUSED["tipsv2"] = (
        f"TIPSv2 needs transformers 5.14 or later, but {transformers.__version__} is installed: "
        "pip install -U transformers. "
    )
else:
    from .tipsv2 import Tipsv2Family

    FAMILIES += (Tipsv2Family(),)


class Tower(NamedTuple):
    """A tower found in a model: its name there ("" is the model itself), the module, and its `PromptedTower` class."""

    name: str
    module: nn.Module
    kind: type[PromptedTower]


def family_of(model: nn.Module) -> Family:
    """
    The family of a whole model, which may be plain, inside nested `PeftModel`s, or compiled by `torch.compile`.

    Raises:
        ValueError: if the model belongs to no supported family, or to one that the installed transformers lacks.
    """
    base = model
    while True:  # a PeftModel may be in another one: an adapter of another method beside MuDPT's
        if hasattr(base, "_orig_mod"):
            base = part(base, "_orig_mod")
        elif hasattr(base, "get_base_model"):
            base = part(base, "get_base_model")()
        elif isinstance(base, BaseTuner):
            base = base.model
        else:
            break
    family = whole_family(base)
    if family is not None:
        return family
    *others, last = [family.model_class.__name__ for family in FAMILIES]
    raise ValueError(
        f"The model is a {_described(model)}; give a whole {', '.join(others)} or {last}, plain or adapted. "
        f"{REFUSED.get(_model_type(model), '')}".rstrip()
    )


def whole_family(model: nn.Module) -> Optional[Family]:
    """The family of a whole, plain model; None for any other module, such as a single tower."""
    for family in FAMILIES:  # no next(..., None): torch 2.8 does not compile it
        if isinstance(model, family.model_class):
            return family
    return None


def feature_size_of(model: nn.Module) -> Optional[int]:
    """Number of channels of the features of a whole model; None for any other module, such as a single tower."""
    family = whole_family(model)
    return None if family is None else family.feature_size(part(model, "config"))


def find_towers(model: nn.Module) -> dict[Modality, Tower]:
    """
    The supported towers in `model` by modality.

    Raises:
        ValueError: if the model has no supported tower, or more than one of the same modality.
    """
    of_families = (kind for family in FAMILIES for kind in family.towers.values())
    kinds = {kind.tower_class: kind for kind in (*of_families, *SINGLE_TOWERS)}
    found: dict[Modality, Tower] = {}
    for name, module in model.named_modules():
        kind = next((kind for tower_class, kind in kinds.items() if isinstance(module, tower_class)), None)
        if kind is None:
            continue
        if kind.modality in found:
            raise ValueError(
                f"{type(model).__name__} holds several {kind.modality} towers ({found[kind.modality].name!r} and "
                f"{name!r}); adapt the CLIP models in it one by one."
            )
        found[kind.modality] = Tower(name, module, kind)
    if not found:
        supported = ", ".join(tower_class.__name__ for tower_class in kinds)
        reason = REFUSED.get(_model_type(model), "")
        raise ValueError(
            f"{_described(model)} is no CLIP that MuDPT knows: it needs a model with one of the towers "
            f"{supported}, for example transformers.CLIPModel. {reason}The model was left as it is."
        )
    return found


def _model_type(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "model_type", "")


def _described(model: nn.Module) -> str:
    """The class of a model, and its `model_type` in transformers if it has one."""
    kind = _model_type(model)
    return type(model).__name__ + (f" (model_type {kind!r})" if kind else "")


def parts_elsewhere(towers: dict[Modality, Tower]) -> set[str]:
    """Paths, in a whole model of the same family, of the tower missing from `towers` and of its projection."""
    found = {tower.kind for tower in towers.values()}
    families = [family.towers for family in FAMILIES if found & set(family.towers.values())]
    missing = [kinds[modality] for kinds in families for modality in MODALITIES if modality not in towers]
    return {path for kind in missing for path in (kind.tower, kind.projection) if path is not None}
