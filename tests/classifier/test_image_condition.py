"""The classifier while the text prompts of the active adapter depend on the image (CoCoOp)."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy

from peft_mudpt import MuDPTClassifier, MuDPTConfig, fold_adapter
from peft_mudpt.classifier import layout
from tests.towers.test_families import FAMILIES, images, text_inputs
from tests.towers.test_per_image import cocoop


NAMES = ["cat", "sea lion", "dog", "forget me not"]
WORDS = [[5, 20], [5, 21, 22], [5, 23], [5, 24, 25, 26, 27]]  # of the classes; all begin with the same word


class Tokenizer:
    """Stands for a family's own."""

    bos_token_id = eos_token_id = None

    def __init__(self, family):
        self.family = family

    def __call__(self, class_texts, **options):
        return text_inputs(self.family, *WORDS)


def classifier_of(model, family="clip", **options):
    return MuDPTClassifier(model, NAMES, "{}.", tokenizer=Tokenizer(family), **options)


def own_logits(classifier, pixel_values):
    """What the model's own forward computes for the texts of the classifier, one text per row."""
    return classifier.model(**classifier._class_features.tokens, pixel_values=pixel_values).logits_per_image


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:attention_mask was ignored")
@pytest.mark.parametrize("fields", [{}, {"conditioning": "noise"}, {"first_layer": 1, "prompt_depth": 2}], ids=str)
@pytest.mark.parametrize("class_batch_size", [None, 3, 9])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_the_model_computes(family, class_batch_size, fields):
    classifier = classifier_of(cocoop(family, **fields), family, class_batch_size=class_batch_size)
    output = classifier(images(), labels=torch.tensor([0, 1, 3]))
    expected = own_logits(classifier, images())
    torch.testing.assert_close(output.logits, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, cross_entropy(expected, torch.tensor([0, 1, 3])), atol=1e-5, rtol=1e-5)
    assert output.class_features.shape == (3, 4, output.image_features.shape[1])


@torch.no_grad()
def test_attention_without_packing_computes_the_same(monkeypatch):
    classifier = classifier_of(cocoop())
    expected = classifier(images()).logits
    monkeypatch.setattr(layout, "MASKED_ATTENTION", ())
    torch.testing.assert_close(classifier_of(classifier.model)(images()).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"prompt_depth": 2, "vision_prompt_depth": 2}, {"first_layer": 1}])
def test_the_number_of_images_at_a_time_changes_no_gradient(fields):
    gradients = []
    for class_batch_size in (None, 1):
        classifier = classifier_of(cocoop(**fields), class_batch_size=class_batch_size).train()
        classifier(images(), labels=torch.tensor([0, 1, 3])).loss.backward()
        gradients.append({name: p.grad for name, p in classifier.named_parameters() if p.requires_grad})
    assert all(gradient.any() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_all_classes_of_an_image_see_the_same_noise():
    classifier = classifier_of(cocoop(conditioning="noise"), class_batch_size=1).train()
    torch.manual_seed(3)
    by_class = classifier(images()).class_features
    torch.manual_seed(3)
    together = classifier_of(classifier.model)(images()).class_features
    torch.testing.assert_close(by_class, together, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(by_class[0], by_class[1], atol=1e-2)


def rows_of_calls(classifier):
    """The numbers of rows that the text tower embeds. A row holds the classes of one image."""
    rows = []
    classifier.model.text_model.embeddings.register_forward_hook(lambda _, __, output: rows.append(len(output)))
    classifier(images())
    return rows


@torch.no_grad()
@pytest.mark.parametrize(("class_batch_size", "rows"), [(None, [3]), (8, [2, 1]), (5, [1] * 3), (2, [1] * 6)])
def test_as_many_classes_are_encoded_at_a_time_as_asked_for(class_batch_size, rows):
    assert rows_of_calls(classifier_of(cocoop(), class_batch_size=class_batch_size)) == rows


@torch.no_grad()
def test_what_is_encoded_at_a_time_is_bounded_by_its_bytes(monkeypatch):
    per_token = 3 * (6 * 32 + 2 * 64) * 4  # layers, channels that a layer keeps, bytes
    tokens = 2 + sum(map(len, WORDS))  # BOS and the common word; of each class its other words and EOS
    for images_at_a_time, rows in ((3, [3]), (2, [2, 1]), (0.5, [1] * 3)):
        monkeypatch.setattr(layout, "GROUP_BYTES_PER_IMAGE", images_at_a_time * tokens * per_token)
        assert rows_of_calls(classifier_of(cocoop())) == rows


@torch.no_grad()
def test_nothing_is_cached():
    model = cocoop()
    classifier, calls = classifier_of(model), []
    model.text_model.embeddings.register_forward_hook(lambda *_: calls.append("again"))
    first, second = classifier(images()), classifier(images()[[2, 0, 1]])
    assert calls == ["again"] * 2
    torch.testing.assert_close(second.logits, first.logits[[2, 0, 1]], atol=1e-5, rtol=1e-5)


def test_classes_without_an_image_have_no_features():
    classifier = classifier_of(cocoop())
    for ask in (classifier.class_features, classifier.linear_head):
        with pytest.raises(ValueError, match="'default' depend on the image.*image_features"):
            ask()


@torch.no_grad()
def test_classes_have_features_for_given_images():
    classifier = classifier_of(cocoop())
    output = classifier(images())
    assert torch.equal(classifier.class_features(output.image_features), output.class_features)
    with pytest.raises(ValueError, match=r"image_features.*\(2, 7\).*B, 40"):
        classifier.class_features(torch.ones(2, 7))


@torch.no_grad()
def test_an_adapter_without_a_condition_needs_no_image():
    classifier = classifier_of(get_peft_model(FAMILIES["clip"](), MuDPTConfig(init_std=0.5)).eval())
    assert classifier.class_features().shape == (4, 40)


def test_the_image_tower_keeps_no_graph():
    assert not classifier_of(cocoop()).train()(images()).image_features.requires_grad


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_prediction_does_not_depend_on_its_batch(batch_size):
    classifier = classifier_of(cocoop())
    expected = classifier(images()).logits.softmax(dim=-1)
    torch.testing.assert_close(classifier.predict_proba(images(), batch_size), expected, atol=1e-5, rtol=1e-5)


def test_it_cannot_be_folded():
    model = cocoop()
    adapter = model.prompt_learner.mudpt_adapters["default"]
    with pytest.raises(ValueError, match="'default'.*other text prompts for each image"):
        fold_adapter(model)
    assert model.prompt_learner.mudpt_adapters["default"] is adapter
