"""Training a detector: through transformers' Trainer, and with adapters of PEFT."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from peft_mudpt.detection import FusionDetector, prepare_detector_for_peft
from peft_mudpt.lab.data.boxes import TrainingBoxes, collate_boxes, load_coco_json
from tests.detection.conftest import build_detector
from tests.detection.test_detector import picture
from tests.lab.data.boxes.conftest import NAMES, write_coco


def test_the_trainer_trains_a_detector_and_evaluates_its_loss(tmp_path, tokenizer, image_processor):
    path = write_coco(tmp_path / "data")
    pictures = load_coco_json(path, path.parent / "images").pictures
    detector = FusionDetector(build_detector(), NAMES, tokenizer, image_processor, loss_reduction="mean")
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=3,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    samples, fixed = (TrainingBoxes(pictures, length, 0, image_processor) for length in (6, 3))
    weight = detector.model.model.encoder.layers[0].fusion_layer.attn.vision_proj.weight
    before = weight.detach().clone()
    trainer = Trainer(detector, arguments, train_dataset=samples, eval_dataset=fixed, data_collator=collate_boxes)
    trainer.train()
    assert not torch.equal(weight, before)
    measured = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        expected = detector.eval()(**collate_boxes([fixed[i] for i in range(3)])).loss
    assert measured == pytest.approx(expected.item(), rel=1e-5)


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
