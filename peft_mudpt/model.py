"""`MuDPTModel`: the PEFT tuner that adds, switches and removes MuDPT adapters on a CLIP."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Optional, cast

import torch
from accelerate import init_empty_weights
from peft import PeftConfig
from peft.functional import delete_adapter
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import set_additional_trainable_modules
from torch import nn

from .checks import check_adapter_names, check_modules_to_save, check_weights, check_wrappers
from .config import Modality, MuDPTConfig, MuDPTType
from .layer import LAYER_NAME, NO_MERGE, MuDPTLayer
from .prompts.initialization import init_token_ids, start_from_words
from .prompts.prompts import MultiModalPrompts
from .towers.base import NO_ADAPTER_PER_SAMPLE, part
from .towers.registry import Tower, feature_size_of, find_towers
from .towers.text import PromptedText


FOLDED = (
    "This adapter was folded: its prompts are constants, and the network that fused them is gone, so it cannot be "
    "trained. Use it without is_trainable=True, or train the adapter that it was folded from."
)


class MuDPTModel(BaseTuner):
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
    target_module_mapping: dict[str, list[str]] = {}

    def __init__(self, model: nn.Module, peft_config, adapter_name: str, *args, **kwargs) -> None:
        # All adapters on a model share one dict of configs, and PEFT adds the new config before we can refuse it.
        configs = getattr(model, "peft_config", {})
        before = dict(configs)
        namesake = before.get(adapter_name)
        if namesake is not None and namesake.peft_type != MuDPTType.MUDPT:
            raise ValueError(
                f"The model has a {namesake.peft_type.value} adapter named {adapter_name!r} already, and PEFT would "
                "save both into one file. Choose another adapter_name."
            )
        try:
            super().__init__(model, peft_config, adapter_name, *args, **kwargs)
        except Exception:
            configs.clear()
            configs.update(before)
            raise

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: Optional[dict[str, torch.Tensor]] = None,
    ) -> None:
        """
        Add an adapter to the model. This overrides PEFT's method, which searches the model for modules to wrap: MuDPT
        wraps no modules, and inserts the prompts at known places in the towers.

        Args:
            model: the base model.
            adapter_name: name of the adapter; `self.peft_config` has the config under this name.
            autocast_adapter_dtype, state_dict: not used, because PEFT casts the adapter and loads its weights
                afterwards.
            low_cpu_mem_usage: create the parameters on the device "meta".

        Raises:
            ValueError: if the config does not fit the model. The model and the config stay as they were.
        """
        peft_config = cast(MuDPTConfig, self.peft_config[adapter_name])
        if not any(isinstance(module, MuDPTLayer) for module in model.modules()):
            check_wrappers(model)  # a model that has an adapter may have been compiled since
        towers = find_towers(model)
        self._prepare_config(peft_config, adapter_name, model, towers)
        # adding an adapter to a model that has some must not change which parameters of theirs are trained
        has_adapters = any(isinstance(module, BaseTunerLayer) for module in model.modules())
        trained = [(p, p.requires_grad) for p in model.parameters()] if has_adapters else []
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            self._create_adapter(peft_config, adapter_name, _owner(model, towers), towers)
        self.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        if peft_config.modules_to_save:
            set_additional_trainable_modules(
                model=model,
                peft_config=peft_config,
                model_config=self.get_model_config(model),
                adapter_name=adapter_name,
                activate_adapter=adapter_name in self.active_adapters,
            )
        for parameter, requires_grad in trained:
            parameter.requires_grad = requires_grad

    def _prepare_config(
        self, peft_config: MuDPTConfig, adapter_name: str, model: nn.Module, towers: dict[Modality, Tower]
    ) -> None:
        """Refuse a config that does not fit the model; otherwise fill in the settings that depend on the model."""
        if peft_config.folded and not peft_config.inference_mode:
            raise ValueError(FOLDED)
        resolved = copy(peft_config)  # so that a refused config stays as it was
        shapes = {modality: tower.kind.shape(tower.module) for modality, tower in towers.items()}
        conditioned = resolved.conditioning != "none"
        resolved.resolve(shapes, feature_size_of(_owner(model, towers)) if conditioned else None)
        text = _text_tower(towers)
        if text is not None:
            tower, kind = text
            resolved.text_prompt_init_ids = init_token_ids(
                resolved, getattr(model, "name_or_path", None), kind.vocabulary_size(tower)
            )
        with torch.device("meta"):
            new = MultiModalPrompts(resolved)
        check_modules_to_save(resolved, model, towers, new)
        layer = getattr(_owner(model, towers), LAYER_NAME, None)
        adapters = {} if layer is None else layer.mudpt_adapters
        check_adapter_names([adapter_name, *adapters], model, [new, *adapters.values()])
        vars(peft_config).update(vars(resolved))

    def _create_and_replace(self, *args, **kwargs) -> None:
        raise NotImplementedError("MuDPT replaces no module: inject_adapter creates the adapter.")

    def _create_adapter(
        self, peft_config: MuDPTConfig, adapter_name: str, owner: nn.Module, towers: dict[Modality, Tower]
    ) -> None:
        """Create the adapter in the `MuDPTLayer` of `owner`, the module that contains the towers."""
        prompts = MultiModalPrompts(peft_config)
        text, words = _text_tower(towers), peft_config.text_prompt_init_text
        if text is not None and words is not None:
            tower, kind = text
            assert peft_config.text_prompt_init_ids is not None, "_prepare_config fills them in"
            (ids,) = peft_config.text_prompt_init_ids.values()
            start_from_words(prompts, kind.embed_tokens(tower, ids))
        layer = getattr(owner, LAYER_NAME, None) or MuDPTLayer(towers)
        layer.update_layer(adapter_name, prompts, peft_config, owner)
        setattr(owner, LAYER_NAME, layer)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and cast(MuDPTConfig, self.peft_config[adapter_name]).folded:
            # PEFT casts parameters only; folded prompts are buffers
            prompts = _layer(self.model).mudpt_adapters[adapter_name]
            if all(torch.finfo(constant.dtype).bits < 32 for constant in prompts.buffers()):
                prompts.float()

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        (container,) = MuDPTLayer.adapter_layer_names
        return key.replace(f".{container}.{adapter_name}.", f".{container}.", 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        weights = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        layer = _layer(model)
        try:
            check_weights(weights, adapter_name, model, layer.towers)
        except ValueError:
            if layer.awaits_weights(adapter_name):  # it was created for these weights, and holds random ones
                del part(model, "peft_config")[adapter_name]
                delete_adapter(model, adapter_name, cls.prefix)
            raise
        return weights

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: Optional[list[str]] = None,
    ) -> None:  # PEFT's annotation: it returns the base model
        if merge:
            self._check_merge_allowed()
        layer = _layer(self.model)
        layer.detach()
        owner = next(module for module in self.model.modules() if layer in module.children())
        delattr(owner, LAYER_NAME)
        return super()._unload_and_optionally_merge(False, progressbar, safe_merge, adapter_names)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs):
        if kwargs.get("adapter_names") is not None:
            raise ValueError(NO_ADAPTER_PER_SAMPLE)
        yield


def _layer(model: nn.Module) -> MuDPTLayer:
    return next(module for module in model.modules() if isinstance(module, MuDPTLayer))


def _text_tower(towers: dict[Modality, Tower]) -> Optional[tuple[nn.Module, type[PromptedText]]]:
    """The text tower's module and the class that handles its architecture; None if the model has no text tower."""
    if "text" not in towers:
        return None
    return towers["text"].module, cast(type[PromptedText], towers["text"].kind)


def _owner(model: nn.Module, towers: dict[Modality, Tower]) -> nn.Module:
    """The innermost module that contains all towers."""
    parents = [tower.name.split(".")[:-1] for tower in towers.values()]
    return model.get_submodule(".".join(os.path.commonprefix(parents)))
