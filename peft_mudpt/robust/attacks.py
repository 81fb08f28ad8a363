"""Attacks by projected gradient ascent (PGD; Madry et al., arXiv 1706.06083) on the pixels of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div

from ..rules import number, one_of
from .pixels import Normalization
from .target import LARGEST_EPS, LINF, Target, check_budget, fixed


EMBEDDING_KL, CROSS_ENTROPY = "embedding_kl", "cross_entropy"
POSITIVE, SYMMETRIC, NONE = "positive", "symmetric", "none"

# (B,): what the attack raises, for each picture, as a function of the pixels (B, 3, H, W)
Objective = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PGD:
    """
    An attack: it changes each picture within a distance `eps` so that an objective rises.

    The defaults are those by which AdvPT makes its training pictures (arXiv 2311.11261). An attack that knows the
    labels and the prompts, `objective="cross_entropy"`, is the one to measure robustness by.

    Args:
        eps: largest distance to the picture, for pixels in [0, 1]: of each pixel if `norm` is "linf", and of the
            picture as a vector if it is "l2".
        steps: number of steps.
        norm: "linf" or "l2".
        objective: "embedding_kl" is the Kullback-Leibler divergence of the softmax of the image's embedding, not
            normalized, from that of the clean image; it needs neither labels nor texts, so that it cannot know the
            prompts of a text tower. "cross_entropy" is the loss of the classifier, which knows labels and prompts.
        step_size: length of a step, in the units of `eps`; None: 1.25 * eps / steps.
        start: where the first step starts: "positive", at a random distance in [0, eps] above each pixel; "symmetric",
            in [-eps, eps]; "none", at the picture itself. For "l2" the start is random in the ball, and "positive" in
            the part of it where no pixel is below the picture's.
        restarts: number of attacks, each from another start. For each picture, the one with the highest objective
            counts.
        seed: seed of the starts.

    Raises:
        ValueError: if a value is out of range, or if `objective` is "embedding_kl" and `start` "none", where the
            gradient is 0.
    """

    eps: float = 8 / 255
    steps: int = 10
    norm: str = LINF
    objective: str = EMBEDDING_KL
    step_size: Optional[float] = None
    start: str = POSITIVE
    restarts: int = 1
    seed: int = 0

    def __post_init__(self):
        one_of(EMBEDDING_KL, CROSS_ENTROPY).check(self.objective, "objective")
        one_of(POSITIVE, SYMMETRIC, NONE).check(self.start, "start")
        check_budget(self.norm, self.eps, self.steps, self.restarts, self.seed)
        if self.step_size is not None:
            number(0, LARGEST_EPS[self.norm]).check(self.step_size, "step_size")
        if self.objective == EMBEDDING_KL and self.start == NONE:
            raise ValueError(
                "start='none' does not fit objective='embedding_kl': the divergence from the clean image has no "
                "gradient at the clean image. Choose 'positive' or 'symmetric'."
            )
        if self.start == NONE and self.restarts > 1:
            raise ValueError(f"restarts={self.restarts} would all start at the picture itself. Choose another start.")

    @property
    def length(self) -> float:
        """The length of a step, in the units of `eps`."""
        return 1.25 * self.eps / self.steps if self.step_size is None else self.step_size

    def as_dict(self) -> dict[str, Any]:
        """The arguments by name, as plain values."""
        return {**asdict(self), "step_size": self.length}

    def __call__(
        self,
        target: Target,
        normalization: Normalization,
        pixels: torch.Tensor,
        labels: Optional[torch.Tensor] = None,
        positions: Optional[Sequence[int]] = None,
    ) -> torch.Tensor:
        """
        Attack pictures.

        The target computes without dropout and without a gradient of its own: no parameter gets one.

        Args:
            target: a classifier; or a CLIP, plain or with an adapter, if the objective is "embedding_kl".
            normalization: that of the target's image processor.
            pixels: N pictures (N, 3, H, W) in [0, 1].
            labels: their classes (N,), for the objective "cross_entropy".
            positions: N numbers. A picture's random start depends on the seed and its number only, so that the size of
                the batches does not matter if it is the position in a data set. None: 0, 1, 2, ...

        Returns:
            The attacked pictures (N, 3, H, W) in float32, in [0, 1], no further than `eps` from the given ones.

        Raises:
            ValueError: if pixels are not in [0, 1], or if the labels or the target do not fit the objective.
        """
        with fixed(target, normalization, pixels) as model:
            clean = model.clean
            if not len(clean):
                return clean
            if self.objective == EMBEDDING_KL:
                objective = _divergence(model.image_features, clean)
            else:
                objective = _loss(model.logits, model.checked_labels(labels, "objective='cross_entropy'"))
            numbers = range(len(clean)) if positions is None else positions
            starts = (self._noise(clean, restart, numbers) for restart in range(self.restarts))
            attempts = [self._ascend(objective, clean, start) for start in starts]
            if len(attempts) == 1:
                return attempts[0]
            with torch.no_grad():
                best = torch.stack([objective(attacked) for attacked in attempts]).argmax(dim=0)  # (N,)
            return torch.stack(attempts)[best, torch.arange(len(clean), device=clean.device)]

    def _ascend(self, objective: Objective, clean: torch.Tensor, noise: Optional[torch.Tensor]) -> torch.Tensor:
        # the start is not cut to [0, 1], as in AdvPT's code; what each step returns is
        attacked = clean if noise is None else clean + noise
        for _ in range(self.steps):
            with torch.enable_grad():
                attacked = attacked.detach().requires_grad_()
                # the sum, so that a picture's gradient does not depend on the others of its batch
                (gradient,) = torch.autograd.grad(objective(attacked).sum(), attacked)
            moved = attacked.detach() + self.length * _direction(gradient, self.norm)
            attacked = (clean + _projected(moved - clean, self.eps, self.norm)).clamp(0, 1)
        return attacked

    def _noise(self, clean: torch.Tensor, restart: int, numbers: Sequence[int]) -> Optional[torch.Tensor]:
        """The distance (N, 3, H, W) of the start from the clean pictures; None if it starts there."""
        if self.start == NONE:
            return None
        shape = tuple(clean.shape[1:])
        generators = [
            np.random.default_rng([self.seed, restart, number]) for _, number in zip(clean, numbers, strict=True)
        ]
        if self.norm == LINF:
            noise = np.stack([rng.random(shape, dtype=np.float32) for rng in generators])
            noise = noise if self.start == POSITIVE else 2 * noise - 1
            return torch.from_numpy(noise).to(clean.device) * self.eps
        # uniform in the ball: a uniform direction, and a radius whose power of the dimension is uniform
        drawn = [(rng.standard_normal(shape, dtype=np.float32), rng.random()) for rng in generators]
        radii = [radius ** (1 / math.prod(shape)) for _, radius in drawn]
        noise = np.stack([r * v / np.linalg.norm(v) for (v, _), r in zip(drawn, radii)]).astype(np.float32)
        noise = np.abs(noise) if self.start == POSITIVE else noise
        return torch.from_numpy(noise).to(clean.device) * self.eps


def _divergence(features: Callable[[torch.Tensor], torch.Tensor], clean: torch.Tensor) -> Objective:
    """The Kullback-Leibler divergence of the softmax of the features from that of the clean pictures'."""

    def log_shares(pixels: torch.Tensor) -> torch.Tensor:
        return features(pixels).float().log_softmax(dim=-1)  # (B, D)

    with torch.no_grad():
        expected = log_shares(clean)
    return lambda pixels: kl_div(log_shares(pixels), expected, log_target=True, reduction="none").sum(dim=-1)


def _loss(logits: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor) -> Objective:
    """The cross-entropy with the labels."""
    return lambda pixels: cross_entropy(logits(pixels).float(), labels, reduction="none")


def _direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The step of length 1 in the norm that raises a linear function most."""
    if norm == LINF:
        return gradient.sign()
    return gradient / _lengths(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def _projected(distance: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """The nearest point of the ball around 0 with radius `eps`."""
    if norm == LINF:
        return distance.clamp(-eps, eps)
    return distance * (eps / _lengths(distance).clamp_min(torch.finfo(distance.dtype).tiny)).clamp_max(1)


def _lengths(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
