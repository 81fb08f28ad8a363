"""The texts of classes: what they are made from, and which of them an adapter remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from reprlib import repr as short_repr
from typing import Any, Optional, Union

from ..config import MuDPTConfig
from ..layer import layer_of
from ..rules import check_descriptions, check_template, check_templates, normalized


@dataclass(frozen=True)
class ClassTexts:
    """
    What the texts of classes are made from. The texts of a class are each template with the name in place of `{}`,
    then the descriptions of the class.

    Args:
        templates: texts with `{}` for the class name; empty if the descriptions are all texts.
        descriptions: texts by class name, such as "a cat has whiskers."; None: there are only templates.
    """

    templates: tuple[str, ...] = ()
    descriptions: Optional[Mapping[str, Sequence[str]]] = None

    @classmethod
    def given(
        cls,
        template: Union[str, Sequence[str], None] = None,
        descriptions: Optional[Mapping[str, Sequence[str]]] = None,
    ) -> ClassTexts:
        """
        Check what a user gives.

        Args:
            template: one template, several, or None.
            descriptions: texts by class name, or None.

        Raises:
            ValueError: if a template does not hold `{}` exactly once, if a class has no descriptions or a blank one,
                or if neither is given.
        """
        if template is None and descriptions is None:
            raise ValueError("A class needs a text. Give a template such as 'a photo of a {}.', or descriptions.")
        templates: tuple[Any, ...] = ()
        if isinstance(template, (list, tuple)):
            check_templates(template)
            templates = tuple(template)
        elif template is not None:
            check_template(template)
            templates = (template,)
        return cls(templates, None if descriptions is None else _by_name(descriptions))

    @property
    def template(self) -> Optional[str]:
        """The template, if each class has one text that it makes; otherwise None."""
        return self.templates[0] if len(self.templates) == 1 and self.descriptions is None else None

    def check_known(self, class_names: Iterable[str], name: str = "descriptions") -> None:
        """Raise a ValueError if the descriptions hold a class that is not one of `class_names`."""
        known = set(map(normalized, class_names))
        unknown = [own for own in self.descriptions or {} if own not in known]
        if unknown:
            raise ValueError(
                f"{name} holds texts of {short_repr(unknown)}, but the classes are {short_repr(sorted(known))}. "
                "Correct the names, or remove them."
            )

    def only(self, class_names: Sequence[str], name: str = "descriptions") -> ClassTexts:
        """Keep the descriptions of `class_names`. Raise a ValueError if a class has none."""
        if self.descriptions is None:
            return self
        own = list(dict.fromkeys(map(normalized, class_names)))
        missing = [each for each in own if each not in self.descriptions]
        if missing:
            raise ValueError(
                f"{name} holds no texts of {short_repr(missing)}. Add them, or give templates without descriptions."
            )
        return replace(self, descriptions={each: self.descriptions[each] for each in own})

    def of(self, class_names: Sequence[str]) -> list[list[str]]:
        """List the texts of each class, in the order of `class_names`."""
        described = self.descriptions or {}
        return [
            [*(each.replace("{}", name) for each in self.templates), *described.get(normalized(name), [])]
            for name in class_names
        ]

    def as_arguments(self) -> dict[str, Any]:
        """The arguments `template` and `descriptions` of `MuDPTClassifier` that give these texts, fit for JSON."""
        template = self.templates[0] if len(self.templates) == 1 else list(self.templates) or None
        return {"template": template, "descriptions": self.descriptions}

    def in_words(self) -> str:
        """Describe the texts in a few words: the template, or how many texts there are."""
        if self.template is not None:
            return self.template
        parts = []
        if len(self.templates) > 1:
            parts.append(f"{len(self.templates)} templates ({self.templates[0]!r}, ...)")
        elif self.templates:
            parts.append(repr(self.templates[0]))
        if self.descriptions is not None:
            numbers = [len(sentences) for sentences in self.descriptions.values()]
            parts.append(f"{sum(numbers)} descriptions of {len(numbers)} classes")
        return " and ".join(parts)


def _by_name(descriptions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The descriptions by normalized class name."""
    check_descriptions(descriptions)
    names = list(map(normalized, descriptions))
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"descriptions hold {short_repr(twice)} twice, in two Unicode forms. Remove one of them.")
    return dict(zip(names, map(list, descriptions.values())))


def class_texts_of(
    model: Any,
    class_names: Sequence[str],
    template: Union[str, Sequence[str], None],
    descriptions: Optional[Mapping[str, Sequence[str]]],
) -> ClassTexts:
    """
    The texts of classes: those that are given, or else those in the active adapter's config.

    Args:
        model: a CLIP, plain or with an adapter.
        class_names: names of the classes.
        template: one template, several, or None.
        descriptions: texts by class name, or None.

    Raises:
        ValueError: if there are no texts (see `ClassTexts.given`), if the descriptions lack a class, or if given ones
            hold an unknown class.
    """
    if template is None and descriptions is None:
        config = active_config(model)
        texts = None if config is None else remembered_texts(config)
        if texts is None:
            raise ValueError("The model has no active adapter whose config has class_template. Give template.")
        return texts.only(class_names, "The adapter's class_descriptions")
    texts = ClassTexts.given(template, descriptions)
    texts.check_known(class_names)
    return texts.only(class_names)


def remembered_texts(config: MuDPTConfig) -> Optional[ClassTexts]:
    """The texts of classes that the config of an adapter remembers; None if there are none."""
    template = config.class_template or config.class_templates
    if template is None and config.class_descriptions is None:
        return None
    return ClassTexts.given(template, config.class_descriptions)


def active_config(model: Any) -> Optional[MuDPTConfig]:
    """The config of the active MuDPT adapter; None if there is none."""
    layer = layer_of(model)
    active = None if layer is None else layer.active_name
    return None if active is None else model.peft_config[active]


def active_adapter(model: Any) -> Optional[str]:
    """The name of the adapter that the model runs with; None if it runs without one."""
    layer = layer_of(model)
    if layer is not None:
        return None if layer.active_prompts() is None else layer.active_name
    active = getattr(model, "active_adapter", None)  # of another method; of a plain model, a function
    return active if isinstance(active, str) else None
