"""Class texts, the classifier, and what it remembers."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.helpers import rescale_adapter_scale
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoProcessor, AutoTokenizer, CLIPModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.classifier.texts import split_template, tokenize_classes


OLDER_TORCH = Version(torch.__version__) < Version("2.13")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_PATH)


@pytest.mark.parametrize(
    ("tokens", "words", "rest"),
    [
        (0, None, "a photo of a {}."),
        (2, "a photo", "of a {}."),
        (4, "a photo of a", "{}."),
        (16, "a photo of a", "{}."),
    ],
)
def test_prompts_take_the_place_of_the_templates_first_words(tokenizer, tokens, words, rest):
    assert split_template("a photo of a {}.", tokenizer, tokens) == (words, rest)


def test_a_word_of_several_tokens_is_not_torn(tokenizer):
    assert split_template("a zebra {}, a pet.", tokenizer, 3) == ("a", "zebra {}, a pet.")


def test_what_stands_after_the_prompts_keeps_its_spaces(tokenizer):
    assert split_template("a photo of  a-{}!", tokenizer, 2) == ("a photo", "of  a-{}!")


def test_a_template_that_begins_with_the_class_has_no_words_to_give(tokenizer):
    assert split_template("{}, a pet.", tokenizer, 4) == (None, "{}, a pet.")


@pytest.mark.parametrize("template", ["a photo.", "{} or {}"])
def test_a_template_without_one_place_for_the_class_is_refused(tokenizer, template):
    with pytest.raises(ValueError, match=r"holds \{\} once"):
        split_template(template, tokenizer, 4)


def test_other_braces_in_a_template_stay(tokenizer):
    tokens = tokenize_classes(tokenizer, ["star"], "a {} {0} {x}.")
    assert "{ 0" in tokenizer.decode(tokens["input_ids"][0])


def test_class_texts_keep_their_order(tokenizer):
    tokens = tokenize_classes(tokenizer, ["red star", "blue heart"], "a {}.")
    assert tokenizer.batch_decode(tokens["input_ids"], skip_special_tokens=True) == ["a red star .", "a blue heart ."]


NAMES = ["red star", "blue heart", "green cross"]


def adapted(preset="mudpt", **fields):
    """The embedded CLIP with an adapter whose prompts are large enough to matter."""
    torch.manual_seed(1)
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    return get_peft_model(clip, MuDPTConfig.from_preset(preset, **{"init_std": 0.5, **fields})).eval()


def expected_logits(model, tokenizer, pixel_values, template="{}."):
    """By the model's own forward."""
    return model(**tokenize_classes(tokenizer, NAMES, template), pixel_values=pixel_values).logits_per_image


@pytest.fixture
def pixel_values():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def classifier(model, tokenizer):
    return MuDPTClassifier(model, NAMES, "{}.", tokenizer)


def refuse_masks(module, query, key, value, attention_mask, **kwargs):
    assert attention_mask is None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def assert_fresh(classifier, tokenizer, pixel_values):
    """What it remembers is what the model says now."""
    with torch.no_grad():
        expected = expected_logits(classifier.model, tokenizer, pixel_values)
        torch.testing.assert_close(classifier(pixel_values).logits, expected, atol=1e-4, rtol=1e-5)


class TestClassifying:
    @pytest.mark.parametrize("preset", [None, "coop", "vpt_deep", "mudpt"])
    def test_logits_are_those_of_the_models_own_forward(self, preset, tokenizer, pixel_values):
        model = CLIPModel.from_pretrained(demo.MODEL_PATH) if preset is None else adapted(preset)
        assert_fresh(MuDPTClassifier(model, NAMES, "{}.", tokenizer), tokenizer, pixel_values)

    def test_probabilities_do_not_depend_on_the_batches(self, classifier, pixel_values):
        whole = classifier.predict_proba(pixel_values)
        torch.testing.assert_close(classifier.predict_proba(pixel_values, batch_size=2), whole, atol=1e-6, rtol=0)
        torch.testing.assert_close(whole.sum(dim=-1), torch.ones(5))

    def test_pictures_files_and_pixel_values_are_classified_alike(self, classifier, tmp_path):
        picture = demo.paint("filled red star", "plain", np.random.default_rng(0))
        picture.save(tmp_path / "picture.png")
        processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor
        values = processor(picture, return_tensors="pt").pixel_values
        both = classifier.predict_proba([picture, tmp_path / "picture.png"])
        torch.testing.assert_close(both, classifier.predict_proba(values).expand(2, 3), atol=1e-6, rtol=0)

    def test_the_first_of_top_k_is_the_prediction(self, classifier, pixel_values):
        best = classifier.top_k(pixel_values, k=2)
        assert [row[0][0] for row in best] == classifier.predict(pixel_values)
        for row, probabilities in zip(best, classifier.predict_proba(pixel_values)):
            assert [p for _, p in row] == pytest.approx(sorted(probabilities.tolist(), reverse=True)[:2])

    def test_more_than_there_are_gives_all(self, classifier, pixel_values):
        assert [len(row) for row in classifier.top_k(pixel_values, k=9)] == [3] * 5

    def test_no_image_gives_no_answer(self, classifier):
        assert classifier.predict([]) == [] and classifier.predict_proba([]).shape == (0, 3)

    def test_labels_bring_the_cross_entropy_with_its_gradient(self, classifier, tokenizer, pixel_values):
        labels = torch.tensor([0, 1, 2, 0, 1])
        output = classifier(pixel_values, labels)
        logits = expected_logits(classifier.model, tokenizer, pixel_values)
        expected = torch.nn.functional.cross_entropy(logits, labels)
        torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=1e-5)
        parameters = [p for p in classifier.parameters() if p.requires_grad]
        for mine, its in zip(torch.autograd.grad(output.loss, parameters), torch.autograd.grad(expected, parameters)):
            assert (mine - its).norm() <= 1e-4 * its.norm()


class TestLoading:
    def test_an_adapter_brings_its_clip_and_its_classes(self, model, classifier, pixel_values, tmp_path):
        model.peft_config["default"].class_names, model.peft_config["default"].class_template = NAMES, "{}."
        model.save_pretrained(tmp_path)
        loaded = MuDPTClassifier.from_pretrained(tmp_path)
        assert loaded.class_names == NAMES
        torch.testing.assert_close(loaded.predict_proba(pixel_values), classifier.predict_proba(pixel_values))

    def test_a_clip_with_an_adapter_of_its_own_remembers_as_well(self):
        clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
        inject_adapter_in_model(MuDPTConfig(class_names=NAMES, class_template="{}."), clip)
        assert MuDPTClassifier(clip).class_names == NAMES

    def test_other_classes_can_be_given(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = MuDPTClassifier.from_pretrained(tmp_path, ["star", "heart"], "{}!")
        assert (loaded.class_names, loaded.template) == (["star", "heart"], "{}!")

    @pytest.mark.parametrize(("field", "value"), [("class_names", NAMES[::-1]), ("template", "a photo of a {}.")])
    def test_what_was_encoded_cannot_be_renamed(self, classifier, field, value):
        before = getattr(classifier, field)
        with pytest.raises(ValueError, match=rf"{field} .*MuDPTClassifier\(classifier.model, class_names, template\)"):
            setattr(classifier, field, value)
        assert getattr(classifier, field) == before

    def test_names_that_are_added_to_a_copy_or_to_the_list_that_was_given_are_no_classes(
        self, model, tokenizer, pixel_values
    ):
        given = list(NAMES)
        classifier = MuDPTClassifier(model, given, "{}.", tokenizer)
        classifier.class_names.append("circle")
        given[0] = "circle"
        assert classifier.class_names == NAMES
        assert classifier.predict_proba(pixel_values).shape == (5, len(classifier.class_names))

    def test_classes_that_nothing_remembers_must_be_given(self, model):
        with pytest.raises(ValueError, match="class_names. Give class_names"):
            MuDPTClassifier(model)
        with pytest.raises(ValueError, match="class_template. Give template"):
            MuDPTClassifier(model, NAMES)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
    def test_a_copy_classifies_alike(self, classifier, pixel_values, copied):
        expected = classifier.predict_proba(pixel_values)
        torch.testing.assert_close(copied(classifier).predict_proba(pixel_values), expected)


@torch.no_grad()
def test_a_model_that_torch_compile_returns_classifies_as_well(model, tokenizer, pixel_values):
    expected = MuDPTClassifier(model, NAMES, "{}.", tokenizer)(pixel_values).logits
    compiled = torch.compile(model.get_base_model(), backend="eager")
    torch.testing.assert_close(MuDPTClassifier(compiled, NAMES, "{}.", tokenizer)(pixel_values).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("mudpt_first", [True, False])
def test_an_adapter_of_another_method_may_be_beside(tokenizer, pixel_values, mudpt_first):
    torch.manual_seed(1)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    configs = {"lora": lora, "mudpt": MuDPTConfig(init_std=0.5)}
    model = CLIPModel.from_pretrained(demo.MODEL_PATH)
    for name in sorted(configs, reverse=mudpt_first):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of a PeftModel in another
            model = get_peft_model(model, configs[name], name)
    classifier = MuDPTClassifier(model.eval(), NAMES, "{}.", tokenizer)
    assert_fresh(classifier, tokenizer, pixel_values)
    logits = MuDPTClassifier(model.base_model, NAMES, "{}.", tokenizer)(pixel_values).logits
    torch.testing.assert_close(logits, classifier(pixel_values).logits)


class TestRefusing:
    @pytest.mark.parametrize("names", [[], "star", [1, 2], ["star", " "], {"star", "heart"}])
    def test_what_are_no_class_names(self, model, tokenizer, names):
        with pytest.raises(ValueError, match="class_names=.*non-empty names"):
            MuDPTClassifier(model, names, "{}.", tokenizer)

    def test_a_clip_of_unknown_origin_without_a_tokenizer(self, model):
        model.get_base_model().name_or_path = ""
        with pytest.raises(ValueError, match="a folder or a Hub id that could hold a tokenizer; give one"):
            MuDPTClassifier(model, NAMES, "{}.")

    def test_a_tower_alone_and_a_clip_without_its_weights(self, model, tokenizer):
        with pytest.raises(ValueError, match="is a CLIPTextModel .*give a whole CLIPModel"):
            MuDPTClassifier(model.text_model, NAMES, "{}.", tokenizer)
        with pytest.raises(ValueError, match="offloaded weights.*Load it whole"):
            MuDPTClassifier(model.to("meta"), NAMES, "{}.", tokenizer)

    def test_a_template_without_a_place_for_the_name(self, model, tokenizer):
        with pytest.raises(ValueError, match=r"holds \{\} once"):
            MuDPTClassifier(model, NAMES, "a photo.", tokenizer)

    def test_a_name_that_is_too_long(self, model, tokenizer):
        with pytest.raises(ValueError, match="text of class 1 .'very .* star'. has .* positions"):
            MuDPTClassifier(model, ["star", "very " * 100 + "long star"], "{}.", tokenizer)

    @pytest.mark.parametrize(
        "images", ["picture.jpg", demo.paint("filled red star", "plain", np.random.default_rng(0))]
    )
    def test_a_single_picture(self, classifier, images):
        with pytest.raises(ValueError, match="give a list of pictures"):
            classifier.predict(images)

    @pytest.mark.parametrize("images", [torch.randn(3, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)])
    def test_a_tensor_that_no_image_processor_made(self, classifier, images):
        with pytest.raises(ValueError, match="in floating point, as the image processor makes it"):
            classifier.predict(images)

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_batches_of_nothing(self, classifier, pixel_values, batch_size):
        with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
            classifier.predict(pixel_values, batch_size=batch_size)

    def test_k_of_nothing(self, classifier, pixel_values):
        with pytest.raises(ValueError, match="k=0"):
            classifier.top_k(pixel_values, k=0)


class TestWhatIsRememberedIsNeverStale:
    @pytest.fixture(autouse=True)
    def remembered(self, classifier, pixel_values):
        classifier.predict(pixel_values)

    def test_classes_are_encoded_once(self, classifier, pixel_values, monkeypatch):
        module = "peft_mudpt.classifier.classifier"
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
            text.register_forward_pre_hook(lambda *_: before(), prepend=True),
            text.register_forward_hook(lambda *_: after()),
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
    classifier._layouts.clear()
    encode = MuDPTClassifier._encode

    def disabled_meanwhile(self):
        with self.model.disable_adapter():
            return encode(self)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(MuDPTClassifier, "_encode", disabled_meanwhile)
        classifier.class_features()
    assert_fresh(classifier, tokenizer, pixel_values)


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


class Waits(TorchDispatchMode):
    """Refuses whatever makes the program wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("class_batch_size", [None, 1])
def test_a_training_step_never_waits_for_the_device(model, tokenizer, pixel_values, class_batch_size):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer, class_batch_size=class_batch_size)
    with Waits():
        classifier(pixel_values, torch.tensor([0, 1, 2, 0, 1])).loss.backward()


@pytest.mark.parametrize(
    "class_batch_size",
    [
        None,
        pytest.param(
            2, marks=pytest.mark.skipif(OLDER_TORCH, reason="torch 2.8 to 2.12 break the graph at a checkpoint in it")
        ),
    ],
)
def test_a_training_step_compiles_to_one_graph(model, tokenizer, pixel_values, class_batch_size):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer, class_batch_size=class_batch_size)
    labels = torch.tensor([0, 1, 2, 0, 1])
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    eager = torch.autograd.grad(classifier(pixel_values, labels).loss, parameters)
    compiled = torch.compile(classifier, fullgraph=True, backend="aot_eager")
    for mine, its in zip(torch.autograd.grad(compiled(pixel_values, labels).loss, parameters), eager):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_output_carries_the_features_that_the_logits_are_made_from(model, classifier, pixel_values):
    output = classifier(pixel_values)
    for features in (output.image_features, output.class_features):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))
    cosine = output.image_features @ output.class_features.t()
    torch.testing.assert_close(output.logits, model.logit_scale.exp() * cosine)
    images = torch.nn.functional.normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)
    torch.testing.assert_close(output.image_features, images)
