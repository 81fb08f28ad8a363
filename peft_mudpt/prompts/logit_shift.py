"""The learned shift of a model's logit scale, and of SigLIP's logit bias."""

from __future__ import annotations

from typing import Optional

import torch
from torch import nn

from ..config import MuDPTConfig


class LogitShift(nn.Module):
    """
    What an adapter adds to the two numbers by which a model makes logits from a cosine. With the model's own scale s
    (the logarithm of a factor) and bias b (0 in a CLIP), and the shifts v and w, the logits become

        exp(s + v) * cosine + b + w

    Both shifts start from 0, which is the model itself, and weight decay draws them back there.

    Args:
        config: says which of them are learned, and whether they are constants (`folded`).

    Attributes:
        scale, bias: v and w, of shape (1,), because FSDP shards no tensor without an axis; None if not learned.
    """

    scale: Optional[torch.Tensor]
    bias: Optional[torch.Tensor]

    def __init__(self, config: MuDPTConfig):
        super().__init__()
        for name, learned in (("scale", config.learn_logit_scale), ("bias", config.learn_logit_bias)):
            if config.folded:
                self.register_buffer(name, torch.zeros(1) if learned else None)
            else:
                self.register_parameter(name, nn.Parameter(torch.zeros(1)) if learned else None)

    def forward(self) -> torch.Tensor:
        """The shifts (2,) of the scale and of the bias; 0 for one that is not learned."""
        like = self.scale if self.scale is not None else self.bias
        assert like is not None, "made only if one of them is learned"
        return torch.cat([torch.zeros_like(like) if shift is None else shift for shift in (self.scale, self.bias)])
