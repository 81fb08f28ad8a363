"""The inverse projection of SDPT: maps tokens of the attention space back to a stream. It has nothing to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import nn

from ..towers.base import part


FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class InverseProjection(nn.Module):
    """
    Pseudo-inverses of linear maps x -> x W^T + b, one per fusion layer, with W (D, d):

        P = (U - b) pinv(W^T)

    With D > d, projecting P again gives the part of U that the projection can reach: for random U, about sqrt(1 - d/D)
    of its norm is lost. The pseudo-inverses are computed in float64 from the weights as they are now, then kept in
    float32. They are constants: not trained, not saved, and not cast with the model. If the projections change
    afterwards, because they are trained or an adapter is merged into them, P no longer fits.

    Args:
        projections: the linear maps, from d to D channels each.
        rcond: singular values below `rcond` times the largest one count as zero; None: rounding errors alone.

    Raises:
        ValueError: if a weight is quantized.
    """

    inverse: torch.Tensor
    shift: torch.Tensor

    def __init__(self, projections: Sequence[nn.Module], rcond: Optional[float] = None) -> None:
        super().__init__()
        for projection in projections:
            check_invertible(projection)
        inverses, shifts = zip(*(_inverse_and_shift(projection, rcond) for projection in projections))
        self.register_buffer("inverse", torch.stack(inverses), persistent=False)  # (layers, D, d)
        self.register_buffer("shift", torch.stack(shifts), persistent=False)  # (layers, D)

    def forward(self, layer: int, prototypes: torch.Tensor) -> torch.Tensor:
        """
        Map prototypes to a stream.

        Args:
            layer: position in the list of projections.
            prototypes: U (K, D).

        Returns:
            Prompts P (K, d) in float32.

        Raises:
            ValueError: if the weights had no numbers yet when the inverse was computed.
        """
        if self.inverse.is_meta and not prototypes.is_meta:
            raise ValueError(
                "The inverse projections have no numbers, because the base model's weights were on the device 'meta' "
                "(not loaded, or offloaded) when the adapter was added. Load the weights first, then add the adapter."
            )
        with torch.autocast(prototypes.device.type, enabled=False):
            return (prototypes.float() - self.shift[layer]) @ self.inverse[layer]  # (K, D) -> (K, d)

    def _apply(self, fn, recurse=True):
        # Moved with the model, but not cast, since half precision is too coarse. On "meta" they stay there: to_empty
        # would give them arbitrary numbers.
        kept = {"inverse": self.inverse, "shift": self.shift}
        super()._apply(fn, recurse)
        for name, constant in kept.items():
            setattr(self, name, constant if constant.is_meta else constant.to(getattr(self, name).device))
        return self


def check_invertible(projection: nn.Module) -> None:
    """Raise a ValueError if the weight of a linear map is quantized: the numbers that it stands for are packed."""
    weight: Any = getattr(projection, "weight", None)
    if type(weight) not in (torch.Tensor, nn.Parameter) or weight.dtype not in FLOATING:
        found = "no weight" if weight is None else f"a weight of {type(weight).__name__} and {weight.dtype}"
        raise ValueError(
            f"A fusion layer's projection ({type(projection).__name__}) has {found}: SDPT inverts it, which needs "
            "plain floating-point numbers. Leave the fusion layers out of the quantization."
        )


def _inverse_and_shift(projection: nn.Module, rcond: Optional[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """pinv(W^T) (D, d) and b (D,) in float32, from a linear map."""
    weight, bias = part(projection, "weight").detach(), part(projection, "bias")
    if weight.is_meta:
        inverse = weight.float()
    else:
        # on the CPU, so that the same weights give the same numbers on every device
        inverse = torch.linalg.pinv(weight.cpu().double().T, rtol=rcond).float().to(weight.device)
    return inverse, inverse.new_zeros(len(weight)) if bias is None else bias.detach().float()
