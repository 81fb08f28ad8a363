"""What an adapted detector computes: shapes, batches, gradients, and what remains without the adapter."""

import copy

import pytest
import torch
from peft import get_peft_model
from transformers import (
    CLIPModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    OwlViTConfig,
    OwlViTForObjectDetection,
)

from peft_mudpt import MuDPTConfig, SDPTConfig, demo
from peft_mudpt.sdpt.layer import sdpt_layer_of
from tests.conftest import hooks_on, trainable
from tests.sdpt.conftest import (
    ATTENTION_WIDTH,
    FAMILIES,
    LAYERS,
    WIDTH,
    assert_equal,
    build_batch,
    build_detector,
    config,
    outputs,
)


EVERYTHING = dict(output_hidden_states=True, output_attentions=True)


def adapter_of(model):
    return sdpt_layer_of(model).sdpt_adapters["default"]


def gradients(model, batch) -> dict[str, torch.Tensor]:
    """Gradients of U by what the last fusion layer returns, by stream."""
    last, streams, found = sdpt_layer_of(model).fusion.layers[-1].fusion_layer, {}, {}

    def keep(module, args, output):
        (streams["vision"], _), (streams["text"], _) = output

    handle = last.register_forward_hook(keep)
    model(**batch)
    handle.remove()
    for stream, tensor in streams.items():
        grad = torch.autograd.grad(tensor.square().sum(), adapter_of(model).prototypes, retain_graph=True)
        found[stream] = grad[0]
    return found


class TestOutputs:
    def test_every_output_keeps_key_and_shape_and_the_prompts_matter(self, detector, batch):
        base = outputs(detector, batch, **EVERYTHING)
        adapted = outputs(get_peft_model(detector, config()), batch, **EVERYTHING)
        assert {name: t.shape for name, t in adapted.items()} == {name: t.shape for name, t in base.items()}
        assert len(base) > 30
        finite = base["logits"].isfinite()
        assert torch.equal(adapted["logits"].isfinite(), finite)
        assert (adapted["logits"] - base["logits"])[finite].abs().max() > 0.1

    def test_a_batch_equals_its_samples_alone(self, detector):
        model = get_peft_model(detector, config())
        together = outputs(model, build_batch())
        for row in range(3):
            alone = outputs(model, build_batch([row]))
            for name, tolerance in (("logits", 2e-5), ("pred_boxes", 1e-6)):
                torch.testing.assert_close(alone[name][0], together[name][row], rtol=0, atol=tolerance)

    def test_a_longer_padding_of_captions_changes_nothing(self, detector):
        model = get_peft_model(detector, config())
        short, long = outputs(model, build_batch()), outputs(model, build_batch(length=16))
        torch.testing.assert_close(long["logits"][..., :7], short["logits"][..., :7], rtol=0, atol=2e-5)
        torch.testing.assert_close(long["pred_boxes"], short["pred_boxes"], rtol=0, atol=1e-6)

    def test_a_padded_picture_gives_finite_boxes(self, detector):
        batch = build_batch(side=128)  # three quarters of each are padding
        assert outputs(get_peft_model(detector, config()), batch)["pred_boxes"].isfinite().all()

    def test_the_attention_on_prompts_is_cut_off_the_fusion_maps(self, detector, batch):
        def sums(model):
            with torch.no_grad():
                vision_maps, text_maps, *_ = model(**batch, output_attentions=True).encoder_attentions
            return [each.sum(-1) for each in (*vision_maps, *text_maps)]  # (B * heads, tokens)

        before, after = sums(detector), sums(get_peft_model(detector, config()).eval())
        assert len(before) == 2 * LAYERS
        for plain, prompted in zip(before, after):
            assert torch.allclose(plain, torch.ones_like(plain), atol=1e-5)
            assert (prompted < 1).all()

    def test_a_tuple_is_returned_when_it_is_asked_for(self, detector, batch):
        model = get_peft_model(detector, config()).eval()
        with torch.no_grad():
            named, plain = model(**batch), model(**batch, return_dict=False)
        assert isinstance(plain, tuple) and any(torch.equal(named.pred_boxes, each) for each in plain[:3])

    def test_masks_that_are_missing_stay_missing(self, detector):
        seen = []
        model = get_peft_model(detector, config())
        layer = sdpt_layer_of(model).fusion.layers[0].fusion_layer
        layer.attn.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
        with torch.no_grad():
            (vision, _), (text, _) = layer(torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH))
        assert vision.shape == (2, 5, WIDTH) and text.shape == (2, 3, WIDTH)
        assert seen[0]["vision_features"].shape == (2, 9, WIDTH) and seen[0]["text_features"].shape == (2, 7, WIDTH)
        assert seen[0]["vision_attention_mask"] is None and seen[0]["text_attention_mask"] is None

    def test_the_body_and_the_encoder_alone_take_the_same_adapter(self, detector, batch):
        body = get_peft_model(detector.model, config())
        key = "base_model.model.encoder.prompt_learner.sdpt_adapters.default.prototypes"
        assert trainable(body) == {key} and outputs(body, batch)["last_hidden_state"].isfinite().all()
        assert trainable(get_peft_model(build_detector().model.encoder, config())) == {key.replace(".encoder", "")}


class TestWithoutTheAdapter:
    def test_disabled_and_unloaded_it_is_the_base_model_bit_for_bit(self, detector, batch):
        base, hooks = outputs(detector, batch, **EVERYTHING), hooks_on(detector)
        names = [name for name, _ in detector.named_modules()]
        model = get_peft_model(detector, config())
        assert hooks_on(detector) == hooks + 2 * LAYERS
        with model.disable_adapter():
            assert_equal(outputs(model, batch, **EVERYTHING), base)
        restored = model.unload()
        assert restored is detector and hooks_on(restored) == hooks
        assert [name for name, _ in restored.named_modules()] == names
        assert_equal(outputs(restored, batch, **EVERYTHING), base)

    def test_deleting_the_last_adapter_removes_the_hooks(self, detector, batch):
        base, hooks = outputs(detector, batch), hooks_on(detector)
        model = get_peft_model(detector, config())
        model.delete_adapter("default")
        assert hooks_on(detector) == hooks
        assert_equal(outputs(detector, batch), base)

    def test_inside_the_context_manager_it_runs_without_prompts(self, detector, batch):
        base = outputs(detector, batch)
        model = get_peft_model(detector, config())
        with sdpt_layer_of(model).without_prompts():
            assert_equal(outputs(model, batch), base)
        assert not torch.equal(outputs(model, batch)["pred_boxes"], base["pred_boxes"])


class TestLayers:
    def test_prompts_enter_only_the_layers_asked_for(self, detector, batch):
        model = get_peft_model(detector, config(layers_to_transform=[1]))
        lengths = []

        def attended(args, kwargs):
            return (args[1] if args else kwargs["text_features"]).shape[1]

        for layer in sdpt_layer_of(model).fusion.layers:
            layer.fusion_layer.attn.register_forward_pre_hook(
                lambda module, args, kwargs: lengths.append(attended(args, kwargs)), with_kwargs=True
            )
        outputs(model, batch)
        assert lengths == [7, 11] and adapter_of(model).prototypes.shape == (1, 4, ATTENTION_WIDTH)

    def test_a_subset_equals_the_same_prototypes_in_an_adapter_of_all_layers_with_the_others_off(self, batch):
        whole = get_peft_model(build_detector(), config())
        part = get_peft_model(build_detector(), config(layers_to_transform=1))
        adapter_of(part).prototypes.data.copy_(adapter_of(whole).prototypes.data[1:])
        adapter_of(whole).layers = [None, 1]  # layer 0 finds none
        assert_equal(outputs(whole, batch), outputs(part, batch))

    def test_the_order_of_the_list_is_that_of_the_prototypes(self, batch):
        there, back = (
            get_peft_model(build_detector(), config(layers_to_transform=layers)) for layers in ([0, 1], [1, 0])
        )
        adapter_of(back).prototypes.data.copy_(adapter_of(there).prototypes.data.flip(0))
        assert_equal(outputs(there, batch), outputs(back, batch))


class TestGradients:
    def test_the_prompts_of_the_last_layer_reach_both_streams(self, detector, batch):
        found = gradients(get_peft_model(detector, config(layers_to_transform=[LAYERS - 1])).eval(), batch)
        assert found["vision"].any() and found["text"].any()

    def test_masked_as_in_the_released_code_they_do_not_reach_the_image(self, detector, batch):
        masked = config(layers_to_transform=[LAYERS - 1], mask_text_prompts=True)
        found = gradients(get_peft_model(detector, masked).eval(), batch)
        assert not found["vision"].any() and found["text"].any()

    def test_only_the_prototypes_are_trained(self, detector, batch):
        model = get_peft_model(detector, config())
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model.train()
        logits = model(**batch).logits  # boxes of a new detector have no gradient: their last layer starts at zero
        logits[logits.isfinite()].square().sum().backward()
        assert adapter_of(model).prototypes.grad.any()
        optimizer.step()
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed == {"base_model.model.model.encoder.prompt_learner.sdpt_adapters.default.prototypes"}


class TestSize:
    def test_grounding_dino_tiny_has_61440_numbers_to_train(self):
        with torch.device("meta"):
            tiny = GroundingDinoForObjectDetection(GroundingDinoConfig())
        assert get_peft_model(tiny, SDPTConfig()).get_nb_trainable_parameters()[0] == 61_440

    def test_the_weights_must_be_there_before_it_runs(self):
        model = get_peft_model(build_detector().to("meta"), config())
        adapter = adapter_of(model).to_empty(device="cpu")
        with pytest.raises(ValueError, match="'meta'.*Load the weights first"):
            adapter(0)

    def test_prototypes_start_within_the_range(self, detector):
        prototypes = adapter_of(get_peft_model(detector, config(init_range=0.25))).prototypes
        assert 0.2 < prototypes.abs().max() <= 0.25 and prototypes.shape == (LAYERS, 4, ATTENTION_WIDTH)


class TestOtherModels:
    def owlvit(self):
        small = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
        text, vision = {**small, "vocab_size": 50}, {**small, "image_size": 32, "patch_size": 16}
        return OwlViTForObjectDetection(OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32))

    def test_a_detector_without_fusion_layers_is_refused_untouched(self):
        model = self.owlvit()
        names, hooks, asked = [name for name, _ in model.named_modules()], hooks_on(model), config()
        before = copy.deepcopy(asked)
        with pytest.raises(ValueError, match="OwlViTForObjectDetection.*GroundingDinoEncoder.*no fusion layers"):
            get_peft_model(model, asked)
        assert [name for name, _ in model.named_modules()] == names and hooks_on(model) == hooks and asked == before
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_each_method_names_the_other_for_the_other_kind_of_model(self):
        with pytest.raises(ValueError, match="use MuDPTConfig"):
            get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config())
        with pytest.raises(ValueError, match="use SDPTConfig"):
            get_peft_model(build_detector(), MuDPTConfig())

    def test_two_detectors_in_one_are_refused(self):
        both = torch.nn.ModuleDict({family: build_detector(family) for family in FAMILIES})
        with pytest.raises(ValueError, match="several encoders"):
            get_peft_model(both, config())

    def test_an_adapter_of_other_sizes_is_refused(self):
        used = config()
        get_peft_model(build_detector(), used)
        for fields, name in (
            (dict(d_model=128), "hidden_size=64"),
            (dict(encoder_ffn_dim=256), "embed_dim=256"),
            (dict(encoder_layers=1), "num_fusion_layers=2"),
        ):
            model, before = build_detector(**fields), copy.deepcopy(used)
            with pytest.raises(ValueError, match=name):
                get_peft_model(model, used)
            assert used == before and not hasattr(model, "peft_config") and sdpt_layer_of(model) is None

    def test_a_layer_beyond_the_last_is_refused(self):
        with pytest.raises(ValueError, match=r"layers_to_transform=\[0, 2\].*2 fusion layers.*at most 1"):
            get_peft_model(build_detector(), config(layers_to_transform=[0, 2]))
