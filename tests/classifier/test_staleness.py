"""Cached text features are never stale, and `torch.func` and fake tensors leave none behind."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import rescale_adapter_scale
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.classifier.class_features import ClassFeatures
from tests.classifier.conftest import NAMES, adapted, assert_fresh, refuse_masks


class TestWhatIsRememberedIsNeverStale:
    @pytest.fixture(autouse=True)
    def remembered(self, classifier, pixel_values):
        classifier.predict(pixel_values)

    def test_classes_are_encoded_once(self, classifier, pixel_values, monkeypatch):
        module = "peft_mudpt.classifier.class_features"
        monkeypatch.setattr(f"{module}.encode_layout", lambda *args: pytest.fail("encoded again"))
        classifier.predict(pixel_values)
        with torch.inference_mode():
            classifier(pixel_values)

    @pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
    @pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
    def test_after_a_training_step(self, classifier, tokenizer, pixel_values, optimizer, options):
        optimizer = optimizer([p for p in classifier.parameters() if p.requires_grad], lr=0.1, **options)
        classifier(pixel_values, torch.tensor([0, 1, 2, 0, 1])).loss.backward()
        optimizer.step()
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_after_a_switch_to_an_adapter_of_another_length(self, classifier, tokenizer, pixel_values):
        classifier.model.add_adapter("other", MuDPTConfig(num_virtual_tokens=2, init_std=0.5))
        for name in ("other", "default"):
            classifier.model.set_adapter(name)
            assert_fresh(classifier, tokenizer, pixel_values)

    def test_within_and_after_disable_adapter(self, classifier, tokenizer, pixel_values):
        with classifier.model.disable_adapter():
            assert_fresh(classifier, tokenizer, pixel_values)
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_after_an_adapter_was_deleted_and_another_took_its_name(self, classifier, tokenizer, pixel_values):
        model = classifier.model
        for seed in range(3):
            torch.manual_seed(seed)
            model.add_adapter("second", MuDPTConfig(init_std=0.5))
            model.set_adapter("second")
            assert_fresh(classifier, tokenizer, pixel_values)
            with pytest.warns(UserWarning, match="default"):  # PEFT says which adapter it activates
                model.delete_adapter("second")

    def test_after_weights_were_loaded(self, classifier, tokenizer, pixel_values):
        state = adapted(init_std=1.0).state_dict()
        classifier.model.load_state_dict(state)
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_whatever_is_done_with_lora_adapters(self, tokenizer, pixel_values):
        torch.manual_seed(0)
        lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5)
        model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), lora)
        model.add_adapter("other", lora)
        model.eval()
        classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
        assert_fresh(classifier, tokenizer, pixel_values)
        with model.disable_adapter():
            assert_fresh(classifier, tokenizer, pixel_values)
        with rescale_adapter_scale(model, 0.1):
            assert_fresh(classifier, tokenizer, pixel_values)
        model.set_adapter("other")
        assert_fresh(classifier, tokenizer, pixel_values)
        with torch.no_grad():  # with dropout
            model.train()
            classifier.forget()
            classifier.class_features()
            model.eval()
        assert_fresh(classifier, tokenizer, pixel_values)
        model.merge_adapter(["default"])
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_after_a_module_beside_the_prompts_was_trained_and_switched_off(self, tokenizer, pixel_values):
        model = adapted(modules_to_save=["text_projection"])
        classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
        assert_fresh(classifier, tokenizer, pixel_values)
        with torch.no_grad():
            model.text_projection.modules_to_save["default"].weight.mul_(-1)
        assert_fresh(classifier, tokenizer, pixel_values)
        with model.disable_adapter():
            assert_fresh(classifier, tokenizer, pixel_values)

    def test_after_the_weights_of_clip_were_replaced(self, classifier, tokenizer, pixel_values):
        clip = classifier.model.get_base_model()
        clip.text_projection.weight.data = torch.randn_like(clip.text_projection.weight)
        assert_fresh(classifier, tokenizer, pixel_values)
        clip.text_projection = copy.deepcopy(clip.text_projection).requires_grad_(False)
        torch.nn.init.normal_(clip.text_projection.weight)
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_of_a_model_made_in_inference_mode(self, tokenizer, pixel_values):
        with torch.inference_mode():
            model = adapted()
            classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
            assert_fresh(classifier, tokenizer, pixel_values)
            model.get_base_model().text_projection.weight.mul_(-1)
            assert_fresh(classifier, tokenizer, pixel_values)

    def test_after_a_switch_to_attention_that_takes_no_masks(self, classifier, tokenizer, pixel_values):
        AttentionInterface.register("refuses_masks", refuse_masks)
        classifier.model.get_base_model().set_attn_implementation("refuses_masks")
        with torch.no_grad():
            assert classifier.class_features().shape == (3, 64)

    def test_after_its_features_were_written_to(self, classifier, tokenizer, pixel_values):
        with torch.no_grad():
            classifier.class_features().zero_()
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_once_told_to_forget_what_nobody_could_see(self, classifier, tokenizer, pixel_values):
        classifier.model.get_base_model().text_projection.weight.data.mul_(-1)
        classifier.forget()
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_after_inference_mode_it_can_be_trained_on(self, tokenizer, pixel_values):
        classifier = MuDPTClassifier(adapted("vpt_deep"), NAMES, "{}.", tokenizer)
        with torch.inference_mode():
            classifier(pixel_values)
        classifier(pixel_values, torch.tensor([0, 1, 2, 0, 1])).loss.backward()

    def test_in_another_precision(self, classifier, pixel_values):
        with torch.no_grad():
            whole = classifier.class_features()
            with torch.autocast("cpu", torch.bfloat16):
                rough = classifier.class_features()
            with torch.autocast("cpu", torch.float16):
                finer = classifier.class_features()
            assert torch.equal(classifier.class_features(), whole)
            assert (rough - whole).norm() > 2 * (finer - whole).norm() > 0


def lora_and_another():
    """A CLIP with two LoRA adapters."""
    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), lora)
    model.add_adapter("other", lora)
    return model.eval()


def mudpt_and_another():
    """A CLIP with two MuDPT adapters."""
    model = adapted()
    model.add_adapter("other", MuDPTConfig(init_std=0.5))
    return model.eval()


class TestWhatChangesWhileClassesAreEncoded:
    """As another thread would change it, but at a known moment."""

    @pytest.fixture(params=[mudpt_and_another, lora_and_another])
    def classifier(self, request, tokenizer):
        return MuDPTClassifier(request.param(), NAMES, "{}.", tokenizer)

    def encoded_while(self, classifier, before, after):
        """Encode the classes, with a call before the text tower and one after it."""
        text = classifier.model.text_model
        with (
            torch.no_grad(),
            text.embeddings.register_forward_pre_hook(lambda *_: before(), prepend=True),
            text.final_layer_norm.register_forward_hook(lambda *_: after()),
        ):
            return classifier.class_features()

    def test_a_switch_that_lasts_leaves_nothing_wrong_behind(self, classifier, tokenizer, pixel_values):
        model = classifier.model
        self.encoded_while(classifier, lambda: model.set_adapter("other"), lambda: None)
        for name in ("default", "other"):
            model.set_adapter(name)
            assert_fresh(classifier, tokenizer, pixel_values)

    def test_a_switch_there_and_back_leaves_nothing_wrong_behind(self, classifier, tokenizer, pixel_values):
        model = classifier.model
        self.encoded_while(classifier, lambda: model.set_adapter("other"), lambda: model.set_adapter("default"))
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_a_weight_that_is_trained_leaves_nothing_wrong_behind(self, classifier, tokenizer, pixel_values):
        @torch.no_grad()
        def train():
            classifier.model.text_projection.weight.mul_(-1)

        self.encoded_while(classifier, lambda: None, train)
        assert_fresh(classifier, tokenizer, pixel_values)


def test_an_adapter_disabled_while_classes_are_encoded_leaves_nothing_wrong_behind(
    tokenizer, pixel_values, monkeypatch
):
    """Another thread disables it before the classes are laid out, and enables it before they are remembered."""
    classifier = MuDPTClassifier(adapted(), NAMES, "{}.", tokenizer)
    classifier._class_features._layouts.clear()
    encode = ClassFeatures.encode

    def disabled_meanwhile(self, model):
        with model.disable_adapter():
            return encode(self, model)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(ClassFeatures, "encode", disabled_meanwhile)
        classifier.class_features()
    assert_fresh(classifier, tokenizer, pixel_values)


def vmap_takes_checkpoints() -> bool:
    try:
        torch.func.vmap(lambda x: checkpoint(torch.sin, x, use_reentrant=False))(torch.zeros(2))
    except RuntimeError:  # torch 2.8
        return False
    return True


class TestTransforms:
    """Of torch.func and of tracing: they work as on the plain model, and leave nothing behind."""

    @pytest.fixture(params=[None, 1])
    def classifier(self, request, model, tokenizer):
        return MuDPTClassifier(model, NAMES, "{}.", tokenizer, class_batch_size=request.param)

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, classifier, tokenizer, pixel_values):
        yield
        assert_fresh(classifier, tokenizer, pixel_values)

    def test_grad_of_the_parameters(self, classifier, pixel_values):
        learned = {name: p for name, p in classifier.named_parameters() if p.requires_grad}
        labels = torch.tensor([0, 1, 2, 0, 1])

        def loss(parameters):
            return torch.func.functional_call(classifier, parameters, (pixel_values, labels)).loss

        found = torch.func.grad(loss)({name: p.detach() for name, p in learned.items()})
        expected = torch.autograd.grad(classifier(pixel_values, labels).loss, list(learned.values()))
        for name, gradient in zip(learned, expected):
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)

    def test_grad_of_the_images(self, classifier, pixel_values):
        found = torch.func.grad(lambda images: classifier(images).logits.square().sum())(pixel_values)
        images = pixel_values.requires_grad_()
        expected = torch.autograd.grad(classifier(images).logits.square().sum(), images)[0]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)

    @pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
    def test_vmap_over_parameters(self, classifier, pixel_values):
        if classifier._class_features.class_batch_size is not None and not vmap_takes_checkpoints():
            pytest.skip("this torch cannot map over checkpoints, with which several groups of classes are encoded")
        learned = {name: p.detach() for name, p in classifier.named_parameters() if p.requires_grad}
        stacked = {name: torch.stack([p, 2 * p]) for name, p in learned.items()}

        def logits(parameters):
            return torch.func.functional_call(classifier, parameters, (pixel_values,)).logits

        both = torch.func.vmap(logits)(stacked)
        torch.testing.assert_close(both[0], classifier(pixel_values).logits, atol=1e-4, rtol=1e-4)
        expected = logits({name: tensors[1] for name, tensors in stacked.items()})
        torch.testing.assert_close(both[1], expected, atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_fake_tensors(self, classifier, pixel_values):
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert classifier(pixel_values).logits.shape == (5, 3)

    @torch.no_grad()
    @pytest.mark.parametrize("tracing_mode", ["real", "fake"])
    def test_a_traced_graph(self, classifier, pixel_values, tracing_mode):
        trace = make_fx(lambda x: classifier(x).logits, tracing_mode=tracing_mode, _allow_non_fake_inputs=True)
        torch.testing.assert_close(trace(pixel_values)(pixel_values), classifier(pixel_values).logits)


@pytest.mark.parametrize(
    ("kept", "fields"),
    [("of_classes", dict(text_prompt_depth=0, fusion_direction="none")), ("_lower_states", dict(first_layer=2))],
)
def test_what_training_uses_again_and_again_is_computed_without_dropout(tokenizer, kept, fields):
    model = adapted(**fields)
    for layer in model.text_model.encoder.layers:
        layer.self_attn.dropout = 0.9
    expected, found = (
        getattr(MuDPTClassifier(model.train(mode), NAMES, "{}.", tokenizer)._class_features, kept)(model)
        for mode in (False, True)
    )
    torch.testing.assert_close(found, expected)
    assert model.text_model.training
