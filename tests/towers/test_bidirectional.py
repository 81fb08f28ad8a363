"""Text towers in which every token sees every other, except padding, which an attention mask hides."""

import pytest
import torch
from peft import get_peft_model

from peft_mudpt import MuDPTClassifier, MuDPTConfig
from peft_mudpt.classifier.layout import lay_out_classes
from tests.towers.by_hand import text_by_hand
from tests.towers.test_families import FAMILIES, LENGTH, MASKED, NAMES, PAD, Tokenizer, adapted, text_inputs


pytestmark = [pytest.mark.parametrize("family", MASKED)]
N = 4


def coop(family, **fields):
    return adapted(FAMILIES[family](), "coop", num_virtual_tokens=N, **fields)


def positions_of(model, ids):
    """Those that the tower gives to texts without prompts."""
    if model.config.model_type == "altclip":
        return torch.where(ids == PAD, PAD, torch.arange(ids.shape[1]) + PAD + 1)
    return torch.arange(ids.shape[1]).expand_as(ids)


def padded(inputs, length):
    added = length - inputs["input_ids"].shape[1]
    fillers = {"input_ids": PAD, "attention_mask": 0}
    return {name: torch.nn.functional.pad(t, (0, added), value=fillers[name]) for name, t in inputs.items()}


def room_of(family):
    """How many tokens a text may have beside the prompts. AltCLIP uses no positions up to that of padding."""
    return LENGTH - N - (PAD + 1 if family == "altclip" else 0)


def test_a_text_without_room_for_the_prompts_is_refused_with_what_is_left(family):
    inputs = text_inputs(family, [5], list(range(5, 18)))
    length, room = inputs["input_ids"].shape[1], room_of(family)
    message = f"needs {length + N} positions with its {N} .* has {room + N}: {room} tokens are left.*max_length={room}"
    with pytest.raises(ValueError, match=message):
        coop(family).get_text_features(**inputs)
    with pytest.raises(ValueError, match=f"text of class 1 has {length} tokens.*Shorten it to {room}"):
        lay_out_classes(coop(family), inputs)


@torch.no_grad()
def test_padding_that_has_no_room_beside_the_prompts_changes_nothing(family):
    model, inputs = coop(family), text_inputs(family, [5, 6], [7])
    expected = model.get_text_features(**inputs).pooler_output
    features = model.get_text_features(**padded(inputs, room_of(family) + N)).pooler_output
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_explicit_positions_as_the_tower_counts_change_nothing(family):
    model, inputs = coop(family), text_inputs(family, [5, 6], [7])
    features = model.get_text_features(**inputs, position_ids=positions_of(model, inputs["input_ids"])).pooler_output
    assert torch.equal(features, model.get_text_features(**inputs).pooler_output)


def test_explicit_positions_that_cannot_be_honoured_are_refused(family):
    model, inputs = coop(family), text_inputs(family, [5, 6])
    positions = positions_of(model, inputs["input_ids"])
    for moved, message in ((-1, "position_ids must be"), (LENGTH, "position_ids must be|needs")):
        with pytest.raises(ValueError, match=message):
            model.get_text_features(**inputs, position_ids=positions + moved)


@torch.no_grad()
def test_without_a_mask_it_sees_the_padding_as_without_prompts(family):
    base, words = FAMILIES[family](), [5, 60, 7, 8]
    whole = base.get_text_features(text_inputs(family, [*words, 9, 90], [*words, 91])["input_ids"]).pooler_output
    started = dict(text_prompt_init_text="w", text_prompt_init_ids={"w": words})
    model = get_peft_model(base, MuDPTConfig.from_preset("coop", num_virtual_tokens=N, **started)).eval()
    ours = model.get_text_features(text_inputs(family, [9, 90], [91])["input_ids"]).pooler_output
    torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("first_layer", [0, 1])
def test_eager_attention_hides_the_padding_too(family, first_layer):
    model, inputs = coop(family, first_layer=first_layer), text_inputs(family, [5, 6], [7])
    model.set_attn_implementation("eager")
    expected = torch.cat([text_by_hand(model, **text_inputs(family, words)) for words in ([5, 6], [7])])
    torch.testing.assert_close(model.get_text_features(**inputs).pooler_output, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_it_is_one_graph(family):
    model, inputs = coop(family), text_inputs(family, [5, 6], [7])
    torch.compiler.reset()
    compiled = torch.compile(model.get_text_features, fullgraph=True, backend="eager")
    expected = model.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(compiled(**inputs).pooler_output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: {"input_ids": tokens["input_ids"]}, "no attention_mask"),
        (lambda tokens: {name: t.flip(1) for name, t in tokens.items()}, "class 1 .* pad on the right"),
        (lambda tokens: tokens | {"attention_mask": torch.tensor([[1], [0]]).expand(2, 5)}, "class 1 .* no token"),
    ],
    ids=["no mask", "padded on the left", "no token"],
)
def test_class_texts_that_another_tokenizer_made_are_refused(family, change, message):
    class Other(Tokenizer):
        def __call__(self, *args, **kwargs):
            return change(super().__call__(*args, **kwargs))

    with pytest.raises(ValueError, match=message):
        MuDPTClassifier(coop(family), NAMES, "{}.", tokenizer=Other(family))
