"""What a run leaves of its model: the learned weights, whole, and proof that they load."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel

from .methods import Learner
from .probe import LinearProbe
from .run_folder import ADAPTER_WEIGHTS, CARD, PROBE_WEIGHTS


def save_learned(learner: Learner, class_names: list[str], class_template: str, folder: Path) -> int:
    """
    Write what was learned, each file whole or not at all.

    Args:
        learner: a PEFT model, whose adapter is written in PEFT's format; a linear probe; or a plain CLIP, of which
            nothing is.
        class_names: by label. A MuDPT adapter remembers them.
        class_template: text of a class as the model is fed it. A MuDPT adapter remembers it.
        folder: where to.

    Returns:
        Size of the weights, in bytes.
    """
    if isinstance(learner.model, PreTrainedModel):
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        if isinstance(learner.model, LinearProbe):
            weights = PROBE_WEIGHTS
            save_file(learner.model.head.state_dict(), Path(partial) / weights)
        else:
            weights = ADAPTER_WEIGHTS
            config = learner.model.peft_config[learner.model.active_adapter]
            if hasattr(config, "class_names"):
                config.class_names, config.class_template = list(class_names), class_template
            learner.model.save_pretrained(partial)
            (Path(partial) / CARD).unlink(missing_ok=True)  # PEFT's own tells nothing, but a path of this machine
        for file in Path(partial).iterdir():
            os.replace(file, folder / file.name)
    return (folder / weights).stat().st_size


@torch.no_grad()
def check_it_reloads(
    model: PeftModel, clip: PreTrainedModel, folder: Path, logits_of: Callable[[PeftModel], torch.Tensor]
) -> None:
    """
    Load the adapter anew and compare.

    Args:
        model: the trained one.
        clip: a fresh one.
        folder: the adapter's.
        logits_of: how a model classifies what is compared.

    Raises:
        RuntimeError: if the logits are others.
    """
    reloaded = PeftModel.from_pretrained(clip, folder).eval()
    if not torch.equal(logits_of(model.eval()), logits_of(reloaded)):
        raise RuntimeError(f"The adapter reloaded from {folder} gives other logits than the trained one.")
