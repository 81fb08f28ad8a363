"""Tests on validation pictures during training, which tell the best step and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

import torch


def best_step(accuracies: Mapping[int, float]) -> int:
    """
    Find the best test.

    Args:
        accuracies: accuracy by the number of steps done, in the order of the steps.

    Returns:
        The number of steps after which it was made; of equal tests, that of the first.
    """
    return max(accuracies, key=accuracies.__getitem__)


class Validation:
    """
    Tests on validation pictures during training. Its state belongs to a checkpoint.

    Args:
        measure: tests the parameters as they are now: their accuracy in percent.
        parameters: the parameters that are learned, by name.
        every: optimizer steps between two tests. The last step is tested, too.
        keeps_best: whether the parameters of the best test replace those of the last step. Of equal tests the first is
            the best.
        patience: number of tests in a row that are not better than the best one, after which training stops; None: it
            does not stop early.

    Attributes:
        accuracies: accuracy in percent by the number of steps done.
    """

    def __init__(
        self,
        measure: Callable[[], float],
        parameters: Mapping[str, torch.Tensor],
        every: int,
        keeps_best: bool = False,
        patience: Optional[int] = None,
    ):
        self._measure = measure
        self._parameters = parameters
        self._every = every
        self._keeps_best = keeps_best
        self._patience = patience
        self._best: dict[str, torch.Tensor] = {}
        self.accuracies: dict[int, float] = {}

    def is_due(self, step: int, is_last: bool) -> bool:
        """
        Tell whether to test.

        Args:
            step: number of optimizer steps done.
            is_last: whether no further step is planned.
        """
        return is_last or step % self._every == 0

    def test(self, step: int) -> float:
        """
        Test the parameters, and remember them if they are the best so far and will be kept.

        Args:
            step: number of optimizer steps done.

        Returns:
            The accuracy in percent.
        """
        self.accuracies[step] = self._measure()
        if self._keeps_best and self.best_step == step:
            self._best = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        return self.accuracies[step]

    @property
    def best_step(self) -> int:
        """The number of steps after which the best test was made."""
        return best_step(self.accuracies)

    @property
    def kept_step(self) -> int:
        """The number of steps after which the parameters were learned that `finish` leaves."""
        return self.best_step if self._keeps_best else max(self.accuracies)

    @property
    def stops(self) -> bool:
        """Whether training stops, because the latest tests were not better."""
        if self._patience is None or not self.accuracies:
            return False
        best = self.best_step
        return sum(step > best for step in self.accuracies) >= self._patience

    @torch.no_grad()
    def finish(self) -> None:
        """After training, give the parameters their best values, if these are kept."""
        for name, values in self._best.items():
            self._parameters[name].copy_(values)

    def state_dict(self) -> dict[str, Any]:
        """The accuracies, and the best parameters; `accelerate` saves them."""
        return {"accuracies": self.accuracies, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        self.accuracies, self._best = dict(state["accuracies"]), dict(state["best"])
