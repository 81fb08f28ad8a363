"""SigLIP 2 of flexible resolution (NaFlex): patches of images of any size, of which a mask hides the padding."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy, normalize
from transformers import Siglip2Config, Siglip2Model

from peft_mudpt import MuDPTClassifier, MuDPTConfig, export_classifier, fold_adapter, initialize_prompts
from tests.conftest import checkpoint_layers, enlivened
from tests.towers.by_hand import text_by_hand, vision_by_hand
from tests.towers.test_families import LENGTH, NAMES, TEXT, VISION, WORDS, Tokenizer, text_inputs


PATCHES = 12  # places for patches in each row
SHAPES = [(2, 2), (3, 4), (1, 5)]  # height and width of each image in patches; the second fills its row


def siglip2():
    torch.manual_seed(0)
    text = TEXT | dict(projection_size=48)
    config = Siglip2Config(text_config=text, vision_config=VISION | dict(num_patches=9))
    model = enlivened(Siglip2Model(config))
    model.logit_bias.data.fill_(-2.0)
    return model


def adapted(preset="mudpt", **fields):
    torch.manual_seed(1)
    return get_peft_model(siglip2(), MuDPTConfig.from_preset(preset, **{"init_std": 0.5, **fields})).eval()


def images():
    """The arguments that the image processor makes of images of these shapes. Padding is not 0, so that it shows."""
    shapes = torch.tensor(SHAPES)
    pixels = torch.randn(len(SHAPES), PATCHES, 3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(PATCHES) < shapes.prod(dim=1, keepdim=True)).int()
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def only(number):
    """One of the images, without padding."""
    pixels, mask, shapes = (tensor[number : number + 1] for tensor in images().values())
    real = mask[0].bool()
    return {"pixel_values": pixels[:, real], "pixel_attention_mask": mask[:, real], "spatial_shapes": shapes}


def inputs(**further):
    return {**text_inputs("siglip", *WORDS), **images(), **further}


FIELDS = [
    {},
    {"prompt_depth": "all"},
    {"first_layer": 1},
    {"vision_first_layer": 3, "vision_prompt_depth": 1, "fusion_direction": "none"},
]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_features_are_those_of_each_image_alone_put_together_by_hand(fields, attention):
    model = adapted(**fields)
    model.set_attn_implementation(attention)
    features = model.get_image_features(**images()).pooler_output
    for number, feature in enumerate(features):
        alone = only(number)
        expected = vision_by_hand(model, alone["pixel_values"], spatial_shapes=alone["spatial_shapes"])
        torch.testing.assert_close(feature, expected[0], atol=2e-5, rtol=1e-4)
    texts = text_inputs("siglip", *WORDS)
    expected = text_by_hand(model, **texts)
    torch.testing.assert_close(model.get_text_features(**texts).pooler_output, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_positional_arguments_are_taken_as_by_name():
    model = adapted()
    tower, given = model.vision_model, images()
    assert torch.equal(tower(*given.values()).pooler_output, tower(**given).pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("first_layer", [0, 1])
def test_no_output_holds_the_prompts(first_layer):
    output = adapted(first_layer=first_layer).vision_model(**images(), output_hidden_states=True)
    assert output.last_hidden_state.shape == (3, PATCHES, 48)
    assert {state.shape for state in output.hidden_states} == {(3, PATCHES, 48)}


@torch.no_grad()
def test_disabled_it_is_the_base_model_bit_for_bit():
    plain, model = siglip2().requires_grad_(False)(**inputs()).logits_per_image, adapted()
    assert not torch.equal(model(**inputs()).logits_per_image, plain)
    with model.disable_adapter():
        assert torch.equal(model(**inputs()).logits_per_image, plain)


@torch.no_grad()
def test_a_saved_adapter_and_a_folded_one_give_equal_logits(tmp_path):
    model = adapted()
    expected = model(**inputs()).logits_per_image
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(siglip2(), tmp_path).eval()
    assert torch.equal(loaded(**inputs()).logits_per_image, expected)
    fold_adapter(loaded)
    assert torch.equal(loaded(**inputs()).logits_per_image, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = adapted().train()
        if checkpointing:
            checkpoint_layers(model, use_reentrant)
        cross_entropy(model(**inputs()).logits_per_image, torch.tensor([0, 1, 1])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_texts_that_depend_on_the_image_are_those_of_each_image_alone():
    model = adapted("cocoop")
    for parameter in model.prompt_learner.mudpt_adapters["default"].image_shift.parameters():
        parameter.normal_(std=0.4)
    logits = model(**inputs()).logits_per_image
    for number in range(3):
        alone = model(**text_inputs("siglip", *WORDS), **only(number)).logits_per_image
        torch.testing.assert_close(logits[number : number + 1], alone, atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="return_loss"):
        model(*inputs().values(), None, None, True)


def classifier_of(model):
    return MuDPTClassifier(model, NAMES, "{}.", tokenizer=Tokenizer("siglip"))


class TestClassifier:
    def test_given_features_have_the_models_own_logits_and_gradients(self):
        model = adapted()
        features = normalize(model.get_image_features(**images()).pooler_output, dim=-1)
        output = classifier_of(model)(image_features=features, labels=torch.tensor([0, 1, 1]))
        expected = model(**inputs()).logits_per_image
        torch.testing.assert_close(output.logits, expected, atol=2e-5, rtol=1e-5)
        parameters = [p for p in model.parameters() if p.requires_grad]
        expected = torch.autograd.grad(cross_entropy(expected, torch.tensor([0, 1, 1])), parameters)
        for gradient, own in zip(torch.autograd.grad(output.loss, parameters), expected):
            torch.testing.assert_close(gradient, own, atol=1e-5, rtol=1e-4)

    def test_whatever_takes_one_tensor_of_images_is_refused_with_the_way_out(self, tmp_path):
        model, pixels = adapted(), torch.zeros(2, 3, 16, 16)
        classifier = classifier_of(model)
        for call in (
            lambda: classifier(pixels),
            lambda: classifier(images()["pixel_values"]),
            lambda: classifier.predict(pixels),
            lambda: classifier.predict(["picture.png"]),
            lambda: export_classifier(classifier, tmp_path / "classifier.pt2", "torch_export"),
            lambda: initialize_prompts(adapted(fusion_direction="none"), [pixels]),
        ):
            with pytest.raises(ValueError, match="NaFlex.*image_features.*SiglipModel"):
                call()
        assert not list(tmp_path.iterdir())

    def test_domains_are_refused_because_there_is_no_class_token(self):
        with pytest.raises(ValueError, match="num_domains=4.*class token"):
            adapted("fed_dpt")


def test_a_text_without_room_for_the_prompts_is_refused_with_what_is_left():
    with pytest.raises(ValueError, match=f"needs 19 positions with its 4 .* has {LENGTH}: 12 tokens are left"):
        adapted().get_text_features(**text_inputs("siglip", [5], list(range(5, 18))))
