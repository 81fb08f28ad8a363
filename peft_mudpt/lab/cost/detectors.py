"""The cases of detectors, and the ways (`WAYS_OF`) to run the training step or the inference of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

from ...detection.captions import BEGINNING, END, PERIOD
from ...detection.loading import base_detector, prepare_detector_for_peft
from ...detection.loss import per_picture_loss
from ...library_warnings import without_known_warnings
from ...sdpt.config import SDPTConfig
from ...sdpt.families import find_fusion
from ..detection.methods import FUSION_PROJECTIONS
from .cases import INFERENCE, PLAIN, TASKS, TRAINING, class_names


# sdpt: an SDPT adapter. frozen: the detector without an adapter, with the backward pass that its outputs need down to
# where SDPT's first prompts enter; a lower bound for prompts in every fusion layer. lora: LoRA on the projections of
# the fusion layers. full: all weights are trained. plain: the forward pass alone.
SDPT, FROZEN, LORA, FULL = "sdpt", "frozen", "lora", "full"
WAYS_OF = {TRAINING: (SDPT, FROZEN, LORA, FULL), INFERENCE: (SDPT, PLAIN)}
TRAINED = (SDPT, LORA, FULL)

RANK = 4
TOKENS = 10  # K, per fusion layer
DETECTORS = {
    "tiny": GroundingDinoConfig(
        backbone_config=dict(
            model_type="swin", embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], out_indices=[2, 3, 4]
        ),
        text_config=dict(
            model_type="bert",
            vocab_size=PERIOD + 1,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
        ),
        d_model=64,
        encoder_layers=2,
        encoder_ffn_dim=512,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=128,
        decoder_attention_heads=4,
        num_queries=10,
    ),
    "grounding_dino_tiny": GroundingDinoConfig(),  # of IDEA-Research: Swin-T and BERT base
}
STRIDES = (8, 16, 32, 64)  # of the feature levels
ASPECT = 1333 / 800  # of the largest pictures in the published evaluation
PICTURE_SIZE = 240  # by default: small enough for a step of some seconds on a CPU
OBJECTS = 5  # in each picture
FIRST_WORD = 200  # an id that is no delimiter of BERT
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class DetectorCase:
    """
    One setting of the benchmark of detectors, in which all ways (`WAYS_OF`) are compared.

    Args:
        model: one of `DETECTORS`; the weights are random.
        task: one of `TASKS`.
        classes: number of classes in the caption.
        batch_size: pictures per batch (B).
        picture_size: height of the pictures in pixels. Their width is 1333 / 800 of it.
        autocast: True for bfloat16 autocast, False for float32.

    Raises:
        ValueError: if the model or the task is unknown, the caption has too many tokens, or the picture has too few.
    """

    model: str
    task: str
    classes: int
    batch_size: int
    picture_size: int
    autocast: bool = False

    def __post_init__(self) -> None:
        for kind, given, known in (("detector", self.model, DETECTORS), ("task", self.task, TASKS)):
            if given not in known:
                raise ValueError(f"Unknown {kind} {given!r}; the known ones are {', '.join(known)}.")
        config = DETECTORS[self.model]
        if len(caption(self.classes)) > config.max_text_len:
            raise ValueError(
                f"The caption of {self.classes} classes has {len(caption(self.classes))} tokens, but {self.model} "
                f"takes at most {config.max_text_len}. Give fewer classes."
            )
        height, width = self.picture_shape
        tokens = sum(ceil(height / stride) * ceil(width / stride) for stride in STRIDES)
        if tokens < config.num_queries:
            raise ValueError(
                f"A picture of {height} x {width} pixels has {tokens} tokens, but {self.model} selects "
                f"{config.num_queries} of them. Give a larger picture_size than {self.picture_size}."
            )

    @property
    def picture_shape(self) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        return self.picture_size, round(ASPECT * self.picture_size)

    @property
    def described(self) -> dict[str, Any]:
        """What a row says of its case."""
        return {**asdict(self), "picture_shape": self.picture_shape}

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways to run it."""
        return WAYS_OF[self.task]

    def steps(self, ways: Sequence[str], device: str) -> dict[str, Callable[[], torch.Tensor]]:
        """Build a detector for each way, and prepare one step of it; see `way_to_run`."""
        return {way: way_to_run(way, self, build_detector(self.model, way, device)) for way in ways}

    def models(self, ways: Sequence[str]) -> int:
        """Number of detectors that `steps` builds."""
        return len(ways)


def caption(classes: int) -> list[int]:
    """
    Make up the tokens of a caption. Each class has one to four of them, and a period.

    Args:
        classes: number of classes.

    Returns:
        The ids of the tokens.
    """
    names = [name.split() for name in class_names(classes)]
    words = sorted({word for name in names for word in name})
    phrases = [[*(FIRST_WORD + words.index(word) for word in name), PERIOD] for name in names]
    return [BEGINNING, *sum(phrases, []), END]


def build_detector(name: str, way: str, device: str) -> torch.nn.Module:
    """
    Build a detector with random weights.

    Args:
        name: one of `DETECTORS`.
        way: one of `WAYS_OF`: frozen, with an adapter, or trained as a whole.
        device: device of the model.

    Returns:
        The model.
    """
    torch.manual_seed(0)
    detector = GroundingDinoForObjectDetection(DETECTORS[name])
    detector.loss_function = per_picture_loss
    detector.requires_grad_(way == FULL)
    with without_known_warnings():
        if way == FROZEN:
            find_fusion(detector)[1].attentions[0].register_forward_pre_hook(_require_gradients, with_kwargs=True)
        elif way == SDPT:
            detector = get_peft_model(detector, SDPTConfig(num_virtual_tokens=TOKENS))
        elif way == LORA:
            lora = LoraConfig(r=RANK, target_modules=FUSION_PROJECTIONS)
            detector = get_peft_model(prepare_detector_for_peft(detector), lora)
    return detector.to(device)


def way_to_run(way: str, case: DetectorCase, model: torch.nn.Module) -> Callable[[], torch.Tensor]:
    """
    Prepare one step of a case: a forward pass and, in training, a backward pass and an update by AdamW.

    Args:
        way: one of `WAYS_OF`.
        case: the case.
        model: a model that `build_detector` built for this way.

    Returns:
        A function without arguments that runs the step and returns the logits (B, Q, `max_text_len`). It can be called
        repeatedly.
    """
    training = case.task == TRAINING
    device = base_detector(model).device
    model.train(training)
    inputs = _inputs(case, device)
    optimizer = _optimizer(model) if training and way in TRAINED else None

    def step() -> torch.Tensor:
        with torch.set_grad_enabled(training), torch.autocast(device.type, torch.bfloat16, enabled=case.autocast):
            output = model(**inputs)
        if training:
            output.loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        return output.logits.detach()

    return step


def _require_gradients(attention: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Let the backward pass of a frozen detector end at the two streams (the masks are keyword arguments)."""
    return tuple(stream.detach().requires_grad_() for stream in args), kwargs


def _inputs(case: DetectorCase, device: torch.device) -> dict[str, Any]:
    """The arguments of the model: random pictures, the caption, and in training boxes of some classes."""
    torch.manual_seed(0)
    input_ids = torch.tensor(caption(case.classes), device=device).expand(case.batch_size, -1)  # (B, T)
    inputs = {
        "pixel_values": torch.randn(case.batch_size, 3, *case.picture_shape, device=device),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
    }
    if case.task == TRAINING:
        labels = torch.arange(OBJECTS, device=device) % case.classes
        boxes = [0.25 + 0.5 * torch.rand(OBJECTS, 4, device=device) for _ in range(case.batch_size)]
        inputs["labels"] = [{"class_labels": labels, "boxes": own} for own in boxes]
    return inputs


def _optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW with the state that it has after its first step, so that each step needs as much memory as later ones."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer
