"""Averages the learned parameters over the epochs of a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Averaging:
    """
    The Gaussian that weights the epochs of a run (PromptSRC, arXiv 2307.06948, section 3.2.2).

    Args:
        mean: center of the Gaussian, in epochs; epoch 1 is the first.
        std: standard deviation of the Gaussian, in epochs; more than 0.

    Raises:
        ValueError: if a value is not finite, or `std` is not more than 0.
    """

    mean: float
    std: float

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"Found mean={self.mean} and std={self.std} for the average over epochs. Give a finite mean, and a "
                "finite std of more than 0, both in epochs."
            )

    def epoch_weights(self, epochs: int) -> torch.Tensor:
        """
        The weight of each epoch.

        Args:
            epochs: number of epochs of the run.

        Returns:
            The weights (epochs,) in float64. Their sum is 1, even if the mean is far outside of the run.
        """
        epoch = torch.arange(1, epochs + 1, dtype=torch.float64)
        return torch.softmax(-((epoch - self.mean) ** 2) / (2 * self.std**2), dim=0)

    def step_weights(self, steps: int, pictures_per_step: int, pictures: int) -> dict[int, float]:
        """
        The weight of the parameters after each optimizer step. Epoch e ends at the step at which e times the number of
        training pictures has been seen; the last epoch ends with the run, even if the run ends within it.

        Args:
            steps: number of optimizer steps of the run.
            pictures_per_step: pictures of one step, over all processes and accumulated forward passes.
            pictures: number of training pictures.

        Returns:
            The weights by step, 1 being the first. Steps that end no epoch are left out.
        """
        epochs = epochs_of(steps, pictures_per_step, pictures)
        weights: dict[int, float] = defaultdict(float)  # of few pictures, a step may end several epochs
        for epoch, weight in enumerate(self.epoch_weights(epochs).tolist(), start=1):
            weights[min(steps, math.ceil(epoch * pictures / pictures_per_step))] += weight
        return dict(weights)


def epochs_of(steps: int, pictures_per_step: int, pictures: int) -> int:
    """
    Count the epochs of a run.

    Args:
        steps: number of optimizer steps of the run.
        pictures_per_step: pictures of one step, over all processes and accumulated forward passes.
        pictures: number of training pictures.

    Returns:
        The number of epochs; the last one may be incomplete.
    """
    return math.ceil(steps * pictures_per_step / pictures)


class RunningAverage:
    """
    A weighted average of parameters over optimizer steps, which replaces the parameters after the last of these steps.
    It keeps one running sum, and is saved in checkpoints.

    Args:
        parameters: the parameters to average, by name.
        step_weights: weight of the parameters after each step (see `Averaging.step_weights`).
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], step_weights: Mapping[int, float]):
        self.parameters = parameters
        self.step_weights = step_weights
        self.last_step = max(step_weights)
        # half precision would lose the small terms of the sum
        self.sums = {
            name: torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
            for name, tensor in parameters.items()
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """
        Add the parameters to the average, and replace them by it if this was the last step.

        Args:
            step: number of optimizer steps done.
        """
        if step not in self.step_weights:
            return
        for name, parameter in self.parameters.items():
            self.sums[name].add_(parameter, alpha=self.step_weights[step])
            if step == self.last_step:
                parameter.copy_(self.sums[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The running sums by name; `accelerate` saves them."""
        return self.sums

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Set the running sums to those that `state_dict` returned."""
        for name, total in self.sums.items():
            total.copy_(state[name])
