"""The texts of classes in a run: whether they fit its method and its classes, and how its result stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from ..classifier.class_texts import ClassTexts
from .learner import Learner
from .protocols import TRANSFER_PROTOCOLS


if TYPE_CHECKING:
    from .classification.experiment import Experiment
    from .plan import Selection


def after_prompts_in_words(text: str) -> str:
    """
    Say what the text of a class is for a CLIP with text prompts.

    Args:
        text: the part that follows the prompts, with `{}` for the name of the class.

    Returns:
        The words, such as "learned prompts, then {}. ({} is the name)".
    """
    return f"learned prompts, then {text} ({{}} is the name)"


def check_texts(experiment: Experiment, selection: Selection) -> Optional[ClassTexts]:
    """
    Check that the texts of an experiment fit its classes.

    Args:
        experiment: the description of the run.
        selection: the pictures of the run.

    Returns:
        The texts for a CLIP without text prompts; None: the template of each data set.

    Raises:
        ValueError: if descriptions lack a class or hold an unknown one.
    """
    texts = experiment.class_texts
    if texts is not None:
        task, protocol = selection.task, experiment.protocol
        names = [*task.class_names, *(name for test in task.tests.values() for name in test.class_names)]
        texts.only(names, "--descriptions")
        # the search for hyper-parameters does not load the targets, whose classes the descriptions may hold
        if protocol.evaluate_on == "test" or protocol.protocol not in TRANSFER_PROTOCOLS:
            texts.check_known([*names, *selection.data.class_names], "--descriptions")
    return texts


def check_template_is_used(experiment: Experiment, learner: Learner) -> None:
    """
    Check that no text is given in vain.

    Args:
        experiment: the description of the run.
        learner: the CLIP to which the method was applied.

    Raises:
        ValueError: if `template` and `templates` are given, but there are no text prompts that would replace the words
            of the first.
    """
    if None not in (experiment.template, experiment.templates) and not learner.has_text_prompts:
        raise ValueError(
            "--template and --templates both give the texts of a class. Leave one out, because method "
            f"{experiment.method} has no text prompts and would use only one of them."
        )


def several(texts: Optional[ClassTexts]) -> Optional[dict[str, Any]]:
    """
    Convert the texts of classes for a result.

    Args:
        texts: the texts; None: the template of each data set.

    Returns:
        The arguments `template` and `descriptions` of `MuDPTClassifier`; None if each class has one text.
    """
    return None if texts is None or texts.template is not None else texts.as_arguments()
