"""Starts the vision prompts of an adapter from tokens of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from reprlib import repr as short_repr
from typing import Any, Optional, Union, cast, get_args

import torch

from .config import MuDPTConfig, PromptInitialization
from .layer import MuDPTLayer, find_adapter
from .prompts.initialization import start_from_prototypes
from .prompts.prompts import MultiModalPrompts
from .prompts.prototypes import Prototypes
from .rules import AT_LEAST_ONE, SEED, one_of
from .towers.base import part
from .towers.registry import Tower
from .towers.vision import PromptedVision


CHUNK = 32  # pictures per forward pass, however many the dataloader gives at a time: last bits depend on it

Batch = Union[torch.Tensor, Mapping[str, Any]]


def initialize_prompts(
    model: torch.nn.Module,
    dataloader: Iterable[Batch],
    method: PromptInitialization = "random",
    num_images: Optional[int] = None,
    seed: int = 0,
    generator: Optional[torch.Generator] = None,
    adapter_name: Optional[str] = None,
) -> None:
    """
    Start the vision prompts of a MuDPT adapter from tokens of pictures, in place (SPT, "Revisiting the Power of Prompt
    for Visual Tuning", arXiv 2402.02382). Call it once, on a new adapter, with the training pictures.

    The n prompts of layer i are chosen among the tokens that layer i receives for the patches of all pictures, without
    any prompts. Layer 0 is the input: its tokens are the embedded patches without their positions. If text prompts
    shift the vision prompts (`fusion_combine="add"`), the raw prompts are set so that the shifted ones equal the
    tokens. The choice depends on the pictures, their order and the seed, but not on the size of the batches. The
    memory does not grow with the number of pictures. The adapter's config records the method, the seed and the number
    of pictures as `prompt_initialization`.

    Args:
        model: a [`~peft.PeftModel`], or a CLIP of transformers with adapters.
        dataloader: batches of pixel values (B, 3, H, W), as the image processor makes them: tensors, or dicts that
            hold one under `pixel_values`. Use pictures without augmentation. In several processes, give each of them
            the same batches.
        method: "random": tokens. "mean_pool" or "max_pool": n pooled tokens of each picture, one for each of n windows
            of consecutive patches; n of all these. "kmeans": cluster centers of a sample of the tokens.
        num_images: use only the first `num_images` pictures; None: all.
        seed: seed of the random choice.
        generator: random numbers, used instead of those that `seed` gives.
        adapter_name: the MuDPT adapter; None for the active one.

    Raises:
        ValueError: if there is no such adapter, it has no vision prompts that can be set, a batch or another argument
            is wrong, or there are fewer tokens than prompts. The adapter stays as it was.
    """
    one_of(*get_args(PromptInitialization)).check(method, "method")
    SEED.check(seed, "seed")
    if num_images is not None:
        AT_LEAST_ONE.check(num_images, "num_images")
    layer, adapter_name = find_free_vision_prompts(model, adapter_name)
    prompts, tower = cast(MultiModalPrompts, layer.mudpt_adapters[adapter_name]), _vision_tower(layer, adapter_name)
    seeds = torch.Generator().manual_seed(seed) if generator is None else generator
    n, layers = prompts.num_tokens["vision"], prompts.layers["vision"]
    prototypes = {index: Prototypes(method, n, _child_of(seeds)) for index in layers}
    with _unprompted(model, layer):
        pictures = _show(tower, dataloader, num_images, prototypes)
    start_from_prototypes(prompts, torch.stack([prototypes[index].choose() for index in layers]))
    note_initialization(model, method, seed if generator is None else None, pictures, adapter_name)


def note_initialization(
    model: torch.nn.Module,
    method: PromptInitialization,
    seed: Optional[int],
    num_images: int,
    adapter_name: Optional[str] = None,
) -> None:
    """Record in the config of an adapter, by default the active one, how its vision prompts started."""
    _, adapter_name = find_adapter(model, adapter_name)
    note = {"method": method, "seed": seed, "num_images": num_images}
    part(model, "peft_config")[adapter_name].prompt_initialization = note


def find_free_vision_prompts(model: torch.nn.Module, adapter_name: Optional[str] = None) -> tuple[MuDPTLayer, str]:
    """
    Find an adapter whose vision prompts can start from pictures.

    Args:
        model: a CLIP with adapters, also in a `PeftModel`.
        adapter_name: the MuDPT adapter; None for the active one.

    Returns:
        The layer that holds the adapter, and the adapter's name.

    Raises:
        ValueError: if there is no such adapter, or it has no vision prompts, or they are generated from the text
            prompts, or folded.
    """
    layer, adapter_name = find_adapter(model, adapter_name)
    config: MuDPTConfig = part(model, "peft_config")[adapter_name]
    if config.folded:
        raise ValueError(
            "This adapter was folded: its prompts are constants. Start the prompts of the adapter that it was folded "
            "from, before it is trained."
        )
    if not config.num_tokens("vision"):
        raise ValueError(
            "The adapter has no vision prompts that could start from pictures (vision_prompt_depth or "
            "vision_num_virtual_tokens is 0). Give it some, or leave the initialization out."
        )
    if config.fusion_combine == "replace" and config.fusion_direction == "text_to_vision":
        raise ValueError(
            "fusion_combine='replace' with fusion_direction='text_to_vision' generates the vision prompts from the "
            "text prompts, so they cannot start from pictures. Use fusion_combine='add', or leave the initialization "
            "out."
        )
    return layer, adapter_name


def _vision_tower(layer: MuDPTLayer, adapter_name: str) -> Tower:
    """The vision tower, whose weights and whose prompts must be in memory."""
    tower = layer.towers.get("vision")
    if tower is None:
        raise ValueError("The model has no vision tower to take tokens from. Give the whole CLIP.")
    if tower.kind.like(tower.module).is_meta or any(
        p.is_meta for p in layer.mudpt_adapters[adapter_name].parameters()
    ):
        raise ValueError(
            'The model or the adapter has weights on the device "meta" (offloaded, or not loaded yet), so there are '
            "no tokens to start from. Load both whole."
        )
    return tower


def _child_of(generator: torch.Generator) -> torch.Generator:
    """Random numbers of one layer. Each layer has its own, so that they do not depend on how layers take turns."""
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(seed))


def _show(tower: Tower, batches: Iterable[Batch], num_images: Optional[int], prototypes: dict[int, Prototypes]) -> int:
    """Run the tower over the pictures, offer the tokens of each layer to its prototypes, and return their number."""
    kind, like = cast(type[PromptedVision], tower.kind), tower.kind.like(tower.module)
    hooks = kind.watch_patches(tower.module, prototypes, lambda index, tokens: prototypes[index].add(tokens))
    shape = kind.image_shape(part(tower.module, "config"))
    pictures, seen = islice(_pictures(batches, shape), num_images), 0
    try:
        while chunk := list(islice(pictures, CHUNK)):
            tower.module(pixel_values=torch.stack(chunk).to(like))
            seen += len(chunk)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError(
            "The dataloader has no pictures. Give one with at least one; an iterator can be read only once."
        )
    return seen


@contextmanager
def _unprompted(model: torch.nn.Module, layer: MuDPTLayer) -> Iterator[None]:
    """While this context is open, the model runs without MuDPT prompts, in evaluation mode and without gradients."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with layer.switch_lock, torch.no_grad():
        enabled = not layer.disable_adapters
        try:
            layer.enable_adapters(False)
            model.eval()
            yield
        finally:
            layer.enable_adapters(enabled)
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in flags:
                parameter.requires_grad = requires_grad


def _pictures(batches: Iterable[Batch], shape: tuple[int, int, int]) -> Iterator[torch.Tensor]:
    """The pixel values (3, H, W) of each picture; `shape` is (3, H, W) as the tower takes them."""
    if isinstance(batches, (torch.Tensor, Mapping)) or not isinstance(batches, Iterable):
        raise ValueError(
            f"dataloader={short_repr(batches)} is not an iterable of batches. Give a DataLoader, or a list."
        )
    for number, batch in enumerate(batches):
        pixel_values = batch.get("pixel_values") if isinstance(batch, Mapping) else batch
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            raise ValueError(
                f"Batch {number} of the dataloader is {short_repr(batch)}; expected a tensor (B, 3, H, W) in floating "
                "point, or a dict that holds one under 'pixel_values'. Use the image processor."
            )
        if pixel_values.shape[1:] != shape:
            raise ValueError(
                f"Batch {number} of the dataloader has pixel values {tuple(pixel_values.shape)}, but the model takes "
                f"(B, {', '.join(map(str, shape))}). Use the image processor of its CLIP."
            )
        if not pixel_values.isfinite().all():
            raise ValueError(
                f"Batch {number} of the dataloader has pixel values that are NaN or infinite. Leave them out."
            )
        yield from pixel_values
