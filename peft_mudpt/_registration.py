"""Makes PEFT know the method. `peft.utils.register_peft_method` takes only names of PEFT's own enum."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import MuDPTConfig, MuDPTType
from .model import MuDPTModel


def register() -> None:
    """
    Write the method into PEFT's mappings, over an earlier import of this package if there was one.

    Raises:
        ImportError: if another package has registered the type `MUDPT`.
    """
    owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(MuDPTType.MUDPT, MuDPTConfig)
    if (owner.__module__, owner.__qualname__) != (MuDPTConfig.__module__, MuDPTConfig.__qualname__):
        raise ImportError(
            f"The PEFT type 'MUDPT' is already registered by {owner.__module__}.{owner.__qualname__}. Import only one "
            "of the two packages."
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[MuDPTType.MUDPT] = MuDPTConfig
    PEFT_TYPE_TO_TUNER_MAPPING[MuDPTType.MUDPT] = MuDPTModel
    PEFT_TYPE_TO_PREFIX_MAPPING[MuDPTType.MUDPT] = MuDPTModel.prefix
