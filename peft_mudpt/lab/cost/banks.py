"""What a bank of attacked pictures costs, against the passes of CLIP's image tower that the attack needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoImageProcessor

from ... import demo
from ...classifier.pictures import pixel_values
from ...robust.bank import AdversarialBank
from ...robust.pixels import Normalization
from ...towers.registry import family_of
from .cases import ATTACK, OURS, PLAIN, build_model


BATCH_SIZE = 32


def ways_to_build(model: str, pictures: int, device: str) -> dict[str, Callable[[], object]]:
    """
    Prepare two ways to spend the time of building a bank.

    Args:
        model: one of `cases.MODELS`; the weights are random.
        pictures: number of pictures.
        device: device of the model.

    Returns:
        For the way "ours", a function that attacks each picture by `cases.ATTACK` and encodes it. For the way "plain",
        one that runs a forward and a backward pass of the image tower for each step of the attack.
    """
    clip = build_model(model, PLAIN, device)
    family = family_of(clip)
    size = family.image_shape(clip.config)[-1]
    processor = AutoImageProcessor.from_pretrained(
        demo.MODEL_PATH, backend="pil", size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    drawn = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=1, seed=0)["image"]
    images = [drawn[number % len(drawn)].resize((size, size)) for number in range(pictures)]
    normalization = Normalization.of(processor)
    pixels = torch.stack([pixel_values(image, processor, do_normalize=False) for image in images]).to(device)

    def passes() -> None:
        for batch in pixels.split(BATCH_SIZE):
            for _ in range(ATTACK.steps):
                moved = batch.clone().requires_grad_()
                family.image_features(clip, normalization(moved)).sum().backward()

    return {
        OURS: lambda: AdversarialBank.build(clip, images, [0] * pictures, ATTACK, processor, BATCH_SIZE),
        PLAIN: passes,
    }
