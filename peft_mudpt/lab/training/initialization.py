"""Initializes parameters from the training pictures, before the first step of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ...prompts_from_data import find_free_vision_prompts, initialize_prompts, note_initialization
from ..data.loaders import make_loader
from ..data.loading import TestPictures
from ..recipe import Recipe


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor


def check_prompt_initialization(recipe: Recipe, model: torch.nn.Module) -> None:
    """
    Check that vision prompts can start from pictures if the recipe asks for it.

    Args:
        recipe: how to train.
        model: the CLIP, plain or adapted.

    Raises:
        ValueError: if the model has no vision prompts of its own.
    """
    if recipe.prompt_initialization is None:
        return
    with _naming_the_flag(recipe):
        find_free_vision_prompts(model)


@contextmanager
def _naming_the_flag(recipe: Recipe) -> Iterator[None]:
    """Name the flag in a ValueError of this context."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--prompt_initialization {recipe.prompt_initialization}: {error}") from error


def initialize(
    accelerator: Accelerator,
    model: torch.nn.Module,
    pictures: Dataset,
    image_processor: BaseImageProcessor,
    recipe: Recipe,
    further: Optional[Callable[[torch.nn.Module, DataLoader], None]] = None,
) -> None:
    """
    Initialize parameters in place, as the recipe and the method ask for.

    Args:
        accelerator: the accelerator of the run.
        model: the adapted CLIP.
        pictures: the training pictures (see `FewShotData`). Each is seen once, without augmentation.
        image_processor: the image processor of the CLIP.
        recipe: names the start of the vision prompts, and gives the seed and the batch size.
        further: the method's own function (see `Method.initialize`).

    Raises:
        ValueError: if the pictures have fewer tokens than there are prompts, or a picture cannot be read.
    """
    samples = TestPictures(pictures, image_processor)
    loader = make_loader(accelerator, samples, recipe.batch_size, recipe.num_workers)  # each process reads all
    if further is not None:
        further(model, loader)
    if recipe.prompt_initialization is not None:
        with _naming_the_flag(recipe):
            initialize_prompts(model, loader, recipe.prompt_initialization, seed=recipe.seed)


def note_resumed(model: torch.nn.Module, pictures: Dataset, recipe: Recipe) -> None:
    """
    Record in the config of an adapter how its vision prompts started, because a checkpoint holds only the weights.

    Args:
        model: the adapted CLIP of a run that resumes.
        pictures: the training pictures.
        recipe: how to train.
    """
    if recipe.prompt_initialization is not None:
        note_initialization(model, recipe.prompt_initialization, recipe.seed, len(pictures))
