"""Estimates the memory of a way before it is run, by formulas, so that nothing is tried that cannot fit."""

from __future__ import annotations

from functools import cache
from typing import Union

import torch
from transformers import CLIPModel, GroundingDinoForObjectDetection, PretrainedConfig

from ...classifier.layout import GROUP_BYTES
from ...classifier.memory import bytes_for_texts
from ...config import MuDPTConfig
from .banks import BATCH_SIZE
from .cases import ADAPTERS, ATTACKED, KNOWN, MODELS, PADDED, PLAIN, TRAINING, WORDS_PER_NAME, Case
from .detectors import DETECTORS, FULL, DetectorCase


# Measured with torch 2.13 on a CPU. On ViT-B/16 and Grounding DINO tiny the estimates are within a fifth of the peaks.
LIBRARIES = 450_000_000  # bytes of Python, torch and transformers
FLOAT = 4  # bytes
AUTOCAST_SHARE = 0.7  # of the activations in float32: some operations stay in float32
LAYERS_WITHOUT_GRAPH = 1.5  # activations that a forward pass without a graph keeps at a time, in layers
MARGIN = 1.1  # the formulas leave out what is small
# Activations of a detector of the size of Grounding DINO tiny: those that depend on the pictures, by whether they are
# kept for training, and the others.
BYTES_PER_PIXEL = {True: 9_000, False: 2_500}
DETECTOR_BYTES = 400_000_000


def needed_bytes(case: Union[Case, DetectorCase], way: str, device: str = "cpu", models: int = 1) -> int:
    """
    Estimate the memory of a process that runs a step.

    Args:
        case: the case.
        way: one of the ways of the case.
        device: "cpu" or "cuda".
        models: number of models in the process.

    Returns:
        The bytes: the libraries, the weights, what an optimizer needs, and the activations of the largest moment.
    """
    if isinstance(case, DetectorCase):
        copies = models + 3 * (case.task == TRAINING and way == FULL)  # gradients, and two moments of AdamW
        height, width = case.picture_shape
        pixels = case.batch_size * height * width
        activations = DETECTOR_BYTES + pixels * BYTES_PER_PIXEL[case.task == TRAINING]
        weights = _weight_bytes(case.model, detector=True)
    else:
        copies, weights = models, _weight_bytes(case.model)
        activations = _image_bytes(case, way) + (0 if way in (PLAIN, KNOWN) else _text_bytes(case, way, device))
    share = AUTOCAST_SHARE if case.autocast else 1
    return int(LIBRARIES + copies * weights + MARGIN * share * activations)


def needed_bytes_of_bank(model: str, pictures: int) -> int:
    """
    Estimate the memory of a process that builds a bank by the ways of `banks.ways_to_build`.

    Args:
        model: one of `cases.MODELS`.
        pictures: number of pictures.

    Returns:
        The bytes: the libraries, the weights, the pixels of all pictures twice, and the activations of a batch.
    """
    pixels = 3 * MODELS[model].vision_config.image_size ** 2
    tokens = min(pictures, BATCH_SIZE) * _image_tokens(model)
    activations = tokens * _bytes_per_token(MODELS[model].vision_config, has_graph=True)
    return int(LIBRARIES + _weight_bytes(model) + 2 * FLOAT * pixels * pictures + MARGIN * activations)


def _image_bytes(case: Case, way: str) -> float:
    """Activations of the image tower; with a graph if the adapter, or an attack, needs the gradients of images."""
    tokens = _image_tokens(case.model) + _adapter(case).num_tokens("vision")
    has_graph = case.task == TRAINING and (case.prompts_images or way == ATTACKED)
    return case.batch_size * tokens * _bytes_per_token(MODELS[case.model].vision_config, has_graph)


def _image_tokens(model: str) -> int:
    vision = MODELS[model].vision_config
    return 1 + (vision.image_size // vision.patch_size) ** 2


def _text_bytes(case: Case, way: str, device: str) -> float:
    """Activations of the text tower. Our way bounds them, and packs the texts of classes without padding."""
    config = _adapter(case)
    texts = case.classes * (config.num_domains or 1)
    if config.conditioning in ("image", "noise"):
        texts *= case.batch_size
    has_graph = case.task == TRAINING and config.num_tokens("text") > 0
    per_token = _bytes_per_token(MODELS[case.model].text_config, has_graph)
    if way == PADDED:
        return texts * MODELS[case.model].text_config.max_position_embeddings * per_token
    longest = WORDS_PER_NAME + 2 + config.num_tokens("text")  # a period and EOS
    return min(texts * longest * per_token, max(GROUP_BYTES, bytes_for_texts(torch.device(device))))


def _adapter(case: Case) -> MuDPTConfig:
    return MuDPTConfig(**ADAPTERS[case.adapter])


def _bytes_per_token(config: PretrainedConfig, has_graph: bool) -> float:
    # per layer, as in `classifier.layout`: the input of both norms; query, key, value and the output of attention; the
    # hidden channels of the MLP before and after the activation
    width = 6 * config.hidden_size + 2 * config.intermediate_size
    return FLOAT * width * (config.num_hidden_layers if has_graph else LAYERS_WITHOUT_GRAPH)


@cache
def _weight_bytes(model: str, detector: bool = False) -> int:
    with torch.device("meta"):
        built = GroundingDinoForObjectDetection(DETECTORS[model]) if detector else CLIPModel(MODELS[model])
    return sum(weight.numel() * weight.element_size() for weight in built.parameters())
