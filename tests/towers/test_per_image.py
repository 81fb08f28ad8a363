"""A whole model whose text prompts depend on the image (CoCoOp): its forward encodes each text once per image."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPTextModel

from peft_mudpt import MuDPTConfig
from tests.conftest import build_clip, checkpoint_layers, hooks_on
from tests.towers.by_hand import logit_scale
from tests.towers.test_families import FAMILIES, images, text_inputs


def cocoop(family="clip", **fields):
    """A model of the family with CoCoOp, in which the image has much influence."""
    torch.manual_seed(1)
    config = MuDPTConfig.from_preset("cocoop", **{"init_std": 0.5, **fields})
    return enlivened(get_peft_model(FAMILIES[family](), config).eval())


def enlivened(model):
    with torch.no_grad():
        for parameter in model.prompt_learner.mudpt_adapters["default"].image_shift.parameters():
            parameter.normal_(std=0.4)
    return model


def inputs(family="clip"):
    """Two texts of different length, and three images."""
    return {**text_inputs(family, [5, 6, 60], [7]), "pixel_values": images()}


def shift_of(model, image_features):
    """CoCoOp's formula: Linear, ReLU, Linear of the normalized image feature."""
    net = model.prompt_learner.mudpt_adapters["default"].image_shift.meta_net
    hidden = normalize(image_features, dim=-1) @ net.linear1.weight.t() + net.linear1.bias
    return hidden.clamp(min=0) @ net.linear2.weight.t() + net.linear2.bias


@torch.no_grad()
def one_image_at_a_time(model, family, pixel_values, **inputs):
    """The text features (B, C, D) of CoOp adapters, of which the context of each image is shifted."""
    features = model.get_image_features(pixel_values).pooler_output
    context = model.prompt_learner.mudpt_adapters["default"].text_prompts
    per_image = []
    for shift in shift_of(model, features):
        config = MuDPTConfig.from_preset("coop", num_virtual_tokens=4, first_layer=model.prompt_learner.start("text"))
        coop = get_peft_model(FAMILIES[family](), config).eval()
        coop.prompt_learner.mudpt_adapters["default"].text_prompts.copy_(context + shift)
        per_image.append(normalize(coop.get_text_features(**inputs).pooler_output, dim=-1))
    return torch.stack(per_image)


@torch.no_grad()
@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_is_compared_with_texts_whose_context_its_feature_shifts(family, first_layer):
    model, batch = cocoop(family, first_layer=first_layer), inputs(family)
    outputs = model(**batch)
    expected = one_image_at_a_time(model, family, **batch)  # (3, 2, D)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    torch.testing.assert_close(outputs.text_embeds, expected, atol=1e-5, rtol=0)
    cosine = (outputs.image_embeds[:, None] * expected).sum(dim=-1)  # (3, 2)
    logits = cosine * logit_scale(model) + (model.logit_bias if family == "siglip" else 0)
    torch.testing.assert_close(outputs.logits_per_image, logits, atol=2e-5, rtol=1e-5)
    assert torch.equal(outputs.logits_per_text, outputs.logits_per_image.t())


@torch.no_grad()
def test_with_a_meta_net_of_zeros_it_is_coop():
    model, batch = cocoop(), inputs()
    for parameter in model.prompt_learner.mudpt_adapters["default"].image_shift.parameters():
        parameter.zero_()
    coop = get_peft_model(build_clip(), MuDPTConfig.from_preset("coop", num_virtual_tokens=4)).eval()
    coop.prompt_learner.mudpt_adapters["default"].text_prompts.copy_(
        model.prompt_learner.mudpt_adapters["default"].text_prompts
    )
    torch.testing.assert_close(model(**batch).logits_per_image, coop(**batch).logits_per_image, atol=1e-5, rtol=0)


@torch.no_grad()
def test_swapping_two_images_swaps_their_rows():
    model, batch = cocoop(), inputs()
    swapped = model(batch["input_ids"], batch["pixel_values"][[1, 0, 2]])
    torch.testing.assert_close(swapped.logits_per_image, model(**batch).logits_per_image[[1, 0, 2]])


@torch.no_grad()
def test_the_image_tower_runs_once():
    model, calls = cocoop(), []
    model.vision_model.register_forward_hook(lambda *_: calls.append("once"))
    model(**inputs())
    assert calls == ["once"]


@torch.no_grad()
def test_a_tuple_holds_the_same_outputs():
    model = cocoop()
    outputs, plain = model(**inputs()), model(**inputs(), return_dict=False)
    for name, value in zip(("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"), plain):
        assert torch.equal(value, outputs[name])


@torch.no_grad()
@pytest.mark.parametrize("axes", [2, 4])
def test_a_mask_belongs_to_its_text(axes):
    model, batch = cocoop(), inputs()
    length, n = batch["input_ids"].shape[1], 4
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    positions = torch.tensor([[0, *range(1, length)]]).expand(2, -1)
    if axes == 4:
        seen = torch.cat([mask[:, :1], mask.new_ones(2, n), mask[:, 1:]], dim=1).bool()  # (2, n + L)
        causal = torch.ones(n + length, n + length).tril().bool()
        mask = causal[None, None] & seen[:, None, None]  # (2, 1, n + L, n + L)
        positions = positions + torch.tensor([0] + [n] * (length - 1))
    masked = model(**batch, attention_mask=mask, position_ids=positions).logits_per_image
    torch.testing.assert_close(masked, model(**batch).logits_per_image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("fields", [{}, {"conditioning": "noise"}, {"conditioning": "noise", "first_layer": 1}])
def test_gradient_checkpointing_changes_no_gradient(fields, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = cocoop(**fields).train()
        if checkpointing:
            checkpoint_layers(model, use_reentrant)
        torch.manual_seed(5)
        cross_entropy(model(**inputs()).logits_per_image, torch.tensor([0, 1, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("meta_net" in name and gradient.any() for name, gradient in gradients[0].items())
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_the_feature_of_a_prompted_image_tower_carries_a_gradient():
    model = enlivened(get_peft_model(build_clip(), MuDPTConfig(conditioning="image", fusion_direction="none")))
    model(**inputs()).text_embeds.square()[..., 0].sum().backward()
    assert model.prompt_learner.mudpt_adapters["default"].vision_prompts.grad.any()


@torch.no_grad()
def test_the_fusion_reads_prompts_without_the_shift():
    torch.manual_seed(1)
    model = enlivened(get_peft_model(build_clip(), MuDPTConfig(init_std=0.5, conditioning="image")).eval())
    plain = get_peft_model(build_clip(), MuDPTConfig(init_std=0.5)).eval()
    weights = model.prompt_learner.mudpt_adapters["default"].state_dict()
    plain.prompt_learner.mudpt_adapters["default"].load_state_dict(
        {name: tensor for name, tensor in weights.items() if "image_shift" not in name}
    )
    assert torch.equal(model(**inputs()).image_embeds, plain(**inputs()).image_embeds)


class TestNoise:
    @torch.no_grad()
    def test_a_prediction_depends_neither_on_the_image_nor_on_its_batch(self):
        model, batch = cocoop(conditioning="noise"), inputs()
        features = model(**batch).text_embeds
        assert torch.equal(features, model(**batch).text_embeds)
        torch.testing.assert_close(features[1], features[0])
        torch.testing.assert_close(model(**{**batch, "pixel_values": images()[1:2]}).text_embeds[0], features[0])

    def test_in_training_it_is_another_direction_for_each_image(self):
        model = cocoop(conditioning="noise").train()
        torch.manual_seed(3)
        first, again = model(**inputs()).text_embeds, model(**inputs()).text_embeds
        assert not torch.allclose(first[0], first[1], atol=1e-2) and not torch.allclose(first, again, atol=1e-2)
        torch.manual_seed(3)
        assert torch.equal(model(**inputs()).text_embeds, first)


class TestTexts:
    """Texts without an image."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_are_refused_with_the_ways_out(self, family):
        with pytest.raises(ValueError, match="pixel_values.*MuDPTClassifier.*mudpt_condition.*disable_adapter"):
            cocoop(family).get_text_features(inputs(family)["input_ids"])

    @torch.no_grad()
    @pytest.mark.parametrize(
        "wrong, named",
        [
            (torch.ones(2, 7), r"\(2, 7\)"),
            (torch.ones(40), r"\(40,\)"),
            (torch.ones(2, 1, 40), r"\(2, 1, 40\)"),
            (torch.ones(2, 40, dtype=torch.long), "torch.int64"),
            ([1.0] * 40, "list"),
        ],
        ids=["width", "one axis", "three axes", "whole numbers", "no tensor"],
    )
    def test_with_features_of_another_shape_or_type_are_refused(self, wrong, named):
        with pytest.raises(ValueError, match=f"mudpt_condition.*{named}.*texts, 40"):
            cocoop().get_text_features(inputs()["input_ids"], mudpt_condition=wrong)

    @torch.no_grad()
    @pytest.mark.parametrize("scale", [1, 7])
    def test_take_an_image_feature_each_normalized_or_not(self, scale):
        model, batch = cocoop(), inputs()
        feature = model.get_image_features(batch["pixel_values"][:1]).pooler_output * scale
        text = model.get_text_features(batch["input_ids"], mudpt_condition=feature.expand(2, -1)).pooler_output
        expected = model(**batch).text_embeds[0]
        torch.testing.assert_close(normalize(text, dim=-1), expected, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_of_a_tower_alone_take_the_condition_too(self):
        model, batch = cocoop(), inputs()
        clip = build_clip()
        config = MuDPTConfig.from_preset("cocoop", feature_size=40)
        tower = CLIPTextModel(clip.config.text_config).eval()
        tower.load_state_dict(clip.text_model.state_dict())
        alone = get_peft_model(tower, config).eval()
        weights = model.prompt_learner.mudpt_adapters["default"].state_dict()
        alone.prompt_learner.mudpt_adapters["default"].load_state_dict(weights)
        condition = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
        expected = model.text_model(batch["input_ids"], mudpt_condition=condition).pooler_output
        assert torch.equal(alone(batch["input_ids"], mudpt_condition=condition).pooler_output, expected)
        with pytest.raises(ValueError, match="mudpt_condition"):
            alone(batch["input_ids"])

    @pytest.mark.parametrize("first_layer", [0, 1])
    def test_with_features_of_another_number_are_refused(self, first_layer):
        with pytest.raises(ValueError, match="mudpt_condition.* 3 samples.* 2"):
            cocoop(first_layer=first_layer).get_text_features(inputs()["input_ids"], mudpt_condition=torch.ones(3, 40))

    @torch.no_grad()
    def test_with_a_feature_each_are_encoded_once_by_the_whole_model(self):
        model, ids = cocoop(), inputs()["input_ids"]
        condition = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
        outputs = model(**inputs(), mudpt_condition=condition)
        expected = normalize(model.get_text_features(ids, mudpt_condition=condition).pooler_output, dim=-1)
        torch.testing.assert_close(outputs.text_embeds, expected)
        assert outputs.logits_per_image.shape == (3, 2)

    @torch.no_grad()
    def test_of_another_adapter_or_of_none_ignore_the_condition(self):
        ids, condition = inputs()["input_ids"], torch.ones(2, 40)
        other, disabled = get_peft_model(build_clip(), MuDPTConfig(init_std=0.5)).eval(), cocoop()
        with disabled.disable_adapter():
            for model in (other, disabled):
                expected = model.get_text_features(ids).pooler_output
                assert torch.equal(model.get_text_features(ids, mudpt_condition=condition).pooler_output, expected)


@pytest.mark.parametrize("positional", [False, True])
def test_the_models_own_loss_is_refused(positional):
    batch = inputs()
    args = (batch["input_ids"], batch["pixel_values"], None, None, True)
    with pytest.raises(ValueError, match="return_loss=True.*logits_per_image"):
        cocoop()(*args) if positional else cocoop()(**batch, return_loss=True)


@torch.no_grad()
def test_a_disabled_adapter_leaves_the_model_as_it_was():
    model = cocoop()
    with model.disable_adapter():
        disabled = model(**inputs(), return_loss=False)
    plain = build_clip()(**inputs())
    assert torch.equal(disabled.logits_per_image, plain.logits_per_image)
    assert disabled.text_embeds.shape == (2, 40)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")
def test_adapters_switch_there_and_back():
    model = cocoop()
    expected = model(**inputs()).logits_per_image
    model.add_adapter("plain", MuDPTConfig(init_std=0.5))
    model.set_adapter("plain")
    assert model(**inputs()).text_embeds.shape == (2, 40)
    model.set_adapter("default")
    assert torch.equal(model(**inputs()).logits_per_image, expected)
    model.delete_adapter("default")
    model.set_adapter("plain")
    assert model(**inputs()).text_embeds.shape == (2, 40)


def test_unloading_and_deleting_remove_every_hook():
    model, deleted = cocoop(), cocoop()
    deleted.delete_adapter("default")
    assert hooks_on(model) > 0
    assert hooks_on(model.unload()) == hooks_on(deleted) == 0


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_the_same_with_parameters_of_its_own(copied):
    model = cocoop()
    expected = model(**inputs()).logits_per_image
    copy_ = copied(model)
    model.prompt_learner.mudpt_adapters["default"].text_prompts.zero_()
    assert torch.equal(copy_(**inputs()).logits_per_image, expected)


@torch.no_grad()
def test_a_saved_adapter_computes_the_same(tmp_path):
    model = cocoop(meta_net_reduction=3)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_clip(), tmp_path).eval()
    assert torch.equal(loaded(**inputs()).logits_per_image, model(**inputs()).logits_per_image)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_it_is_one_graph():
    model = cocoop().get_base_model()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(**inputs()).logits_per_image
    torch.testing.assert_close(compiled(**inputs()).logits_per_image, expected)


def test_a_base_in_half_precision_has_a_meta_net_in_full_precision():
    torch.manual_seed(1)
    config = MuDPTConfig.from_preset("cocoop", init_std=0.5)
    model = enlivened(get_peft_model(build_clip().bfloat16(), config).eval())
    batch = {**inputs(), "pixel_values": images().bfloat16()}
    logits = model(**batch).logits_per_image
    cross_entropy(logits.float(), torch.tensor([0, 1, 1])).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    exact = cocoop()(**inputs()).logits_per_image
    torch.testing.assert_close(logits.float(), exact, atol=0.5, rtol=0.05)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")
def test_lora_beside_it_changes_images_and_texts():
    torch.manual_seed(1)
    clip, lora = build_clip(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    inject_adapter_in_model(lora, clip, adapter_name="lora")
    model = enlivened(get_peft_model(clip, MuDPTConfig.from_preset("cocoop", init_std=0.5)).eval())
    outputs = model(**inputs())
    feature = model.get_image_features(images()[1:2]).pooler_output
    text = model.get_text_features(inputs()["input_ids"], mudpt_condition=feature.expand(2, -1)).pooler_output
    torch.testing.assert_close(outputs.text_embeds[1], normalize(text, dim=-1), atol=1e-5, rtol=0)
    assert not torch.allclose(outputs.image_embeds, cocoop()(**inputs()).image_embeds, atol=1e-3)
