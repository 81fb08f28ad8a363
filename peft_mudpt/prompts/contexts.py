"""Text prompts of the input that have a number: those of classes (CoOp) or of domains (Fed-DPT)."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Optional, Union

import torch
from torch import nn


class Contexts(nn.Module):
    """
    Text prompts of the input, of which a condition chooses those of each text by their number.

    Attributes:
        of: what the prompts belong to, in messages.
        contexts: the learned prompts, class by class or domain by domain.
    """

    of: ClassVar[str]
    contexts: Union[nn.Parameter, nn.ParameterList]

    def __len__(self) -> int:
        """Number of classes or domains."""
        return len(self.contexts)

    @property
    @abstractmethod
    def table(self) -> torch.Tensor:
        """All prompts (K, n, d), n tokens for each of the K classes or domains."""

    def forward(self, numbers: Optional[torch.Tensor]) -> torch.Tensor:
        """
        The prompts (B, n, d) of texts with these numbers (B,), counted from 0; None: those of number 0, (1, n, d).

        Raises:
            ValueError: if the numbers are no whole numbers of this range.
        """
        if numbers is None:
            return self.table[:1].clone()
        if not isinstance(numbers, torch.Tensor) or numbers.dim() != 1 or numbers.dtype != torch.long:
            given = (
                f"{tuple(numbers.shape)} of {numbers.dtype}" if isinstance(numbers, torch.Tensor) else type(numbers)
            )
            raise ValueError(
                f"The {self.of} of the texts (mudpt_condition) are {given}, but must be (texts,) of int64."
            )
        if not torch.compiler.is_compiling() and not (0 <= numbers.min() and numbers.max() < len(self)):
            raise ValueError(
                f"The {self.of} of the texts (mudpt_condition) are between {numbers.min()} and {numbers.max()}, but "
                f"the adapter has contexts of {len(self)} {self.of}, counted from 0."
            )
        return self.table[numbers]


class ClassContexts(Contexts):
    """
    Text prompts of the input for each class (CoOp's class-specific contexts, arXiv 2109.01134, section 3.2).

    Args:
        num_classes: number of classes (C).
        num_tokens: number of tokens (n).
        width: width (d) of the text tower.
        std: standard deviation of the initial numbers.
    """

    of = "classes"
    contexts: nn.Parameter  # (C, n, d)

    def __init__(self, num_classes: int, num_tokens: int, width: int, std: float):
        super().__init__()
        self.contexts = nn.Parameter(torch.randn(num_classes, num_tokens, width) * std)

    @property
    def table(self) -> torch.Tensor:
        return self.contexts


class DomainContexts(Contexts):
    """
    Text prompts of the input for each domain (Fed-DPT, arXiv 2310.03103). Each domain has a parameter of its own,
    because a client trains and sends only that of its domain.

    Args:
        num_domains: number of domains (K).
        num_tokens: number of tokens (n).
        width: width (d) of the text tower.
        std: standard deviation of the initial numbers.
    """

    of = "domains"
    contexts: nn.ParameterList  # K of (n, d)

    def __init__(self, num_domains: int, num_tokens: int, width: int, std: float):
        super().__init__()
        self.contexts = nn.ParameterList(torch.randn(num_tokens, width) * std for _ in range(num_domains))

    @property
    def table(self) -> torch.Tensor:
        return torch.stack(list(self.contexts))
