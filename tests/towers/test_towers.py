"""How prompts enter the towers, and that nothing else changes."""

import copy
import pickle

import pytest
import torch
from peft import get_peft_model
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from peft_mudpt import MuDPTConfig
from tests.conftest import BOS, EOS, PAD, build_clip, logits_and_gradients, of_two_layers


def adapted(clip, **fields):
    """An adapter whose prompts are large enough to matter."""
    torch.manual_seed(1)
    return get_peft_model(clip, MuDPTConfig(**{"init_std": 0.5, "num_virtual_tokens": 3, **fields})).eval()


@pytest.fixture
def model(clip):
    return adapted(clip)


@torch.no_grad()
def text_features(model, ids, **kwargs):
    return model.get_text_features(torch.tensor(ids), **kwargs).pooler_output


class TestTextContract:
    def test_padding_changes_no_feature(self, model):
        plain = text_features(model, [[BOS, 5, 6, EOS]])
        for pad in (PAD, EOS, 0):
            for length in (1, 7, 20):  # 20: the whole position table, of which the prompts need three
                padded = text_features(model, [[BOS, 5, 6, EOS] + [pad] * length])
                torch.testing.assert_close(padded, plain, atol=1e-6, rtol=1e-5)

    def test_the_other_texts_of_a_batch_change_no_feature(self, model):
        alone = text_features(model, [[BOS, 8, EOS]])
        batch = text_features(model, [[BOS, 5, 6, 7, EOS], [BOS, 8, EOS, PAD, PAD]])
        torch.testing.assert_close(batch[1:], alone, atol=1e-6, rtol=1e-5)

    def test_an_attention_mask_over_the_padding_changes_no_feature(self, model):
        ids = [[BOS, 8, EOS, PAD, PAD]]
        masked = text_features(model, ids, attention_mask=torch.tensor([[1, 1, 1, 0, 0]]))
        torch.testing.assert_close(masked, text_features(model, ids), atol=1e-6, rtol=1e-5)

    def test_every_word_counts(self, model):
        features = [text_features(model, [[BOS, *words, EOS]]) for words in ([5, 6], [7, 6], [5, 7])]
        assert not torch.allclose(features[0], features[1], atol=1e-3)
        assert not torch.allclose(features[0], features[2], atol=1e-3)

    def test_both_rules_for_the_end_of_text_pool_the_same_token(self):
        new, old = (adapted(build_clip(eos_token_id=eos)) for eos in (EOS, 2))
        ids = [[BOS, 5, 6, EOS, 0], [BOS, 7, EOS, 0, 0]]  # EOS is the largest id, as the older rule wants
        assert torch.equal(text_features(new, ids), text_features(old, ids))

    @pytest.mark.parametrize("eos_token_id", [EOS, 2])
    def test_text_that_does_not_fit_is_refused_with_what_is_left(self, eos_token_id):
        model = adapted(build_clip(eos_token_id=eos_token_id))
        fits = [BOS, *range(1, 20), EOS]  # 21 of 24 positions, 3 prompts
        text_features(model, [fits + [0] * 3])
        too_long = [BOS, *range(1, 21), EOS]
        with pytest.raises(ValueError, match="needs 25 positions.*21 tokens are left.*max_length=21"):
            text_features(model, [too_long + [0] * 2])
        with pytest.raises(ValueError, match="21 tokens are left"):
            text_features(model, [too_long])

    def test_text_without_an_end_counts_whole(self, model):
        with pytest.raises(ValueError, match="21 tokens are left"):
            text_features(model, [[BOS, *range(1, 22)]])

    def test_explicit_positions_as_the_tokenizer_counts_change_nothing(self, model):
        ids = [[BOS, 5, 6, EOS]]
        explicit = text_features(model, ids, position_ids=torch.arange(4)[None])
        assert torch.equal(explicit, text_features(model, ids))

    def test_explicit_positions_move_on_with_the_words(self, model):
        ids = [[BOS, 5, 6, EOS]]
        spread = text_features(model, ids, position_ids=torch.tensor([[0, 2, 3, 4]]))
        assert not torch.allclose(spread, text_features(model, ids), atol=1e-3)

    @pytest.mark.parametrize(
        ("positions", "message"),
        [([1, 2, 3, 4], "must be 0 for the first token"), ([0, 0, 1, 2], "at least 1"), ([0, 1, 2, 21], "needs 25")],
    )
    def test_explicit_positions_that_cannot_be_honoured_are_refused(self, model, positions, message):
        with pytest.raises(ValueError, match=message):
            text_features(model, [[BOS, 5, 6, EOS]], position_ids=torch.tensor([positions]))

    def test_explicit_positions_of_another_length_are_refused(self, model):
        with pytest.raises(ValueError, match=r"\(1, 3\), expected \(batch, 4\)"):
            text_features(model, [[BOS, 5, 6, EOS]], position_ids=torch.arange(3)[None])

    @pytest.mark.parametrize("positions", [None, [[1, 2, 3, 4]], [[0, 1, 2, 21]]])
    def test_compiled_it_refuses_as_well_what_it_cannot_place(self, clip, positions):
        model = adapted(of_two_layers(clip))
        torch.compiler.reset()
        compiled = torch.compile(model.text_model, fullgraph=True, backend="eager")
        ids = [BOS, *range(1, 21), EOS, 0, 0] if positions is None else [BOS, 5, 6, EOS]
        with pytest.raises(IndexError), torch.no_grad():
            compiled(torch.tensor([ids]), position_ids=None if positions is None else torch.tensor(positions))

    def test_a_fourth_positional_argument_is_refused_as_without_prompts(self, model):
        with pytest.raises(TypeError):
            model.text_model(torch.tensor([[BOS, 5, EOS]]), None, None, True)

    @pytest.mark.parametrize(("size", "positions"), [(4, torch.arange(4)[None]), (7, None)])
    def test_a_mask_over_pairs_of_tokens_must_have_the_prompts_and_come_with_positions(self, model, size, positions):
        mask = torch.ones(1, 1, size, size, dtype=torch.bool)
        with pytest.raises(
            ValueError, match=rf"attention_mask has shape \(1, 1, {size}, {size}\).*\(batch, 1, 7, 7\)"
        ):
            text_features(model, [[BOS, 5, 6, EOS]], attention_mask=mask, position_ids=positions)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_a_mask_over_pairs_of_tokens_hides_a_word_in_every_form(self, model, attention, dtype):
        model.get_base_model().set_attn_implementation(attention)
        seen = torch.ones(7, 7, dtype=torch.bool).tril()  # BOS, three prompts, two words, EOS
        seen[5:, 4] = False  # nothing sees the first word but itself
        mask = torch.zeros(7, 7).masked_fill(~seen, -1e9) if dtype.is_floating_point else seen.to(dtype)
        options = dict(attention_mask=mask[None, None], position_ids=torch.tensor([[0, 4, 5, 6]]))
        features = [text_features(model, [[BOS, word, 6, EOS]], **options) for word in (5, 9)]
        assert torch.equal(*features)

    def test_a_mask_of_three_axes_is_refused(self, model):
        with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 4, 4\); .* must be \(batch, length\)"):
            text_features(model, [[BOS, 5, 6, EOS]], attention_mask=torch.ones(1, 4, 4))


class TestOutputs:
    @torch.no_grad()
    @pytest.mark.parametrize("options", [{}, {"output_hidden_states": True}, {"return_dict": False}], ids=str)
    def test_shapes_are_those_of_the_base_model(self, clip, inputs, options):
        def shapes(outputs):
            if isinstance(outputs, torch.Tensor):
                return outputs.shape
            return [shapes(value) for value in (outputs.values() if hasattr(outputs, "values") else outputs)]

        base = shapes(clip(**inputs, **options))
        assert shapes(adapted(clip)(**inputs, **options)) == base

    @torch.no_grad()
    def test_selected_hidden_states_are_stripped_too(self, model, inputs):
        def states(which):
            return model.vision_model(inputs["pixel_values"], output_hidden_states=which).hidden_states

        with model.disable_adapter():  # which states a selection means is transformers' to say, and has changed
            base, selected = states(True), states([0, -1])
        places = [
            [i for i, state in enumerate(base) if given is not None and torch.equal(given, state)]
            for given in selected
        ]
        assert places[0]
        everything = states(True)
        for state, place in zip(states([0, -1]), places):
            assert all(torch.equal(state, everything[i]) for i in place) if place else state is None
        as_tuple = model.vision_model(inputs["pixel_values"], output_hidden_states=True, return_dict=False)
        assert all(map(torch.equal, as_tuple[2], everything))

    @torch.no_grad()
    def test_the_towers_alone_and_the_whole_agree(self, model, inputs):
        outputs = model(**inputs)
        text, mask = inputs["input_ids"], inputs["attention_mask"]
        alone = model.text_model(text, mask)
        assert torch.equal(alone.last_hidden_state, outputs.text_model_output.last_hidden_state)
        assert torch.equal(
            model.get_text_features(text, mask).pooler_output, model.text_projection(alone.pooler_output)
        )
        alone = model.vision_model(pixel_values=inputs["pixel_values"])
        assert torch.equal(alone.last_hidden_state, outputs.vision_model_output.last_hidden_state)
        features = model.get_image_features(inputs["pixel_values"]).pooler_output
        assert torch.equal(features, model.visual_projection(alone.pooler_output))
        torch.testing.assert_close(torch.nn.functional.normalize(features), outputs.image_embeds)

    @torch.no_grad()
    def test_one_adapter_serves_each_tower_alone(self, clip, inputs, tmp_path):
        from peft import PeftModel

        model = adapted(clip)
        model.save_pretrained(tmp_path)
        weights = model.unload().state_dict()
        whole = PeftModel.from_pretrained(clip, tmp_path).eval()
        text = CLIPTextModelWithProjection(clip.config.text_config).eval()
        text.config.projection_dim = clip.config.projection_dim
        text.text_projection = clip.text_projection
        vision = CLIPVisionModelWithProjection(clip.config.vision_config).eval()
        vision.visual_projection = clip.visual_projection
        text.load_state_dict({name: w for name, w in weights.items() if name.startswith("text_")})
        vision.load_state_dict({name: w for name, w in weights.items() if name.startswith("vis")})
        text, vision = (PeftModel.from_pretrained(tower, tmp_path).eval() for tower in (text, vision))
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert torch.equal(text(ids, mask).text_embeds, whole.get_text_features(ids, mask).pooler_output)
        images = inputs["pixel_values"]
        assert torch.equal(vision(images).image_embeds, whole.get_image_features(images).pooler_output)

    @torch.no_grad()
    def test_images_of_another_size_work(self, model):
        outputs = model.vision_model(torch.randn(1, 3, 32, 32), interpolate_pos_encoding=True)
        assert outputs.last_hidden_state.shape == (1, 1 + 16, 48)


def assert_same(ours, reference, atol=1e-6):
    torch.testing.assert_close(ours[0], reference[0], atol=atol, rtol=1e-4)
    assert ours[1].keys() == reference[1].keys()
    for name, gradient in reference[1].items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(ours[1][name], gradient, atol=atol * scale, rtol=1e-4)


class TestTheSameNumbersOnEveryPath:
    def test_eager_attention(self, model):
        reference = logits_and_gradients(model)
        model.get_base_model().set_attn_implementation("eager")
        assert_same(logits_and_gradients(model), reference, atol=1e-5)

    def test_a_deep_copy_is_equal_and_independent(self, model):
        reference = logits_and_gradients(model)
        twin = copy.deepcopy(model)
        assert_same(logits_and_gradients(twin), reference, atol=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert_same(logits_and_gradients(twin), reference, atol=0)

    def test_pickle(self, model):
        reference = logits_and_gradients(model)
        assert_same(logits_and_gradients(pickle.loads(pickle.dumps(model))), reference, atol=0)

    @pytest.mark.slow
    def test_compiled_as_one_graph(self, clip):
        model = adapted(of_two_layers(clip))
        reference = logits_and_gradients(model)
        torch.compiler.reset()
        assert_same(
            logits_and_gradients(torch.compile(model, fullgraph=True, backend="aot_eager")), _prefixed(reference)
        )

    @pytest.mark.slow
    @torch.no_grad()
    def test_a_compiled_model_follows_switching_and_disabling(self, clip, inputs):
        base = of_two_layers(clip)(**inputs).logits_per_image
        model = adapted(clip, fusion_direction="none")
        model.add_adapter("other", MuDPTConfig.from_preset("vpt_deep", init_std=0.5))
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for name in ("default", "other", "default"):
            model.set_adapter(name)
            torch.testing.assert_close(
                compiled(**inputs).logits_per_image, model(**inputs).logits_per_image, atol=1e-6, rtol=1e-5
            )
        with model.disable_adapter():
            torch.testing.assert_close(compiled(**inputs).logits_per_image, base, atol=1e-6, rtol=1e-5)


def _prefixed(result):
    return result[0], {f"_orig_mod.{name}": gradient for name, gradient in result[1].items()}


@torch.no_grad()
def test_an_error_in_mid_forward_leaves_nothing_behind(model, inputs):
    expected = model(**inputs).logits_per_image

    def fail(*args):
        raise RuntimeError("in between")

    handle = model.text_model.encoder.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in between"):
        model(**inputs)
    handle.remove()
    assert torch.equal(model(**inputs).logits_per_image, expected)
