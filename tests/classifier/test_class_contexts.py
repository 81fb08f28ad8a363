"""Adapters with text prompts of their own for each class (CoOp's class-specific contexts)."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy

from peft_mudpt import MuDPTClassifier, MuDPTConfig, convert_checkpoint, fold_adapter
from tests.classifier.test_image_condition import NAMES, Tokenizer
from tests.towers.test_families import FAMILIES, images


pytestmark = pytest.mark.filterwarnings("ignore:attention_mask was ignored")
C, N = len(NAMES), 3
FIELDS = {"num_virtual_tokens": N, "init_std": 0.5}
CSC = {"class_specific_context": True, "num_classes": C}
PER_CLASS = {**FIELDS, **CSC}


def adapted(family, preset="coop", **fields):
    torch.manual_seed(1)
    return get_peft_model(FAMILIES[family](), MuDPTConfig.from_preset(preset, **fields)).eval()


def classifier_of(model, family="clip", names=NAMES, **options):
    return MuDPTClassifier(model, names, "{}.", tokenizer=Tokenizer(family), **options)


def prompts_of(model):
    return model.prompt_learner.mudpt_adapters["default"]


@pytest.mark.parametrize("class_batch_size", [None, 1, 3])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_class_has_the_features_of_coop_with_its_context(family, depth, class_batch_size):
    model = adapted(family, text_prompt_depth=depth, **PER_CLASS)
    features = classifier_of(model, family, class_batch_size=class_batch_size).class_features()
    alone = adapted(family, text_prompt_depth=depth, **FIELDS)
    for number, context in enumerate(prompts_of(model).class_contexts.contexts.detach()):
        shared = prompts_of(alone).text_prompts.data
        shared[0] = context
        if depth > 1:
            shared[1:] = prompts_of(model).text_prompts.data
        expected = classifier_of(alone, family).class_features()[number]
        torch.testing.assert_close(features[number], expected, atol=1e-5, rtol=0)


def test_the_model_itself_takes_the_classes_of_the_texts():
    model = adapted("clip", **PER_CLASS)
    classifier, pixel_values = classifier_of(model), images()
    expected = classifier(pixel_values).logits
    classes = torch.tensor([2, 0, 3, 1])
    tokens = {name: value[classes] for name, value in classifier._class_features.tokens.items()}
    logits = model(**tokens, pixel_values=pixel_values, mudpt_condition=classes).logits_per_image
    torch.testing.assert_close(logits, expected[:, classes], atol=1e-4, rtol=0)


def test_only_the_contexts_of_the_compared_classes_get_a_gradient():
    model = adapted("clip", **PER_CLASS)
    classifier_of(model).class_features()[1].sum().backward()
    assert prompts_of(model).class_contexts.contexts.grad.abs().sum(dim=(1, 2)).bool().tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert [name.split(".")[-2:] for name, p in model.named_parameters() if p.requires_grad] == [
        ["class_contexts", "contexts"]
    ]


def test_training_changes_the_cached_features():
    model = adapted("clip", **PER_CLASS)
    classifier = classifier_of(model)
    with torch.no_grad():
        before = classifier.class_features()
    cross_entropy(classifier(images()).logits, torch.tensor([0, 1, 2])).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    with torch.no_grad():
        assert not torch.allclose(classifier.class_features(), before)


def test_a_saved_adapter_names_its_classes_again(tmp_path):
    model = adapted("clip", class_names=NAMES, **PER_CLASS)
    expected = classifier_of(model)(images()).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(FAMILIES["clip"](), tmp_path).eval()
    torch.testing.assert_close(classifier_of(loaded)(images()).logits, expected)
    for names in (NAMES[:3], NAMES[::-1]):
        with pytest.raises(ValueError, match="each of 4 classes.*in the same order"):
            classifier_of(loaded, names=names)


def test_a_checkpoint_of_coop_with_contexts_per_class_is_converted():
    contexts = torch.randn(C, N, 32)
    config, weights = convert_checkpoint({"prompt_learner.ctx": contexts}, "coop")
    assert (config.class_specific_context, config.num_classes, config.num_virtual_tokens) == (True, C, N)
    assert [name.split(".")[-1] for name in weights] == ["contexts"]
    with pytest.raises(ValueError, match=r"\(4, 3, 32\).*Only method coop"):
        convert_checkpoint({"prompt_learner.ctx": contexts}, "ivlp")


@pytest.mark.parametrize(
    "condition, message",
    [
        (None, "text prompts of its own for each class.*mudpt_condition"),
        (torch.ones(C), r"\(4,\) of torch.float32.*int64"),
        (torch.ones(C, 1).long(), r"\(4, 1\) of torch.int64"),
        (torch.arange(C) + 1, "between 1 and 4.*4 classes"),
        (torch.arange(C) - 1, "between -1 and 2"),
        ([0, 1, 2, 3], "list"),
    ],
    ids=str,
)
def test_texts_without_their_classes_are_refused(condition, message):
    model = adapted("clip", **PER_CLASS)
    tokens = classifier_of(model)._class_features.tokens
    with pytest.raises(ValueError, match=message):
        model.get_text_features(**tokens, mudpt_condition=condition)


def test_folding_is_refused():
    with pytest.raises(ValueError, match="'default' has text prompts of its own for each of 4 classes"):
        fold_adapter(adapted("clip", **PER_CLASS))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"class_specific_context": True}, "give num_classes"),
        ({"num_classes": 4}, "num_classes=4 has no effect"),
        ({**CSC, "num_classes": 0}, "num_classes=0"),
        ({**CSC, "text_prompt_depth": 0, "vision_prompt_depth": 1}, "there are none"),
        ({**CSC, "conditioning": "image"}, "conditioning='image'; set it to 'none'"),
        ({**CSC, "text_prompt_init_text": "a photo"}, "text_prompt_init_text='a photo'; set it to None"),
        ({**CSC, "first_layer": 1}, "text_first_layer .*=1; set it to 0"),
        ({**CSC, "vision_prompt_depth": 1, "fusion_direction": "bidirectional"}, "'none' or 'vision_to_text'"),
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MuDPTConfig.from_preset("coop", **fields)
