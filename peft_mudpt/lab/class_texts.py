"""The texts of classes in a run: which a method uses, whether they fit, and how its result stores them."""

from __future__ import annotations

from typing import Any, Optional

from ..classifier.class_texts import ClassTexts
from ..classifier.encoding import has_text_prompts
from .learner import Learner
from .plan import Experiment, Selection
from .protocols import TRANSFER_PROTOCOLS, ProtocolOptions


def texts_of(learner: Learner, experiment: Experiment, selection: Selection) -> Optional[ClassTexts]:
    """
    Choose the texts of classes for a learner, and check that those of the experiment fit the method and the classes.

    Args:
        learner: the CLIP to which the method was applied.
        experiment: the description of the run.
        selection: the pictures of the run.

    Returns:
        The texts, after the text prompts if the learner has some; None: the template of each data set.

    Raises:
        ValueError: if descriptions lack a class or hold an unknown one, or if `template` and `templates` are given,
            but there are no text prompts that would replace the words of the first.
    """
    texts = experiment.class_texts
    if texts is not None:
        _check_descriptions(texts, experiment.protocol, selection)
    if has_text_prompts(learner.model):
        return ClassTexts.given(learner.template_after_prompts)
    if experiment.template is not None and experiment.templates is not None:
        raise ValueError(
            "--template and --templates both give the texts of a class. Leave one out, because method "
            f"{experiment.method} has no text prompts and would use only one of them."
        )
    return texts


def _check_descriptions(texts: ClassTexts, protocol: ProtocolOptions, selection: Selection) -> None:
    task = selection.task
    names = [*task.class_names, *(name for test in task.tests.values() for name in test.class_names)]
    texts.only(names, "--descriptions")
    # the search for hyper-parameters does not load the targets, whose classes the descriptions may hold
    if protocol.evaluate_on == "test" or protocol.protocol not in TRANSFER_PROTOCOLS:
        texts.check_known([*names, *selection.data.class_names], "--descriptions")


def several(texts: Optional[ClassTexts]) -> Optional[dict[str, Any]]:
    """
    Convert the texts of classes for a result.

    Args:
        texts: the texts; None: the template of each data set.

    Returns:
        The arguments `template` and `descriptions` of `MuDPTClassifier`; None if each class has one text.
    """
    return None if texts is None or texts.template is not None else texts.as_arguments()
