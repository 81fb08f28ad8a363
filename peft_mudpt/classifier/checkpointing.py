"""Gradient checkpointing of the model in a classifier, by the names that `Trainer` calls."""

from __future__ import annotations

from typing import Any, Optional


class Checkpointed:
    """
    A module whose gradient checkpointing is that of its model.

    Attributes:
        model: the model.
    """

    model: Any

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Optional[dict[str, Any]] = None, **options
    ) -> None:
        """
        Turn gradient checkpointing on in the model, as `Trainer` does with `gradient_checkpointing=True`. It saves
        memory: the backward pass computes the activations of each layer again.

        Args:
            activation_checkpointing_kwargs: arguments for `torch.utils.checkpoint.checkpoint`.
            **options: what the model's own method takes beside them.
        """
        # older releases of transformers have only the other name
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        (enable or self.model.gradient_checkpointing_enable)(activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Turn gradient checkpointing off in the model."""
        disable = getattr(self.model, "activation_checkpointing_disable", None)
        (disable or self.model.gradient_checkpointing_disable)()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Optional[dict[str, Any]] = None, **options
    ) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """The older name of `activation_checkpointing_disable`."""
        self.activation_checkpointing_disable()
