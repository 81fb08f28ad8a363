"""What holds for any config and any text: it works, or it is refused in words; nothing in between."""

import copy
import string
import tempfile
from dataclasses import fields
from functools import cache

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import PRESETS, MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.classifier.texts import split_template, tokenize_classes
from tests.conftest import BOS, EOS, PAD, build_clip, build_inputs, completed, hooks_on


FIELDS = [field.name for field in fields(MuDPTConfig)]
NUMBERS = st.integers(-3, 30) | st.sampled_from([10**5, 10**9, 10**40, -(10**40), float("nan"), float("inf"), 1e300])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
COUNTS, DEPTHS = st.none() | st.integers(0, 6), st.none() | st.integers(0, 5) | st.just("all")
# values that are meant, of the fields where another value could be; all others get anything
MEANT = {
    "num_virtual_tokens": st.integers(1, 22),
    "text_num_virtual_tokens": COUNTS,
    "vision_num_virtual_tokens": COUNTS,
    "prompt_depth": DEPTHS,
    "text_prompt_depth": DEPTHS,
    "vision_prompt_depth": DEPTHS,
    "init_std": st.sampled_from([0, 0.02, 1, 1000]),
    "fusion_direction": st.sampled_from(["none", "text_to_vision", "vision_to_text", "bidirectional"]),
    "fusion_type": st.sampled_from(["linear", "transformer"]),
    "fusion_combine": st.sampled_from(["add", "replace"]),
    "fusion_sharing": st.sampled_from(["all", "input_and_deep", "per_layer"]),
    "conditioning": st.sampled_from(["none", "image", "noise", "class"]),
    "meta_net_reduction": st.integers(0, 50),
    "learn_logit_scale": st.booleans(),
    "class_token_layer": st.none() | st.integers(0, 4),
    "condition_template": st.sampled_from(["a {}", "{}", "", "{} {}"]),
    "modules_to_save": st.lists(
        st.sampled_from(["visual_projection", "text_projection", "mlp", "layer_norm1", "fc1", "norm", "encoder", "x"]),
        max_size=2,
    ),
    "text_prompt_init_text": st.none() | st.sampled_from(["a photo", " ", ""]),
    "tokenizer_name_or_path": st.sampled_from([None, demo.MODEL_PATH, "/nowhere/at/all"]),
    "text_hidden_size": st.sampled_from([None, 32, 33]),
    "vision_hidden_size": st.sampled_from([None, 48, 49]),
    "text_prompt_init_ids": st.none() | st.dictionaries(st.just("a photo"), st.lists(st.integers(0, 120), max_size=3)),
    "class_names": st.none() | st.lists(st.text(max_size=3), max_size=3),
    "class_template": st.sampled_from([None, "{}.", "{} {}", "{{}}"]),
    "inference_mode": st.booleans(),
    "folded": st.booleans(),
}


@st.composite
def config_fields(draw, share_of_nonsense=10):
    """Fields of a config, most of them as they are meant, over those of a preset."""
    chosen = draw(st.lists(st.sampled_from(sorted(MEANT)), unique=True, max_size=6))
    given = {name: draw(MEANT[name]) for name in chosen}
    if draw(st.integers(0, 99)) < share_of_nonsense:
        given[draw(st.sampled_from(FIELDS))] = draw(ANYTHING)
    return {**PRESETS[draw(st.sampled_from(sorted(PRESETS)))], **given}


@cache
def _clip() -> CLIPModel:
    return build_clip()


def fresh_clip() -> CLIPModel:
    """The CLIP of the tests; a copy is made faster."""
    return copy.deepcopy(_clip())


def names_a_field(error: ValueError) -> bool:
    return any(name in str(error) for name in FIELDS)


def adapted(given) -> PeftModel:
    """The CLIP of the tests with such an adapter; where it is refused, that is another test's matter."""
    try:
        config = MuDPTConfig(**given)
        return get_peft_model(fresh_clip(), config)
    except ValueError:
        assume(False)


def short_inputs(model: PeftModel) -> dict[str, torch.Tensor]:
    """Texts that leave room for as many prompts as the tower takes."""
    input_ids = torch.tensor([[BOS, 5, EOS], [BOS, 8, EOS]])
    return completed(model, {"input_ids": input_ids, "pixel_values": build_inputs()["pixel_values"]})


class TestConfigs:
    @given(config_fields(share_of_nonsense=80))
    def test_a_config_is_made_or_refused_by_the_name_of_a_field(self, given):
        try:
            MuDPTConfig(**given)
        except ValueError as error:
            assert names_a_field(error)

    @given(config_fields())
    def test_a_clip_that_refuses_a_config_names_a_field_and_stays_as_it_was(self, given):
        clip = fresh_clip()
        before = {name: parameter.requires_grad for name, parameter in clip.named_parameters()}
        try:
            get_peft_model(clip, MuDPTConfig(**given))
        except ValueError as error:
            assert names_a_field(error)
            assert {name: parameter.requires_grad for name, parameter in clip.named_parameters()} == before
            assert hooks_on(clip) == 0

    @given(config_fields(share_of_nonsense=0))
    def test_whatever_is_not_refused_trains_a_step(self, given):
        model = adapted({**given, "inference_mode": False})
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        before = {name: p.detach().clone() for name, p in trained.items()}
        loss = model(**short_inputs(model)).logits_per_image.square().mean()
        loss.backward()
        assert loss.isfinite()
        assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
        torch.optim.SGD(trained.values(), lr=0.1).step()
        assert any(not torch.equal(p, before[name]) for name, p in trained.items())

    @given(config_fields(share_of_nonsense=0))
    def test_whatever_is_not_refused_gives_equal_logits_once_saved_and_loaded(self, given):
        model = adapted(given)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            reloaded = PeftModel.from_pretrained(fresh_clip(), folder)
        with torch.no_grad():
            assert torch.equal(*(m.eval()(**short_inputs(m)).logits_per_image for m in (model, reloaded)))


WORDS = st.integers(0, 96)


@st.composite
def token_rows(draw, max_length=20):
    """Texts as a tokenizer makes them, but BOS, EOS and padding may also be anywhere."""
    length = draw(st.integers(2, max_length))
    row = st.lists(WORDS | st.sampled_from([BOS, EOS, PAD]), min_size=length, max_size=length)
    rows = draw(st.lists(row, min_size=1, max_size=3))
    return [[BOS, *ids[1:-1], EOS] if draw(st.booleans()) else ids for ids in rows]


@cache
def prompted_clip() -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(fresh_clip(), MuDPTConfig(init_std=0.5)).eval()


@torch.no_grad()
def text_features(model, ids, **kwargs) -> torch.Tensor:
    ids = ids if isinstance(ids, torch.Tensor) else torch.tensor(ids)
    return model.get_text_features(ids, **kwargs).pooler_output


def outcome(model, arguments):
    """The features, or the error."""
    try:
        return text_features(model, **arguments)
    except Exception as error:
        return error


@st.composite
def text_arguments(draw):
    """What somebody could pass to a text tower."""
    shapes = [(2, 5), (1, 20), (3, 21), (2, 24), (1, 25), (1, 1), (0, 4), (2, 0), (4,), (1, 2, 3)]
    shape = draw(st.sampled_from(shapes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    ids = torch.randint(-1 if draw(st.integers(0, 9)) == 0 else 0, 100, shape, generator=generator)
    arguments = {"ids": ids.to(draw(st.sampled_from([torch.int64, torch.int32, torch.int64, torch.float32])))}
    other = draw(st.sampled_from([shape, shape, shape, (2, 6), (1, 5), (5,)]))
    if draw(st.booleans()):
        kind = draw(st.sampled_from([torch.int64, torch.bool, torch.float32]))
        arguments["attention_mask"] = torch.randint(0, 2, other, generator=generator).to(kind)
    if draw(st.integers(0, 3)) == 0:
        last = max(1, other[-1])
        usual = torch.arange(last).expand(other) if last == other[-1] else torch.zeros(other, dtype=torch.int64)
        arguments["position_ids"] = usual if draw(st.booleans()) else torch.randint(-1, 24, other, generator=generator)
    return arguments


class TestTexts:
    @given(token_rows())
    def test_a_row_does_not_depend_on_the_others(self, rows):
        together = text_features(prompted_clip(), rows)
        alone = torch.cat([text_features(prompted_clip(), [row]) for row in rows])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # features are of the order of 1

    @given(token_rows(), st.integers(1, 30))
    def test_padding_on_the_right_changes_nothing(self, rows, padding):
        rows = [[BOS, *row[1:-1], EOS] for row in rows]
        ids, padded = torch.tensor(rows), torch.tensor([row + [PAD] * padding for row in rows])
        expected = text_features(prompted_clip(), ids)
        mask = torch.ones_like(padded)
        mask[:, ids.shape[1] :] = 0
        if padded.shape[1] > 24:  # CLIP's own tower has no more positions
            with pytest.raises(ValueError):
                text_features(prompted_clip(), padded, attention_mask=mask)
            return
        for options in ({}, {"attention_mask": mask}):
            torch.testing.assert_close(
                text_features(prompted_clip(), padded, **options), expected, rtol=1e-4, atol=1e-5
            )

    @given(text_arguments())
    def test_what_clip_takes_is_taken_or_refused_in_words_and_what_it_refuses_is_refused(self, arguments):
        model = prompted_clip()
        with model.disable_adapter():
            plain = outcome(model, arguments)
        prompted = outcome(model, arguments)
        if isinstance(plain, Exception):
            assert isinstance(prompted, (ValueError, type(plain)))
        elif isinstance(prompted, Exception):
            assert isinstance(prompted, ValueError) and ("position" in str(prompted) or "mask" in str(prompted))
        else:
            assert prompted.shape == plain.shape
            assert prompted.isfinite().all() or not plain.isfinite().all()


@cache
def demo_clip() -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), MuDPTConfig(init_std=0.5)).eval()


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_PATH)


CHARACTERS = st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("{}<|startoftext|> \n\0")
ODD_NAMES = ["cat", "<|endoftext|>", "{}", "a" * 999, "\u200b", "é", "e\u0301"]
NAMES = st.text(CHARACTERS, max_size=12) | st.sampled_from(ODD_NAMES)


class TestClassNames:
    @given(st.lists(NAMES, min_size=1, max_size=4))
    @example(["\ud800", "cat"])
    def test_a_class_has_the_features_it_has_alone_or_is_refused(self, names):
        try:
            classifier = MuDPTClassifier(demo_clip(), names, "{}.", tokenizer())
        except ValueError as error:
            odd = not all(name.isprintable() and name.strip() for name in names)
            assert odd or "positions" in str(error) or "<|endoftext|>" in str(error)
            return
        alone = [MuDPTClassifier(demo_clip(), [name], "{}.", tokenizer()) for name in names]
        with torch.no_grad():
            expected = torch.cat([one.class_features() for one in alone])
            torch.testing.assert_close(classifier.class_features(), expected, rtol=1e-4, atol=1e-5)  # of length 1

    @given(st.text(CHARACTERS, max_size=12), st.text(CHARACTERS, max_size=12), st.integers(0, 6))
    def test_a_template_is_cut_in_two_and_nothing_is_lost(self, before, after, num_tokens):
        template = f"{before}{{}}{after}"
        try:
            words, rest = split_template(template, tokenizer(), num_tokens)
        except ValueError:
            assert template.count("{}") != 1 or not template.isprintable()
            return
        assert rest.count("{}") == 1
        assert "".join(f"{words or ''}{rest}".split()) == "".join(template.split())
        assert len(tokenizer()(words or "", add_special_tokens=False).input_ids) <= num_tokens

    @given(st.text(string.ascii_letters + "{} ", max_size=20), st.text(CHARACTERS, min_size=1, max_size=9))
    def test_a_text_is_the_template_with_the_name_in_its_place(self, template, name):
        try:
            ids = tokenize_classes(tokenizer(), [name], template)["input_ids"][0]
        except ValueError:
            assert template.count("{}") != 1 or not name.isprintable()
            return
        assert ids.tolist() == tokenizer()(name.join(template.split("{}"))).input_ids
