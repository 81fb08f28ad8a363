"""SDPT's fusion block against recorded numbers of the published one, and that each of eleven mistakes would show."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors import safe_open
from transformers import GroundingDinoConfig
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoEncoder

from peft_mudpt import SDPTConfig
from peft_mudpt.sdpt.inverse import InverseProjection
from peft_mudpt.sdpt.layer import sdpt_layer_of
from peft_mudpt.sdpt.prototypes import UnifiedPrototypes


GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ["symmetric", "as_released"]
STREAMS = ("vision", "text")


@cache
def case(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    with safe_open(GOLDEN / f"sdpt_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        settings = json.loads(file.metadata()["config"])
    return settings, {key: t.float() if t.dtype == torch.float16 else t for key, t in tensors.items()}


class Block:
    """Transformers' fusion layers with the recorded weights, in an encoder with the recorded adapter."""

    def __init__(self, name: str, prompted: bool = True) -> None:
        self.settings, self.golden = case(name)
        encoder = GroundingDinoEncoder(
            GroundingDinoConfig(
                d_model=self.settings["vision_dim"],
                encoder_ffn_dim=2 * self.settings["embed_dim"],
                encoder_attention_heads=2 * self.settings["num_heads"],
                encoder_layers=self.settings["layers"],
            )
        ).eval()
        self.layers = [layer.fusion_layer for layer in encoder.layers]
        for index, layer in enumerate(self.layers):
            prefix = f"model/layers.{index}."
            layer.load_state_dict({k.removeprefix(prefix): t for k, t in self.golden.items() if k.startswith(prefix)})
        if prompted:
            config = SDPTConfig(
                num_virtual_tokens=self.settings["num_virtual_tokens"],
                mask_text_prompts=not self.settings["text_prompts_visible"],
            )
            self.model = get_peft_model(encoder, config)
            self.adapter: UnifiedPrototypes = sdpt_layer_of(self.model).sdpt_adapters["default"]
            self.adapter.prototypes.data.copy_(self.golden["prototypes"])

    def run(self) -> Iterator[dict[str, torch.Tensor]]:
        """The streams after each layer; nothing stands between the layers."""
        streams = {stream: self.golden[f"input/{stream}"] for stream in STREAMS}
        for layer in self.layers:
            (streams["vision"], _), (streams["text"], _) = layer(
                streams["vision"], streams["text"], None, self.golden["input/text_mask"] == 0
            )
            yield dict(streams)

    def loss(self) -> torch.Tensor:
        *_, last = self.run()
        golden, mask = self.golden, self.golden["input/text_mask"]
        vision = self.settings["vision_dim"] * (last["vision"] * golden["input/weight_vision"]).mean()
        return vision + (last["text"] * golden["input/weight_text"] * mask[..., None]).sum() / mask.sum()

    def output_error(self) -> float:
        with torch.no_grad():
            after = list(self.run())
        return max(
            (after[k][stream] - self.golden[f"output/{stream}.{k}"]).abs().max().item()
            for k in range(len(after))
            for stream in STREAMS
        )

    def gradient_error(self) -> float:
        """Relative to the largest entry; 1 if no gradient arrives."""
        self.adapter.prototypes.grad = None
        loss, expected = self.loss(), self.golden["gradient"]
        if not loss.requires_grad:
            return 1.0
        loss.backward()
        return ((self.adapter.prototypes.grad - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", CASES)
def test_without_prompts_the_block_is_the_recorded_one(name):
    block = Block(name, prompted=False)
    for k, after in enumerate(block.run()):
        for stream in STREAMS:
            expected = block.golden[f"check/unprompted_{stream}.{k}"]
            torch.testing.assert_close(after[stream], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_prompts_are_the_recorded_ones(name):
    block = Block(name)
    for k in range(block.settings["layers"]):
        for stream, prompts in zip(STREAMS, block.adapter(k)):
            if prompts is None:
                assert name == "as_released" and stream == "text"
            else:
                torch.testing.assert_close(prompts, block.golden[f"prompts/{stream}"][k], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_the_recorded_ones(name):
    block = Block(name)
    assert block.output_error() < 1e-5 and block.gradient_error() < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_training_steps_are_the_recorded_ones(name):
    block = Block(name)
    settings = block.settings
    optimizer = torch.optim.AdamW(
        [block.adapter.prototypes],
        lr=settings["lr"],
        betas=tuple(map(float, settings["betas"].split(","))),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    losses = []
    for _ in range(settings["steps"]):
        loss = block.loss()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses.append(block.loss().item())
    torch.testing.assert_close(torch.tensor(losses), block.golden["losses"], rtol=0, atol=1e-5)
    torch.testing.assert_close(block.adapter.prototypes.data, block.golden["trained_prototypes"], rtol=0, atol=2e-4)


def inverses(block: Block) -> list[InverseProjection]:
    return [inverse for inverse in (block.adapter.vision_inverse, block.adapter.text_inverse) if inverse is not None]


def transpose_for_inverse(block, monkeypatch):
    for inverse, stream in zip(inverses(block), STREAMS):
        inverse.inverse = torch.stack([getattr(layer.attn, f"{stream}_proj").weight.data for layer in block.layers])


def bias_forgotten(block, monkeypatch):
    for inverse in inverses(block):
        inverse.shift.zero_()


def streams_swapped(block, monkeypatch):
    adapter = block.adapter
    adapter.vision_inverse, adapter.text_inverse = adapter.text_inverse, adapter.vision_inverse


def value_maps(block, monkeypatch):
    for stream in STREAMS:
        maps = [getattr(layer.attn, f"values_{stream}_proj") for layer in block.layers]
        setattr(block.adapter, f"{stream}_inverse", InverseProjection(maps))


def one_inverse_for_both(block, monkeypatch):
    block.adapter.text_inverse = block.adapter.vision_inverse


def prompts_normed(block, monkeypatch):
    forward = UnifiedPrototypes.forward

    def normed(self, layer):
        norms = block.layers[layer].layer_norm_vision, block.layers[layer].layer_norm_text
        return tuple(norm(prompts) for norm, prompts in zip(norms, forward(self, layer)))

    monkeypatch.setattr(UnifiedPrototypes, "forward", normed)


def prototypes_shared_by_layers(block, monkeypatch):
    def shared(self, layer):
        return self.vision_inverse(layer, self.prototypes[0]), self.text_inverse(layer, self.prototypes[0])

    monkeypatch.setattr(UnifiedPrototypes, "forward", shared)


def inverse_of_layer_0_everywhere(block, monkeypatch):
    forward = InverseProjection.forward
    monkeypatch.setattr(InverseProjection, "forward", lambda self, layer, prototypes: forward(self, 0, prototypes))


def detached(block, monkeypatch):
    forward = InverseProjection.forward
    monkeypatch.setattr(
        InverseProjection, "forward", lambda self, layer, prototypes: forward(self, layer, prototypes.detach())
    )


def text_mask_flipped(block, monkeypatch):
    block.adapter.text_inverse, block.adapter.has_text_prompts = None, False


def vision_prompts_hidden(block, monkeypatch):
    def hide(attention, args, kwargs):
        padding = torch.zeros(kwargs["vision_features"].shape[:2], dtype=torch.bool)
        padding[:, -block.settings["num_virtual_tokens"] :] = True
        return args, {**kwargs, "vision_attention_mask": padding}

    for layer in block.layers:  # after the hook that appends the prompts
        layer.attn.register_forward_pre_hook(hide, with_kwargs=True)


MISTAKES = [
    transpose_for_inverse,
    bias_forgotten,
    streams_swapped,
    value_maps,
    one_inverse_for_both,
    prompts_normed,
    prototypes_shared_by_layers,
    inverse_of_layer_0_everywhere,
    detached,
    text_mask_flipped,
    vision_prompts_hidden,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_misses_the_recorded_numbers_by_far(mistake, monkeypatch):
    block = Block("symmetric")
    with torch.no_grad():
        mistake(block, monkeypatch)
    assert max(block.output_error(), block.gradient_error()) > 5e-2
