"""Sets of classes that hold the true class as often as stated: split conformal prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..rules import Rule


COVERAGE = Rule("a number above 0 and below 1", lambda value: isinstance(value, float) and 0 < value < 1)


def class_scores(logits: torch.Tensor) -> torch.Tensor:
    """
    The score of each class for each picture: the log-odds log(p / (1 - p)) of its probability p. They order classes as
    p does, which is LAC's score (Sadinle, Lei and Wasserman 2019, arXiv 1609.00451), but do not round to the same
    number where p is close to 1.

    Args:
        logits: logits (N, C) for N pictures and at least two classes.

    Returns:
        The scores (N, C) in float64.
    """
    logits = logits.double()
    best = logits.argmax(dim=-1, keepdim=True)  # (N, 1)
    without_best = logits.scatter(-1, best, -torch.inf).logsumexp(dim=-1, keepdim=True)  # (N, 1)
    log_p = logits.log_softmax(dim=-1)
    scores = log_p - torch.log1p(-log_p.exp())  # for p <= 1/2, which the best class may exceed
    return scores.scatter(-1, best, logits.gather(-1, best) - without_best)


def least_pictures(coverage: float) -> int:
    """
    The number of held-out pictures that a coverage needs.

    Args:
        coverage: the stated coverage, between 0 and 1.

    Returns:
        The smallest n with ceil((n + 1) coverage) <= n, such as 9 for 0.9.
    """
    n = max(1, math.ceil(coverage / (1 - coverage)) - 1)  # a neighbor of the answer, whatever was rounded
    return n if _rank(n, coverage) <= n else n + 1


@dataclass(frozen=True)
class ConformalSets:
    """
    Finds for each picture the classes that its label may be, so that the set holds the label of a new picture with at
    least the stated probability: split conformal prediction (Papadopoulos et al. 2002; Vovk, Gammerman and Shafer
    2005). This holds for any classifier, if the new pictures and the held-out ones come from the same distribution.

    Args:
        coverage: the stated coverage, between 0 and 1.
        thresholds: the score (C,) that a class needs to be in a set.
        own: for each class, whether its threshold comes from its own pictures only, so that the coverage holds for
            pictures of this class too. The thresholds of other classes come from all their pictures together.
    """

    coverage: float
    thresholds: torch.Tensor
    own: tuple[bool, ...]

    @classmethod
    def fit(cls, scores: Sequence[Sequence[float]], coverage: float = 0.9, per_class: bool = False) -> ConformalSets:
        """
        Choose the thresholds.

        Args:
            scores: for each class, the scores of it for its held-out pictures (see `class_scores`).
            coverage: the stated coverage, between 0 and 1.
            per_class: give each class that has enough pictures (`least_pictures`) a threshold of its own. The other
                classes share one. Then the coverage holds in each of these groups.

        Returns:
            The sets, as a function of logits.

        Raises:
            ValueError: if the coverage is out of range, or needs more pictures than there are.
        """
        COVERAGE.check(coverage, "coverage")
        needed = least_pictures(coverage)
        own = tuple(per_class and len(of_class) >= needed for of_class in scores)
        if per_class and not any(own):
            raise ValueError(
                f"coverage={coverage} per class needs {needed} held-out pictures of a class, but no class has more "
                f"than {max(map(len, scores))}. Hold out more pictures, ask for less coverage, or not per class."
            )
        shared = [score for of_class, alone in zip(scores, own) if not alone for score in of_class]
        if not all(own) and len(shared) < needed:
            which = f"the classes with fewer ({own.count(False)})" if any(own) else "all classes"
            raise ValueError(
                f"coverage={coverage} needs {needed} held-out pictures, but {which} have {len(shared)} together. Hold "
                "out more pictures, or ask for less coverage."
            )
        of_others = -math.inf if all(own) else _threshold(shared, coverage)
        chosen = [_threshold(of_class, coverage) if alone else of_others for of_class, alone in zip(scores, own)]
        return cls(coverage, torch.tensor(chosen, dtype=torch.float64), own)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """
        Find the set of each picture.

        Args:
            logits: logits (N, C) of N pictures, of the classifier for which the sets were fitted.

        Returns:
            A mask (N, C): whether the class is in the set. A set may be empty, mostly if the classifier is right more
            often than the stated coverage.
        """
        return class_scores(logits) >= self.thresholds.to(logits.device)


def _rank(n: int, coverage: float) -> int:
    """The rank of the threshold among n scores, from the highest; 0.9 * 10 may be a little more than 9."""
    return math.ceil(round((n + 1) * coverage, 9))


def _threshold(scores: Sequence[float], coverage: float) -> float:
    return sorted(scores, reverse=True)[_rank(len(scores), coverage) - 1]
