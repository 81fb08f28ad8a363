"""The few-shot lab: data, draws, protocols, peers, training and results of one experiment, each in a room of its own."""

from .sampling import base_new_split, sample_few_shot


__all__ = ["base_new_split", "sample_few_shot"]
