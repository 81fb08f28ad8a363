"""Adapters with prompts of their own for each domain (Fed-DPT), against its formulas computed one by one."""

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy, normalize

from peft_mudpt import MuDPTClassifier, MuDPTConfig, export_classifier, fold_adapter
from peft_mudpt.classifier.class_features import ClassFeatures
from tests.classifier.test_image_condition import NAMES, Tokenizer
from tests.conftest import checkpoint_layers
from tests.towers.by_hand import logit_scale
from tests.towers.test_families import FAMILIES, images, text_inputs, texts


K, N = 3, 2
FIELDS = {"num_domains": K, "num_virtual_tokens": N, "init_std": 0.5}
WITH_CLASS_TOKEN = [family for family in FAMILIES if family != "siglip"]


def adapted(family="clip", preset="fed_dpt", **fields):
    torch.manual_seed(1)
    return get_peft_model(FAMILIES[family](), MuDPTConfig.from_preset(preset, **{**FIELDS, **fields})).eval()


def classifier_of(model, family="clip", **options):
    return MuDPTClassifier(model, NAMES, "{}.", tokenizer=Tokenizer(family), **options)


def prompts_of(model):
    return model.prompt_learner.mudpt_adapters["default"]


@torch.no_grad()
def weights_by_hand(model, pixel_values, temperature=0.1):
    """For each image and domain, from the mean over the heads of what the class token's query says of its key."""
    tower, tokens = model.vision_model, prompts_of(model).vision_prompts[0]
    heads = model.config.vision_config.num_attention_heads
    with model.disable_adapter():
        patches = tower.embeddings(pixel_values)
        hidden = torch.cat([patches, tokens.expand(len(patches), -1, -1)], dim=1)
        if model.config.model_type == "tipsv2":
            *lower, last = tower.encoder.layer
            norm, attention = last.norm1, last.attention
        else:
            hidden = tower.pre_layrnorm(hidden)
            *lower, last = tower.encoder.layers
            norm, attention = last.layer_norm1, last.self_attn
        for layer in lower:
            hidden = layer(hidden, None)
        hidden = norm(hidden)
        queries, keys = attention.q_proj(hidden), attention.k_proj(hidden)
        rows = []
        for query, row in zip(queries, keys):
            scores = []
            for key in row[patches.shape[1] :]:
                per_head = [q @ k / len(q) ** 0.5 for q, k in zip(query[0].chunk(heads), key.chunk(heads))]
                scores.append(sum(per_head) / heads)
            rows.append((torch.stack(scores) / temperature).softmax(dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
def test_logits_are_those_of_the_features_mixed_in_a_loop(family, depth):
    model = adapted(family, text_prompt_depth=depth)
    inputs, pixel_values = text_inputs(family, [5, 60, 7], [8, 9], [96]), images()
    weights = weights_by_hand(model, pixel_values)
    with torch.no_grad():
        outputs = model(**inputs, pixel_values=pixel_values)
        of_domains = [
            normalize(
                model.get_text_features(**inputs, mudpt_condition=torch.full((3,), j)).pooler_output,
                dim=-1,
            )
            for j in range(K)
        ]
        image_features = normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)
        for b, image in enumerate(image_features):
            for label in range(3):
                mixed = sum(weights[b, j] * of_domains[j][label] for j in range(K))
                expected = logit_scale(model) * image @ (mixed / mixed.norm())
                torch.testing.assert_close(outputs.logits_per_image[b, label], expected, atol=1e-4, rtol=0)
                torch.testing.assert_close(outputs.logits_per_text[label, b], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("class_batch_size", [None, 1, 3])
@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
def test_the_classifier_computes_what_the_model_does(family, class_batch_size):
    model = adapted(family)
    classifier = classifier_of(model, family, class_batch_size=class_batch_size)
    with torch.no_grad():
        output = classifier(images())
        expected = model(**classifier._class_features.tokens, pixel_values=images())
    torch.testing.assert_close(output.logits, expected.logits_per_image, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.class_features, expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.domain_weights, weights_by_hand(model, images()), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.01, 0.1, 5.0])
def test_weights_add_up_to_one_and_follow_the_order_of_the_domains(temperature):
    model = adapted(domain_temperature=temperature)
    weights = classifier_of(model)(images()).domain_weights
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(len(images())))
    order = [2, 0, 1]
    prompts = prompts_of(model)
    prompts.vision_prompts.copy_(prompts.vision_prompts[:, order])
    permuted = classifier_of(model)(images()).domain_weights
    torch.testing.assert_close(permuted, weights[:, order], atol=1e-5, rtol=0)


@torch.no_grad()
def test_logits_do_not_depend_on_the_order_of_the_domains():
    model = adapted()
    before = classifier_of(model)(images()).logits
    prompts, order = prompts_of(model), [2, 0, 1]
    contexts = [prompts.domain_contexts.contexts[j].clone() for j in order]
    prompts.vision_prompts.copy_(prompts.vision_prompts[:, order])
    for own, context in zip(prompts.domain_contexts.contexts, contexts):
        own.copy_(context)
    torch.testing.assert_close(classifier_of(model)(images()).logits, before, atol=1e-4, rtol=0)


@torch.no_grad()
def test_one_domain_is_coop_with_one_visual_prompt():
    single = adapted(num_domains=1)
    both = adapted(preset="coop", num_domains=None, vision_prompt_depth=1, vision_num_virtual_tokens=1)
    prompts_of(both).text_prompts[0] = prompts_of(single).domain_contexts.contexts[0]
    prompts_of(both).vision_prompts.copy_(prompts_of(single).vision_prompts)
    ours, theirs = classifier_of(single)(images()), classifier_of(both)(images())
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=0)
    assert theirs.domain_weights is None


def test_training_reaches_every_prompt_and_changes_the_cached_features():
    model = adapted()
    classifier = classifier_of(model)
    with torch.no_grad():
        before = classifier.domain_features()
    cross_entropy(classifier(images()).logits, torch.tensor([0, 1, 2])).backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    assert len(learned) == K + 1 and all(p.grad.abs().sum() > 0 for p in learned)
    torch.optim.SGD(learned, lr=1.0).step()
    with torch.no_grad():
        assert not torch.equal(classifier.domain_features(), before)


def test_frozen_domains_are_encoded_once_and_again_when_they_change(monkeypatch):
    model = adapted()
    classifier, contexts = classifier_of(model), prompts_of(model).domain_contexts.contexts
    encode, encoded = ClassFeatures.encode, []
    monkeypatch.setattr(ClassFeatures, "encode", lambda *args: encoded.append(args[-1].tolist()) or encode(*args))
    for number, context in enumerate(contexts):
        context.requires_grad_(number == 1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        cross_entropy(classifier(images()).logits, torch.tensor([0, 1, 2])).backward()
        assert contexts[1].grad.abs().sum() > 0 and contexts[0].grad is None
        optimizer.step()
    assert encoded == [[1], [0, 2], [1], [1]]
    with torch.no_grad():
        contexts[2].add_(0.1)
        whole = classifier.domain_features()
    torch.testing.assert_close(classifier.domain_features(), whole, atol=1e-5, rtol=0)
    assert encoded[4:] == [[0, 1, 2], [1], [0, 2]]


def test_another_learned_domain_gets_the_gradient_that_it_gets_alone():
    model = adapted()
    classifier, contexts = classifier_of(model), prompts_of(model).domain_contexts.contexts
    all_learned = gradients_of(classifier)
    for learned in range(K):
        model.zero_grad()
        for number, context in enumerate(contexts):
            context.requires_grad_(number == learned)
        for name, gradient in gradients_of(classifier).items():
            torch.testing.assert_close(gradient, all_learned[name], atol=1e-5, rtol=1e-4)


def gradients_of(classifier):
    classifier(images()).logits.square().sum().backward()
    return {name: p.grad.clone() for name, p in classifier.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_keeps_the_gradient_of_the_weights_or_is_refused(use_reentrant):
    plain, checkpointed = classifier_of(adapted()).train(), classifier_of(adapted()).train()
    checkpoint_layers(checkpointed, use_reentrant)
    try:
        ours = gradients_of(checkpointed)
    except ValueError as error:  # releases of transformers that checkpoint a layer's hooks, too
        assert use_reentrant and "use_reentrant=False" in str(error)
        return
    for name, gradient in gradients_of(plain).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_words_start_the_context_of_each_domain():
    words = [5, 60]
    model = adapted(text_prompt_init_text="w", text_prompt_init_ids={"w": words})
    embedded = model.text_model.embeddings.token_embedding(torch.tensor(words))
    for context in prompts_of(model).domain_contexts.contexts:
        torch.testing.assert_close(context, embedded)


@torch.no_grad()
def test_the_exported_program_computes_the_same(tmp_path):
    model = adapted()
    classifier = classifier_of(model, image_processor=Processor())
    program = torch.export.load(export_classifier(classifier, tmp_path / "c.pt2", "torch_export")).module()
    expected = classifier(images()).logits.softmax(dim=-1)
    torch.testing.assert_close(program(images()), expected, atol=1e-5, rtol=0)


class Processor:
    def to_json_string(self):
        return "{}"


@torch.no_grad()
def test_disabled_it_is_the_base_model():
    model, ids = adapted(), texts("clip", [5, 6], [7])
    with model.disable_adapter():
        ours = model(input_ids=ids, pixel_values=images()).logits_per_image
    assert torch.equal(ours, FAMILIES["clip"]()(input_ids=ids, pixel_values=images()).logits_per_image)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.class_features(), "read class_features (B, C, D) of its output"),
        (lambda c: c(image_features=torch.randn(2, 40)), "Call the classifier with images"),
        (lambda c: c.linear_head(), "weights that the image tower computes"),
        (lambda c: fold_adapter(c.model), "its own for each of 3 domains"),
        (lambda c: c.model.get_text_features(input_ids=texts("clip", [5])), "the number of its domain"),
        (
            lambda c: c.model.get_text_features(input_ids=texts("clip", [5]), mudpt_condition=torch.tensor([K])),
            "contexts of 3 domains",
        ),
        (
            lambda c: c.model(input_ids=texts("clip", [5]), pixel_values=images(), return_loss=True),
            "return_loss=True is not supported",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(call, message):
    with pytest.raises(ValueError) as error:
        call(classifier_of(adapted()))
    assert message in str(error.value)


def test_a_classifier_without_domains_has_no_features_of_domains():
    classifier = classifier_of(adapted(preset="coop", num_domains=None))
    with pytest.raises(ValueError, match="no active adapter with domains"):
        classifier.domain_features()


def test_a_model_without_class_token_is_refused():
    with pytest.raises(ValueError, match="class token"):
        adapted("siglip")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_prompt_depth": 0}, "the vision tower has none"),
        ({"text_prompt_depth": 0}, "the text tower has none"),
        ({"vision_num_virtual_tokens": 2}, "vision_num_virtual_tokens is 2"),
        ({"domain_names": ["a", "b"]}, "domain_names has 2 names"),
        ({"num_domains": None, "domain_names": ["a"]}, "no effect without num_domains"),
        ({"num_domains": None, "domain_temperature": 0.2}, "no effect without num_domains"),
        ({"conditioning": "image"}, "conditioning='image'"),
        ({"class_specific_context": True, "num_classes": 4}, "class_specific_context=True"),
        ({"fusion_direction": "bidirectional"}, "fusion_direction='bidirectional'"),
        ({"text_first_layer": 1}, "text_first_layer"),
        ({"num_domains": 0}, "num_domains=0"),
        ({"domain_temperature": 0}, "domain_temperature=0"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError) as error:
        MuDPTConfig.from_preset("fed_dpt", **{"num_domains": K, **fields})
    assert message in str(error.value)
