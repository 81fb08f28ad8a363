"""`PromptTuner`: what the PEFT tuners of all prompt methods share."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, ClassVar, Optional, cast

import torch
from accelerate import init_empty_weights
from peft import PeftConfig
from peft.functional import delete_adapter
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import set_additional_trainable_modules
from torch import nn

from .checks import check_adapter_names, check_weights, check_wrappers
from .prompt_layer import LAYER_NAME, NO_MERGE, PromptLayer
from .settings import NO_ADAPTER_PER_SAMPLE, PromptConfig


FOLDED = (
    "This adapter was folded: its prompts are constants, and what computed them is gone, so it cannot be trained. Use "
    "it without is_trainable=True, or train the adapter that it was folded from."
)


class PromptTuner(BaseTuner):
    """
    Base class of a prompt method's tuner. It contains no mathematics: a subclass says where a model takes prompts
    (`find_place`), which module holds an adapter's parameters (`new_prompts`), and which layer holds the adapters.

    Attributes:
        config_class: the method's config.
    """

    tuner_layer_cls: type[PromptLayer]
    target_module_mapping: dict[str, list[str]] = {}
    config_class: ClassVar[type[PromptConfig]]

    def __init__(self, model: nn.Module, peft_config, adapter_name: str, *args, **kwargs) -> None:
        # All adapters on a model share one dict of configs, and PEFT adds the new config before we can refuse it.
        configs = getattr(model, "peft_config", {})
        before = dict(configs)
        namesake = before.get(adapter_name)
        if namesake is not None and namesake.peft_type != self.config_class.method_type:
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

    @abstractmethod
    def find_place(self, model: nn.Module) -> tuple[nn.Module, Any]:
        """
        Find where prompts enter the model.

        Returns:
            The module that gains the layer as a child, and the argument of `tuner_layer_cls`.

        Raises:
            ValueError: if the model is not supported.
        """

    @abstractmethod
    def fill_in(self, config: PromptConfig, model: nn.Module, owner: nn.Module, place: Any) -> None:
        """Fill in the settings that depend on the model; raise a ValueError if the config does not fit it."""

    @abstractmethod
    def new_prompts(self, config: PromptConfig) -> nn.Module:
        """The module with the parameters of a new adapter, from its filled-in config alone."""

    @abstractmethod
    def check_modules_to_save(self, config: PromptConfig, model: nn.Module, place: Any, prompts: nn.Module) -> None:
        """Raise a ValueError if PEFT could not train `config.modules_to_save` beside the new adapter `prompts`."""

    def initialize(self, prompts: nn.Module, config: PromptConfig, place: Any) -> None:
        """Complete a new adapter with what depends on the base model's weights. By default, nothing does."""

    @classmethod
    def elsewhere(cls, layer: PromptLayer) -> set[str]:
        """Paths of modules that weights may belong to although this base model lacks them."""
        return set()

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: Optional[dict[str, torch.Tensor]] = None,
    ) -> None:
        """
        Add an adapter to the model. This overrides PEFT's method, which searches the model for modules to wrap: prompt
        methods wrap no modules, and insert the prompts at known places.

        Args:
            model: the base model.
            adapter_name: name of the adapter; `self.peft_config` has the config under this name.
            autocast_adapter_dtype, state_dict: not used, because PEFT casts the adapter and loads its weights
                afterwards.
            low_cpu_mem_usage: create the parameters on the device "meta".

        Raises:
            ValueError: if the config does not fit the model. The model and the config stay as they were.
        """
        config = cast(PromptConfig, self.peft_config[adapter_name])
        if not any(isinstance(module, self.tuner_layer_cls) for module in model.modules()):
            check_wrappers(model)  # a model that has an adapter may have been compiled since
        owner, place = self.find_place(model)
        self._prepare_config(config, adapter_name, model, owner, place)
        # adding an adapter to a model that has some must not change which parameters of theirs are trained
        has_adapters = any(isinstance(module, BaseTunerLayer) for module in model.modules())
        trained = [(p, p.requires_grad) for p in model.parameters()] if has_adapters else []
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            prompts = self.new_prompts(config)
            self.initialize(prompts, config, place)
            layer = getattr(owner, LAYER_NAME, None) or self.tuner_layer_cls(place)
            layer.update_layer(adapter_name, prompts, config, owner)
            setattr(owner, LAYER_NAME, layer)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        if config.modules_to_save:
            set_additional_trainable_modules(
                model=model,
                peft_config=config,
                model_config=self.get_model_config(model),
                adapter_name=adapter_name,
                activate_adapter=adapter_name in self.active_adapters,
            )
        for parameter, requires_grad in trained:
            parameter.requires_grad = requires_grad

    def _prepare_config(
        self, config: PromptConfig, adapter_name: str, model: nn.Module, owner: nn.Module, place: Any
    ) -> None:
        """Refuse a config that does not fit the model; otherwise fill in the settings that depend on the model."""
        if config.folded and not config.inference_mode:
            raise ValueError(FOLDED)
        resolved = copy(config)  # so that a refused config stays as it was
        self.fill_in(resolved, model, owner, place)
        with torch.device("meta"):
            new = self.new_prompts(resolved)
        self.check_modules_to_save(resolved, model, place, new)
        layer = getattr(owner, LAYER_NAME, None)
        adapters = {} if layer is None else layer.adapters
        reserved = {LAYER_NAME, *self.tuner_layer_cls.adapter_layer_names}
        check_adapter_names([adapter_name, *adapters], model, [new, *adapters.values()], reserved)
        vars(config).update(vars(resolved))

    def _create_and_replace(self, *args, **kwargs) -> None:
        raise NotImplementedError(
            f"{self.tuner_layer_cls.method} replaces no module: inject_adapter adds the adapter."
        )

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and cast(PromptConfig, self.peft_config[adapter_name]).folded:
            # PEFT casts parameters only; folded prompts are buffers
            prompts = self._layer(self.model).adapters[adapter_name]
            if all(torch.finfo(constant.dtype).bits < 32 for constant in prompts.buffers()):
                prompts.float()

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        (container,) = cls.tuner_layer_cls.adapter_layer_names
        return key.replace(f".{container}.{adapter_name}.", f".{container}.", 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        weights = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        layer = cls._layer(model)
        (container,) = layer.adapter_layer_names
        try:
            check_weights(weights, adapter_name, model, container, cls.elsewhere(layer))
        except ValueError:
            if layer.awaits_weights(adapter_name):  # it was created for these weights, and holds random ones
                del cast(dict, model.peft_config)[adapter_name]
                delete_adapter(model, adapter_name, cls.prefix)
            raise
        return weights

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE.format(self.tuner_layer_cls.method))

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: Optional[list[str]] = None,
    ) -> None:  # PEFT's annotation: it returns the base model
        if merge:
            self._check_merge_allowed()
        layer = self._layer(self.model)
        layer.detach()
        owner = next(module for module in self.model.modules() if layer in module.children())
        delattr(owner, LAYER_NAME)
        return super()._unload_and_optionally_merge(False, progressbar, safe_merge, adapter_names)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs):
        if kwargs.get("adapter_names") is not None:
            raise ValueError(NO_ADAPTER_PER_SAMPLE)
        yield

    @classmethod
    def _layer(cls, model: nn.Module) -> PromptLayer:
        return next(module for module in model.modules() if isinstance(module, cls.tuner_layer_cls))
