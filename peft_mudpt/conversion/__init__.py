"""Converts checkpoints of the published research code to adapters."""

from .checkpoint import unwrapped
from .converting import NOT_STORED, convert, convert_checkpoint
from .published import FORMATS


__all__ = ["FORMATS", "NOT_STORED", "convert", "convert_checkpoint", "unwrapped"]
