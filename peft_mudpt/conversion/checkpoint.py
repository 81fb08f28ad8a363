"""What a checkpoint holds: the learned parameters, and everything else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


# Tensors that were not learned: the embedded class names of one data set, all of CLIP under its original names, and
# PromptSRC's second image tower. They are skipped, because the base model provides them.
NOT_LEARNED = re.compile(
    r"(.*\.)?token_(prefix|midfix|suffix)"
    r"|prompt_learner\.ZS_image_encoder\..*"
    r"|logit_scale"
    r"|image_encoder\.(class_embedding|positional_embedding|proj|conv1\.weight|ln_(pre|post)\.(weight|bias))"
    r"|text_encoder\.(positional_embedding|text_projection|ln_final\.(weight|bias))"
    r"|(image|text)_encoder\.transformer\.resblocks\.\d+\.(ln_[12]|attn(\.out_proj)?|mlp\.c_(fc|proj))"
    r"\.(weight|bias|in_proj_weight|in_proj_bias)"
)
OF_RESNET = re.compile(r"image_encoder\.(layer\d|attnpool|bn\d)\..*")
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # what DataParallel and torch.compile put before names


class Checkpoint(NamedTuple):
    """
    The tensors of a checkpoint.

    Attributes:
        learned: the parameters that were trained, by their published names.
        left_aside: the names of the tensors that were not (see `NOT_LEARNED`).
    """

    learned: dict[str, torch.Tensor]
    left_aside: list[str]

    def has_mark(self, beginning: str) -> bool:
        """Whether a name that was left aside begins like this."""
        return any(name.startswith(beginning) for name in self.left_aside)


def unwrapped(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Find the weights in what Dassl, the framework of the published trainers, saves.

    Args:
        checkpoint: what a file holds.

    Returns:
        The entry `state_dict` if it is there, else all of `checkpoint`.
    """
    inner = checkpoint.get("state_dict")
    return inner if isinstance(inner, Mapping) else checkpoint


def read_checkpoint(state_dict: Mapping[str, Any]) -> Checkpoint:
    """
    Separate what was learned from what was not.

    Args:
        state_dict: see `convert_checkpoint`.

    Raises:
        ValueError: if a learned value is no dense, non-empty tensor of finite floats, or if the image tower is a
            ResNet.
    """
    plain = {
        WRAPPERS.sub("", name) if isinstance(name, str) else name: tensor
        for name, tensor in unwrapped(state_dict).items()
    }
    left_aside = [name for name in plain if NOT_LEARNED.fullmatch(str(name))]
    learned = {name: tensor for name, tensor in plain.items() if name not in set(left_aside)}
    if resnet := [name for name in learned if OF_RESNET.fullmatch(str(name))]:
        raise ValueError(
            f"The checkpoint was trained on a CLIP whose image tower is a ResNet, because it holds {resnet[0]!r}. "
            "transformers has no such CLIP. Give a checkpoint that was trained on a ViT."
        )
    _check_tensors(learned)
    return Checkpoint(learned, left_aside)


def _check_tensors(learned: Mapping[Any, Any]) -> None:
    """Refuse values that are not dense, non-empty tensors of finite floats. Deep prompts may have 0 layers."""
    wrong = []
    for name, tensor in learned.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.dim() == 0:
            wrong.append(f"{name!r} ({type(tensor).__name__})")
        elif 0 in (tensor.shape[1:] if name.endswith("deep_prompts") and tensor.dim() == 3 else tensor.shape):
            wrong.append(f"{name!r} of shape {tuple(tensor.shape)}")
        elif not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            wrong.append(f"{name!r} ({tensor.dtype}, {tensor.layout}, on {tensor.device})")
        elif not tensor.float().isfinite().all():
            wrong.append(f"{name!r}, which holds NaN or infinity")
    if wrong:
        raise ValueError(
            f"A checkpoint must hold named, non-empty tensors of finite floats; found {', '.join(wrong)}."
        )
