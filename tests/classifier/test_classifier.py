"""The classifier: its answers, how it is loaded, and what it refuses."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.lab.probe import LinearProbe
from tests.classifier.conftest import NAMES, OLDER_TORCH, adapted, assert_fresh, expected_logits
from tests.conftest import of_two_layers


class TestClassifying:
    @pytest.mark.parametrize("preset", [None, "coop", "vpt_deep", "mudpt"])
    def test_logits_are_those_of_the_models_own_forward(self, preset, tokenizer, pixel_values):
        model = CLIPModel.from_pretrained(demo.MODEL_PATH) if preset is None else adapted(preset)
        assert_fresh(MuDPTClassifier(model, NAMES, "{}.", tokenizer), tokenizer, pixel_values)

    def test_probabilities_do_not_depend_on_the_batches(self, classifier, pixel_values):
        whole = classifier.predict_proba(pixel_values)
        torch.testing.assert_close(classifier.predict_proba(pixel_values, batch_size=2), whole, atol=1e-6, rtol=0)
        torch.testing.assert_close(whole.sum(dim=-1), torch.ones(5))

    def test_a_classifier_for_other_classes_shares_the_model_and_the_texts(self, classifier, tokenizer, pixel_values):
        other = classifier.with_classes(["one", "two"])
        fresh = MuDPTClassifier(classifier.model, ["one", "two"], classifier.template, tokenizer)
        assert other.model is classifier.model and other.template == classifier.template
        assert torch.equal(other.predict_proba(pixel_values), fresh.predict_proba(pixel_values))
        assert classifier.with_classes(["one"], "a {}.").class_texts == [["a one."]]

    def test_descriptions_of_the_classes_are_no_texts_of_other_classes(self, classifier, tokenizer):
        described = MuDPTClassifier(
            classifier.model, ["a", "b"], None, tokenizer, descriptions={"a": ["x"], "b": ["y"]}
        )
        assert described.with_classes(["b"]).class_texts == [["y"]]
        with pytest.raises(ValueError, match="no texts of"):
            described.with_classes(["b", "c"])

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

    def test_image_features_take_the_place_of_the_images(self, classifier, pixel_values):
        labels = torch.tensor([0, 1, 2, 0, 1])
        expected = classifier(pixel_values, labels)
        found = classifier(image_features=classifier.image_features(pixel_values), labels=labels)
        for field in ("loss", "logits", "image_features"):
            torch.testing.assert_close(found[field], expected[field])
        torch.testing.assert_close(found.image_features.norm(dim=-1), torch.ones(5))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "neither pixel_values .* nor image_features"),
            ({"pixel_values": torch.zeros(2, 3, 32, 32), "image_features": torch.zeros(2, 64)}, "both"),
            ({"image_features": torch.zeros(2, 63)}, r"image_features .*\(2, 63\).* \(B, 64\)"),
            ({"image_features": torch.zeros(64)}, r"image_features .*\(64,\).* \(B, 64\)"),
            ({"image_features": torch.zeros(2, 64).long()}, "image_features .*int64.* floating point"),
        ],
        ids=["neither", "both", "width", "axes", "type"],
    )
    def test_other_images_than_either_pixels_or_features_are_refused(self, classifier, given, message):
        for refusing in (classifier, LinearProbe(CLIPModel.from_pretrained(demo.MODEL_PATH), NAMES)):
            with pytest.raises(ValueError, match=message):
                refusing(**given)


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
        with pytest.raises(ValueError, match=rf"{field} .*with_classes\(class_names, template\)"):
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


CHECKPOINTS_BREAK = pytest.mark.skipif(OLDER_TORCH, reason="torch 2.8 to 2.12 break the graph at a checkpoint in it")


# "eager" only captures the graph; "aot_eager" also derives its backward pass, which takes as long again
@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_batch_size", "backend"), [(None, "eager"), pytest.param(2, "aot_eager", marks=CHECKPOINTS_BREAK)]
)
def test_a_training_step_compiles_to_one_graph(tokenizer, pixel_values, class_batch_size, backend):
    torch.manual_seed(1)
    model = get_peft_model(of_two_layers(CLIPModel.from_pretrained(demo.MODEL_PATH)), MuDPTConfig(init_std=0.5)).eval()
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer, class_batch_size=class_batch_size)
    labels = torch.tensor([0, 1, 2, 0, 1])
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    eager = torch.autograd.grad(classifier(pixel_values, labels).loss, parameters)
    compiled = torch.compile(classifier, fullgraph=True, backend=backend)
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


SENTENCES = {
    "red star": ["it has five points.", "red."],
    "blue heart": ["love"],
    "green cross": ["a pharmacy.", "a plus"],
}


def mean_over_texts(model, tokenizer, texts):
    """The class features, from each text alone by the model's own method."""
    classes = []
    for own in texts:
        features = [
            model.get_text_features(**tokenizer([text], return_tensors="pt")).pooler_output.flatten() for text in own
        ]
        mean = sum(feature / feature.norm() for feature in features) / len(own)
        classes.append(mean / mean.norm())
    return torch.stack(classes)


class TestSeveralTexts:
    @pytest.mark.parametrize("preset", [None, "vpt_deep", "mudpt"])
    @pytest.mark.parametrize(
        ("template", "descriptions"),
        [(["a {}.", "one {} here", "{}"], None), ("a {}.", SENTENCES), (None, SENTENCES)],
        ids=["templates", "both", "descriptions"],
    )
    def test_a_class_has_the_mean_of_its_texts_with_gradients(self, preset, template, descriptions, tokenizer):
        model = CLIPModel.from_pretrained(demo.MODEL_PATH) if preset is None else adapted(preset)
        model.requires_grad_(preset == "mudpt")
        classifier = MuDPTClassifier(model, NAMES, template, tokenizer, descriptions=descriptions)
        templates = [template] if isinstance(template, str) else template or []
        texts = [[t.format(n) for t in templates] + (descriptions or {}).get(n, []) for n in NAMES]
        assert (classifier.class_texts, classifier.template) == (texts, None)
        expected, got = mean_over_texts(model, tokenizer, texts), classifier.class_features()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert got.requires_grad == expected.requires_grad
        if got.requires_grad:
            prompts = [p for name, p in model.named_parameters() if name.endswith("prompts")]
            weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(0))
            pairs = zip(
                *(torch.autograd.grad((f * weights).sum(), prompts, allow_unused=True) for f in (got, expected))
            )
            for mine, its in pairs:
                torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-4)

    def test_a_list_of_one_template_changes_no_bit(self, model, classifier, tokenizer, pixel_values):
        one = MuDPTClassifier(model, NAMES, ["{}."], tokenizer)
        assert one.template == "{}."
        assert torch.equal(one(pixel_values).logits, classifier(pixel_values).logits)

    @torch.no_grad()
    def test_the_mean_is_cached_and_never_stale(self, model, tokenizer, monkeypatch):
        classifier = MuDPTClassifier(model, NAMES, ["a {}.", "{}"], tokenizer)
        before = classifier.class_features()
        with monkeypatch.context() as context:
            context.setattr(
                "peft_mudpt.classifier.class_features.encode_layout", lambda *_: pytest.fail("encoded again")
            )
            assert torch.equal(classifier.class_features(), before)
        with model.disable_adapter():
            expected = mean_over_texts(model, tokenizer, classifier.class_texts)
            torch.testing.assert_close(classifier.class_features(), expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        "notes",
        [
            {"class_templates": ["a {}.", "{}"]},
            {"class_descriptions": SENTENCES},
            {"class_template": "a {}.", "class_descriptions": SENTENCES},
        ],
        ids=lambda notes: "+".join(notes),
    )
    def test_an_adapter_remembers_them(self, notes, tokenizer, pixel_values, tmp_path):
        model = adapted("vpt_deep", class_names=NAMES, **notes)
        template = notes.get("class_templates", notes.get("class_template"))
        given = MuDPTClassifier(model, NAMES, template, tokenizer, descriptions=notes.get("class_descriptions"))
        model.save_pretrained(tmp_path)
        loaded = MuDPTClassifier.from_pretrained(tmp_path)
        assert loaded.class_texts == given.class_texts
        assert torch.equal(loaded.predict_proba(pixel_values), given.predict_proba(pixel_values))
        some = MuDPTClassifier(loaded.model, NAMES[:0:-1], None, tokenizer)
        assert some.class_texts == given.class_texts[:0:-1]

    def test_a_class_that_the_descriptions_lack_or_an_unknown_one_is_refused(self, model, tokenizer):
        with pytest.raises(ValueError, match=r"descriptions holds no texts of \['circle'\]"):
            MuDPTClassifier(model, [*NAMES, "circle"], "{}.", tokenizer, descriptions=SENTENCES)
        with pytest.raises(
            ValueError, match=r"descriptions holds texts of \['green cross'\], .*\['blue heart', 'red star'\]"
        ):
            MuDPTClassifier(model, NAMES[:2], "{}.", tokenizer, descriptions=SENTENCES)

    def test_a_text_that_is_too_long_is_named(self, model, tokenizer):
        with pytest.raises(ValueError, match="text of class 1 .'blue heart', text 2 of 2. has .* positions"):
            MuDPTClassifier(
                model, NAMES, None, tokenizer, descriptions={**SENTENCES, "blue heart": ["love", "very " * 100]}
            )
