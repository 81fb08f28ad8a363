"""
Checkpoints as the published trainers save them, with names and shapes written out for the CLIP of the golden numbers:
text width 64, image width 128, four layers each, features of 64 channels, 17 image positions.

Whole models hold all of CLIP, in half precision but for its LayerNorms and embeddings. CoOp, CoCoOp and TCP register
the prompt learner alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tests.test_golden import GOLDEN, read


CLASSES, POSITIONS, LAYERS = 5, 77, 4
Weights = dict[str, torch.Tensor]


def recorded(case: str, group: str = "param") -> Weights:
    """Parameters of a golden case, by the names that they were recorded with."""
    tensors, _ = read(GOLDEN / f"{case}.safetensors")
    return {key.removeprefix(f"{group}/"): t for key, t in tensors.items() if key.startswith(f"{group}/")}


def transformer(encoder: str, width: int) -> Weights:
    """The blocks of a tower."""
    half, weights = torch.float16, {}
    for i in range(LAYERS):
        block = f"{encoder}.transformer.resblocks.{i}"
        weights |= {
            f"{block}.attn.in_proj_weight": torch.zeros(3 * width, width, dtype=half),
            f"{block}.attn.in_proj_bias": torch.zeros(3 * width, dtype=half),
            f"{block}.attn.out_proj.weight": torch.zeros(width, width, dtype=half),
            f"{block}.attn.out_proj.bias": torch.zeros(width, dtype=half),
            f"{block}.ln_1.weight": torch.ones(width),
            f"{block}.ln_1.bias": torch.zeros(width),
            f"{block}.mlp.c_fc.weight": torch.zeros(4 * width, width, dtype=half),
            f"{block}.mlp.c_fc.bias": torch.zeros(4 * width, dtype=half),
            f"{block}.mlp.c_proj.weight": torch.zeros(width, 4 * width, dtype=half),
            f"{block}.mlp.c_proj.bias": torch.zeros(width, dtype=half),
            f"{block}.ln_2.weight": torch.ones(width),
            f"{block}.ln_2.bias": torch.zeros(width),
        }
    return weights


def image_encoder(name: str = "image_encoder") -> Weights:
    """OpenAI's image tower."""
    return {
        f"{name}.class_embedding": torch.zeros(128),
        f"{name}.positional_embedding": torch.zeros(17, 128),
        f"{name}.proj": torch.zeros(128, 64, dtype=torch.float16),
        f"{name}.conv1.weight": torch.zeros(128, 3, 8, 8, dtype=torch.float16),
        f"{name}.ln_pre.weight": torch.ones(128),
        f"{name}.ln_pre.bias": torch.zeros(128),
        **transformer(name, 128),
        f"{name}.ln_post.weight": torch.ones(128),
        f"{name}.ln_post.bias": torch.zeros(128),
    }


def text_encoder() -> Weights:
    """OpenAI's text tower without the token embeddings, which the trainers do not put into it."""
    return {
        "text_encoder.positional_embedding": torch.zeros(POSITIONS, 64),
        "text_encoder.text_projection": torch.zeros(64, 64, dtype=torch.float16),
        **transformer("text_encoder", 64),
        "text_encoder.ln_final.weight": torch.ones(64),
        "text_encoder.ln_final.bias": torch.zeros(64),
    }


def class_buffers(learner: str, tokens: int) -> Weights:
    """The token embeddings of the classes that are on both sides of the learned context."""
    return {
        f"{learner}token_prefix": torch.zeros(CLASSES, 1, 64, dtype=torch.float16),
        f"{learner}token_suffix": torch.zeros(CLASSES, POSITIONS - 1 - tokens, 64, dtype=torch.float16),
    }


def clip() -> Weights:
    """All of CLIP in a whole model of MaPLe's and PromptSRC's code."""
    return {"logit_scale": torch.tensor(4.6), **image_encoder(), **text_encoder()}


class PublishedFile(NamedTuple):
    """What the code of a method's authors saves."""

    case: str  # the golden case that recorded what the learned parameters compute
    learned: dict[str, str]  # name in the file -> name in the golden case
    others: Callable[[], Weights]  # the rest of the file


TEXT, IMAGE = "text_encoder.transformer.resblocks", "image_encoder.transformer.resblocks"
CONTEXT_AND_META_NET = {
    "ctx": "prompt_learner.ctx",
    "meta_net.linear1.weight": "prompt_learner.meta_net.linear1.weight",
    "meta_net.linear1.bias": "prompt_learner.meta_net.linear1.bias",
    "meta_net.linear2.weight": "prompt_learner.meta_net.linear2.weight",
    "meta_net.linear2.bias": "prompt_learner.meta_net.linear2.bias",
}
OF_MAPLE = (
    "prompt_learner.ctx",
    "prompt_learner.proj.weight",
    "prompt_learner.proj.bias",
    "prompt_learner.compound_prompts_text.0",
    "prompt_learner.compound_prompts_text.1",
    "prompt_learner.compound_prompt_projections.0.weight",
    "prompt_learner.compound_prompt_projections.0.bias",
    "prompt_learner.compound_prompt_projections.1.weight",
    "prompt_learner.compound_prompt_projections.1.bias",
)
OF_PROMPTSRC = (
    "prompt_learner.ctx",
    f"{TEXT}.1.VPT_shallow",
    f"{TEXT}.2.VPT_shallow",
    "image_encoder.VPT",
    f"{IMAGE}.1.VPT_shallow",
    f"{IMAGE}.2.VPT_shallow",
)
VISUAL = {
    "image_encoder.VPT": "image_encoder.visual_ctx",
    f"{IMAGE}.1.VPT_shallow": f"{IMAGE}.1.visual_ctx",
    f"{IMAGE}.2.VPT_shallow": f"{IMAGE}.2.visual_ctx",
}

FILES = {
    "coop": PublishedFile("coop", {"ctx": "prompt_learner.ctx"}, lambda: class_buffers("", 4)),
    "cocoop": PublishedFile("cocoop", CONTEXT_AND_META_NET, lambda: class_buffers("", 4)),
    "tcp": PublishedFile("tcp", CONTEXT_AND_META_NET, lambda: class_buffers("", 4)),
    "maple": PublishedFile(
        "maple", dict(zip(OF_MAPLE, OF_MAPLE)), lambda: clip() | class_buffers("prompt_learner.", 2)
    ),
    # IVLP and VPT of MaPLe's code, with prompts that MuDPT's code recorded under other names
    "ivlp": PublishedFile(
        "mpt",
        {
            "prompt_learner.ctx": "text_prompt_learner.visual_ctx",
            f"{TEXT}.1.VPT_shallow": f"{TEXT}.1.visual_ctx",
            **VISUAL,
        },
        lambda: clip() | class_buffers("prompt_learner.", 2),
    ),
    "vpt": PublishedFile("vpt", VISUAL, clip),  # its texts are constants outside of the model
    "promptsrc": PublishedFile(
        "promptsrc",
        dict(zip(OF_PROMPTSRC, OF_PROMPTSRC)),
        lambda: clip() | class_buffers("prompt_learner.", 4) | image_encoder("prompt_learner.ZS_image_encoder"),
    ),
}


def published_file(method: str, group: str = "param") -> Weights:
    """
    All tensors in a file of a method's own code.

    Args:
        method: a key of `FILES`.
        group: which recorded parameters; `gpa` is PromptSRC's average over the epochs, saved after the last one.
    """
    file = FILES[method]
    params = recorded(file.case, group)
    return file.others() | {name: params[of_case] for name, of_case in file.learned.items()}


def as_dassl_saves(weights: Weights) -> dict[str, Any]:
    """The dict that Dassl's trainer writes to `model.pth.tar-20`."""
    return {"state_dict": weights, "epoch": 20, "optimizer": {"state": {}, "param_groups": []}, "scheduler": {}}
