"""Training a detector: through transformers' Trainer, and with adapters of PEFT."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import Trainer, TrainingArguments

from peft_mudpt import SDPTConfig
from peft_mudpt.detection import FusionDetector, per_picture_loss, prepare_detector_for_peft
from peft_mudpt.lab.data.boxes import TrainingBoxes, collate_boxes, load_coco_json
from tests.detection.conftest import build_detector
from tests.detection.test_detector import picture
from tests.lab.data.boxes.conftest import NAMES, write_coco


@pytest.fixture
def pictures(tmp_path):
    path = write_coco(tmp_path / "data")
    return load_coco_json(path, path.parent / "images").pictures


def trainer(folder, model, **parts) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        max_steps=4,
        save_steps=2,
        save_strategy="steps" if isinstance(model, PeftModel) else "no",
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        learning_rate=0.01,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(model, arguments, **parts)


def test_the_trainer_trains_a_detector_and_evaluates_its_loss(tmp_path, pictures, tokenizer, image_processor):
    detector = FusionDetector(build_detector(), NAMES, tokenizer, image_processor, loss_reduction="mean")
    samples, fixed = (TrainingBoxes(pictures, length, 0, image_processor) for length in (6, 3))
    weight = detector.model.model.encoder.layers[0].fusion_layer.attn.vision_proj.weight
    before = weight.detach().clone()
    ours = trainer(tmp_path, detector, train_dataset=samples, eval_dataset=fixed, data_collator=collate_boxes)
    ours.train()
    assert not torch.equal(weight, before)
    measured = ours.evaluate()["eval_loss"]
    with torch.no_grad():
        expected = detector.eval()(**collate_boxes([fixed[i] for i in range(3)])).loss
    assert measured == pytest.approx(expected.item(), rel=1e-5)


def test_the_trainer_trains_prompts_resumes_exactly_and_saves_nothing_else(
    tmp_path, pictures, tokenizer, image_processor
):
    """As docs/detect_objects.md says: the Trainer gets the PeftModel, which it knows how to save."""
    samples = TrainingBoxes(pictures, 8, 0, image_processor)

    def prompted() -> FusionDetector:
        torch.manual_seed(0)
        return FusionDetector(get_peft_model(build_detector(), SDPTConfig(class_names=NAMES)), None, tokenizer)

    def train(detector, **options):
        def collate(samples):
            return {**collate_boxes(samples), **tokenizer(detector.captions * len(samples), return_tensors="pt")}

        model = detector.model
        model.get_base_model().loss_function = partial(per_picture_loss, reduction="mean")
        trainer(tmp_path, model, train_dataset=samples, data_collator=collate).train(**options)
        return get_peft_model_state_dict(model)

    whole, resumed = prompted(), prompted()
    (before,) = get_peft_model_state_dict(whole.model).values()
    before = before.clone()
    (learned,) = train(whole).values()
    assert not torch.equal(learned, before)
    with torch.no_grad():
        get_peft_model_state_dict(resumed.model).popitem()[1].zero_()  # the checkpoint brings its own
    (again,) = train(resumed, resume_from_checkpoint=str(tmp_path / "checkpoint-2")).values()
    assert torch.equal(again, learned)
    saved = tmp_path / "checkpoint-4"
    assert [file.name for file in saved.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert (saved / "adapter_model.safetensors").stat().st_size <= 4 * learned.numel() + 1000
    loaded = FusionDetector(PeftModel.from_pretrained(build_detector(), saved), None, tokenizer, image_processor)
    assert loaded.class_names == NAMES
    assert torch.equal(get_peft_model_state_dict(loaded.model).popitem()[1], learned)


def test_an_adapter_is_trained_by_the_right_loss_and_can_be_disabled(model, tokenizer, image_processor):
    base = build_detector("grounding-dino" if model.config.model_type == "grounding-dino" else "mm-grounding-dino")
    expected = FusionDetector(base, NAMES, tokenizer, image_processor).predict([picture()], threshold=0)[0]
    lora = LoraConfig(target_modules=r".*fusion_layer\.attn\.(vision|text)_proj", init_lora_weights=False)
    detector = FusionDetector(
        get_peft_model(prepare_detector_for_peft(base), lora), NAMES, tokenizer, image_processor
    ).eval()
    assert not torch.equal(detector.predict([picture()], threshold=0)[0].scores, expected.scores)
    with detector.model.disable_adapter():
        assert torch.equal(detector.predict([picture()], threshold=0)[0].scores, expected.scores)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}] * 2
    both = detector(pixels, labels=labels).loss
    singles = [detector(pixels[i : i + 1], labels=labels[:1]).loss for i in range(2)]
    assert torch.allclose(both, sum(singles), rtol=1e-5)
    both.backward()
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert gradients and all("lora" in name and own is not None for name, own in gradients.items())
