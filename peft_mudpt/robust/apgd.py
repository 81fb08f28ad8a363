"""AutoAttack's parameter-free attack APGD (Croce and Hein, arXiv 2003.01690), computed by a library (ART)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Optional

import numpy as np
import torch

from ..optional import install
from ..rules import one_of
from .pixels import Normalization
from .target import LINF, FixedTarget, Target, check_budget, fixed


ART = "adversarial-robustness-toolbox"
CE, DLR = "ce", "dlr"
LOSSES = {CE: "cross_entropy", DLR: "difference_logits_ratio"}  # their names in ART
CLEAR_LEAD = 0.01  # difference of logits that rounding, which depends on the size of a batch, does not reverse
FEWEST_CLASSES = {CE: 2, DLR: 3}  # the ratio divides by the difference of the first and the third logit


@dataclass(frozen=True)
class APGD:
    """
    An attack that chooses the length of its steps itself. It knows the labels and the prompts.

    Because its code is not ours and nothing in it is tuned, it is the judge of attacks such as `PGD`. It needs
    `pip install "peft_mudpt[robust]"`. It attacks one picture at a time, so that it is slower than `PGD`.

    Args:
        eps: largest distance to the picture, for pixels in [0, 1]: of each pixel if `norm` is "linf", and of the
            picture as a vector if it is "l2".
        steps: number of steps.
        norm: "linf" or "l2".
        loss: what it raises: "ce" is the cross-entropy; "dlr" the difference of logits ratio, which does not change
            if the logits are multiplied by a number. "dlr" needs 3 classes.
        restarts: number of attacks, each from another start. A picture that is misclassified is not attacked again.
        seed: seed of the starts.

    Raises:
        ValueError: if a value is out of range.
        ImportError: if ART is not installed.
    """

    eps: float = 8 / 255
    steps: int = 100
    norm: str = LINF
    loss: str = CE
    restarts: int = 1
    seed: int = 0

    def __post_init__(self):
        one_of(CE, DLR).check(self.loss, "loss")
        check_budget(self.norm, self.eps, self.steps, self.restarts, self.seed)
        try:  # not by its module's name, art, which is also that of another package
            version(ART)
        except PackageNotFoundError as error:
            raise ImportError(f"APGD needs {ART}: {install('robust')}") from error

    def as_dict(self) -> dict[str, Any]:
        """The arguments by name, as plain values."""
        return asdict(self)

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

        The target computes without dropout and without a gradient of its own: no parameter gets one. The random
        numbers of the caller, in torch and in NumPy, go on as if there had been no attack.

        Args:
            target: a classifier.
            normalization: that of the target's image processor.
            pixels: N pictures (N, 3, H, W) in [0, 1].
            labels: their classes (N,).
            positions: N numbers, as in `PGD.__call__`: a picture's random start depends on the seed and its number.

        Returns:
            The attacked pictures (N, 3, H, W) in float32, in [0, 1], no further than `eps` from the given ones. Of all
            pictures that the attack tried, it is the one whose class leads least over the best other class. The
            attack of a picture ends as soon as another class leads, so that a picture that the target misclassifies
            anyway is returned as it is.

        Raises:
            ValueError: if pixels are not in [0, 1], if the target is no classifier or has too few classes for the
                loss, or if the labels do not fit.
        """
        with fixed(target, normalization, pixels) as model, torch.enable_grad():
            clean, labels = model.clean, model.checked_labels(labels, "APGD")
            classes = model.number_of_classes
            if classes < FEWEST_CLASSES[self.loss]:
                raise ValueError(
                    f"loss={self.loss!r} needs at least {FEWEST_CLASSES[self.loss]} classes, but found {classes}."
                )
            if not len(clean) or not self.eps:
                return clean
            numbers = range(len(clean)) if positions is None else positions
            with torch.random.fork_rng(devices=[]):  # ART's data loader draws a seed, which it does not use
                watched = _Watched(model)
                attack = self._of_art(watched, classes)
                # one by one, because ART draws the starts of a batch from one generator
                each = [
                    self._worst(attack, watched, picture[None], label, number)
                    for picture, label, number in zip(clean, labels, numbers, strict=True)
                ]
            return torch.cat(each)

    def _of_art(self, watched: _Watched, classes: int) -> Any:
        from art.attacks.evasion import AutoProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        # "cpu" is where ART keeps pixels; the target stays on its own device
        estimator = PyTorchClassifier(
            watched,
            None,
            tuple(watched.model.clean.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        return AutoProjectedGradientDescent(
            estimator,
            norm=np.inf if self.norm == LINF else 2,
            eps=float(self.eps),
            eps_step=2.0 * self.eps,  # the paper's; ART's default, 0.1, does not depend on eps
            max_iter=int(self.steps),
            nb_random_init=int(self.restarts),
            loss_type=LOSSES[self.loss],
            verbose=False,
        )

    def _worst(
        self, attack: Any, watched: _Watched, picture: torch.Tensor, label: torch.Tensor, number: int
    ) -> torch.Tensor:
        """What the attack makes of one picture (1, 3, H, W)."""
        watched.begin(picture, label)
        with _numpy_seed(self.seed, number), suppress(_Misclassified):
            attack.generate(picture.cpu().numpy(), label.cpu().numpy()[None])
        return watched.worst.to(picture.device)


class _Misclassified(Exception):
    """Raised when more steps can change no accuracy; ART would go on."""


class _Watched(torch.nn.Module):
    """
    The logits (1, C) of a picture (1, 3, H, W). It keeps the picture whose label leads least over the other classes,
    and raises `_Misclassified` when another class leads.

    ART returns the last picture that it tried, which may be classified correctly although an earlier one was not; and
    a random one if the last one is classified correctly. AutoAttack's own code keeps the earlier one.
    """

    worst: torch.Tensor  # the picture itself, if no logits are numbers

    def __init__(self, model: FixedTarget):
        super().__init__()
        self.model = model
        self.label: Optional[torch.Tensor] = None

    def begin(self, picture: torch.Tensor, label: torch.Tensor) -> None:
        """Forget the last picture; the next one is this one, with this label (a 0-d tensor)."""
        self.worst, self.label, self.lead = picture, label, float("inf")

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.model.logits(pixels.to(self.model.clean.device))
        if self.label is not None:  # ART first looks at a picture of its own
            own, others = logits[0, self.label], logits[0].detach().clone()
            others[self.label] = -float("inf")
            lead = (own - others.max()).item()
            if lead < self.lead:
                self.lead, self.worst = lead, pixels.detach().clone()
            if lead < -CLEAR_LEAD:
                raise _Misclassified
        return logits


@contextmanager
def _numpy_seed(*entropy: int) -> Iterator[None]:
    """Within this context NumPy's global generator, from which ART draws, starts from these numbers."""
    state = np.random.get_state()
    try:
        np.random.seed(np.random.SeedSequence(entropy).generate_state(4))
        yield
    finally:
        np.random.set_state(state)
