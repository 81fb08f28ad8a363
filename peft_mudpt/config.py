"""`MuDPTConfig`: the settings of an adapter, and the checks that refuse invalid values and combinations."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple, Optional, Union, cast, get_args

from peft import PeftConfig

from ._version import __version__
from .presets import PRESETS
from .rules import (
    CLASS_NAMES,
    LARGEST_STD,
    MODULE_NAMES,
    TEMPLATE,
    TEXT,
    TOKEN_IDS_BY_WORDS,
    TRUE_OR_FALSE,
    Rule,
    either,
    number,
    one_of,
    whole_number,
)


# What PEFT raises on an adapter_config.json of wrong JSON, of another type than an object, or without a known method.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class MuDPTType(str, Enum):
    """The `peft_type` in `adapter_config.json`. PEFT finds a method by this string; `PeftType` need not have it."""

    MUDPT = "MUDPT"


class TowerShape(NamedTuple):
    """The sizes of one CLIP tower (the text or the vision encoder) that an adapter must fit."""

    hidden_size: int
    num_layers: int
    num_positions: Optional[int] = None  # rows of the text tower's position table


Modality = Literal["text", "vision"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Depth = Union[int, Literal["all"], None]
FusionDirection = Literal["none", "text_to_vision", "vision_to_text", "bidirectional"]
FusionType = Literal["linear", "transformer"]
FusionCombine = Literal["add", "replace"]
FusionSharing = Literal["all", "input_and_deep", "per_layer"]

# What `prompt_depth=None` stands for: the depth of MaPLe's and MuDPT's published runs on ViT-B/16.
PAPER_DEPTH = 9

TOKENS_OR_NONE, WIDTH_OR_NONE = either(whole_number(0), None), either(whole_number(1), None)
DEPTH = either(whole_number(0), "all", None)


def setting(default: Any, help: str, rule: Rule) -> Any:
    """Make a dataclass field of the config. Its metadata hold the help text and the rule that its values must obey."""
    return field(default=default, metadata={"help": help, "rule": rule})


@dataclass
class MuDPTConfig(PeftConfig):
    """
    Configuration of a MuDPT adapter: learned prompt tokens in both towers of a frozen CLIP, coupled by injection
    models, small networks that map the prompts of one tower to the width of the other (MuDPT, arXiv 2306.11400). Other
    settings give CoOp, VPT, IVLP and MaPLe; see [`MuDPTConfig.from_preset`].

    With n prompt tokens in each of J layers (the depth), a tower of width d has prompts of shape (J, n, d).
    `prompts.MultiModalPrompts` gives the formulas that fuse the prompts of both towers. `presets.py` names the paper
    of each method.

    When the adapter is created, the fields that depend on the base model are filled in (`text_hidden_size`,
    `vision_hidden_size`, the depths, `text_prompt_init_ids`), so that the saved config describes the adapter
    completely. Use a new config for another base model.

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
        "the tower. None: 9 as in the paper, or every layer of the shallower tower if it has fewer.",
        DEPTH,
    )
    text_prompt_depth: Depth = setting(
        None, "Depth of the text prompts, if other than prompt_depth. 0: no text prompts.", DEPTH
    )
    vision_prompt_depth: Depth = setting(
        None, "Depth of the visual prompts, if other than prompt_depth. 0: no visual prompts.", DEPTH
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
    modules_to_save: Optional[list[str]] = setting(
        None, "Modules of the base model to train and save beside the prompts.", either(MODULE_NAMES, None)
    )
    text_hidden_size: Optional[int] = setting(
        None, "Width of the text tower (numbers per token). Filled in from the base model.", WIDTH_OR_NONE
    )
    vision_hidden_size: Optional[int] = setting(
        None, "Width of the vision tower (numbers per token). Filled in from the base model.", WIDTH_OR_NONE
    )
    text_prompt_init_ids: Optional[dict[str, list[int]]] = setting(
        None,
        "Token ids of text_prompt_init_text, by its words. Filled in, so that loading needs no tokenizer.",
        either(TOKEN_IDS_BY_WORDS, None),
    )
    folded: bool = setting(
        False,
        "The prompts are constants, fused once and for all. Set by fold_adapter; not for training.",
        TRUE_OR_FALSE,
    )
    class_names: Optional[list[str]] = setting(
        None,
        "The classes the adapter was trained on, in label order. A note: it changes no number.",
        either(CLASS_NAMES, None),
    )
    class_template: Optional[str] = setting(
        None,
        "Text of a class as the adapted model is fed it, with {} for the name: what stands after the text prompts. A "
        "note: it changes no number.",
        either(TEMPLATE, None),
    )
    # In the file beside `peft_type`: the package to import for whoever meets PEFT's bare "KeyError: 'MUDPT'".
    peft_mudpt_version: Optional[str] = setting(
        None, "peft_mudpt version, leave empty to auto-fill.", either(TEXT, None)
    )

    # PEFT reads this attribute of every tuner's config. The prompts enter at fixed places: there is nothing to target.
    target_modules: ClassVar[None] = None

    def __post_init__(self):
        self.peft_type = MuDPTType.MUDPT
        if self.peft_mudpt_version is None:
            self.peft_mudpt_version = __version__
        self.validate()
        super().__post_init__()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: Optional[str] = None, **kwargs):
        try:
            return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        except UNREADABLE as error:
            cause = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"The adapter_config.json of {pretrained_model_name_or_path} cannot be read ({cause}). Give the "
                "folder or the Hub id of an adapter that save_pretrained wrote."
            ) from error

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
        if self._asked_depth(modality) == 0:
            return 0
        own = getattr(self, f"{modality}_num_virtual_tokens")
        return self.num_virtual_tokens if own is None else own

    def depth(self, modality: Modality) -> int:
        """Number of layers of one tower that have prompts, 0 if none. Before `resolve`, it may be "all" or None."""
        return cast(int, self._asked_depth(modality)) if self.num_tokens(modality) else 0

    @property
    def fused_depth(self) -> int:
        """Layers from this index on are not fused: the smaller depth of the two towers, or 0 without fusion."""
        return 0 if self.fusion_direction == "none" else min(map(self.depth, MODALITIES))

    def fused_layers(self, source: Modality) -> range:
        """The layers whose `source` prompts are fused into the other tower. The text input (layer 0) receives none."""
        direction = {"text": "text_to_vision", "vision": "vision_to_text"}[source]
        if self.fusion_direction not in (direction, "bidirectional"):
            return range(0)
        return range(0 if source == "text" else 1, self.fused_depth)

    def owned_depth(self, modality: Modality) -> int:
        """
        Number of layers for which one tower stores prompts of its own. With `fusion_combine="replace"`, layers whose
        prompts are generated from the other tower do not count.
        """
        if self.fusion_combine == "add" or self.fusion_direction == "none":
            return self.depth(modality)
        source: Modality = "vision" if modality == "text" else "text"
        return self.depth(modality) - len(self.fused_layers(source))

    def resolve(self, towers: dict[Modality, TowerShape]) -> None:
        """
        Fill in the widths and depths, which depend on the base model. If this fails, the config stays unchanged.

        Args:
            towers: the sizes of each tower that the base model has. A tower may be missing if the config gives it no
                prompts, or already holds its width and depth, as that of a saved adapter does.

        Raises:
            ValueError: if the config is invalid or does not fit these towers.
        """
        self.validate()
        prompted = [modality for modality in MODALITIES if self.num_tokens(modality)]
        shallowest = min((towers[m].num_layers for m in prompted if m in towers), default=PAPER_DEPTH)
        resolved: dict[str, int] = {}
        for modality in MODALITIES:
            if modality not in prompted:
                resolved[f"{modality}_prompt_depth"] = 0
            elif modality in towers:
                resolved |= self._fitted(modality, towers[modality], default_depth=min(PAPER_DEPTH, shallowest))
            elif not (getattr(self, f"{modality}_hidden_size") and isinstance(self._asked_depth(modality), int)):
                raise ValueError(
                    f"The base model has no {modality} tower, but the config asks for {modality} prompts. Set "
                    f"{modality}_prompt_depth=0 (and fusion_direction='none'), or give {modality}_hidden_size and "
                    f"{modality}_prompt_depth of the CLIP that the adapter is meant for."
                )
        self._validate_fused_depths(*(resolved.get(f"{m}_prompt_depth", self.depth(m)) for m in MODALITIES))
        for name, value in resolved.items():
            setattr(self, name, value)

    def _fitted(self, modality: Modality, tower: TowerShape, default_depth: int) -> dict[str, int]:
        """The width and depth of one tower, by field name. Raises a ValueError if the config does not fit."""
        width_field, depth_field = f"{modality}_hidden_size", f"{modality}_prompt_depth"
        width, depth, n = getattr(self, width_field), self._asked_depth(modality), self.num_tokens(modality)
        if width not in (None, tower.hidden_size):
            raise ValueError(
                f"This adapter was made for {width_field}={width}, but the base model's {modality} tower is "
                f"{tower.hidden_size} wide. Load it onto the base model it was trained on; for a new adapter create a "
                "new MuDPTConfig."
            )
        depth = default_depth if depth is None else tower.num_layers if depth == "all" else depth
        if depth > tower.num_layers:
            raise ValueError(
                f"{depth_field} (or prompt_depth) is {depth}, but the base model's {modality} tower has only "
                f"{tower.num_layers} layers. Choose at most {tower.num_layers}, or 'all'."
            )
        if tower.num_positions is not None and n + 3 > tower.num_positions:
            raise ValueError(
                f"{n} {modality} prompt tokens (num_virtual_tokens or {modality}_num_virtual_tokens) leave no room "
                f"for BOS, a word and EOS among the tower's {tower.num_positions} positions. Use at most "
                f"{tower.num_positions - 3}."
            )
        return {width_field: tower.hidden_size, depth_field: depth}

    def validate(self) -> None:
        """Check everything that does not depend on the base model; raise the ValueError that the class describes."""
        if self.task_type is not None:
            raise ValueError(
                f"task_type={self.task_type!r} is not supported: it makes PEFT pass arguments that CLIP does not "
                "take. Leave task_type out."
            )
        for each in fields(self):
            if "rule" in each.metadata:
                each.metadata["rule"].check(getattr(self, each.name), each.name)
        TRUE_OR_FALSE.check(self.inference_mode, "inference_mode")  # a field of PEFT's
        if not any(map(self.num_tokens, MODALITIES)):
            raise ValueError(
                "Neither tower has prompts: give text_prompt_depth or vision_prompt_depth a value above 0 "
                "(and at least one token)."
            )
        if self.text_prompt_init_text is not None and not self.num_tokens("text"):
            raise ValueError(
                f"text_prompt_init_text={self.text_prompt_init_text!r} starts the text prompts, but there are none. "
                "Leave it out, or give text_prompt_depth a value above 0."
            )
        self._validate_fusion()

    def _asked_depth(self, modality: Modality) -> Depth:
        own = getattr(self, f"{modality}_prompt_depth")
        return self.prompt_depth if own is None else own

    def _validate_fusion(self) -> None:
        if self.fusion_direction == "none":
            return
        if self.folded:
            raise ValueError(
                f"folded=True says that the prompts are fused, but fusion_direction is {self.fusion_direction!r}. "
                "Leave folded out; fold_adapter(model) sets both."
            )
        text, vision = map(self.num_tokens, MODALITIES)
        if not (text and vision):
            raise ValueError(
                f"fusion_direction={self.fusion_direction!r} needs prompts in both towers, but the "
                f"{'vision' if text else 'text'} tower has none (its depth or its number of tokens is 0). Set "
                "fusion_direction='none', or give that tower prompts."
            )
        if text != vision:
            raise ValueError(
                f"fusion_direction={self.fusion_direction!r} pairs the prompt tokens of the towers one by one, but "
                f"there are {text} text and {vision} visual tokens. Make text_num_virtual_tokens and "
                "vision_num_virtual_tokens equal, or set fusion_direction='none'."
            )
        if self.fusion_combine == "replace" and self.fusion_direction == "bidirectional":
            raise ValueError(
                "fusion_combine='replace' generates one tower's prompts from the other's, so it needs one direction: "
                "fusion_direction is 'bidirectional'. Set it to 'text_to_vision' or 'vision_to_text', or "
                "fusion_combine='add'."
            )
        self._validate_fused_depths(*map(self._asked_depth, MODALITIES))

    def _validate_fused_depths(self, text_depth, vision_depth) -> None:
        if self.fusion_direction == "none" or not all(isinstance(d, int) for d in (text_depth, vision_depth)):
            return  # a depth that is still open is looked at again by `resolve`
        if self.fusion_combine == "replace" and text_depth != vision_depth:
            raise ValueError(
                "fusion_combine='replace' generates one tower's prompts layer by layer from the other's, but "
                f"text_prompt_depth is {text_depth} and vision_prompt_depth is {vision_depth}. Make them equal, or "
                "set fusion_combine='add'."
            )
        if self.fusion_direction == "vision_to_text" and min(text_depth, vision_depth) < 2:
            raise ValueError(
                "fusion_direction='vision_to_text' begins at the second layer (the text input takes nothing in), but "
                f"text_prompt_depth is {text_depth} and vision_prompt_depth is {vision_depth}. Make both at least 2."
            )
