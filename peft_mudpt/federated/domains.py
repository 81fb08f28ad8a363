"""What belongs to one domain in the arrays of an adapter (Fed-DPT, arXiv 2310.03103), and the rules for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Optional

import torch

from ..layer import layer_of
from .arrays import Arrays


_CONTEXT = re.compile(r"(?:^|\.)domain_contexts\.contexts\.(\d+)$")


def domain_of(name: str) -> Optional[int]:
    """The domain to which an array belongs, counted from 0; None: to all."""
    found = _CONTEXT.search(name)
    return None if found is None else int(found[1])


def number_of_domains(names: Iterable[str]) -> int:
    """How many domains have arrays of their own; 0 for an adapter without domains."""
    return len({domain for domain in map(domain_of, names) if domain is not None})


def sent_arrays(arrays: Mapping[str, torch.Tensor], domain: int) -> Arrays:
    """What a client of a domain sends: the arrays that belong to its domain or to all, not those of other domains."""
    return {name: tensor for name, tensor in arrays.items() if domain_of(name) in (None, domain)}


def train_only_domain(model: torch.nn.Module, domain: int) -> None:
    """
    Let training change the context of one domain and what all domains share, in the active adapter. Adapters without
    domains stay as they are. Call it before each training, because PEFT's `disable_adapter` makes all parameters of
    the adapter trainable again when it ends.

    Args:
        model: a CLIP with an adapter.
        domain: the domain, counted from 0.

    Raises:
        ValueError: if the adapter has no such domain.
    """
    layer = layer_of(model)
    prompts = None if layer is None or layer.active_name is None else layer.adapters[layer.active_name]
    contexts = getattr(prompts, "domain_contexts", None)
    if contexts is None:
        return
    if not 0 <= domain < len(contexts):
        raise ValueError(f"There is no domain {domain}: the adapter has {len(contexts)} domains, counted from 0.")
    for number, context in enumerate(contexts.contexts):
        context.requires_grad_(number == domain)


def follow(slow: Mapping[str, torch.Tensor], latest: Mapping[str, torch.Tensor], momentum: float) -> Arrays:
    """
    Let slow copies of contexts follow the latest ones: momentum * slow + (1 - momentum) * latest.

    Args:
        slow: the copies.
        latest: the latest contexts, of the same names.
        momentum: from 0, the copies become the latest contexts, to 1, they stay.

    Returns:
        The new copies.
    """
    return {name: momentum * copy + (1 - momentum) * latest[name] for name, copy in slow.items()}
