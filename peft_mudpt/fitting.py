"""Fills in the settings of an adapter that depend on the base model, and refuses an adapter that does not fit it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Optional


if TYPE_CHECKING:
    from .config import Modality, MuDPTConfig, TowerShape


# What `prompt_depth=None` stands for: the depth of MaPLe's and MuDPT's published runs on ViT-B/16.
PAPER_DEPTH = 9


def fit_tower(config: MuDPTConfig, modality: Modality, tower: TowerShape, shallowest: int) -> None:
    """
    Fill in the width and depth of one tower.

    Args:
        config: the config, which is changed.
        modality: the tower.
        tower: its sizes.
        shallowest: number of layers of the shallower tower, of those that have prompts.

    Raises:
        ValueError: if the config does not fit the tower.
    """
    width_field, depth_field = f"{modality}_hidden_size", f"{modality}_prompt_depth"
    width, depth, n = getattr(config, width_field), config.asked_depth(modality), config.num_tokens(modality)
    if width not in (None, tower.hidden_size):
        raise ValueError(
            f"This adapter was made for {width_field}={width}, but the base model's {modality} tower is "
            f"{tower.hidden_size} wide. Load it onto the base model it was trained on; for a new adapter create a "
            "new MuDPTConfig."
        )
    start, number = config.start(modality), tower.num_layers
    if start >= number:
        raise ValueError(
            f"{modality}_first_layer (or first_layer) is {start}, but the base model's {modality} tower has only "
            f"{number} layers, counted from 0. Choose at most {number - 1}."
        )
    if depth is None:
        depth = min(PAPER_DEPTH, (shallowest if start < shallowest else number) - start)
    elif depth == "all":
        depth = number - start
    if start + depth > number:
        following = f", {number - start} of them from layer {start} on" if start else ""
        raise ValueError(
            f"{depth_field} (or prompt_depth) is {depth}, but the base model's {modality} tower has only "
            f"{number} layers{following}. Choose at most {number - start}, or 'all'."
        )
    if start == 0 and tower.num_positions is not None and n + 3 > tower.num_positions:
        raise ValueError(
            f"{n} {modality} prompt tokens (num_virtual_tokens or {modality}_num_virtual_tokens) leave no room "
            f"for BOS, a word and EOS among the tower's {tower.num_positions} positions. Use at most "
            f"{tower.num_positions - 3}."
        )
    setattr(config, width_field, tower.hidden_size)
    setattr(config, depth_field, depth)


def fit_condition(config: MuDPTConfig, feature_size: Optional[int], text: Optional[TowerShape]) -> None:
    """
    Fill in what the meta-net depends on.

    Args:
        config: the config, which is changed.
        feature_size: number of channels of the base model's features; None if it has none, as a tower alone.
        text: the sizes of the text tower; None if the base model has none.

    Raises:
        ValueError: if the config does not fit the base model.
    """
    if config.feature_size is None and feature_size is None:
        raise ValueError(
            f"conditioning={config.conditioning!r} needs the features of a whole CLIP, but the base model is one "
            "tower. Give the whole model, or feature_size of the CLIP that the adapter is meant for."
        )
    if None not in (config.feature_size, feature_size) and config.feature_size != feature_size:
        raise ValueError(
            f"This adapter was made for feature_size={config.feature_size}, but the base model's features have "
            f"{feature_size} channels. Load it onto the base model it was trained on."
        )
    config.feature_size = config.feature_size or feature_size
    if config.conditioning == "class" and text is not None:
        if config.class_token_layer is None:
            config.class_token_layer = 2 * text.num_layers // 3
        if config.class_token_layer >= text.num_layers:
            raise ValueError(
                f"class_token_layer is {config.class_token_layer}, but the base model's text tower has only "
                f"{text.num_layers} layers, counted from 0. Choose at most {text.num_layers - 1}."
            )


def fit_images(config: MuDPTConfig, vision: TowerShape) -> None:
    """
    Fill in the size of the images. It warns if the adapter is for images of another size than the base model takes.

    Args:
        config: the config, which is changed.
        vision: the sizes of the vision tower.
    """
    own, found = config.image_size, vision.image_size
    if own is None or found is None:
        config.image_size = own or found
    elif own != found:
        warnings.warn(
            f"This adapter is for images of {own} x {own} pixels, but the base model takes {found} x {found}, so that "
            f"its predictions can be worse. Call peft_mudpt.set_image_size(model, {own}) before you load the adapter, "
            "or load it with MuDPTClassifier.from_pretrained. For a new adapter, create a new MuDPTConfig.",
            stacklevel=2,
        )
