"""The few-shot lab: from pictures by way of draws, protocols, peers and training to results."""

from .data.sampling import base_new_split, sample_few_shot


__all__ = ["base_new_split", "sample_few_shot"]
