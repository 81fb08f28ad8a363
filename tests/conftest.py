import gc
import os
import runpy
import socket
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
import torch
from accelerate.test_utils.testing import AccelerateTestCase
from hypothesis import HealthCheck, settings
from peft import LoraConfig
from torch import nn
from torch.multiprocessing import start_processes
from transformers import CLIPConfig, CLIPModel, PreTrainedModel

from peft_mudpt import PRESETS, MuDPTConfig, demo
from peft_mudpt.layer import layer_of
from peft_mudpt.towers.base import part
from peft_mudpt.towers.registry import find_towers


BOS, EOS, PAD = 97, 98, 99

# The presets whose text features are the same for all images, so that they can be cached, folded and packed once.
SAME_FOR_ALL_IMAGES = [
    name
    for name in PRESETS
    for config in [MuDPTConfig.from_preset(name)]
    if config.conditioning not in ("image", "noise") and config.num_domains is None
]

# One thread by default, because the models are tiny and each worker has one core. The processes that tests start
# inherit the variable. OMP_NUM_THREADS=2 must pass too: no result may depend on the number of threads.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# The cache of the user is neither used nor changed. Each test also has its own (see `own_cache`).
os.environ["PEFT_MUDPT_CACHE"] = tempfile.mkdtemp(prefix="peft_mudpt_cache_")

# The same examples in every run, and nothing written. More of them: pytest --hypothesis-profile=thorough
SETTINGS = dict(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", max_examples=25, **SETTINGS)
settings.register_profile("thorough", max_examples=2000, **SETTINGS)
settings.load_profile("suite")


def pytest_collection_finish():
    """Keep the modules out of garbage collection: each run of the lab asks for three, which look at all objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test finds what another has computed."""
    monkeypatch.setenv("PEFT_MUDPT_CACHE", str(tmp_path_factory.getbasetemp() / f"cache_{uuid.uuid4().hex}"))


def build_clip(vision_width=48, eos_token_id=EOS, num_positions=24) -> CLIPModel:
    """A random CLIP with unequal towers; projection width differs from both."""
    text = dict(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=num_positions,
        bos_token_id=BOS,
        eos_token_id=eos_token_id,
        pad_token_id=PAD,
    )
    vision = dict(
        hidden_size=vision_width,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
    return enlivened(CLIPModel(config))


def enlivened(model: PreTrainedModel) -> PreTrainedModel:
    """Livelier than a fresh model, so that every token has influence."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.15)
    return model.eval()


def of_two_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Without its upper layers, because a compiler takes as long for each of them, and meets nothing new."""
    for modality, (_, tower, kind) in find_towers(model).items():
        encoder = part(tower, kind.encoder)
        setattr(encoder, kind.layers, part(encoder, kind.layers)[:2])
        tower.config.num_hidden_layers = getattr(model.config, f"{modality}_config").num_hidden_layers = 2
    return model


def another_clip() -> CLIPModel:
    """A CLIP of the same numbers; an adapter that it is given starts from others, so that a lost tensor shows."""
    clip = build_clip()
    torch.manual_seed(2)
    return clip


def build_inputs() -> dict[str, torch.Tensor]:
    """Two texts of different length and three images."""
    input_ids = torch.tensor([[BOS, 5, 6, 7, EOS], [BOS, 8, EOS, PAD, PAD]])
    pixel_values = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "pixel_values": pixel_values}


def completed(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs, and features or domains that the active adapter needs for the texts; any do."""
    layer = layer_of(model)
    texts_alone = "pixel_values" not in inputs
    if layer is not None and layer.num_domains and texts_alone:
        return {**inputs, "mudpt_condition": torch.arange(len(inputs["input_ids"])) % layer.num_domains}
    if layer is None or not (layer.text_depends_on_class or (layer.text_depends_on_image and texts_alone)):
        return inputs
    adapter = layer.mudpt_adapters[layer.active_name]
    meta_net = (adapter.class_tokens or adapter.image_shift).meta_net
    rows, channels = len(inputs["input_ids"]), meta_net.linear1.in_features
    return {**inputs, "mudpt_condition": torch.randn(rows, channels, generator=torch.Generator().manual_seed(3))}


def config(**fields) -> MuDPTConfig:
    """An adapter whose prompts are large enough to matter."""
    return MuDPTConfig(**{"init_std": 0.5, **fields})


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**completed(model, inputs)).logits_per_image


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script of examples/ as a user calls it, but in this process, because a new one takes seconds to start."""

    def run(name, *arguments) -> Done:
        script = str(Path(__file__).parents[1] / "examples" / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return Done(end.code, *capsys.readouterr())
        return Done(0, *capsys.readouterr())

    return run


def reset_accelerator() -> None:
    """Make accelerate forget how its first Accelerator was made, which it keeps for the whole process."""
    AccelerateTestCase().tearDown()  # accelerate's own way to do so between tests


@pytest.fixture(autouse=True, scope="session")
def world_drawn_once():
    """Draw the pictures of the embedded world once for all runs in this process, because it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load_pictures", cache(demo.load_pictures))
        yield


@pytest.fixture
def fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


def in_two_processes(work: Callable, *arguments) -> None:
    """Run `work(rank, *arguments)` in two forks of this process, because a new one takes seconds to import torch."""
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        port = opened.getsockname()[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)  # Python 3.12
        start_processes(_work_as, (port, work, arguments), nprocs=2, start_method="fork")


def _work_as(rank: int, port: int, work: Callable, arguments: tuple) -> None:
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", ACCELERATE_USE_CPU="true")
    os.environ |= dict(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)  # a fork lacks the threads of its parent
    reset_accelerator()
    work(rank, *arguments)


@cache
def refusal_by_transformers() -> Optional[str]:
    """Why transformers' adapter methods refuse the installed PEFT, whatever the adapter; None if they accept it."""
    try:
        build_clip().add_adapter(LoraConfig(target_modules=["q_proj"]))
    except (ImportError, ValueError) as error:
        return f"transformers' adapter methods refuse the installed PEFT: {error}"
    return None


@pytest.fixture
def adapters_of_transformers():
    """For tests of `clip.add_adapter`, `clip.load_adapter` and the like: skips them where they refuse this PEFT."""
    if refusal := refusal_by_transformers():
        pytest.skip(refusal)


def hooks_on(model: nn.Module) -> int:
    """The number of forward hooks in it."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def logits_and_gradients(model, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a training step computes, for a loss that depends on every logit."""
    model.zero_grad()
    inputs = completed(model, {**build_inputs(), **inputs})
    logits = model(**{**inputs, "pixel_values": inputs["pixel_values"].to(model.dtype)}).logits_per_image  # (3, 2)
    logits.log_softmax(dim=-1, dtype=torch.float64)[:, 0].mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def checkpoint_layers(model: nn.Module, use_reentrant: bool) -> None:
    """Turn gradient checkpointing on in a CLIP, adapted or not, by the name that the installed transformers has."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


@pytest.fixture
def clip() -> CLIPModel:
    return build_clip()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return build_inputs()
