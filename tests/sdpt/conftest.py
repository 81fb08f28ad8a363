"""Tiny random detectors with fusion layers that matter, and batches with padded captions and pictures."""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

from peft_mudpt import SDPTConfig


DETECTORS = {
    "grounding_dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
    "mm_grounding_dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
}
FAMILIES = list(DETECTORS)
WIDTH, ATTENTION_WIDTH, LAYERS = 64, 256, 2
# word, word, ".", and a second phrase; [CLS] 101, [SEP] 102, "." 1012, padding 0
CAPTIONS = [[101, 50, 51, 1012, 60, 1012, 102], [101, 70, 1012, 102], [101, 80, 81, 82, 1012, 102]]


def build_detector(family: str = "grounding_dino", **fields) -> nn.Module:
    """A random detector. Its fusion layers add half of what they compute; a fresh one would add 0.0001 of it."""
    return copy.deepcopy(_built(family, **fields))


@cache
def _built(family: str, **fields) -> nn.Module:
    backbone = SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = BertConfig(
        vocab_size=1100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    config_class, model_class = DETECTORS[family]
    config = config_class(
        backbone_config=backbone,
        text_config=text,
        **{
            "d_model": WIDTH,
            "encoder_ffn_dim": 2 * ATTENTION_WIDTH,
            "encoder_layers": LAYERS,
            "encoder_attention_heads": 4,
            "decoder_layers": 2,
            "decoder_ffn_dim": 128,
            "decoder_attention_heads": 4,
            "num_queries": 6,
            "num_feature_levels": 4,
            **fields,
        },
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("vision_param", "text_param")):
            nn.init.constant_(parameter, 0.5)
    return model


def build_batch(rows=(0, 1, 2), length: int = 7, side: int = 64) -> dict[str, torch.Tensor]:
    """Captions of different lengths, padded to one; the second picture fills only a part of its frame."""
    ids = torch.zeros(len(CAPTIONS), length, dtype=torch.long)
    for row, caption in enumerate(CAPTIONS):
        ids[row, : len(caption)] = torch.tensor(caption)
    pixels = torch.randn(len(CAPTIONS), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pixel_mask = torch.ones(len(CAPTIONS), 64, 64, dtype=torch.long)
    pixel_mask[1, 40:], pixel_mask[1, :, 48:] = 0, 0
    pixels = pixels * pixel_mask[:, None]
    grown = torch.zeros(len(CAPTIONS), 3, side, side), torch.zeros(len(CAPTIONS), side, side, dtype=torch.long)
    grown[0][..., :64, :64], grown[1][..., :64, :64] = pixels, pixel_mask
    rows = list(rows)
    return {
        "pixel_values": grown[0][rows],
        "pixel_mask": grown[1][rows],
        "input_ids": ids[rows],
        "attention_mask": (ids != 0).long()[rows],
        "token_type_ids": torch.zeros_like(ids)[rows],
    }


def config(**fields) -> SDPTConfig:
    return SDPTConfig(**{"num_virtual_tokens": 4, **fields})


@torch.no_grad()
def outputs(model: nn.Module, batch: dict[str, torch.Tensor], **flags) -> dict[str, torch.Tensor]:
    """All tensors that the model returns, by name; those of tuples are numbered."""
    flat = {}

    def add(name, value):
        if isinstance(value, torch.Tensor):
            flat[name] = value
        elif isinstance(value, (tuple, list)):
            for index, each in enumerate(value):
                add(f"{name}.{index}", each)

    for name, value in model.eval()(**batch, **flags).items():
        add(name, value)
    return flat


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.fixture(params=FAMILIES)
def detector(request) -> nn.Module:
    return build_detector(request.param)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return build_batch()
