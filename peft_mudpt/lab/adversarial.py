"""How a run learns from attacked pictures: the options that the user gives, and the method's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Optional

from ..robust.attacks import CROSS_ENTROPY, EMBEDDING_KL, PGD
from ..rules import Rule
from .flags import OptionalCount, Options, flag, share
from .method import Method


def as_eps(text: str) -> float:
    """
    Read the largest change of a pixel.

    Args:
        text: a number or a fraction, such as "8/255", for pixels in [0, 1].

    Returns:
        The number.

    Raises:
        ValueError: if it is none, or not from 0 to 1.
    """
    numerator, _, denominator = text.partition("/")
    try:
        eps = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        eps = -1.0
    if not 0 <= eps < 1:
        raise ValueError(
            f"{text!r} is not a distance for pixels in [0, 1]. Give a number or a fraction from 0 to less than 1, "
            "such as 8/255."
        )
    return eps


def levels(eps: float) -> float:
    """
    Express the largest change of a pixel in levels of 255.

    Args:
        eps: the change, for pixels in [0, 1].

    Returns:
        The levels, rounded to a thousandth.
    """
    return round(eps * 255, 3)


def title_of(attacked: Mapping[str, Any]) -> str:
    """
    Name an attack on test pictures.

    Args:
        attacked: an entry of the field `robustness` of a result.

    Returns:
        Its name and the largest change of a pixel, such as "cross_entropy 4/255".
    """
    return f"{attacked['name']} {levels(attacked['attack']['eps']):g}/255"


def _is_eps(text: str) -> bool:
    try:
        return as_eps(text) > 0
    except ValueError:
        return False


Eps = Annotated[Optional[str], Rule("a fraction above 0 and below 1, such as 8/255, for pixels in [0, 1]", _is_eps)]


@dataclass(frozen=True)
class AdversarialOptions(Options):
    """Options of learning from attacked pictures. `--help` describes each."""

    title: ClassVar[str] = "learning from attacked pictures"

    adversarial: bool = flag(
        False,
        "Learn from attacked pictures, as method advpt always does. Without prompts in the image tower, the attack "
        "runs once, and training uses its embeddings.",
    )
    eps: Eps = flag(None, "With --adversarial: largest change of a pixel in [0, 1], as a fraction. None: 8/255.")
    attack_steps: OptionalCount = flag(None, "With --adversarial: steps of the attack. None: 10.")
    attack_objective: Optional[str] = flag(
        None,
        "With --adversarial: what the attack raises. embedding_kl: the divergence from the clean embedding, without "
        "labels and texts, as in AdvPT. cross_entropy: the loss. None: embedding_kl.",
        choices=(EMBEDDING_KL, CROSS_ENTROPY),
    )
    clean_weight: Annotated[Optional[float], share(0, 1)] = flag(
        None, "With --adversarial: weight of the clean pictures in the loss; the attacked ones have the rest. None: 0."
    )
    refresh_every: OptionalCount = flag(
        None,
        "With --adversarial: number of epochs for which a picture is attacked once, if the attack depends on what is "
        "learned. None: 1.",
    )
    adversarial_bank: Optional[str] = flag(
        None,
        "With --adversarial: a file for the embeddings of the attacked pictures. If it exists, it is used, and must "
        "belong to the CLIP, the pictures and the attack. None: they are computed for this run.",
        metavar="FILE",
    )


NOT_ADVERSARIAL = AdversarialOptions()


@dataclass(frozen=True)
class AdversarialTraining:
    """
    How a run learns from attacked pictures.

    Args:
        attack: the attack on the training pictures.
        clean_weight: weight of the clean pictures in the loss.
        refresh_every: number of epochs for which a picture is attacked once.
        bank: path of the file with the embeddings; None: no file.
    """

    attack: PGD
    clean_weight: float = 0.0
    refresh_every: int = 1
    bank: Optional[str] = None

    def as_dict(self) -> dict[str, Any]:
        """What determines the result, by name, as plain values."""
        values = asdict(self) | {"attack": self.attack.as_dict()}
        del values["bank"]
        return values


def is_adversarial(options: AdversarialOptions, method: Method) -> bool:
    """
    Find out whether a run learns from attacked pictures.

    Args:
        options: the user's options.
        method: the method, which may do so by default.

    Returns:
        True if it does.
    """
    return options.adversarial or method.adversarial


def choose_adversarial(
    options: AdversarialOptions, method: Method, crop: bool, seed: int, processes: int = 1
) -> Optional[AdversarialTraining]:
    """
    Choose how a run learns from attacked pictures.

    Args:
        options: the user's options; they take precedence.
        method: its defaults are used for options that are None.
        crop: True if training pictures are augmented.
        seed: seed of the starts of the attack.
        processes: number of processes that train together.

    Returns:
        How; None: the run learns from clean pictures.

    Raises:
        ValueError: if an option has no effect, or does not fit the method, the augmentation or the processes.
    """
    given = {name: value for name, value in asdict(options).items() if value is not None and name != "adversarial"}
    if not is_adversarial(options, method):
        if given:
            flags = ", ".join(f"--{name} {value}" for name, value in given.items())
            raise ValueError(f"{flags}: this is for runs with --adversarial; give it, too, or leave it out.")
        return None
    if not method.has_steps:
        raise ValueError(f"--adversarial: method {method.name} has no optimizer steps; leave it out.")
    if options.adversarial_bank is not None:
        if crop:
            raise ValueError(
                f"--adversarial_bank {options.adversarial_bank}: augmented pictures are others in each epoch, so that "
                "their embeddings cannot be kept. Leave it out, or give --augmentation none."
            )
        if not options.adversarial_bank or Path(options.adversarial_bank).is_dir():
            raise ValueError(f"--adversarial_bank {options.adversarial_bank!r} is no path of a file. Give one.")
    if options.refresh_every not in (None, 1):
        if crop:
            raise ValueError(
                f"--refresh_every {options.refresh_every}: augmented pictures are others in each epoch. Leave it out, "
                "or give --augmentation none."
            )
        if processes > 1:
            raise ValueError(
                f"--refresh_every {options.refresh_every}: a process does not know the pictures that others of the "
                f"{processes} have attacked. Leave it out, or use one process."
            )
    attack = PGD(
        eps=as_eps(options.eps or "8/255"),
        steps=options.attack_steps or 10,
        objective=options.attack_objective or EMBEDDING_KL,
        seed=seed,
    )
    return AdversarialTraining(
        attack, options.clean_weight or 0.0, options.refresh_every or 1, options.adversarial_bank
    )
