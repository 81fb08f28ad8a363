"""Tiny random detectors of both families, with a tokenizer of a few words and BERT's ids of delimiters."""

import pytest
import torch
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
)


WORDS = ["cat", "dog", "red", "star", "white", "blood", "cell", "circle", "bird", "##s"]
FAMILIES = {
    "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection),
    "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection),
}
QUERIES = 6


def build_detector(family: str = "mm-grounding-dino", **options) -> torch.nn.Module:
    """A random detector of 2 layers, whose fusion is strong enough to matter."""
    config_class, model_class = FAMILIES[family]
    options = {
        "backbone_config": dict(
            model_type="swin",
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=2,
            image_size=32,
            out_indices=[2, 3, 4],
        ),
        "text_config": dict(
            model_type="bert",
            vocab_size=1100,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_queries": QUERIES,
        "max_text_len": 32,
        **options,
    }
    torch.manual_seed(0)
    model = model_class(config_class(**options))
    with torch.no_grad():
        for layer in model.model.encoder.layers:
            layer.fusion_layer.vision_param.fill_(0.5)
            layer.fusion_layer.text_param.fill_(0.5)
    return model.eval()


def build_tokenizer(tmp_path_factory) -> BertTokenizer:
    lines = [f"[unused{i}]" for i in range(1100)]
    lines[0], lines[100], lines[101], lines[102], lines[103] = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    lines[1012], lines[1029] = ".", "?"
    lines[200 : 200 + len(WORDS)] = WORDS
    return BertTokenizer(vocab={line: i for i, line in enumerate(lines)})


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory)


@pytest.fixture(scope="session")
def image_processor():
    return GroundingDinoImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})


@pytest.fixture(scope="session", params=FAMILIES)
def model(request):
    return build_detector(request.param)
