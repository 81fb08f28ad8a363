"""`MuDPTModel`: the PEFT tuner that adds, switches and removes MuDPT adapters on a CLIP."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Optional

import torch
from peft.functional import delete_adapter
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from .checks import check_adapter_names, check_modules_to_save, check_weights
from .config import Modality, MuDPTConfig, MuDPTType
from .layer import LAYER_NAME, NO_MERGE, MuDPTLayer
from .prompts.initialization import init_token_ids, start_from_words
from .prompts.prompts import MultiModalPrompts
from .towers.base import NO_ADAPTER_PER_SAMPLE
from .towers.registry import find_towers, tower_shape


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

    It is called like the model it adapts, and returns what that returns, in the same shapes: hooks put the prompts in
    and take them out again. The formulas are those of `prompts.MultiModalPrompts`.

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
        # All adapters on a model share one dict of configs, and PEFT writes into it before anything can be refused.
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

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, state_dict=None, **kwargs) -> None:
        # PEFT would derive the modules to adapt from the names in `state_dict`; ours does not exist yet.
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: MuDPTConfig, model_config: dict) -> MuDPTConfig:
        return peft_config  # PEFT would fill in target_modules

    def _prepare_model(self, peft_config: MuDPTConfig, model: nn.Module) -> None:
        # The last step before PEFT changes anything: whatever there is to refuse is refused here.
        peft_config.validate()
        if peft_config.folded and not peft_config.inference_mode:
            raise ValueError(FOLDED)
        towers = _towers(model)
        init_ids = init_token_ids(peft_config, model, towers)
        peft_config.resolve({modality: tower_shape(tower) for modality, tower in towers.items()})
        peft_config.text_prompt_init_ids = init_ids
        check_modules_to_save(peft_config, model, towers)
        layer = getattr(_owner(model), LAYER_NAME, None)
        adapters = {} if layer is None else layer.mudpt_adapters
        new_name = next(name for name, config in self.peft_config.items() if config is peft_config)
        with torch.device("meta"):
            new = MultiModalPrompts(peft_config)
        check_adapter_names([new_name, *adapters], model, [new, *adapters.values()])
        # One module stands for all, so that `_create_and_replace` is called once per adapter.
        self._target = f"{next(iter(find_towers(model).values()))}.embeddings".removeprefix(".")

    def _check_target_module_exists(self, peft_config: MuDPTConfig, key: str) -> bool:
        return key == self._target

    def _create_and_replace(
        self,
        peft_config: MuDPTConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: Optional[str] = None,
    ) -> None:
        towers, owner = _towers(self.model), _owner(self.model)
        prompts = MultiModalPrompts(peft_config)
        start_from_words(prompts, peft_config, towers)
        layer = getattr(owner, LAYER_NAME, None) or MuDPTLayer(list(towers.values()))
        layer.update_layer(adapter_name, prompts, peft_config)
        setattr(owner, LAYER_NAME, layer)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and self.peft_config[adapter_name].folded:
            # PEFT casts parameters; folded prompts are buffers
            prompts = getattr(_owner(self.model), LAYER_NAME).mudpt_adapters[adapter_name]
            if all(torch.finfo(constant.dtype).bits < 32 for constant in prompts.buffers()):
                prompts.float()

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        (container,) = MuDPTLayer.adapter_layer_names
        return key.replace(f".{container}.{adapter_name}.", f".{container}.", 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: MuDPTConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        weights = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        layer = next(module for module in model.modules() if isinstance(module, MuDPTLayer))
        try:
            check_weights(weights, config, adapter_name, model)
        except ValueError:
            if layer.awaits_weights(adapter_name):  # it was made for these, and holds random ones
                del model.peft_config[adapter_name]
                delete_adapter(model, adapter_name, cls.prefix)
            raise
        return weights

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, *args, **kwargs) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        owner = _owner(self.model)
        getattr(owner, LAYER_NAME).detach()
        delattr(owner, LAYER_NAME)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs):
        if kwargs.get("adapter_names") is not None:
            raise ValueError(NO_ADAPTER_PER_SAMPLE)
        yield


def _towers(model: nn.Module) -> dict[Modality, nn.Module]:
    return {modality: model.get_submodule(name) for modality, name in find_towers(model).items()}


def _owner(model: nn.Module) -> nn.Module:
    """The innermost module that holds all towers."""
    parents = [name.split(".")[:-1] for name in find_towers(model).values()]
    return model.get_submodule(".".join(os.path.commonprefix(parents)))
