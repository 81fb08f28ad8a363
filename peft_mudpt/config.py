"""`MuDPTConfig`: the settings of an adapter, and the checks that refuse invalid values and combinations."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple, Optional, Union, cast, get_args

from .combinations import check_combinations
from .fitting import fit_condition, fit_images, fit_tower
from .presets import PRESETS
from .rules import (
    AT_LEAST_ONE,
    DESCRIPTIONS,
    LARGEST_STD,
    NAMES,
    NUMBERS_OF_CLASSES,
    SEED,
    TEMPLATE,
    TEMPLATES,
    TEXT,
    TOKEN_IDS_BY_WORDS,
    TRUE_OR_FALSE,
    either,
    number,
    one_of,
    record,
    whole_number,
)
from .settings import PromptConfig, setting


class MuDPTType(str, Enum):
    """The `peft_type` in `adapter_config.json`. PEFT finds a method by this string; `PeftType` need not have it."""

    MUDPT = "MUDPT"


class TowerShape(NamedTuple):
    """The sizes of one CLIP tower (the text or the vision encoder) that an adapter must fit."""

    hidden_size: int
    num_layers: int
    num_positions: Optional[int] = None  # rows of the text tower's position table
    image_size: Optional[int] = None  # pixels of both sides of the vision tower's images; None if of any size


Modality = Literal["text", "vision"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Depth = Union[int, Literal["all"], None]
FusionDirection = Literal["none", "text_to_vision", "vision_to_text", "bidirectional"]
FusionType = Literal["linear", "transformer"]
FusionCombine = Literal["add", "replace"]
FusionSharing = Literal["all", "input_and_deep", "per_layer"]
PromptInitialization = Literal["random", "mean_pool", "max_pool", "kmeans"]
Conditioning = Literal["none", "image", "noise", "class"]

TOKENS_OR_NONE, WIDTH_OR_NONE = either(whole_number(0), None), either(whole_number(1), None)
IMAGE_SIZE = either(AT_LEAST_ONE, None)
DEPTH = either(whole_number(0), "all", None)
CALIBRATION = record(temperature=either(number(1e-6, 1e6), None), scores=NUMBERS_OF_CLASSES)
INITIALIZATION = record(
    method=one_of(*get_args(PromptInitialization)), seed=either(SEED, None), num_images=AT_LEAST_ONE
)


@dataclass
class MuDPTConfig(PromptConfig):
    """
    Configuration of a MuDPT adapter: learned prompt tokens in both towers of a frozen CLIP, coupled by injection
    models, small networks that map the prompts of one tower to the width of the other (MuDPT, arXiv 2306.11400). Other
    settings give CoOp, VPT, IVLP and MaPLe; see [`MuDPTConfig.from_preset`].

    With n prompt tokens in each of J layers (the depth), a tower of width d has prompts of shape (J, n, d).
    `prompts.MultiModalPrompts` gives the formulas that fuse the prompts of both towers. `presets.py` names the paper
    of each method.

    When the adapter is created, the fields that depend on the base model are filled in (`text_hidden_size`,
    `vision_hidden_size`, the depths, `image_size`, `text_prompt_init_ids`), so that the saved config describes the
    adapter completely. Use a new config for another base model.

    Raises:
        ValueError: if a value breaks the rule of its field, or if fields contradict each other. The message names the
            fields and their values, and tells what to change.
    """

    num_virtual_tokens: int = setting(
        4,
        "Number of prompt tokens per layer, in each tower that has prompts.",
        whole_number(1, remark="to leave a tower out, set its depth to 0"),
    )
    text_num_virtual_tokens: Optional[int] = setting(
        None, "Number of text prompt tokens, if other than num_virtual_tokens. 0: no prompts.", TOKENS_OR_NONE
    )
    vision_num_virtual_tokens: Optional[int] = setting(
        None, "Number of visual prompt tokens, if other than num_virtual_tokens. 0: none.", TOKENS_OR_NONE
    )
    prompt_depth: Depth = setting(
        None,
        "Number of layers that receive prompts of their own, the input counted as the first. 'all': every layer of "
        "the tower. None: 9 as in the paper, or up to the last layer of the shallower tower if these are fewer.",
        DEPTH,
    )
    text_prompt_depth: Depth = setting(
        None, "Depth of the text prompts, if other than prompt_depth. 0: no text prompts.", DEPTH
    )
    vision_prompt_depth: Depth = setting(
        None, "Depth of the visual prompts, if other than prompt_depth. 0: no visual prompts.", DEPTH
    )
    first_layer: int = setting(
        0,
        "The first layer with prompts, counted from 0, the input. In a layer k >= 1, the prompts are inserted before "
        "the layer; below it, both towers run as without prompts. prompt_depth counts from this layer on.",
        whole_number(0),
    )
    text_first_layer: Optional[int] = setting(
        None, "First layer of the text prompts, if other than first_layer.", either(whole_number(0), None)
    )
    vision_first_layer: Optional[int] = setting(
        None, "First layer of the visual prompts, if other than first_layer.", either(whole_number(0), None)
    )
    text_prompt_init_text: Optional[str] = setting(
        None,
        "Words such as 'a photo of a': the text prompts of the input layer start from their token embeddings (the "
        "first tokens, if there are more than prompts). None: random, as are all other prompts.",
        either(TEXT, None),
    )
    tokenizer_name_or_path: Optional[str] = setting(
        None, "Tokenizer for text_prompt_init_text. None: the base model's own.", either(TEXT, None)
    )
    init_std: float = setting(
        0.02,
        "Standard deviation of randomly initialized prompts, in the units of token embeddings.",
        number(0, LARGEST_STD),
    )
    fusion_direction: FusionDirection = setting(
        "bidirectional",
        "Which tower's raw prompts inform the other tower's prompts.",
        one_of(*get_args(FusionDirection)),
    )
    fusion_type: FusionType = setting(
        "transformer",
        "The injection model: one Linear, or a light transformer block.",
        one_of(*get_args(FusionType)),
    )
    fusion_combine: FusionCombine = setting(
        "add",
        "'add': shift the target's own prompts. 'replace': the target has no prompts of its own.",
        one_of(*get_args(FusionCombine)),
    )
    fusion_sharing: FusionSharing = setting(
        "all",
        "One injection model for all layers, one for the input and one for the rest, or one each.",
        one_of(*get_args(FusionSharing)),
    )
    conditioning: Conditioning = setting(
        "none",
        "What the text prompts depend on. 'image': a meta-net maps the feature of each image to a shift of its text "
        "prompts (CoCoOp). 'noise': the same from random vectors in training and from one fixed vector otherwise, a "
        "control. 'class': a meta-net maps the frozen text feature of each class to tokens that replace the text "
        "prompts in layer class_token_layer (TCP).",
        one_of(*get_args(Conditioning)),
    )
    meta_net_reduction: int = setting(
        16, "The meta-net has feature_size / meta_net_reduction hidden channels.", whole_number(1)
    )
    class_token_layer: Optional[int] = setting(
        None,
        "With conditioning='class': the layer, counted from 0, before which the tokens of each class replace the text "
        "prompts. None: after two thirds of the layers, as in TCP (8 of 12).",
        either(whole_number(1), None),
    )
    condition_template: str = setting(
        "a photo of a {}.",
        "With conditioning='class': the text, with {} for the class name, whose frozen feature the tokens are made "
        "from. MuDPTClassifier computes it.",
        TEMPLATE,
    )
    class_specific_context: bool = setting(
        False,
        "Each class has text prompts of its own in the input, as in CoOp with CSC. Such an adapter can name only the "
        "classes that it was trained on.",
        TRUE_OR_FALSE,
    )
    num_classes: Optional[int] = setting(
        None, "With class_specific_context: the number of classes.", either(whole_number(1, 1_000_000), None)
    )
    num_domains: Optional[int] = setting(
        None,
        "Number of domains, such as photographs and sketches (Fed-DPT). Each domain has text prompts of its own in "
        "the input, and one visual prompt token per layer, and each image weighs the domains.",
        either(whole_number(1), None),
    )
    domain_temperature: float = setting(
        0.1,
        "With num_domains: what the scores of the domains are divided by before the softmax that makes the weights.",
        number(1e-6, LARGEST_STD),
    )
    domain_names: Optional[list[str]] = setting(
        None, "With num_domains: the domains, in order. A note: it changes no number.", either(NAMES, None)
    )
    learn_logit_scale: bool = setting(
        False,
        "Learn a shift of the model's logit_scale, the logarithm of what multiplies the cosines, beside the prompts.",
        TRUE_OR_FALSE,
    )
    learn_logit_bias: bool = setting(
        False,
        "Learn a shift of SigLIP's logit_bias, too. It matters to its sigmoid loss over pairs of images and texts, "
        "and cancels in probabilities of classes.",
        TRUE_OR_FALSE,
    )
    text_hidden_size: Optional[int] = setting(
        None, "Width of the text tower (numbers per token). Filled in from the base model.", WIDTH_OR_NONE
    )
    vision_hidden_size: Optional[int] = setting(
        None, "Width of the vision tower (numbers per token). Filled in from the base model.", WIDTH_OR_NONE
    )
    feature_size: Optional[int] = setting(
        None, "Channels of the features, for the meta-net. Filled in from the base model.", WIDTH_OR_NONE
    )
    image_size: Optional[int] = setting(
        None,
        "Pixels of both sides of the images that the adapter is for. Filled in from the base model, and by "
        "set_image_size. MuDPTClassifier.from_pretrained makes the model take such images; PEFT warns of others.",
        IMAGE_SIZE,
    )
    text_prompt_init_ids: Optional[dict[str, list[int]]] = setting(
        None,
        "Token ids of text_prompt_init_text, by its words. Filled in, so that loading needs no tokenizer.",
        either(TOKEN_IDS_BY_WORDS, None),
    )
    prompt_initialization: Optional[dict[str, Any]] = setting(
        None,
        "How initialize_prompts started the visual prompts: method, seed and number of images. Filled in. A note: it "
        "changes no number. None: random numbers.",
        either(INITIALIZATION, None),
    )
    class_template: Optional[str] = setting(
        None,
        "Text of a class as the adapted model is fed it, with {} for the name: what stands after the text prompts. A "
        "note: it changes no number.",
        either(TEMPLATE, None),
    )
    class_templates: Optional[list[str]] = setting(
        None, "Like class_template, if each class has several texts. A note.", either(TEMPLATES, None)
    )
    class_descriptions: Optional[dict[str, list[str]]] = setting(
        None,
        "Further texts of each class, by class name, which follow the text prompts as they are. A note.",
        either(DESCRIPTIONS, None),
    )
    calibration: Optional[dict[str, Any]] = setting(
        None,
        "What held-out pictures of class_names told about the probabilities: the temperature, and the scores of each "
        "class (see Calibration). Filled in by the classifier's calibrate. A note: it changes no number.",
        either(CALIBRATION, None),
    )
    method_type: ClassVar[MuDPTType] = MuDPTType.MUDPT

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> MuDPTConfig:
        """
        Create the configuration of a published method.

        Args:
            preset: a name in `PRESETS`, such as `maple`.
            **overrides: fields of [`MuDPTConfig`] whose values replace those of the preset.

        Raises:
            ValueError: if there is no such preset, or if an override is invalid or contradicts the preset.
        """
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"Unknown preset {preset!r}; the presets are {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[preset], **overrides})

    def num_tokens(self, modality: Modality) -> int:
        """Number of prompt tokens per layer of one tower; 0 if that tower has no prompts."""
        if self.asked_depth(modality) == 0:
            return 0
        if modality == "vision" and self.num_domains is not None:
            return self.num_domains
        own = getattr(self, f"{modality}_num_virtual_tokens")
        return self.num_virtual_tokens if own is None else own

    def depth(self, modality: Modality) -> int:
        """Number of layers of one tower that have prompts, 0 if none. Before `resolve`, it may be "all" or None."""
        return cast(int, self.asked_depth(modality)) if self.num_tokens(modality) else 0

    def asked_depth(self, modality: Modality) -> Depth:
        """The depth as it was asked for, even if the tower has no prompts."""
        own = getattr(self, f"{modality}_prompt_depth")
        return self.prompt_depth if own is None else own

    def start(self, modality: Modality) -> int:
        """The first layer of one tower that has prompts; 0 is the input."""
        own = getattr(self, f"{modality}_first_layer")
        return self.first_layer if own is None else own

    def layers(self, modality: Modality) -> range:
        """The layers of one tower that have prompts, after `resolve`."""
        start = self.start(modality)
        return range(start, start + self.depth(modality))

    def fused_layers(self, source: Modality) -> range:
        """The layers whose `source` prompts are fused into the other tower. The text input (layer 0) receives none."""
        direction = {"text": "text_to_vision", "vision": "vision_to_text"}[source]
        if self.fusion_direction not in (direction, "bidirectional"):
            return range(0)
        both = _overlap(*map(self.layers, MODALITIES))
        return both if source == "text" else range(max(1, both.start), max(1, both.stop))

    def owned_layers(self, modality: Modality) -> range:
        """
        The layers for which one tower stores prompts of its own, which all classes and domains share. With
        `fusion_combine="replace"`, layers whose prompts are generated from the other tower do not count.
        """
        layers = self.layers(modality)
        if modality == "text" and (self.class_specific_context or self.num_domains is not None):
            layers = layers[1:]
        if self.fusion_combine == "add" or self.fusion_direction == "none":
            return layers
        source: Modality = "vision" if modality == "text" else "text"
        # `replace` needs equal layers, of which at most the input receives nothing
        return layers[: len(layers) - len(self.fused_layers(source))]

    def resolve(self, towers: dict[Modality, TowerShape], feature_size: Optional[int] = None) -> None:
        """
        Fill in what depends on the base model: widths, depths and the size of images. If this fails, the config stays
        unchanged. It warns if the config is for images of another size than the base model takes.

        Args:
            towers: the sizes of each tower that the base model has. A tower may be missing if the config gives it no
                prompts, or already holds its width and depth, as that of a saved adapter does.
            feature_size: number of channels of the base model's features; None if it has none, as a tower alone.

        Raises:
            ValueError: if the config is invalid or does not fit these towers.
        """
        self.validate()
        resolved = copy(self)
        prompted = [modality for modality in MODALITIES if self.num_tokens(modality)]
        shallowest = min((towers[m].num_layers for m in prompted if m in towers), default=0)
        for modality in MODALITIES:
            if modality not in prompted:
                setattr(resolved, f"{modality}_prompt_depth", 0)
            elif modality in towers:
                fit_tower(resolved, modality, towers[modality], shallowest)
            elif not (getattr(self, f"{modality}_hidden_size") and isinstance(self.asked_depth(modality), int)):
                raise ValueError(
                    f"The base model has no {modality} tower, but the config asks for {modality} prompts. Set "
                    f"{modality}_prompt_depth=0 (and fusion_direction='none'), or give {modality}_hidden_size and "
                    f"{modality}_prompt_depth of the CLIP that the adapter is meant for."
                )
        if self.conditioning != "none":
            fit_condition(resolved, feature_size, towers.get("text"))
        if "vision" in towers:
            fit_images(resolved, towers["vision"])
        check_combinations(resolved)
        vars(self).update(vars(resolved))

    def validate(self) -> None:
        """Check everything that does not depend on the base model; raise the ValueError that the class describes."""
        super().validate()
        check_combinations(self)


def _overlap(first: range, second: range) -> range:
    """The layers that two ranges have in common."""
    return range(max(first.start, second.start), min(first.stop, second.stop))
