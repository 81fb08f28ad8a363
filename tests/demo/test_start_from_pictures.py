"""Vision prompts that start from pictures learn faster than random ones (SPT, arXiv 2402.02382, on drawn shapes)."""

import numpy as np
import torch
from peft import get_peft_model
from PIL import ImageFilter
from torch.nn.functional import cross_entropy
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import MuDPTConfig, demo, initialize_prompts


CLASSES = [name for name in demo.CLASS_NAMES if name.startswith("filled")]
STEPS, BATCH = 40, 16


def outlines(images_per_class):
    """The contours of drawn shapes, which the tiny CLIP has never seen."""
    rng = np.random.default_rng(1)
    labels = torch.arange(len(CLASSES)).repeat(images_per_class)
    pictures = [demo.paint(CLASSES[label], "plain", rng).filter(ImageFilter.CONTOUR) for label in labels]
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil").image_processor
    return processor(images=pictures, return_tensors="pt")["pixel_values"], labels


def mean_loss(pixels, labels, from_pictures):
    """The mean loss of the first steps of vision prompts with a linear head."""
    torch.manual_seed(0)
    config = MuDPTConfig.from_preset("vpt_deep", vision_prompt_depth=3)
    model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config)
    if from_pictures:
        initialize_prompts(model, pixels.split(64), seed=0)
    head = torch.nn.Linear(model.config.vision_config.hidden_size, len(CLASSES))
    torch.nn.init.trunc_normal_(head.weight, std=0.02)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([*learned, *head.parameters()], lr=0.05)
    order, losses = torch.cat([torch.randperm(len(pixels)) for _ in range(STEPS)]), []
    for batch in order[: STEPS * BATCH].split(BATCH):
        loss = cross_entropy(head(model.vision_model(pixels[batch]).pooler_output), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / STEPS


def test_the_early_loss_is_much_lower_than_from_random_numbers():
    pixels, labels = outlines(images_per_class=6)
    assert mean_loss(pixels, labels, from_pictures=True) < 0.8 * mean_loss(pixels, labels, from_pictures=False)
