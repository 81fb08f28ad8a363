"""Refuses combinations of settings without meaning; each rule that concerns one setting alone stands beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .config import MuDPTConfig


def check_combinations(config: MuDPTConfig) -> None:
    """
    Refuse settings of an adapter that contradict each other.

    Args:
        config: the config. Before `MuDPTConfig.resolve`, a depth may be open ("all" or None); what depends on it is
            checked afterwards.

    Raises:
        ValueError: if settings contradict each other. The message names them and their values, and tells what to
            change.
    """
    if not (config.num_tokens("text") or config.num_tokens("vision")):
        raise ValueError(
            "Neither tower has prompts: give text_prompt_depth or vision_prompt_depth a value above 0 "
            "(and at least one token)."
        )
    _check_words(config)
    _check_texts(config)
    _check_conditioning(config)
    _check_class_contexts(config)
    _check_domains(config)
    if config.fusion_direction != "none":
        _check_fusion(config)


def _check_words(config: MuDPTConfig) -> None:
    words = config.text_prompt_init_text
    if words is None:
        return
    if not config.num_tokens("text"):
        raise ValueError(
            f"text_prompt_init_text={words!r} starts the text prompts, but there are none. Leave it out, or give "
            "text_prompt_depth a value above 0."
        )
    if config.start("text"):
        raise ValueError(
            f"text_prompt_init_text={words!r} starts the text prompts of the input, but they begin at layer "
            f"{config.start('text')} (text_first_layer or first_layer). Leave it out, or set text_first_layer=0."
        )


def _check_texts(config: MuDPTConfig) -> None:
    if config.class_template is not None and config.class_templates is not None:
        raise ValueError(
            f"class_template={config.class_template!r} and class_templates={config.class_templates!r} both give the "
            "texts of a class. Leave one out."
        )
    scores = None if config.calibration is None else config.calibration["scores"]
    if scores is not None and len(scores) != len(config.class_names or ()):
        raise ValueError(
            f"calibration has the scores of {len(scores)} classes, but class_names has "
            f"{len(config.class_names or ())}. Leave calibration out, and calibrate a classifier with these classes."
        )


def _check_conditioning(config: MuDPTConfig) -> None:
    if config.class_token_layer is not None and config.conditioning != "class":
        raise ValueError(
            f"class_token_layer={config.class_token_layer} has no effect with conditioning={config.conditioning!r}. "
            "Leave it out, or set conditioning='class'."
        )
    if config.conditioning == "none":
        return
    if not config.num_tokens("text"):
        raise ValueError(
            f"conditioning={config.conditioning!r} changes the text prompts, but there are none. Give "
            "text_prompt_depth a value above 0, or set conditioning='none'."
        )
    if config.conditioning != "class" and config.folded:
        raise ValueError(
            f"folded=True says that the prompts are constants, but conditioning={config.conditioning!r} changes the "
            "text prompts for each image. Leave folded out."
        )
    layer, depth = config.class_token_layer, config.asked_depth("text")
    if config.conditioning == "class" and layer is not None and isinstance(depth, int):
        stop = config.start("text") + depth
        if stop > layer:
            raise ValueError(
                f"class_token_layer={layer} replaces the text prompts by the tokens of each class, but layers up to "
                f"{stop - 1} have text prompts of their own. Lower text_prompt_depth (or prompt_depth), or raise "
                "class_token_layer."
            )


def _check_class_contexts(config: MuDPTConfig) -> None:
    if not config.class_specific_context:
        if config.num_classes is not None:
            raise ValueError(
                f"num_classes={config.num_classes} has no effect without class_specific_context=True. Leave it out."
            )
        return
    if config.num_classes is None:
        raise ValueError("class_specific_context=True needs the number of classes: give num_classes.")
    if not config.num_tokens("text"):
        raise ValueError(
            "class_specific_context=True gives each class text prompts, but there are none. Give text_prompt_depth a "
            "value above 0."
        )
    _check_alone(
        config,
        "class_specific_context=True",
        text_prompt_init_text=(config.text_prompt_init_text, None),
        fusion_combine=(config.fusion_combine, "add"),
    )
    if config.fusion_direction in ("text_to_vision", "bidirectional"):
        raise ValueError(
            "class_specific_context=True makes text prompts that depend on the class, but vision prompts cannot, so "
            f"that fusion_direction={config.fusion_direction!r} does not go together with it. Set it to 'none' or "
            "'vision_to_text'."
        )


def _check_domains(config: MuDPTConfig) -> None:
    k = config.num_domains
    if k is None:
        for name, default in (("domain_names", None), ("domain_temperature", type(config).domain_temperature)):
            if getattr(config, name) != default:
                raise ValueError(
                    f"{name}={getattr(config, name)!r} has no effect without num_domains. Leave it out, or give "
                    "num_domains."
                )
        return
    for modality in ("text", "vision"):
        if not config.num_tokens(modality):
            raise ValueError(
                f"num_domains={k} gives each domain prompts in both towers, but the {modality} tower has none. Give "
                f"{modality}_prompt_depth (or prompt_depth) a value above 0."
            )
    if config.vision_num_virtual_tokens not in (None, k):
        raise ValueError(
            f"num_domains={k} gives each domain one visual prompt token, but vision_num_virtual_tokens is "
            f"{config.vision_num_virtual_tokens}. Leave it out."
        )
    if config.domain_names is not None and len(config.domain_names) != k:
        raise ValueError(
            f"domain_names has {len(config.domain_names)} names, but num_domains is {k}. Name each domain once."
        )
    if config.domain_names is not None and len(set(config.domain_names)) < k:
        raise ValueError(f"domain_names={config.domain_names} has a name twice. Name each domain once.")
    _check_alone(
        config,
        f"num_domains={k}",
        class_specific_context=(config.class_specific_context, False),
        fusion_direction=(config.fusion_direction, "none"),
    )


def _check_alone(config: MuDPTConfig, given: str, **excluded: tuple[object, object]) -> None:
    """Refuse settings, each with the only value that goes together with text prompts that have a number."""
    excluded |= {
        "text_first_layer (or first_layer)": (config.start("text"), 0),
        "conditioning": (config.conditioning, "none"),
        "folded": (config.folded, False),
    }
    for name, (value, allowed) in excluded.items():
        if value != allowed:
            raise ValueError(f"{given} does not go together with {name}={value!r}; set it to {allowed!r}.")


def _check_fusion(config: MuDPTConfig) -> None:
    direction = config.fusion_direction
    if config.folded:
        raise ValueError(
            f"folded=True says that the prompts are fused, but fusion_direction is {direction!r}. Leave folded out; "
            "fold_adapter(model) sets both."
        )
    text, vision = config.num_tokens("text"), config.num_tokens("vision")
    if not (text and vision):
        raise ValueError(
            f"fusion_direction={direction!r} needs prompts in both towers, but the {'vision' if text else 'text'} "
            "tower has none (its depth or its number of tokens is 0). Set fusion_direction='none', or give that tower "
            "prompts."
        )
    if text != vision:
        raise ValueError(
            f"fusion_direction={direction!r} pairs the prompt tokens of the towers one by one, but there are {text} "
            f"text and {vision} visual tokens. Make text_num_virtual_tokens and vision_num_virtual_tokens equal, or "
            "set fusion_direction='none'."
        )
    if config.fusion_combine == "replace" and direction == "bidirectional":
        raise ValueError(
            "fusion_combine='replace' generates one tower's prompts from the other's, so it needs one direction: "
            "fusion_direction is 'bidirectional'. Set it to 'text_to_vision' or 'vision_to_text', or "
            "fusion_combine='add'."
        )
    _check_fused_layers(config)


def _check_fused_layers(config: MuDPTConfig) -> None:
    depths = text_depth, vision_depth = config.asked_depth("text"), config.asked_depth("vision")
    if not all(isinstance(depth, int) for depth in depths):
        return  # a depth that is still open is looked at again by `resolve`
    text, vision = config.layers("text"), config.layers("vision")
    starts = f"text_first_layer is {text.start} and vision_first_layer is {vision.start}"
    depths_in_words = f"text_prompt_depth is {text_depth} and vision_prompt_depth is {vision_depth}"
    if config.fusion_combine == "replace" and text != vision:
        differing, fields = (
            (depths_in_words, "depths") if text.start == vision.start else (f"{starts}, {depths_in_words}", "layers")
        )
        raise ValueError(
            "fusion_combine='replace' generates one tower's prompts layer by layer from the other's, but "
            f"{differing}. Make the {fields} equal, or set fusion_combine='add'."
        )
    if config.fusion_direction == "vision_to_text" and not config.fused_layers("vision"):
        raise ValueError(
            "fusion_direction='vision_to_text' begins at the second layer (the text input takes nothing in), but "
            f"{depths_in_words}{f', {starts}' if text.start or vision.start else ''}, so that no layer is left. Make "
            "both depths at least 2, and let the layers of both towers overlap."
        )
    if not config.fused_layers("text") and not config.fused_layers("vision"):
        raise ValueError(
            f"fusion_direction={config.fusion_direction!r} fuses the prompts of layers that both towers prompt, but "
            f"there is none: {starts}, {depths_in_words}. Let them overlap, or set fusion_direction='none'."
        )
