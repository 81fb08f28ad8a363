"""Packed class texts against the model's own `get_text_features`."""

import random

import pytest
import torch
from peft import get_peft_model
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peft_mudpt import MuDPTConfig
from peft_mudpt.classifier.encoding import encode_layout
from peft_mudpt.classifier.layout import groups_kept, lay_out_classes
from tests.conftest import BOS, EOS, SAME_FOR_ALL_IMAGES, build_clip, completed


CLASSES = 47


def long_clip():
    """With room for names of 30 tokens."""
    return build_clip(num_positions=48)


def class_tokens(longest=30, length=None, pad=0):
    """Names of 1 to `longest` tokens; every length occurs."""
    draw = random.Random(0)
    lengths = [1 + i % longest for i in range(CLASSES)]
    draw.shuffle(lengths)
    texts = [[BOS, *(draw.randrange(1, 90) for _ in range(n)), EOS] for n in lengths]
    length = length or max(map(len, texts))
    return {"input_ids": torch.tensor([text + [pad] * (length - len(text)) for text in texts])}


def with_preset(preset, **fields):
    clip = long_clip()
    torch.manual_seed(1)
    return get_peft_model(clip, MuDPTConfig.from_preset(preset, init_std=0.5, **fields)).eval()


def gradients(model, features):
    """Of an uneven sum of the features, by parameter."""
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad((features * weights).sum(), list(parameters.values()), allow_unused=True)
    return {name: grad for name, grad in zip(parameters, grads) if grad is not None}


def assert_equal_features_and_gradients(model, tokens, class_batch_size=None):
    inputs = completed(model, {"input_ids": tokens["input_ids"]})
    plain = model.get_text_features(**inputs).pooler_output
    groups = lay_out_classes(model, tokens, class_batch_size)
    packed = encode_layout(model, groups, condition=inputs.get("mudpt_condition"))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    assert packed.requires_grad == plain.requires_grad
    if plain.requires_grad:
        expected, got = gradients(model, plain), gradients(model, packed)
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("class_batch_size", [None, 10, 1])
@pytest.mark.parametrize("preset", SAME_FOR_ALL_IMAGES)
def test_packed_classes_have_the_features_and_gradients_they_have_alone(preset, class_batch_size):
    assert_equal_features_and_gradients(with_preset(preset), class_tokens(), class_batch_size)


@pytest.mark.parametrize(
    "fields",
    [
        {"class_token_layer": 1},
        {"num_virtual_tokens": 1},
        {"prompt_depth": 2},
        {"first_layer": 1},
        {"fusion_direction": "bidirectional", "vision_prompt_depth": 2, "prompt_depth": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("common", [[], [1, 2, 3]], ids=["alone", "with common words"])
def test_classes_with_tokens_of_their_own_have_the_features_and_gradients_they_have_alone(fields, common):
    ids = class_tokens(longest=9)["input_ids"]  # (C, L)
    between = torch.tensor(common, dtype=torch.long).expand(len(ids), -1)
    tokens = {"input_ids": torch.cat([ids[:, :1], between, ids[:, 1:]], dim=1)}
    assert_equal_features_and_gradients(with_preset("tcp", **fields), tokens, class_batch_size=20)


@pytest.mark.parametrize("length", [32, 44, 48])  # with four prompts: some padding, the whole table, more than that
@pytest.mark.parametrize("pad", [0, EOS])
def test_padding_on_the_right_changes_nothing(length, pad):
    model = with_preset("mudpt")
    tokens = class_tokens(length=length, pad=pad)
    plain = model.get_text_features(class_tokens()["input_ids"]).pooler_output
    packed = encode_layout(model, lay_out_classes(model, tokens))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_a_clip_without_an_adapter_packs_as_well():
    assert_equal_features_and_gradients(long_clip().requires_grad_(False), class_tokens())


@torch.no_grad()
def test_clips_older_rule_for_the_end_of_text_packs_as_well():
    model = build_clip(eos_token_id=2)
    tokens = class_tokens(longest=15)
    plain = model.get_text_features(tokens["input_ids"]).pooler_output
    torch.testing.assert_close(encode_layout(model, lay_out_classes(model, tokens)), plain, atol=1e-5, rtol=0)


def test_eager_attention_gives_the_same():
    model = with_preset("mudpt")
    model.set_attn_implementation("eager")
    assert_equal_features_and_gradients(model, class_tokens())


def test_attention_that_takes_no_such_mask_gets_one_class_per_row():
    def without_masks(*args, **kwargs):
        assert kwargs.get("attention_mask") is None and args[4] is None
        return sdpa_attention_forward(*args, **kwargs)

    AttentionInterface.register("without_masks", without_masks)
    model = with_preset("mudpt")
    tokens = class_tokens()
    expected = model.get_text_features(tokens["input_ids"]).pooler_output
    model.set_attn_implementation("without_masks")
    (group,) = lay_out_classes(model, tokens)
    assert len(group.input_ids) == CLASSES
    torch.testing.assert_close(encode_layout(model, [group]), expected, atol=1e-5, rtol=0)


def kept_by(model, groups, kept=1):
    """How many numbers, beside the weights, encoding the groups keeps for the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        encode_layout(model, groups, kept=kept)
    return sum(t.numel() for t in saved if t.untyped_storage().data_ptr() not in weights)


def test_only_the_last_groups_keep_what_their_backward_pass_needs():
    model = with_preset("mudpt")
    groups = lay_out_classes(model, class_tokens(longest=3), class_batch_size=10)  # 10, 10, 10, 10 and 7 classes
    all_kept = kept_by(model, groups, kept=5)
    assert kept_by(model, groups, kept=1) < 0.2 * all_kept
    assert 0.5 * all_kept < kept_by(model, groups, kept=3) < 0.6 * all_kept
    assert kept_by(model, groups, kept=99) == all_kept


def test_the_number_of_groups_that_are_kept_changes_no_bit():
    model = with_preset("mudpt")
    groups = lay_out_classes(model, class_tokens(), class_batch_size=10)
    one, all_groups = (gradients(model, encode_layout(model, groups, kept=kept)) for kept in (1, 5))
    for name, gradient in all_groups.items():
        assert torch.equal(one[name], gradient), name


@pytest.mark.parametrize(
    ("free", "class_batch_size", "kept"),
    [(0, None, 1), (2**30 - 1, None, 1), (5 * 2**30, None, 5), (2**33, 10, 1)],
)
def test_as_many_groups_are_kept_as_fit_unless_the_caller_bounds_them(monkeypatch, free, class_batch_size, kept):
    monkeypatch.setattr("peft_mudpt.classifier.layout.bytes_for_texts", lambda device: free)
    assert groups_kept(long_clip(), class_batch_size) == kept


def test_the_automatic_groups_are_smaller_for_a_larger_model(monkeypatch):
    monkeypatch.setattr("peft_mudpt.classifier.layout.GROUP_BYTES", 200_000)
    small, large = long_clip(), long_clip()
    large.text_model.config.num_hidden_layers *= 4  # all the rule looks at
    groups = [len(lay_out_classes(model, class_tokens())) for model in (small, large)]
    assert 1 < groups[0] < groups[1]


def test_a_text_longer_than_the_tower_is_refused_by_number_and_length():
    with pytest.raises(ValueError, match="class .* has 32 tokens.*4 prompt tokens.*the 24 positions.*to 20 tokens"):
        lay_out_classes(get_peft_model(build_clip(), MuDPTConfig()), class_tokens())


def test_a_class_batch_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="class_batch_size=0"):
        lay_out_classes(long_clip(), class_tokens(), 0)
