"""Answers what is asked on the page, without the page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from peft import PeftModel
from PIL import Image

from ...classifier.class_texts import ClassTexts, active_config
from ...classifier.classifier import MuDPTClassifier
from ...classifier.pictures import open_picture, pixel_values
from ...classifier.prediction import PictureClassifier
from ...rollout import AttentionRollout, attention_rollout
from ...rules import normalized
from ..calibration import probabilities_in_words
from ..run_classifier import load_classifier, result_of
from .about import UNKNOWN, About, describe, name_of
from .spotlight import enlarged, spotlight


LONGEST_LIST = 20_000  # characters of class names: one request must not keep the others waiting for minutes


class Answer(NamedTuple):
    """
    What is answered for a picture.

    Attributes:
        probabilities: the probabilities of the classes by name, the most probable first.
        picture: what the CLIP sees of the picture, bright where it looks.
        note: what the picture and the probabilities mean, in Markdown.
    """

    probabilities: dict[str, float]
    picture: Image.Image
    note: str


class Demo:
    """
    A classifier that several people may ask at the same time, with other classes and without its adapter. Because this
    switches the adapter of the one model that they share, one thread answers them, one after the other.

    Args:
        classifier: the classifier.
        plain_texts: the texts of classes for the CLIP without its adapter; None: those of the classifier.
        about: what visitors should know.

    Attributes:
        class_names: names of the classes that the classifier was made for.
        takes_classes: whether it can be asked for other classes: it cannot if it learned its classes without texts.
        has_adapter: whether there is an adapter that can be switched off.
        about: what visitors should know.
    """

    def __init__(
        self,
        classifier: PictureClassifier,
        plain_texts: Optional[ClassTexts] = None,
        about: About = UNKNOWN,
    ):
        self.about = about
        self.class_names = list(classifier.class_names)
        self.takes_classes = isinstance(classifier, MuDPTClassifier)
        self.has_adapter = self.takes_classes and isinstance(classifier.model, PeftModel)
        self._classifier = classifier.eval()
        self._plain_texts = plain_texts
        # Python waits for this thread before it ends. It does not wait for the threads of a server, and is aborted if
        # torch computes in one of them.
        self._thread = ThreadPoolExecutor(1)
        self._latest: dict[bool, PictureClassifier] = {True: classifier}  # with the adapter, and without it

    @property
    def base_model_name_or_path(self) -> str:
        """The folder or the Hub id that the CLIP was loaded from."""
        return self._classifier.model.name_or_path

    @classmethod
    def load(
        cls,
        adapter: str | os.PathLike,
        class_names: Optional[list[str]] = None,
        template: Optional[str] = None,
        model_name_or_path: Optional[str] = None,
        name: Optional[str] = None,
    ) -> Demo:
        """
        Load the classifier that a run left, onto the accelerator of this machine if there is one.

        Args:
            adapter, class_names, template, model_name_or_path: see `load_classifier`.
            name: what the page calls the classifier; None: see `name_of`.

        Raises:
            ValueError: as `load_classifier`.
        """
        classifier = load_classifier(adapter, class_names, template, model_name_or_path)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        result = result_of(adapter)
        described = describe(name or name_of(adapter), result, classifier.model.name_or_path)
        return cls(classifier.to(device or "cpu"), _texts_of_plain_clip(result, classifier), described)

    def answer(
        self, picture: str | os.PathLike, class_names: Optional[list[str]] = None, with_adapter: bool = True
    ) -> Answer:
        """
        Classify a picture.

        Args:
            picture: a file.
            class_names: the classes; None: `class_names`.
            with_adapter: whether the adapter is used, if there is one.

        Returns:
            The answer. Probabilities are calibrated if the classifier is calibrated for these classes.

        Raises:
            ValueError: if the picture cannot be read, if there are other classes but the classifier takes none, or if
                a class has too long a text.
        """
        return self._thread.submit(self._answer, picture, class_names, with_adapter).result()

    def _answer(self, picture: str | os.PathLike, class_names: Optional[list[str]], with_adapter: bool) -> Answer:
        # not by its path, which an error would show to strangers
        opened = open_picture(Path(picture).read_bytes(), "This picture")
        names = self.class_names if class_names is None else class_names
        with_adapter = with_adapter or not self.has_adapter
        with self._switched(with_adapter):
            classifier = self._for(names, with_adapter)
            (best,) = classifier.top_k([opened], len(names))
            temperature = classifier.temperature_for()
            seen = pixel_values(opened, classifier.image_processor, do_normalize=False)
            rollout = _rollout(classifier, opened)
        drawn = enlarged(seen) if rollout is None else spotlight(seen, rollout.patches[0].cpu())
        return Answer(dict(best), drawn, f"{_of_probabilities(with_adapter, temperature)}\n\n{_of_shares(rollout)}")

    @contextmanager
    def _switched(self, with_adapter: bool) -> Iterator[None]:
        if with_adapter:
            yield
        else:
            with self._classifier.model.disable_adapter():
                yield

    def _for(self, class_names: list[str], with_adapter: bool) -> PictureClassifier:
        """The classifier for these classes. The latest ones are kept, because they have encoded their texts."""
        latest = self._latest.get(with_adapter)
        if latest is not None and latest.class_names == class_names:
            return latest
        if with_adapter and class_names == self.class_names:
            found: PictureClassifier = self._classifier  # which may be calibrated
        elif isinstance(self._classifier, MuDPTClassifier):
            texts = None if with_adapter else self._plain_texts
            given = {} if texts is None else texts.only(class_names, "The zero-shot test").as_arguments()
            found = self._classifier.with_classes(class_names, **given)
        else:
            raise ValueError("This classifier knows only the classes that it was trained on, because it has no texts.")
        self._latest[with_adapter] = found
        return found


def names_in(text: str) -> list[str]:
    """
    Read the names of classes that somebody has typed.

    Args:
        text: a name in each line. Blank lines, and blanks around names, are ignored.

    Returns:
        The names.

    Raises:
        ValueError: if there are fewer than two names, if one occurs twice, or if the text is too long.
    """
    if len(text) > LONGEST_LIST:
        raise ValueError(f"The classes have {len(text):,} characters, but {LONGEST_LIST:,} at most are encoded here.")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if len(names) < 2:
        raise ValueError(f"Give at least two classes, one in each line; found {names}.")
    twice = [name for name, times in Counter(map(normalized, names)).items() if times > 1]
    if twice:
        raise ValueError(f"The class {twice[0]!r} occurs more than once. Give each class once.")
    return names


def _texts_of_plain_clip(result: Mapping[str, Any], classifier: PictureClassifier) -> Optional[ClassTexts]:
    """
    The texts of classes for the CLIP without its adapter: those of the run's zero-shot test. If there is no result of
    a run, the words that the text prompts started from stand in their place. None: the texts of the classifier.
    """
    given = result.get("zero_shot_texts") or {"template": result.get("template")}
    if any(given.values()):
        return ClassTexts.given(**given)
    config = active_config(classifier.model)
    if config is None or classifier.template is None or not isinstance(config.text_prompt_init_text, str):
        return None
    return ClassTexts.given(f"{config.text_prompt_init_text} {classifier.template}")


def _rollout(classifier: PictureClassifier, picture: Image.Image) -> Optional[AttentionRollout]:
    """Where the CLIP looks; None if it has no class token."""
    if not classifier.family.vision.tokens_before_patches:
        return None
    return attention_rollout(classifier.model, pixel_values(picture, classifier.image_processor)[None])


NO_MAP = "This CLIP has no class token, so that there is no map of where it looks."
PLAIN = "These are the probabilities of the CLIP without its adapter."


def _of_probabilities(with_adapter: bool, temperature: Optional[float]) -> str:
    return probabilities_in_words(temperature) if with_adapter else PLAIN


def _of_shares(rollout: Optional[AttentionRollout]) -> str:
    if rollout is None:
        return NO_MAP
    itself = rollout.class_token + rollout.registers
    shares = {"the picture": rollout.patches.sum(), "the prompts": rollout.prompts.sum(), "itself": itself}
    *first, last = [f"{name} ({100 * float(share):.0f} %)" for name, share in shares.items() if share > 0]
    return (
        "The bright parts of the picture are those that CLIP attended to most. They show where it looked, and not why "
        "it chose a class. In numbers: by attention rollout, its class token is a mixture of "
        f"{', '.join(first)} and {last}."
    )
