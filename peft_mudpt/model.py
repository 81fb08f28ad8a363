"""`MuDPTModel`: the PEFT tuner that adds, switches and removes MuDPT adapters on a CLIP."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Optional

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import AutoTokenizer

from .config import MuDPTConfig
from .layer import NO_MERGE, MuDPTLayer
from .prompts import MultiModalPrompts
from .towers import find_towers, prompted_tower, tower_shape


# CoOp's word for it. It must not contain the prefix: PEFT would not delete adapters below it.
LAYER_NAME = "prompt_learner"


class MuDPTModel(BaseTuner):
    """
    Multi-modal Deep-symphysis Prompt Tuning (MuDPT, arXiv 2306.11400) on a CLIP-like model of transformers.

    Args:
        model ([`~transformers.CLIPModel`] or one of its towers): the model to be adapted, in place.
        config ([`MuDPTConfig`]): the configuration of the adapter.
        adapter_name (`str`): the name of the adapter.

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

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, state_dict=None, **kwargs) -> None:
        # PEFT would derive the modules to adapt from the names in `state_dict`; ours does not exist yet.
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: MuDPTConfig, model_config: dict) -> MuDPTConfig:
        return peft_config  # PEFT would fill in target_modules

    def _prepare_model(self, peft_config: MuDPTConfig, model: nn.Module) -> None:
        # The last step before PEFT changes anything: whatever there is to refuse is refused here.
        towers = find_towers(model)
        modules = {modality: model.get_submodule(name) for modality, name in towers.items()}
        self._check_modules_to_save(peft_config, model, list(modules.values()))
        shapes = {modality: tower_shape(module) for modality, module in modules.items()}
        if "text" in modules and peft_config.num_tokens("text"):
            self._check_text_length(peft_config, modules["text"])
            self._record_init_ids(peft_config, model)
        peft_config.resolve(shapes)
        self._check_adapter_names(peft_config, model)

    def _check_target_module_exists(self, peft_config: MuDPTConfig, key: str) -> bool:
        # One module stands for all: `_create_and_replace` is to be called once per adapter.
        return key == f"{next(iter(find_towers(self.model).values()))}.embeddings".removeprefix(".")

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
        towers = {modality: self.model.get_submodule(name) for modality, name in find_towers(self.model).items()}
        prompts = MultiModalPrompts(peft_config)
        if peft_config.text_prompt_init_ids is not None and "text" in towers:
            token_embedding = towers["text"].embeddings.token_embedding
            ids = torch.tensor(peft_config.text_prompt_init_ids, device=token_embedding.weight.device)
            prompts.start_text_from(token_embedding(ids))  # (m, d_t)
        owner = self._owner(self.model)
        if not hasattr(owner, LAYER_NAME):
            setattr(owner, LAYER_NAME, MuDPTLayer())
        layer = getattr(owner, LAYER_NAME)
        layer.attach(list(towers.values()))
        layer.update_layer(adapter_name, prompts, peft_config)

    @staticmethod
    def _owner(model: nn.Module) -> nn.Module:
        """The innermost module that holds all towers."""
        parents = [name.split(".")[:-1] for name in find_towers(model).values()]
        shared = []
        for segments in zip(*parents):
            if len(set(segments)) > 1:
                break
            shared.append(segments[0])
        return model.get_submodule(".".join(shared))

    @staticmethod
    def _check_modules_to_save(config: MuDPTConfig, model: nn.Module, towers: list[nn.Module]) -> None:
        # PEFT trains a copy of each of these modules. A copied hook would read a copy of the prompts, so that the real
        # ones would never be trained; and what is no module (such as logit_scale) PEFT leaves out without a word.
        hooked = {id(module) for tower in towers for module in prompted_tower(tower).hooked_modules(tower)}
        for wanted in config.modules_to_save or ():
            matches = [module for name, module in model.named_modules() if name and name.endswith(wanted)]
            if not matches:
                raise ValueError(
                    f"modules_to_save names {wanted!r}, but {type(model).__name__} has no such module (parameters "
                    "cannot be named, only modules). Correct the name or leave it out."
                )
            if any(id(inner) in hooked for module in matches for inner in module.modules()):
                raise ValueError(
                    f"modules_to_save names {wanted!r}, which holds a place where prompts enter the tower. Name "
                    "modules beside or below it, such as 'visual_projection' or 'layers.1.mlp'."
                )

    @staticmethod
    def _check_text_length(config: MuDPTConfig, text_tower: nn.Module) -> None:
        n, table = config.num_tokens("text"), text_tower.embeddings.position_embedding.num_embeddings
        if n + 3 > table:
            raise ValueError(
                f"{n} text prompt tokens (num_virtual_tokens or text_num_virtual_tokens) leave no room for BOS, a "
                f"word and EOS among the {table} positions of the text tower. Use at most {table - 3}."
            )

    @staticmethod
    def _record_init_ids(config: MuDPTConfig, model: nn.Module) -> None:
        if config.text_prompt_init_text is None or config.text_prompt_init_ids is not None:
            return
        name = config.tokenizer_name_or_path or config.base_model_name_or_path or getattr(model, "name_or_path", None)
        words = f"text_prompt_init_text={config.text_prompt_init_text!r}"
        if not name:
            raise ValueError(
                f"{words} needs a tokenizer, and the base model was not loaded from a folder or a Hub id that could "
                "hold it. Set tokenizer_name_or_path, or leave text_prompt_init_text out for a random start."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{words} needs a tokenizer, and {name!r} gives none ({error}). Set tokenizer_name_or_path, or leave "
                "text_prompt_init_text out for a random start."
            ) from error
        ids = tokenizer(config.text_prompt_init_text, add_special_tokens=False).input_ids
        if not ids:
            raise ValueError(f"{words} holds no word. Give words, or None for a random start.")
        config.text_prompt_init_ids = ids

    def _check_adapter_names(self, config: MuDPTConfig, model: nn.Module) -> None:
        """PEFT tells adapters apart by searching their names in the keys, so no name may occur in a key for itself."""
        layer = getattr(self._owner(model), LAYER_NAME, None)
        others = {} if layer is None else dict(layer.mudpt_adapters)
        with torch.device("meta"):
            new = MultiModalPrompts(config)
        keys = [f"base_model.model.{name}" for name, _ in model.named_modules() if not name.count(LAYER_NAME)]
        keys += [key for adapter in (new, *others.values()) for key in adapter.state_dict()]
        taken = {segment for key in keys for segment in key.split(".")} | {LAYER_NAME, *MuDPTLayer.adapter_layer_names}
        for name in (*self.peft_config, *others):
            if name in taken or not name or "." in name or hasattr(nn.ModuleDict, name):
                raise ValueError(
                    f"{name!r} cannot be the name of an adapter on this model: PEFT would mix it up with a part of "
                    "the model. Choose another name, without dots."
                )

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        container = MuDPTLayer.adapter_layer_names[0]
        return key.replace(f".{container}.{adapter_name}.", f".{container}.", 1)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, *args, **kwargs) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        owner = self._owner(self.model)
        getattr(owner, LAYER_NAME).detach()
        delattr(owner, LAYER_NAME)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs):
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "adapter_names= (an adapter per sample) is not supported by MuDPT: all texts and images of a batch "
                "share one sequence layout. Activate one adapter with set_adapter(name) and run the samples of each "
                "adapter together."
            )
        yield
