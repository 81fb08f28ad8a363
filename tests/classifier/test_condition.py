"""A classifier whose text prompts depend on the class: it computes what they depend on itself."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch.nn.functional import cross_entropy, normalize
from transformers import AttentionInterface, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, fold_adapter
from peft_mudpt.classifier import condition
from peft_mudpt.classifier.texts import tokenize_classes
from tests.classifier.conftest import NAMES, adapted, refuse_masks
from tests.towers.test_families import FAMILIES, Tokenizer, images, text_inputs
from tests.towers.test_families import NAMES as WORD_NAMES
from tests.towers.test_families import adapted as adapted_family


LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture
def model():
    return adapted("tcp")


@pytest.fixture
def banks(monkeypatch):
    """How often a text bank has been computed, one entry each."""
    computed = []

    def counted(*args, **kwargs):
        computed.append("again")
        return text_bank(*args, **kwargs)

    text_bank = condition.text_bank
    monkeypatch.setattr(condition, "text_bank", counted)
    return computed


def features_of(model, tokenizer, names, template):
    return model.get_text_features(**tokenize_classes(tokenizer, names, template)).pooler_output


@torch.no_grad()
def expected_logits(model, tokenizer, pixel_values, names=NAMES, template="a photo of a {}."):
    """By the model's own forward, with the features of another forward in which the adapter is off."""
    with model.disable_adapter():
        frozen = features_of(model, tokenizer, names, template)
    inputs = tokenize_classes(tokenizer, names, "{}.")
    return model(**inputs, pixel_values=pixel_values, mudpt_condition=frozen).logits_per_image


def assert_fresh(classifier, tokenizer, pixel_values, **texts):
    with torch.no_grad():
        expected = expected_logits(classifier.model, tokenizer, pixel_values, **texts)
        torch.testing.assert_close(classifier(pixel_values).logits, expected, atol=1e-4, rtol=1e-5)


def train_step(classifier, pixel_values, parameters=None, **options):
    parameters = [p for p in classifier.parameters() if p.requires_grad] if parameters is None else parameters
    optimizer = torch.optim.SGD(parameters, lr=0.5, **options)
    cross_entropy(classifier(pixel_values).logits, LABELS).backward()
    optimizer.step()


@torch.no_grad()
@pytest.mark.parametrize("class_batch_size", [None, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_class_features_are_those_that_the_model_computes_itself(family, class_batch_size):
    model, tokenizer = adapted_family(FAMILIES[family](), "tcp"), Tokenizer(family)
    classifier = MuDPTClassifier(model, WORD_NAMES, "{}.", tokenizer, class_batch_size=class_batch_size)
    own, whole = ([tokenizer.words[text.format(name)] for name in WORD_NAMES] for text in ("{}.", "a photo of a {}."))
    with model.disable_adapter():
        frozen = model.get_text_features(**text_inputs(family, *whole)).pooler_output
    expected = model.get_text_features(**text_inputs(family, *own), mudpt_condition=frozen).pooler_output
    torch.testing.assert_close(classifier.class_features(), normalize(expected, dim=-1), atol=2e-5, rtol=1e-4)
    assert classifier(images()).logits.shape == (3, 2)


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_training_encodes_the_classes_in_the_frozen_clip_once(model, tokenizer, pixel_values, banks, options):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer).train()
    for _ in range(3):
        train_step(classifier, pixel_values, **options)
    assert banks == ["again"]
    assert_fresh(classifier.eval(), tokenizer, pixel_values)


def test_autocast_and_a_switch_there_and_back_encode_nothing_again(model, tokenizer, pixel_values, banks):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    classifier(pixel_values)
    with torch.autocast("cpu", torch.bfloat16):
        classifier(pixel_values)
    with model.disable_adapter():
        classifier(pixel_values)
    classifier(pixel_values)
    assert banks == ["again"]


@torch.no_grad()
def test_dropout_does_not_reach_the_condition(model, tokenizer, pixel_values):
    condition = MuDPTClassifier(model, NAMES, "{}.", tokenizer)._class_features._condition.of(model)
    for layer in model.text_model.encoder.layers:
        layer.self_attn.dropout = 0.9
    classifier = MuDPTClassifier(model.train(), NAMES, "{}.", tokenizer)
    assert torch.equal(classifier._class_features._condition.of(model), condition) and model.text_model.training


def test_computing_the_condition_leaves_everything_as_it_was(model, tokenizer, pixel_values):
    frozen = next(p for p in model.parameters() if p.requires_grad)
    frozen.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    switch = model.prompt_learner.last_switch
    MuDPTClassifier(model, NAMES, "{}.", tokenizer)(pixel_values)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert model.prompt_learner.last_switch is switch and model.prompt_learner.text_depends_on_class


@pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")  # of a second adapter
def test_a_text_tower_trained_beside_the_prompts_gives_a_new_condition_without_a_gradient(tokenizer, pixel_values):
    torch.manual_seed(0)
    clip = get_peft_model(
        CLIPModel.from_pretrained(demo.MODEL_PATH), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    model = get_peft_model(clip, MuDPTConfig.from_preset("tcp", init_std=0.5), adapter_name="prompts").eval()
    lora = [p.requires_grad_() for name, p in model.named_parameters() if "lora_" in name and "text_model" in name]
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    for _ in range(2):
        with torch.no_grad(), model.prompt_learner.without_prompts():
            frozen = features_of(model, tokenizer, NAMES, "a photo of a {}.")
        inputs = tokenize_classes(tokenizer, NAMES, "{}.") | {"pixel_values": pixel_values}
        logits = model(**inputs, mudpt_condition=frozen).logits_per_image
        expected = torch.autograd.grad(cross_entropy(logits, LABELS), lora)
        output = classifier(pixel_values)
        torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=1e-5)
        for mine, its in zip(torch.autograd.grad(cross_entropy(output.logits, LABELS), lora), expected):
            torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-3)
        train_step(classifier, pixel_values, lora, fused=True)


def test_weights_that_were_loaded_or_replaced_give_a_new_condition(model, tokenizer, pixel_values):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    assert_fresh(classifier, tokenizer, pixel_values)
    with torch.no_grad():
        model.get_base_model().text_projection.weight.copy_(torch.randn_like(model.text_projection.weight))
    assert_fresh(classifier, tokenizer, pixel_values)


def test_each_adapter_has_its_own_template_and_others_need_none(model, tokenizer, pixel_values):
    model.add_adapter("drawn", MuDPTConfig.from_preset("tcp", init_std=0.5, condition_template="a drawing: {}"))
    model.add_adapter("plain", MuDPTConfig.from_preset("coop", init_std=0.5))
    classifier = MuDPTClassifier(model.eval(), NAMES, "{}.", tokenizer)
    for _ in range(2):
        for name, template in (("default", "a photo of a {}."), ("drawn", "a drawing: {}"), ("plain", "{}")):
            model.set_adapter(name)
            assert_fresh(classifier, tokenizer, pixel_values, template=template)


def test_two_classifiers_share_a_model(model, tokenizer, pixel_values):
    few, more = NAMES[:2], [*NAMES, "filled blue star"]
    classifiers = [MuDPTClassifier(model, names, "{}.", tokenizer) for names in (few, more)]
    for _ in range(2):
        for classifier, names in zip(classifiers, (few, more)):
            assert_fresh(classifier, tokenizer, pixel_values, names=names)


@torch.no_grad()
def test_a_class_with_several_texts_has_one_condition(model, tokenizer):
    templates = ["{}.", "of a {}, drawn."]
    classifier = MuDPTClassifier(model, NAMES, templates, tokenizer)
    with model.disable_adapter():
        frozen = features_of(model, tokenizer, NAMES, "a photo of a {}.")
    each = [
        model.get_text_features(**tokenize_classes(tokenizer, NAMES, template), mudpt_condition=frozen).pooler_output
        for template in templates
    ]
    expected = normalize(sum(normalize(features, dim=-1) for features in each), dim=-1)
    torch.testing.assert_close(classifier.class_features(), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_that_takes_no_masks_gets_one_class_per_row(model, tokenizer, pixel_values):
    expected = MuDPTClassifier(model, NAMES, "{}.", tokenizer)(pixel_values).logits
    AttentionInterface.register("refuses_masks", refuse_masks)
    model.get_base_model().set_attn_implementation("refuses_masks")
    torch.testing.assert_close(MuDPTClassifier(model, NAMES, "{}.", tokenizer)(pixel_values).logits, expected)


def test_once_it_knows_the_condition_it_compiles_to_one_graph(model, tokenizer, pixel_values):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    expected = classifier(pixel_values).logits
    compiled = torch.compile(classifier, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixel_values).logits, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_copy_computes_the_same(model, tokenizer, pixel_values, copied):
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    expected = classifier(pixel_values).logits
    assert torch.equal(copied(classifier)(pixel_values).logits, expected)


@torch.no_grad()
def test_a_base_of_half_precision_classifies(tokenizer, pixel_values):
    torch.manual_seed(1)
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH, dtype=torch.bfloat16)
    model = get_peft_model(clip, MuDPTConfig.from_preset("tcp", init_std=0.5)).eval()
    classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer)
    expected = expected_logits(model, tokenizer, pixel_values.bfloat16())
    torch.testing.assert_close(classifier(pixel_values.bfloat16()).logits, expected, atol=0.5, rtol=0.05)


@torch.no_grad()
def test_folded_it_names_new_classes_as_before(model, tokenizer, pixel_values, tmp_path):
    new = ["dashed purple ring", "blue star"]
    expected = MuDPTClassifier(model, new, "{}.", tokenizer)(pixel_values).logits
    fold_adapter(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad or "mudpt_" in name] == []
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert len(file.keys()) == 5  # the prompts, and weights and biases of two layers
    reloaded = PeftModel.from_pretrained(CLIPModel.from_pretrained(demo.MODEL_PATH), tmp_path).eval()
    for each in (model, reloaded):
        assert torch.equal(MuDPTClassifier(each, new, "{}.", tokenizer)(pixel_values).logits, expected)
