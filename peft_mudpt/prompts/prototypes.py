"""
Chooses tokens of pictures as prototypes, from which vision prompts start (SPT, "Revisiting the Power of Prompt for
Visual Tuning", arXiv 2402.02382). It does not depend on towers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import torch

from ..config import PromptInitialization


POOLS: dict[PromptInitialization, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean_pool": lambda window: window.mean(dim=1),  # (B, w, d) -> (B, d)
    "max_pool": lambda window: window.amax(dim=1),
}
TOKENS_PER_CENTER = 256  # so many tokens of each layer are clustered for each prompt
MOST_ITERATIONS = 100  # of k-means; it ends before if no token changes its cluster


def windows(tokens: torch.Tensor, n: int) -> tuple[torch.Tensor, ...]:
    """
    Cut the L tokens of each picture into n consecutive windows.

    The published windows have w = L // (n - 1) tokens, and the last one the L mod w tokens at the end. If L is a
    multiple of w, that last window would be empty (in the published code it becomes the whole picture); the windows
    are then nearly equal, the longer ones first. For n = 1, the window is the whole picture.

    Args:
        tokens: (B, L, d), L at least n.
        n: number of windows.

    Returns:
        n views (B, w, d) of the tokens, w differing between them.
    """
    length = tokens.shape[1]
    w = length // (n - 1) if n > 1 else 1
    if length % w == 0:
        return tokens.tensor_split(n, dim=1)
    return *(tokens[:, j * w : (j + 1) * w] for j in range(n - 1)), tokens[:, length - length % w :]


class Reservoir:
    """
    Keeps a uniform sample, without replacement, of all rows that it was given. It holds `size` rows, however many it
    was given, and the sample does not depend on how they were divided into calls.

    Args:
        size: number of rows to keep.
        generator: random numbers. One key is drawn for each row; the rows with the least keys are kept.

    Attributes:
        rows: the rows (at most size, d) kept so far, in random order; None before the first call.
    """

    def __init__(self, size: int, generator: torch.Generator):
        self.size, self.generator = size, generator
        self.rows: Optional[torch.Tensor] = None
        self._keys = torch.empty(0, dtype=torch.float64, device=generator.device)

    def add(self, rows: torch.Tensor) -> None:
        """Offer more rows (m, d)."""
        new = torch.rand(len(rows), dtype=torch.float64, device=self.generator.device, generator=self.generator)
        keys = torch.cat([self._keys, new])
        rows = rows if self.rows is None else torch.cat([self.rows, rows])
        self._keys, kept = keys.topk(min(self.size, len(keys)), largest=False)  # sorted
        self.rows = rows[kept.to(rows.device)]


def cluster_centers(tokens: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """
    Compute the n centers of k-means: Lloyd's algorithm, started by k-means++ (Arthur and Vassilvitskii, 2007).

    Args:
        tokens: (m, d).
        n: number of centers.
        generator: random numbers for the start.

    Returns:
        The centers (n, d) in float32, on the generator's device. A center to which no token belongs, because there are
        fewer than n distinct tokens, equals one of the tokens.
    """
    tokens = tokens.to(generator.device, torch.float32)
    distances = torch.ones(len(tokens), device=tokens.device)  # squared, to the nearest center
    chosen: list[torch.Tensor] = []
    for _ in range(n):
        weights = distances if distances.any() else torch.ones_like(distances)
        chosen.append(tokens[torch.multinomial(weights, 1, generator=generator)])  # (1, d)
        nearest = _distances(tokens, torch.cat(chosen)).amin(dim=1)  # (m,)
        distances = nearest.square()
    centers, labels = torch.cat(chosen), None
    for _ in range(MOST_ITERATIONS):
        before, labels = labels, _distances(tokens, centers).argmin(dim=1)  # (m,)
        if before is not None and torch.equal(before, labels):
            break
        sums = torch.zeros_like(centers).index_add_(0, labels, tokens)
        counts = torch.bincount(labels, minlength=n)[:, None]  # (n, 1)
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return centers


def _distances(tokens: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Distances (m, n). Not by a matrix product, which is not exact enough to find equal tokens."""
    return torch.cdist(tokens, centers, compute_mode="donot_use_mm_for_euclid_dist")


class Prototypes:
    """
    Chooses n prototypes for one layer from a stream of tokens, in bounded memory.

    The candidates are all tokens (`random`, `kmeans`), or one pooled token for each of n windows of each picture
    (`mean_pool`, `max_pool`). The prototypes are n of the candidates, drawn without replacement. For `kmeans` they are
    the centers of `TOKENS_PER_CENTER` * n tokens that are drawn in this way.

    Args:
        method: how they are chosen.
        n: number of prototypes.
        generator: random numbers.
    """

    def __init__(self, method: PromptInitialization, n: int, generator: torch.Generator):
        self.method, self.n, self.generator = method, n, generator
        self._sample = Reservoir(n * TOKENS_PER_CENTER if method == "kmeans" else n, generator)

    def add(self, tokens: torch.Tensor) -> None:
        """
        Offer the tokens (B, L, d) of B pictures.

        Raises:
            ValueError: if a picture has fewer tokens than there are windows.
        """
        if self.method in POOLS:
            if tokens.shape[1] < self.n:
                raise ValueError(
                    f"method={self.method!r} cuts the {tokens.shape[1]} tokens of a picture into one window for each "
                    f"of the {self.n} prompts. Use at most {tokens.shape[1]} prompts, or method='random'."
                )
            tokens = torch.stack([POOLS[self.method](window) for window in windows(tokens, self.n)], dim=1)
        self._sample.add(tokens.flatten(0, 1))  # (B, m, d) -> (B * m, d)

    def choose(self) -> torch.Tensor:
        """
        The prototypes (n, d).

        Raises:
            ValueError: if there were fewer candidates than prototypes.
        """
        sample = self._sample.rows
        number = 0 if sample is None else len(sample)
        if sample is None or number < self.n:
            raise ValueError(
                f"The pictures have only {number} tokens to choose from, but the adapter has {self.n} vision prompts "
                "per layer. Give more pictures (dataloader, num_images)."
            )
        return cluster_centers(sample, self.n, self.generator) if self.method == "kmeans" else sample
