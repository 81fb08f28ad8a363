"""Registers MuDPT with PEFT directly, because `peft.utils.register_peft_method` accepts only names in `PeftType`."""

from typing import cast

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from .config import MuDPTConfig, MuDPTType
from .model import MuDPTModel


def register() -> None:
    """
    Enter MuDPT in PEFT's mappings. This replaces the entries of an earlier import of this package.

    Raises:
        ImportError: if another package has registered the type `MUDPT`.
    """
    key = cast(PeftType, MuDPTType.MUDPT)  # PEFT annotates its own enum, but looks the method up by the string
    owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(key, MuDPTConfig)
    if (owner.__module__, owner.__qualname__) != (MuDPTConfig.__module__, MuDPTConfig.__qualname__):
        raise ImportError(
            f"The PEFT type 'MUDPT' is already registered by {owner.__module__}.{owner.__qualname__}. Import only one "
            "of the two packages."
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[key] = MuDPTConfig
    PEFT_TYPE_TO_TUNER_MAPPING[key] = MuDPTModel
    PEFT_TYPE_TO_PREFIX_MAPPING[key] = MuDPTModel.prefix
