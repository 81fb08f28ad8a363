"""Converts checkpoints of the published research code to this package's config and adapter weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Optional

import torch

from .config import MODALITIES, MuDPTConfig
from .layer import LAYER_NAME, MuDPTLayer
from .prompts.prompts import MultiModalPrompts


# Published files also hold tensors that were not learned: the embedded class names of one data set, all of CLIP under
# its original names, and PromptSRC's second image tower. They are skipped, because the base model provides them.
NOT_LEARNED = re.compile(
    r"(.*\.)?token_(prefix|suffix)"
    r"|prompt_learner\.ZS_image_encoder\..*"
    r"|logit_scale"
    r"|image_encoder\.(class_embedding|positional_embedding|proj|conv1\.weight|ln_(pre|post)\.(weight|bias))"
    r"|text_encoder\.(positional_embedding|text_projection|ln_final\.(weight|bias))"
    r"|(image|text)_encoder\.transformer\.resblocks\.\d+\.(ln_[12]|attn(\.out_proj)?|mlp\.c_(fc|proj))"
    r"\.(weight|bias|in_proj_weight|in_proj_bias)"
)


class Depths(NamedTuple):
    """Number of layers with their own prompts in the text and the vision tower, including the input layer."""

    text: int
    vision: int


COOP_CONTEXT, CLASS_CONTEXTS = "prompt_learner.ctx", "class_contexts.contexts"

# Published name -> name in `MultiModalPrompts`. "<prompts>.<i>" is layer i of a stack; "<prompts>.deep" is all layers
# after the first. None marks a parameter that has no influence at this depth, and may therefore be missing.
Names = dict[str, Optional[str]]


def _linear(published: str, ours: str) -> Names:
    return {f"{published}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}


def _light_transformer(prefix: str, pre: str, post: str, projection: str, ours: str) -> Names:
    block = f"{prefix}self_attn"
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


def _idle_unless(active: bool, names: Names) -> Names:
    return names if active else dict.fromkeys(names)


def _coop(depths: Depths) -> Names:
    return {COOP_CONTEXT: "text_prompts.0"}


def _with_meta_net(depths: Depths, ours: str) -> Names:
    linears = ("meta_net.linear1", "meta_net.linear2")
    first, second = (_linear(f"prompt_learner.{name}", f"{ours}.{name}") for name in linears)
    return {**_coop(depths), **first, **second}


def _vpt(depths: Depths) -> Names:
    blocks = {
        f"image_encoder.transformer.resblocks.{i}.visual_ctx": f"vision_prompts.{i}" for i in range(1, depths.vision)
    }
    return {"image_encoder.visual_ctx": "vision_prompts.0", **blocks}


def _mpt(depths: Depths) -> Names:
    blocks = {f"text_encoder.transformer.resblocks.{i}.visual_ctx": f"text_prompts.{i}" for i in range(1, depths.text)}
    return {"text_prompt_learner.visual_ctx": "text_prompts.0", **blocks, **_vpt(depths)}


def _vpt_of_maple(depths: Depths) -> Names:
    blocks = {
        f"image_encoder.transformer.resblocks.{i}.VPT_shallow": f"vision_prompts.{i}" for i in range(1, depths.vision)
    }
    return {"image_encoder.VPT": "vision_prompts.0", **blocks}


def _ivlp(depths: Depths) -> Names:
    blocks = {
        f"text_encoder.transformer.resblocks.{i}.VPT_shallow": f"text_prompts.{i}" for i in range(1, depths.text)
    }
    return {"prompt_learner.ctx": "text_prompts.0", **blocks, **(_vpt_of_maple(depths) if depths.vision else {})}


def _maple(depths: Depths) -> Names:
    networks = "text_to_vision.networks.layer_"
    names: Names = {"prompt_learner.ctx": "text_prompts.0", **_linear("prompt_learner.proj", f"{networks}0")}
    for i in range(depths.text - 1):
        names[f"prompt_learner.compound_prompts_text.{i}"] = f"text_prompts.{i + 1}"
        names |= _linear(f"prompt_learner.compound_prompt_projections.{i}", f"{networks}{i + 1}")
    return names


def _mudpt(depths: Depths) -> Names:
    learner, deep = "mudpt_prompt_learner.", depths.text > 1
    return {
        f"{learner}ctx": "text_prompts.0",
        "image_encoder.visual_ctx": "vision_prompts.0",
        **_linear(f"{learner}embed_projection", "text_to_vision.networks.input_layer"),
        **_idle_unless(
            deep,
            {
                f"{learner}deep_prompts": "text_prompts.deep",
                "image_encoder.visual_ctx_deep_prompts": "vision_prompts.deep",
                **_linear(f"{learner}deep_projections", "text_to_vision.networks.deep_layers"),
                **_linear("image_encoder.visual_ctx_deep_projections", "vision_to_text.networks.deep_layers"),
            },
        ),
    }


def _umudpt(depths: Depths, learner: str = "umudpt_prompt_learner.") -> Names:
    return {
        f"{learner}ctx": "text_prompts.0",
        **_idle_unless(depths.text > 1, {f"{learner}deep_prompts": "text_prompts.deep"}),
        **_light_transformer(learner, "ln_pre", "ln_post", "visual_proj", "text_to_vision.networks.all_layers"),
    }


def _uumudpt(depths: Depths) -> Names:
    visual = "image_encoder.visual_ctx"
    back = _light_transformer(
        f"{visual}_", "ln_intra_pre", "ln_intra_post", "text_proj", "vision_to_text.networks.all_layers"
    )
    return {
        **_umudpt(depths, learner="uumudpt_prompt_learner."),
        visual: "vision_prompts.0",
        **_idle_unless(depths.text > 1, {f"{visual}_deep_prompts": "vision_prompts.deep", **back}),
    }


# By the name that a published implementation gives to its method: our preset, and the names of the parameters. MuDPT's
# code and that of MaPLe and PromptSRC have different names for the same prompts, so that a method may have both.
IMPLEMENTATIONS: dict[str, tuple[str, tuple[Callable[[Depths], Names], ...]]] = {
    "coop": ("coop", (_coop,)),
    "cocoop": ("cocoop", (partial(_with_meta_net, ours="image_shift"),)),
    "tcp": ("tcp", (partial(_with_meta_net, ours="class_tokens"),)),
    "vpt": ("vpt_deep", (_vpt, _vpt_of_maple)),
    "mpt": ("ivlp", (_mpt, _ivlp)),
    "ivlp": ("ivlp", (_ivlp, _mpt)),
    "promptsrc": ("promptsrc", (_ivlp,)),
    "maple": ("maple", (_maple,)),
    "mudpt": ("mudpt_linear", (_mudpt,)),
    "umudpt": ("umudpt", (_umudpt,)),
    "uumudpt": ("mudpt", (_uumudpt,)),
}


def convert_checkpoint(
    state_dict: Mapping[str, torch.Tensor], method: str
) -> tuple[MuDPTConfig, dict[str, torch.Tensor]]:
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
    if not isinstance(method, str) or method not in IMPLEMENTATIONS:
        known = ", ".join(f"{name} (preset {preset})" for name, (preset, _) in IMPLEMENTATIONS.items())
        raise ValueError(f"Unknown method {method!r}; the published methods are {known}.")
    plain = {_unwrapped_name(name): tensor for name, tensor in unwrapped(state_dict).items()}
    learned = {name: tensor for name, tensor in plain.items() if not NOT_LEARNED.fullmatch(str(name))}
    preset, implementations = IMPLEMENTATIONS[method]
    if "ctx" in learned:  # CoOp saves only the prompt learner
        learned = _below_learner(learned, implementations[0](Depths(1, 1)))
    _check_tensors(learned)
    depths = _depths(learned)
    candidates = [published_names(depths) for published_names in implementations]
    names = min(
        candidates, key=lambda names: sum(map(len, _faults(learned, names)))
    )  # of the code that saved the file
    missing, unknown = _faults(learned, names)
    if missing or unknown:
        raise ValueError(
            f"This is not a checkpoint of method {method!r}: missing parameters: {missing or 'none'}, "
            f"unknown parameters: {unknown or 'none'}. Check the name of the method."
        )
    used = {name: ours for name, ours in names.items() if ours is not None}
    if method == "coop" and learned[COOP_CONTEXT].dim() == 3:  # a context per class
        used[COOP_CONTEXT] = CLASS_CONTEXTS
    config = _config(preset, {ours: learned[name].shape for name, ours in used.items()}, depths)
    _check_shapes(config, {name: (ours, learned[name].shape) for name, ours in used.items()})
    prefix = ".".join(["base_model.model", LAYER_NAME, *MuDPTLayer.adapter_layer_names])
    weights = _stacked({ours: learned[name].float() for name, ours in used.items()})
    return config, {f"{prefix}.{name}": tensor for name, tensor in weights.items()}


def unwrapped(checkpoint: Mapping) -> Mapping:
    """The weights in what Dassl, the framework of the published trainers, saves; any other mapping as it is."""
    inner = checkpoint.get("state_dict")
    return inner if isinstance(inner, Mapping) else checkpoint


def _unwrapped_name(name):
    """A parameter's name without what `DataParallel` or `torch.compile` puts before it."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name) if isinstance(name, str) else name


def _below_learner(learned: Mapping[str, torch.Tensor], names: Names) -> dict[str, torch.Tensor]:
    """The tensors of a prompt learner that was saved alone, under the names that they have in the whole model."""
    learner = next((name.removesuffix("ctx") for name in names if name.endswith("learner.ctx")), "")
    towers = ("image_encoder.", "text_encoder.")
    return {name if str(name).startswith(towers) else f"{learner}{name}": tensor for name, tensor in learned.items()}


def _faults(learned: Mapping[str, torch.Tensor], names: Names) -> tuple[list[str], list[str]]:
    """The names that are missing from a checkpoint, and those in it that are unknown."""
    missing = [name for name, ours in names.items() if ours is not None and name not in learned]
    return missing, [name for name in learned if name not in names]


def _check_tensors(learned: Mapping[str, torch.Tensor]) -> None:
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


def _depths(learned: Mapping[str, torch.Tensor]) -> Depths:
    """Infer the prompt depths from the layer numbers in parameter names and the lengths of stacked deep prompts."""

    def deepest(numbered: str, offset: int) -> int:
        found = (re.match(numbered, name) for name in learned)
        return max((int(match[1]) + offset for match in found if match), default=1)

    def deepest_in(tower: str) -> int:
        return deepest(rf"{tower}_encoder\.transformer\.resblocks\.(\d+)\.(visual_ctx|VPT_shallow)", 1)

    stacks = [len(tensor) for name, tensor in learned.items() if name.endswith("deep_prompts")]
    compound = deepest(r"prompt_learner\.compound_prompt\w*\.(\d+)", 2)
    return Depths(
        text=max(deepest_in("text"), compound, 1 + max(stacks, default=0)),
        vision=deepest_in("image") if any(name.startswith("image_encoder.") for name in learned) else 0,
    )


def _config(preset: str, shapes: dict[str, torch.Size], depths: Depths) -> MuDPTConfig:
    """The preset with a checkpoint's token numbers, depths and widths. `shapes` is keyed by this package's names."""
    fused = MuDPTConfig.from_preset(preset).fusion_direction != "none"
    prompts = {m: shapes[f"{m}_prompts.0"] for m in MODALITIES if f"{m}_prompts.0" in shapes}  # (n, d)
    if fused and "vision" not in prompts:  # generated from the text prompts: same number, width of the projection
        biases = ("text_to_vision.networks.layer_0.bias", "text_to_vision.networks.all_layers.output.bias")
        width = next(shapes[name][0] for name in biases if name in shapes)
        prompts["vision"] = torch.Size([prompts["text"][0], width])
    fields: dict[str, int] = {}
    if CLASS_CONTEXTS in shapes:
        classes, *shape = shapes[CLASS_CONTEXTS]  # (C, n, d)
        fields |= {"class_specific_context": True, "num_classes": classes}
        prompts["text"] = torch.Size(shape)
    for modality, shape in prompts.items():
        if len(shape) != 2:
            raise ValueError(
                f"The input prompts have shape {tuple(shape)}, expected (tokens, width). Only method coop has "
                "class-specific contexts (CSC)."
            )
        tokens, width = shape
        if fields.setdefault("num_virtual_tokens", tokens) != tokens:
            fields[f"{modality}_num_virtual_tokens"] = tokens
        fields[f"{modality}_hidden_size"] = width
        fields[f"{modality}_prompt_depth"] = depths.text if fused else getattr(depths, modality)
    fields |= {f"{modality}_prompt_depth": 0 for modality in MODALITIES if modality not in prompts}
    fields |= next((_meta_net(shape) for name, shape in shapes.items() if name.endswith("linear1.weight")), {})
    return MuDPTConfig.from_preset(preset, **fields)


def _meta_net(shape: torch.Size) -> dict[str, int]:
    """The fields of a config that follow from the first weight (hidden channels, channels of the features)."""
    if len(shape) != 2 or shape[0] > shape[1]:
        raise ValueError(
            f"The first layer of the meta-net has shape {tuple(shape)}, expected (hidden channels, channels of the "
            "features), no more of the first than of the second."
        )
    return {"feature_size": shape[1], "meta_net_reduction": shape[1] // shape[0]}


def _check_shapes(config: MuDPTConfig, found: dict[str, tuple[str, torch.Size]]) -> None:
    with torch.device("meta"):
        ours = {name: tensor.shape for name, tensor in MultiModalPrompts(config).state_dict().items()}
    wrong = []
    for published, (name, shape) in found.items():
        stack, _, layer = name.rpartition(".")
        expected = ours[name] if name in ours else ours[stack]  # a stack is (J, n, d)
        if stack in ours:
            expected = (expected[0] - 1, *expected[1:]) if layer == "deep" else expected[1:]
        if tuple(shape) != tuple(expected):
            wrong.append(f"{published} is {tuple(shape)}, expected {tuple(expected)}")
    if wrong:
        raise ValueError(f"The shapes in this checkpoint contradict each other: {'; '.join(wrong)}.")


def _stacked(renamed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join the J layers of n prompts of width d per tower: (n, d), ... or (n, d), (J - 1, n, d) -> (J, n, d)."""
    weights = {}
    for name, tensor in renamed.items():
        stack, _, layer = name.rpartition(".")
        if stack not in ("text_prompts", "vision_prompts"):
            weights[name] = tensor
        else:  # `renamed` lists the layers in order
            tensor = tensor if layer == "deep" else tensor[None]
            weights[stack] = torch.cat([weights[stack], tensor]) if stack in weights else tensor
    return weights
