"""Converts checkpoints of the published research code to this package's config and adapter weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..config import MuDPTConfig
from .adapter import make_adapter
from .checkpoint import read_checkpoint
from .matching import match
from .published import formats_of


def convert_checkpoint(state_dict: Mapping[str, Any], method: str) -> tuple[MuDPTConfig, dict[str, torch.Tensor]]:
    """
    Convert the weights of a published implementation.

    CoOp can place the class name at the end, in the middle or at the front of its context. This package supports the
    end only. The caller must know that the checkpoint was trained that way, because the file does not say.

    Args:
        state_dict: the parameters under their published names, or what Dassl saves, a dict that holds them as
            `state_dict`. The embedded class names (`token_prefix`, `token_suffix`) and the weights of CLIP, which such
            files also hold, are skipped. The names may begin with `module.` (DataParallel), and those of a prompt
            learner that was saved alone may lack its name.
        method: name of the method in the published implementation: `coop`, `cocoop`, `tcp`, `vpt`, `ivlp` (`mpt` in
            MuDPT's code), `promptsrc`, `maple`, `mudpt` (preset `mudpt_linear`, because the released trainer is the
            linear form), `umudpt` or `uumudpt` (preset `mudpt`).

    Returns:
        The config of the adapter, and the adapter's float32 weights, which `peft.set_peft_model_state_dict` loads:
        prompts (layers, n, width) of n tokens per tower, and the networks that fuse the prompts of both towers.

    Raises:
        ValueError: if the method is unknown, if parameters are missing or unknown, or if their shapes contradict each
            other. The message lists each such parameter.

    Example (`examples/convert_checkpoint.py` also reads files that hold more than tensors):

        ```py
        >>> config, weights = convert_checkpoint(torch.load(file, weights_only=True)["state_dict"], "maple")
        >>> model = get_peft_model(clip, config)
        >>> set_peft_model_state_dict(model, weights)
        ```
    """
    formats = formats_of(method)
    learned = read_checkpoint(state_dict).learned
    closest = min((match(each, learned) for each in formats), key=lambda each: len(each.missing) + len(each.unknown))
    if not closest.fits:
        raise ValueError(
            f"This is not a checkpoint of method {method!r}: {closest.faults()}. Check the name of the method."
        )
    return make_adapter(closest)
