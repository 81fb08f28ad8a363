"""Converts checkpoints of the published research code to adapters."""

from .checkpoint import unwrapped
from .converting import convert_checkpoint
from .published import FORMATS


__all__ = ["FORMATS", "convert_checkpoint", "unwrapped"]
