"""Text prompts that the tokens of each class replace before one layer (TCP, arXiv 2311.18231)."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.conftest import checkpoint_layers, completed
from tests.towers.by_hand import text_by_hand
from tests.towers.test_families import FAMILIES, adapted, images, text_inputs, texts


def two_texts(family, model):
    return completed(model, text_inputs(family, [5, 60, 7], [8]))


@torch.no_grad()
@pytest.mark.parametrize(
    "fields", [{"class_token_layer": 1}, {"num_virtual_tokens": 1}, {"prompt_depth": 2}], ids=lambda it: next(iter(it))
)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_text_has_the_features_of_the_parts_with_its_own_tokens_in_between(family, fields):
    model = adapted(FAMILIES[family](), "tcp", **fields)
    inputs = two_texts(family, model)
    features = model.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(features, text_by_hand(model, **inputs), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_length_of_the_features_of_a_class_does_not_matter():
    model = adapted(FAMILIES["clip"](), "tcp")
    inputs = two_texts("clip", model)
    longer = inputs | {"mudpt_condition": 30 * inputs["mudpt_condition"]}
    features, same = (model.get_text_features(**each).pooler_output for each in (inputs, longer))
    torch.testing.assert_close(same, features, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_fusion_reads_the_prompts_and_not_the_tokens_of_a_class():
    fields = dict(conditioning="class", class_token_layer=2, text_prompt_depth=2)
    model, plain = adapted(FAMILIES["clip"](), **fields), adapted(FAMILIES["clip"](), text_prompt_depth=2)
    adapters = [each.prompt_learner.mudpt_adapters["default"] for each in (plain, model)]
    adapters[0].load_state_dict(adapters[1].state_dict(), strict=False)
    output = model(**two_texts("clip", model), pixel_values=images())
    expected = plain(input_ids=texts("clip", [5, 60, 7], [8]), pixel_values=images())
    assert torch.equal(output.image_embeds, expected.image_embeds)
    assert not torch.allclose(output.text_embeds, expected.text_embeds, atol=1e-2)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = adapted(FAMILIES["clip"](), "tcp")
        if checkpointing:
            checkpoint_layers(model, use_reentrant)
        features = model.train().get_text_features(**two_texts("clip", model)).pooler_output
        cross_entropy(features, torch.tensor([0, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_texts_without_the_features_of_their_classes_are_refused_with_the_ways_out():
    model = adapted(FAMILIES["clip"](), "tcp")
    ids = texts("clip", [5], [6])
    for call in (
        lambda: model(input_ids=ids, pixel_values=images()),
        lambda: model.get_text_features(ids),
        lambda: model.text_model(ids),
    ):
        with pytest.raises(ValueError, match="depend on the class.*MuDPTClassifier.*mudpt_condition.*disable_adapter"):
            call()
    with pytest.raises(ValueError, match="mudpt_condition.* 3 samples.* 2"):
        model.get_text_features(ids, mudpt_condition=torch.ones(3, 40))
    with pytest.raises(ValueError, match=r"mudpt_condition.* \(2, 7\) .*texts, 40"):
        model.get_text_features(ids, mudpt_condition=torch.ones(2, 7))
    with model.disable_adapter():
        model.get_text_features(ids)
    assert model.get_image_features(images()).pooler_output.shape == (3, 40)
