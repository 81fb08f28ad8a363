"""Registers the methods with PEFT directly, since `peft.utils.register_peft_method` takes only names in `PeftType`."""

from typing import cast

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from .model import MuDPTModel
from .prompt_tuner import PromptTuner
from .sdpt.model import SDPTModel


METHODS: tuple[type[PromptTuner], ...] = (MuDPTModel, SDPTModel)


def register() -> None:
    """
    Enter the methods in PEFT's mappings. This replaces the entries of an earlier import of this package.

    Raises:
        ImportError: if another package has registered one of the types.
    """
    for tuner in METHODS:
        config = tuner.config_class
        key = cast(PeftType, config.method_type)  # PEFT annotates its own enum, but looks the method up by the string
        owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(key, config)
        if (owner.__module__, owner.__qualname__) != (config.__module__, config.__qualname__):
            raise ImportError(
                f"The PEFT type {config.method_type.value!r} is already registered by {owner.__module__}."
                f"{owner.__qualname__}. Import only one of the two packages."
            )
        PEFT_TYPE_TO_CONFIG_MAPPING[key] = config
        PEFT_TYPE_TO_TUNER_MAPPING[key] = tuner
        PEFT_TYPE_TO_PREFIX_MAPPING[key] = tuner.prefix
