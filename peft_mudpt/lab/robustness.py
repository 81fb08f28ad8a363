"""Tests classifiers on attacked pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Optional, Union

import torch
from accelerate import Accelerator

from ..classifier.class_texts import ClassTexts
from ..classifier.prediction import PictureClassifier
from ..robust.apgd import APGD, CE, DLR
from ..robust.attacks import CROSS_ENTROPY, EMBEDDING_KL, PGD, POSITIVE, SYMMETRIC
from ..robust.pixels import Normalization
from .adversarial import as_eps, title_of
from .backbone import Backbone
from .data.loaders import make_loader
from .data.loading import PICTURE, PIXEL_VALUES, TestPictures
from .evaluation import accuracy_of
from .flags import Count, OptionalCount, Options, flag
from .logits import predict_logits
from .protocols import Task


def _pgd(eps: float, steps: int, seed: int) -> PGD:
    # steps of 2.5 eps in all (arXiv 1706.06083), because the far side of the ball is 2 eps away from the start
    return PGD(eps, steps, objective=CROSS_ENTROPY, step_size=2.5 * eps / steps, start=SYMMETRIC, seed=seed)


Attack = Union[PGD, APGD]

# What a test can attack by, as a function of eps, the steps and the seed.
TEST_ATTACKS: dict[str, Callable[[float, int, int], Attack]] = {
    EMBEDDING_KL: lambda eps, steps, seed: PGD(eps, steps, objective=EMBEDDING_KL, start=POSITIVE, seed=seed),
    CROSS_ENTROPY: _pgd,
    "apgd_ce": lambda eps, steps, seed: APGD(eps, steps, loss=CE, seed=seed),
    "apgd_dlr": lambda eps, steps, seed: APGD(eps, steps, loss=DLR, seed=seed),
}


@dataclass(frozen=True)
class RobustnessOptions(Options):
    """Options of testing on attacked pictures. `--help` describes each."""

    title: ClassVar[str] = "testing on attacked pictures"

    test_attacks: Optional[str] = flag(
        None,
        "Attack test pictures, too. Comma-separated NAME:EPS or NAME:EPS:STEPS, such as "
        "cross_entropy:4/255,embedding_kl:16/255:40. cross_entropy raises the loss, and knows labels and prompts; "
        "embedding_kl, the test of AdvPT, knows neither; apgd_ce and apgd_dlr, of AutoAttack, choose their steps "
        "themselves, and need the extra [robust]. EPS is the largest change of a pixel in [0, 1].",
    )
    test_attack_steps: Count = flag(40, "With --test_attacks: steps of each attack that gives none.")
    test_attack_pictures: OptionalCount = flag(
        None,
        "With --test_attacks: number of test pictures of each class that are attacked, the first ones. None: all.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.named() and self.test_attack_pictures is not None:
            raise ValueError(
                f"--test_attack_pictures {self.test_attack_pictures}: no test picture is attacked. Give "
                "--test_attacks, or leave it out."
            )

    def named(self) -> list[tuple[str, float, int]]:
        """
        Parse `test_attacks`.

        Returns:
            The name, the eps and the steps of each attack.

        Raises:
            ValueError: if a name is unknown, an eps or a number of steps is none, or an attack is named twice.
        """
        given = [part.strip() for part in (self.test_attacks or "").split(",") if part.strip()]
        found = [self._parsed(part) for part in given]
        if len({(name, eps) for name, eps, _ in found}) < len(found):
            raise ValueError(f"--test_attacks {self.test_attacks!r} names an attack twice; give each once.")
        return found

    def _parsed(self, given: str) -> tuple[str, float, int]:
        name, eps, *steps = given.split(":") if ":" in given else (given, "")
        if name not in TEST_ATTACKS or len(steps) > 1 or any(not step.isdecimal() or int(step) < 1 for step in steps):
            raise ValueError(
                f"--test_attacks {given!r} is not NAME:EPS or NAME:EPS:STEPS, such as cross_entropy:4/255. The names "
                f"are {', '.join(TEST_ATTACKS)}."
            )
        try:
            return name, as_eps(eps), int(steps[0]) if steps else self.test_attack_steps
        except ValueError as error:
            raise ValueError(f"--test_attacks {given!r}: {error}") from error

    def attacks(self, seed: int) -> list[tuple[str, Attack]]:
        """
        Make the attacks.

        Args:
            seed: seed of their starts.

        Returns:
            The name of each attack, and the attack.
        """
        return [(name, TEST_ATTACKS[name](eps, steps, seed)) for name, eps, steps in self.named()]


def measure_robustness(
    accelerator: Accelerator,
    backbone: Backbone,
    model: torch.nn.Module,
    task: Task,
    options: RobustnessOptions,
    seed: int,
    texts: Union[str, ClassTexts, None] = None,
    names_new_classes: bool = True,
    batch_size: int = 100,
    num_workers: Optional[int] = None,
) -> Optional[list[dict[str, Any]]]:
    """
    Test a model on attacked pictures of every test set of a task.

    Args:
        accelerator: the accelerator of the run; each process attacks a part of the pictures.
        backbone: the CLIP that the model adapts.
        model: a CLIP, plain or with an adapter, or a linear probe.
        task: the task that holds the test sets.
        options: the attacks, and how many pictures are attacked.
        seed: seed of the starts of the attacks.
        texts: as in `evaluation.evaluate_task`.
        names_new_classes: as in `evaluation.evaluate_task`.
        batch_size: pictures per device that are attacked at a time.
        num_workers: processes that load pictures; None: see `choose_workers`.

    Returns:
        For each attack its `name` and its arguments, and for each test set `pictures`, the number of attacked
        pictures, and the accuracies on them in percent, `clean` and `attacked`; None for a test set whose classes the
        model cannot name. None if there are no attacks.
    """
    attacks = options.attacks(seed)
    if not attacks:
        return None
    normalization = Normalization.of(backbone.image_processor)
    results: list[dict[str, Any]] = [
        {"name": name, "attack": attack.as_dict(), "metrics": {}} for name, attack in attacks
    ]
    for name, test in task.tests.items():
        if not names_new_classes and test.class_names != task.class_names:
            for result in results:
                result["metrics"][name] = None
            continue
        classifier = backbone.classifier(model, test.class_names, texts or test.template).eval()
        chosen = test.pictures.select(first_of_each(test.pictures["label"][:], options.test_attack_pictures))
        samples = TestPictures(chosen, backbone.image_processor)
        loader = accelerator.prepare(make_loader(accelerator, samples, batch_size, num_workers))
        logits = partial(predict_logits, accelerator, classifier, loader)
        labels = chosen["label"][:]
        clean = accuracy_of(logits(), labels)
        for result, (_, attack) in zip(results, attacks):
            attacked = logits(partial(_attacked, attack, classifier, normalization), title_of(result))
            accuracies = {"clean": clean, "attacked": accuracy_of(attacked, labels)}
            result["metrics"][name] = {"pictures": len(chosen), **accuracies}
    return results


def first_of_each(labels: Sequence[int], number: Optional[int]) -> list[int]:
    """
    Choose the first examples of each class.

    Args:
        labels: the class of each example.
        number: how many of each class; None: all.

    Returns:
        The positions of the chosen examples, in order.
    """
    seen: dict[int, int] = {}
    chosen = []
    for position, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if number is None or seen[label] <= number:
            chosen.append(position)
    return chosen


def _attacked(
    attack: Attack,
    classifier: PictureClassifier,
    normalization: Normalization,
    batch: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The pixel values (B, 3, H, W) of the attacked pictures of a batch."""
    pixels = normalization.undo(batch[PIXEL_VALUES])
    attacked = attack(classifier, normalization, pixels, batch["labels"], batch[PICTURE].tolist())
    return {PIXEL_VALUES: normalization(attacked)}
