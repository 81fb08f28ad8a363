"""Makes the loaders of training and testing."""

from __future__ import annotations

from typing import Any, Optional

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from ...classifier.batches import end_with_parent
from .workers import choose_workers, processes_here


def make_loader(
    accelerator: Accelerator, samples: Dataset, batch_size: int, num_workers: Optional[int], **options: Any
) -> DataLoader:
    """
    Make a loader of batches, in the order of the samples.

    Args:
        accelerator: the accelerator of the run, which must still prepare the loader.
        samples: the samples. If they have a property `is_in_memory` that is true, this process loads them itself.
        batch_size: samples of a batch.
        num_workers: processes that load pictures for each process of the accelerator; None: see `choose_workers`.
        options: other arguments of `DataLoader`.

    Returns:
        The loader. It draws no number from the global generators, which training goes on with.
    """
    device = accelerator.device.type
    workers = 0
    if not getattr(samples, "is_in_memory", False):
        workers = choose_workers(num_workers, device, processes_here(accelerator))
    return DataLoader(
        samples,
        batch_size,
        num_workers=workers,
        pin_memory=device == "cuda",
        worker_init_fn=end_with_parent,
        generator=torch.Generator(),
        **options,
    )
