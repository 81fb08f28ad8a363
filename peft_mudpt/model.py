"""`MuDPTModel`: the PEFT tuner that adds, switches and removes MuDPT adapters on a CLIP."""

from __future__ import annotations

import os
from typing import Optional, cast

from torch import nn

from .checks import check_modules_to_save
from .config import MODALITIES, Modality, MuDPTConfig
from .layer import MuDPTLayer
from .prompt_layer import PromptLayer
from .prompt_tuner import PromptTuner
from .prompts.initialization import init_token_ids, start_from_words
from .prompts.prompts import MultiModalPrompts
from .settings import PromptConfig
from .towers.registry import Tower, feature_size_of, find_towers, parts_elsewhere, whole_family
from .towers.text import PromptedText
from .towers.vision import PromptedVision


class MuDPTModel(PromptTuner):
    """
    Multi-modal Deep-symphysis Prompt Tuning (MuDPT, arXiv 2306.11400) on a CLIP-like model of transformers.

    Args:
        model ([`~transformers.CLIPModel`] or one of its towers): the model to be adapted, in place.
        config ([`MuDPTConfig`]): the configuration of the adapter.
        adapter_name (`str`): the name of the adapter.

    It takes the same inputs as the base model, and returns the same outputs in the same shapes: hooks insert the
    prompts and remove them again. See `prompts.MultiModalPrompts` for the formulas.

    Raises:
        ValueError: if the model has no supported tower or the config does not fit it. The model stays as it was.

    Example:

        ```py
        >>> import peft_mudpt
        >>> from peft import get_peft_model
        >>> from transformers import CLIPModel

        >>> clip = CLIPModel.from_pretrained("openai/clip-vit-base-patch16")
        >>> model = get_peft_model(clip, peft_mudpt.MuDPTConfig(text_prompt_init_text="a photo of a"))
        ```
    """

    prefix: str = "mudpt_"
    tuner_layer_cls = MuDPTLayer
    config_class = MuDPTConfig

    def find_place(self, model: nn.Module) -> tuple[nn.Module, dict[Modality, Tower]]:
        """The innermost module that contains all towers, and the towers by modality."""
        towers = find_towers(model)
        parents = [tower.name.split(".")[:-1] for tower in towers.values()]
        return model.get_submodule(".".join(os.path.commonprefix(parents))), towers

    def fill_in(self, config: PromptConfig, model: nn.Module, owner: nn.Module, place: dict[Modality, Tower]) -> None:
        """Fill in widths, depths and token ids; raise a ValueError if the config does not fit the model."""
        config = cast(MuDPTConfig, config)
        shapes = {modality: tower.kind.shape(tower.module) for modality, tower in place.items()}
        vision = place.get("vision")
        if config.num_domains is not None and vision is not None:
            if not cast(type[PromptedVision], vision.kind).tokens_before_patches:
                raise ValueError(
                    f"num_domains={config.num_domains} weighs domains by the query of the class token, but the vision "
                    f"tower ({type(vision.module).__name__}) has none. Use a CLIP, or leave num_domains out."
                )
        config.resolve(shapes, feature_size_of(owner) if config.conditioning != "none" else None)
        self._check_logits(config, owner, place)
        text = _text_tower(place)
        if text is not None:
            tower, kind = text
            config.text_prompt_init_ids = init_token_ids(
                config, getattr(model, "name_or_path", None), kind.vocabulary_size(tower)
            )

    def _check_logits(self, config: MuDPTConfig, owner: nn.Module, place: dict[Modality, Tower]) -> None:
        """Refuse a shift of the logits for a model that makes none, or has no bias."""
        asked = [name for name in ("learn_logit_scale", "learn_logit_bias") if getattr(config, name)]
        family = whole_family(owner)
        if family is None and asked and not _made_elsewhere(config, place):
            raise ValueError(
                f"{asked[0]}=True learns how a whole model makes logits, but {type(owner).__name__} is a tower, which "
                f"makes none. Leave {asked[0]} out, or adapt the whole model."
            )
        if family is not None and config.learn_logit_bias and family.logit_bias(owner) is None:
            raise ValueError(
                f"learn_logit_bias=True shifts the logit_bias of a SigLIP, but {type(owner).__name__} has none. Leave "
                "learn_logit_bias out."
            )

    def new_prompts(self, config: PromptConfig) -> MultiModalPrompts:
        """The parameters of a new adapter."""
        return MultiModalPrompts(cast(MuDPTConfig, config))

    def check_modules_to_save(
        self, config: PromptConfig, model: nn.Module, place: dict[Modality, Tower], prompts: nn.Module
    ) -> None:
        """Refuse the hooked modules of the towers, and what `checks.check_modules_to_save` describes."""
        hooked = [module for tower in place.values() for module in tower.kind.hooked_modules(tower.module)]
        made_elsewhere = _made_elsewhere(cast(MuDPTConfig, config), place)
        check_modules_to_save(config.modules_to_save, model, hooked, prompts, may_be_missing=made_elsewhere)

    def initialize(self, prompts: nn.Module, config: PromptConfig, place: dict[Modality, Tower]) -> None:
        """Let the text prompts of the input start from words, if the config gives some."""
        config = cast(MuDPTConfig, config)
        text, words = _text_tower(place), config.text_prompt_init_text
        if text is not None and words is not None:
            tower, kind = text
            assert config.text_prompt_init_ids is not None, "fill_in fills them in"
            (ids,) = config.text_prompt_init_ids.values()
            start_from_words(cast(MultiModalPrompts, prompts), kind.embed_tokens(tower, ids))

    @classmethod
    def elsewhere(cls, layer: PromptLayer) -> set[str]:
        """Paths of the tower that is missing, since an adapter made on the whole CLIP may bring modules of it."""
        return parts_elsewhere(cast(MuDPTLayer, layer).towers)


def _made_elsewhere(config: MuDPTConfig, towers: dict[Modality, Tower]) -> bool:
    """Whether the adapter was made on the whole CLIP, and may name what a single tower does not have."""
    return any(getattr(config, f"{modality}_hidden_size") and modality not in towers for modality in MODALITIES)


def _text_tower(towers: dict[Modality, Tower]) -> Optional[tuple[nn.Module, type[PromptedText]]]:
    """The text tower's module and the class that handles its architecture; None if the model has no text tower."""
    if "text" not in towers:
        return None
    return towers["text"].module, cast(type[PromptedText], towers["text"].kind)
