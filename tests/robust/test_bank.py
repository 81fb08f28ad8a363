"""The bank of embeddings of attacked pictures."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoImageProcessor, CLIPModel

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.robust import PGD, AdversarialBank, Normalization
from peft_mudpt.robust.bank import MadeBy
from tests.robust.test_attacks import CLASSES, LABELS, TOKENIZER


PROCESSOR = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
PICTURES = list(np.random.default_rng(0).integers(0, 256, (5, 40, 36, 3), dtype=np.uint8))
ATTACK = PGD(steps=2)


def clip():
    return CLIPModel.from_pretrained(demo.MODEL_PATH)


def with_preset(preset):
    torch.manual_seed(1)
    return get_peft_model(clip(), MuDPTConfig.from_preset(preset, init_std=0.5))


def build(model=None, pictures=PICTURES, labels=LABELS, processor=PROCESSOR, **options):
    return AdversarialBank.build(model or clip(), pictures, labels, ATTACK, processor, **options)


def processor(**settings):
    changed = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    for name, value in settings.items():
        setattr(changed, name, value)
    return changed


def test_a_bank_holds_the_embeddings_of_the_attacked_pictures():
    model, normalization = clip(), Normalization.of(PROCESSOR)
    pixels = PROCESSOR(PICTURES, do_normalize=False, return_tensors="pt").pixel_values
    values = normalization(ATTACK(model, normalization, pixels))
    bank = build(model)
    expected = model.get_image_features(values).pooler_output.detach()
    torch.testing.assert_close(bank.embeddings, expected, atol=1e-5, rtol=0)
    assert torch.equal(bank.labels, LABELS) and len(bank) == 5


def test_the_normalization_of_an_image_processor_is_what_it_does():
    pixels = PROCESSOR(PICTURES, do_normalize=False, return_tensors="pt").pixel_values
    expected = PROCESSOR(PICTURES, return_tensors="pt").pixel_values
    torch.testing.assert_close(Normalization.of(PROCESSOR)(pixels), expected)
    assert Normalization.of(processor(do_normalize=False)) == Normalization()


def test_the_size_of_the_batches_does_not_matter():
    one, other = build(batch_size=2), build(batch_size=5)
    assert (one.embeddings - other.embeddings).abs().median() < 1e-5  # a pixel may differ where its gradient is near 0
    assert one.made_by == other.made_by


def test_a_step_from_the_bank_equals_a_step_from_the_attacked_pictures():
    model, normalization = with_preset("coop"), Normalization.of(PROCESSOR)
    classifier = MuDPTClassifier(model, CLASSES, "{}.", tokenizer=TOKENIZER)
    bank = build(classifier)
    pixels = PROCESSOR(PICTURES, do_normalize=False, return_tensors="pt").pixel_values
    attacked = normalization(ATTACK(model, normalization, pixels))
    gradients = []
    for images in ({"image_features": normalize(bank.embeddings, dim=-1)}, {"pixel_values": attacked}):
        model.zero_grad()
        cross_entropy(classifier(**images).logits, LABELS).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == 1
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_a_saved_bank_is_read_back_and_belongs_to_its_model_and_pictures(tmp_path):
    bank = build()
    bank.save(tmp_path / "bank.safetensors")
    read = AdversarialBank.load(tmp_path / "bank.safetensors")
    assert torch.equal(read.embeddings, bank.embeddings) and torch.equal(read.labels, bank.labels)
    assert read.made_by == bank.made_by
    read.check(clip(), PICTURES, PROCESSOR)
    read.check(with_preset("coop"), PICTURES, PROCESSOR)  # prompts of the text tower change no embedding


@pytest.mark.parametrize(
    "given, message",
    [
        ({"target": clip().half()}, "image tower of other weights"),
        ({"target": get_peft_model(clip(), LoraConfig(target_modules=["q_proj"]))}, "image tower of other weights"),
        ({"target": with_preset("mudpt")}, "'default' has prompts in the image tower.*stale"),
        ({"pictures": PICTURES[:4]}, "5 there, 4 here"),
        ({"pictures": [*PICTURES, PICTURES[0]]}, "5 there, 6 here; the first other one is picture 5"),
        ({"pictures": PICTURES[::-1]}, "the first other one is picture 0"),
        ({"image_processor": processor(image_mean=[0.5, 0.5, 0.5])}, r"image_mean=\[0.48.*\[0.5, 0.5, 0.5\]"),
        ({"image_processor": processor(resample=2)}, "resample=3.*2"),
        ({"image_processor": None}, "give the image processor"),
    ],
    ids=str,
)
def test_a_bank_of_something_else_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        build().check(**{"target": clip(), "pictures": PICTURES, "image_processor": PROCESSOR, **given})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"model": with_preset("mudpt")}, "has prompts in the image tower"),
        ({"labels": LABELS[:3]}, "5 pictures, but 3 labels"),
        ({"labels": [0.5] * 5}, "whole numbers"),
        ({"labels": [-1] * 5}, "whole numbers"),
        ({"processor": processor(image_mean=0.5)}, "image_mean=0.5.*one number per channel"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"processor": processor(do_rescale=False)}, "do_rescale=False.*1/255"),
        ({"processor": processor(rescale_factor=1.0)}, "rescale_factor=1.0"),
        ({"pictures": ["missing.png"]}, "missing.png"),
        ({"pictures": []}, "no pictures"),
    ],
    ids=str,
)
def test_what_makes_no_bank_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        build(**given)


def with_lora(**options):
    model = get_peft_model(clip(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False, **options))
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_a_bank_of_other_embeddings_by_the_same_weights_is_refused():
    model = with_lora()
    bank = build(model)
    bank.check(model)
    with model.disable_adapter(), pytest.raises(ValueError, match="other embeddings, although its weights"):
        bank.check(model)
    with pytest.raises(ValueError, match="other embeddings, although its weights"):
        bank.check(with_lora(lora_alpha=64))


def test_a_bank_is_built_without_dropout_and_without_autocast():
    expected = build(with_lora()).embeddings
    model, state = with_lora(lora_dropout=0.5).train(), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = build(model).embeddings
    assert model.training and torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_attack_that_depends_on_texts_makes_no_bank():
    with pytest.raises(ValueError, match="objective='cross_entropy'.*texts.*'embedding_kl'"):
        AdversarialBank.build(clip(), PICTURES, LABELS, PGD(objective="cross_entropy"), PROCESSOR)


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "bank.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match="bank.safetensors already exists"):
        build().save(tmp_path / "bank.safetensors")
    assert (tmp_path / "bank.safetensors").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_is_no_bank_is_refused(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    clip().save_pretrained(tmp_path)
    for name in ("text", "model.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is not a bank"):
            AdversarialBank.load(tmp_path / name)
    for name in ("missing", "."):
        with pytest.raises(FileNotFoundError, match="is no file"):
            AdversarialBank.load(tmp_path / name)


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": torch.full((5, 64), torch.nan)},
        {"embeddings": torch.ones(5)},
        {"embeddings": torch.ones(5, 3)},
        {"labels": torch.zeros(4, dtype=torch.long)},
        {"made_by": MadeBy({}, "", {}, None)},
    ],
    ids=str,
)
def test_a_damaged_bank_is_refused(tmp_path, changes):
    bank = build()
    for name, value in changes.items():
        setattr(bank, name, value)
    bank.save(tmp_path / "new" / "bank.safetensors")
    with pytest.raises(ValueError, match="bank.safetensors is damaged"):
        AdversarialBank.load(tmp_path / "new" / "bank.safetensors")
