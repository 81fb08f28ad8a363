"""What conversion accepts and refuses. That the converted weights are right is shown by test_golden.py."""

import re

import pytest
import torch

from peft_mudpt import MuDPTConfig, convert_checkpoint
from tests.conversion.published_files import as_dassl_saves, recorded
from tests.test_golden import IMPLEMENTATIONS


PRESETS = {"vpt": "vpt_deep", "mpt": "ivlp", "mudpt": "mudpt_linear", "uumudpt": "mudpt"}


def at_depth_one(method: str) -> dict[str, torch.Tensor]:
    """What a published trainer saves at depth 1: the deep prompts are gone or empty."""
    kept = {}
    for name, tensor in recorded(method).items():
        if "resblocks" in name or "compound" in name:
            continue
        kept[name] = tensor[:0] if name.endswith("deep_prompts") else tensor
    return kept


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_the_config_is_the_preset_with_the_sizes_of_the_file(method):
    config, _ = convert_checkpoint(recorded(method), method)
    preset = MuDPTConfig.from_preset(PRESETS.get(method, method))
    for name in ("fusion_direction", "fusion_type", "fusion_combine", "fusion_sharing"):
        assert getattr(config, name) == getattr(preset, name)
    assert config.conditioning == preset.conditioning
    assert config.feature_size == (None if preset.conditioning == "none" else 64)
    for modality, width in (("text", 64), ("vision", 128)):
        if config.num_tokens(modality):
            assert getattr(config, f"{modality}_hidden_size") == width


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_a_file_of_depth_one_gives_an_adapter_of_depth_one(method):
    weights = at_depth_one(method)
    config, converted = convert_checkpoint(weights, method)
    assert {config.depth("text"), config.depth("vision")} <= {0, 1}
    assert not any("vision_to_text" in name for name in converted)
    without_idle = {n: t for n, t in weights.items() if not n.endswith("deep_prompts") and "visual_ctx_" not in n}
    again = convert_checkpoint(without_idle, method)[1]
    assert again.keys() == converted.keys()


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_what_is_not_learned_is_left_out(method):
    extra = dict.fromkeys(
        (
            "prompt_learner.token_prefix",
            "mudpt_prompt_learner.token_suffix",
            "logit_scale",
            "image_encoder.conv1.weight",
            "image_encoder.transformer.resblocks.0.attn.in_proj_weight",
            "text_encoder.transformer.resblocks.11.mlp.c_fc.bias",
            "text_encoder.text_projection",
        ),
        torch.zeros(1),
    )
    _, converted = convert_checkpoint({**recorded(method), **extra}, method)
    assert converted.keys() == convert_checkpoint(recorded(method), method)[1].keys()


def test_half_precision_files_give_full_precision_weights():
    half = {name: tensor.half() for name, tensor in recorded("maple").items()}
    assert {tensor.dtype for tensor in convert_checkpoint(half, "maple")[1].values()} == {torch.float32}


def test_coops_own_files_hold_the_bare_context():
    context = recorded("coop")["prompt_learner.ctx"]
    _, converted = convert_checkpoint({"ctx": context, "token_prefix": torch.zeros(1)}, "coop")
    assert torch.equal(next(iter(converted.values()))[0], context)


def in_maples_code(text_layers=3, vision_layers=4, vision_tokens=4, prefix="") -> dict[str, torch.Tensor]:
    """A file as IVLP, VPT and PromptSRC of MaPLe's authors save it, with parts of CLIP; 0 layers: no such prompts."""
    generator = torch.Generator().manual_seed(0)

    def prompts(name, layers, tokens, width):
        names = [name, *(f"{name.split('.')[0]}.transformer.resblocks.{i}.VPT_shallow" for i in range(1, layers))]
        return {each: torch.randn(tokens, width, generator=generator) for each in names[:layers]}

    clip = {"image_encoder.class_embedding": torch.zeros(128), "text_encoder.ln_final.bias": torch.zeros(64)}
    text = prompts("text_encoder.VPT", text_layers, 4, 64)
    weights = {"prompt_learner.ctx" if name == "text_encoder.VPT" else name: tensor for name, tensor in text.items()}
    weights |= clip | prompts("image_encoder.VPT", vision_layers, vision_tokens, 128)
    return {prefix + name: tensor.half() for name, tensor in weights.items()}


@pytest.mark.parametrize("method", ["mpt", "ivlp", "promptsrc", "vpt"])
@pytest.mark.parametrize("vision_tokens", [4, 2])
@pytest.mark.parametrize(("text_layers", "vision_layers"), [(3, 4), (1, 4), (3, 1), (1, 1), (3, 0)])
def test_files_of_maples_and_promptsrcs_code_convert(method, text_layers, vision_layers, vision_tokens):
    text_layers = 0 if method == "vpt" else text_layers
    vision_layers = max(1, vision_layers) if method == "vpt" else vision_layers
    weights = in_maples_code(text_layers, vision_layers, vision_tokens)
    config, converted = convert_checkpoint(weights, method)
    assert (config.depth("text"), config.depth("vision")) == (text_layers, vision_layers)
    assert config.fusion_direction == "none" and config.num_tokens("vision") == (vision_tokens if vision_layers else 0)
    kept = {name.rpartition(".")[2]: tensor for name, tensor in converted.items()}
    blocks = "{}_encoder.transformer.resblocks.{}.VPT_shallow"
    for modality, tower, first in (("text", "text", "prompt_learner.ctx"), ("vision", "image", "image_encoder.VPT")):
        layers = config.depth(modality)
        assert len(kept.get(f"{modality}_prompts", [])) == layers
        for i in range(layers):
            published = weights[blocks.format(tower, i) if i else first]
            assert torch.equal(kept[f"{modality}_prompts"][i], published.float())


@pytest.mark.parametrize(
    "missing", ["image_encoder.VPT", "prompt_learner.ctx", "text_encoder.transformer.resblocks.1.VPT_shallow"]
)
def test_a_missing_name_of_maples_code_is_listed_as_that_code_calls_it(missing):
    weights = in_maples_code()
    del weights[missing]
    with pytest.raises(ValueError, match=rf"missing parameters: \['{missing}'\], unknown parameters: none"):
        convert_checkpoint(weights, "ivlp")


def of_data_parallel(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def with_a_second_image_tower(weights):
    names = ("conv1.weight", "transformer.resblocks.0.attn.in_proj_weight", "VPT")
    return {**weights, **{f"prompt_learner.ZS_image_encoder.{name}": torch.zeros(2, 2) for name in names}}


@pytest.mark.parametrize("saved", [of_data_parallel, as_dassl_saves, with_a_second_image_tower])
@pytest.mark.parametrize("method", [*IMPLEMENTATIONS, "promptsrc"])
def test_the_same_weights_saved_otherwise_convert_alike(method, saved):
    weights = in_maples_code() if method == "promptsrc" else recorded(method)
    expected, found = (convert_checkpoint(each, method) for each in (weights, saved(weights)))
    assert found[0] == expected[0] and all(torch.equal(tensor, found[1][name]) for name, tensor in expected[1].items())


@pytest.mark.parametrize("method", ["coop", "cocoop", "maple", "umudpt", "promptsrc"])
def test_a_prompt_learner_that_was_saved_alone_converts(method):
    weights = in_maples_code(1, 0) if method == "promptsrc" else recorded(method)
    alone = {re.sub(r"^\w*prompt_learner\.", "", name): tensor for name, tensor in weights.items()}
    expected, found = (convert_checkpoint(each, method) for each in (weights, alone))
    assert found[0] == expected[0] and all(torch.equal(tensor, found[1][name]) for name, tensor in expected[1].items())


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_a_missing_name_is_listed(method):
    weights = recorded(method)
    first = next(name for name in weights if name.endswith("ctx"))
    del weights[first]
    with pytest.raises(ValueError, match=f"missing .*{first}"):
        convert_checkpoint(weights, method)


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_an_unknown_name_is_listed(method):
    with pytest.raises(ValueError, match="unknown .*prompt_learner.extra"):
        convert_checkpoint({**recorded(method), "prompt_learner.extra": torch.zeros(1)}, method)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="'cocop'.*coop .*mpt .preset ivlp"):
        convert_checkpoint({}, "cocop")


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_shapes_that_do_not_go_together_are_listed(method):
    weights = recorded(method)
    for name in list(weights)[:: max(1, len(weights) // 5)]:
        wrong = {**weights, name: torch.zeros(7, 7, 7, 7)}
        with pytest.raises(ValueError, match="shape"):
            convert_checkpoint(wrong, method)


@pytest.mark.parametrize("method", IMPLEMENTATIONS)
def test_values_that_are_no_weights_are_refused(method):
    weights = recorded(method)
    for name in weights:
        for value in (torch.tensor(1.0), torch.zeros(0, 4), torch.zeros(4, 0), [1.0], None):
            with pytest.raises(ValueError, match="non-empty tensors|shapes|missing"):
                convert_checkpoint({**weights, name: value}, method)
