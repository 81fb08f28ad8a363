"""The published implementations whose checkpoints can be converted: one record of `FORMATS` each."""

from __future__ import annotations

from dataclasses import replace

from ..config import Modality
from .format import Format, Names


def _linear(published: str, ours: str) -> Names:
    return {f"{published}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}


def _meta_net(ours: str) -> Names:
    first, second = (_linear(f"prompt_learner.meta_net.linear{i}", f"{ours}.meta_net.linear{i}") for i in (1, 2))
    return first | second


def _in_blocks(parameter: str, modality: Modality) -> Names:
    """Deep prompts that are parameters of the blocks of a tower."""
    encoder = {"text": "text_encoder", "vision": "image_encoder"}[modality]
    return {f"{encoder}.transformer.resblocks.{{layer}}.{parameter}": f"{modality}_prompts.{{layer}}"}


def _light_transformer(prefix: str, pre: str, post: str, projection: str, direction: str) -> Names:
    block, ours = f"{prefix}self_attn", f"{direction}.networks.all_layers"
    return {
        **_linear(f"{prefix}{pre}", f"{ours}.input_norm"),
        **_linear(f"{block}.ln_1", f"{ours}.attention_norm"),
        f"{block}.attn.in_proj_weight": f"{ours}.attention.qkv.weight",
        f"{block}.attn.in_proj_bias": f"{ours}.attention.qkv.bias",
        **_linear(f"{block}.attn.out_proj", f"{ours}.attention.output"),
        **_linear(f"{block}.ln_2", f"{ours}.feed_forward_norm"),
        **_linear(f"{block}.mlp.c_fc", f"{ours}.feed_forward_in"),
        **_linear(f"{block}.mlp.c_proj", f"{ours}.feed_forward_out"),
        **_linear(f"{prefix}{post}", f"{ours}.output_norm"),
        **_linear(f"{prefix}{projection}", f"{ours}.output"),
    }


def _text_to_vision(learner: str) -> Names:
    """The light transformer that generates visual prompts from the text prompts of all layers."""
    return _light_transformer(learner, "ln_pre", "ln_post", "visual_proj", "text_to_vision")


def _vpt(code: str, first: str, deep: str) -> Format:
    """Visual prompts alone: one parameter of the image tower, and one of each later block."""
    return Format(
        methods=("vpt",),
        code=code,
        preset="vpt_deep",
        input={f"image_encoder.{first}": "vision_prompts.0"},
        deep=_in_blocks(deep, "vision"),
    )


CONTEXT = {"prompt_learner.ctx": "text_prompts.0"}

IVLP = Format(
    methods=("ivlp", "mpt"),
    code="MaPLe's code",
    preset="ivlp",
    input={**CONTEXT, "image_encoder.VPT": "vision_prompts.0"},
    deep=_in_blocks("VPT_shallow", "text") | _in_blocks("VPT_shallow", "vision"),
    vision_is_optional=True,
)

# If a file fits several of these and they give the same adapter, the first one is recognized.
FORMATS = (
    # github.com/KaiyangZhou/CoOp
    Format(methods=("coop",), code="CoOp's code", preset="coop", input=CONTEXT, may_be_class_specific=True),
    Format(methods=("cocoop",), code="CoOp's code", preset="cocoop", input=CONTEXT | _meta_net("image_shift")),
    # github.com/htyao89/Textual-based_Class-aware_prompt_tuning
    Format(methods=("tcp",), code="TCP's code", preset="tcp", input=CONTEXT | _meta_net("class_tokens")),
    # github.com/muzairkhattak/PromptSRC: IVLP's prompts, beside the frozen image tower that its loss refers to
    replace(
        IVLP,
        methods=("promptsrc",),
        code="PromptSRC's code",
        preset="promptsrc",
        mark="prompt_learner.ZS_image_encoder.",
    ),
    # github.com/muzairkhattak/multimodal-prompt-learning; the trainers MaPLe and IVLP are in PromptSRC's code, too
    Format(
        methods=("maple",),
        code="MaPLe's code",
        preset="maple",
        input=CONTEXT | _linear("prompt_learner.proj", "text_to_vision.networks.layer_0"),
        deep={
            "prompt_learner.compound_prompts_text.{before}": "text_prompts.{layer}",
            **_linear("prompt_learner.compound_prompt_projections.{before}", "text_to_vision.networks.layer_{layer}"),
        },
    ),
    IVLP,
    _vpt("MaPLe's code", "VPT", "VPT_shallow"),
    # MuDPT's own code
    _vpt("MuDPT's code", "visual_ctx", "visual_ctx"),
    Format(
        methods=("mpt", "ivlp"),
        code="MuDPT's code",
        preset="ivlp",
        input={
            "text_prompt_learner.visual_ctx": "text_prompts.0",  # this is its name, although it is a text prompt
            "image_encoder.visual_ctx": "vision_prompts.0",
        },
        deep=_in_blocks("visual_ctx", "text") | _in_blocks("visual_ctx", "vision"),
    ),
    Format(
        methods=("mudpt",),
        code="MuDPT's code",
        preset="mudpt_linear",  # the released trainer is the linear form
        input={
            "mudpt_prompt_learner.ctx": "text_prompts.0",
            "image_encoder.visual_ctx": "vision_prompts.0",
            **_linear("mudpt_prompt_learner.embed_projection", "text_to_vision.networks.input_layer"),
        },
        deep={
            "mudpt_prompt_learner.deep_prompts": "text_prompts.deep",
            "image_encoder.visual_ctx_deep_prompts": "vision_prompts.deep",
            **_linear("mudpt_prompt_learner.deep_projections", "text_to_vision.networks.deep_layers"),
            **_linear("image_encoder.visual_ctx_deep_projections", "vision_to_text.networks.deep_layers"),
        },
    ),
    Format(
        methods=("umudpt",),
        code="MuDPT's code",
        preset="umudpt",
        input={"umudpt_prompt_learner.ctx": "text_prompts.0", **_text_to_vision("umudpt_prompt_learner.")},
        deep={"umudpt_prompt_learner.deep_prompts": "text_prompts.deep"},
    ),
    Format(
        methods=("uumudpt",),
        code="MuDPT's code",
        preset="mudpt",
        input={
            "uumudpt_prompt_learner.ctx": "text_prompts.0",
            "image_encoder.visual_ctx": "vision_prompts.0",
            **_text_to_vision("uumudpt_prompt_learner."),
        },
        deep={
            "uumudpt_prompt_learner.deep_prompts": "text_prompts.deep",
            "image_encoder.visual_ctx_deep_prompts": "vision_prompts.deep",
            **_light_transformer(
                "image_encoder.visual_ctx_", "ln_intra_pre", "ln_intra_post", "text_proj", "vision_to_text"
            ),
        },
    ),
)


def formats_of(method: str) -> list[Format]:
    """
    The formats in which checkpoints of a method may be stored.

    Args:
        method: a name in the `methods` of a format.

    Raises:
        ValueError: if no format has this method. The message lists the methods.
    """
    found = [each for each in FORMATS if method in each.methods]
    if not found:
        raise ValueError(f"Unknown method {method!r}; the published methods are {known_methods()}.")
    return found


def known_methods() -> str:
    """All methods with their presets, for messages."""
    presets = {each.methods[0]: each.preset for each in FORMATS}
    return ", ".join(f"{method} (preset {preset})" for method, preset in presets.items())
