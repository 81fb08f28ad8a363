"""What the configs of all prompt methods share: fields with rules, the version, and readable errors on loading."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Optional

from peft import PeftConfig

from ._version import __version__
from .rules import CLASS_NAMES, MODULE_NAMES, TEXT, TRUE_OR_FALSE, Rule, either


# What PEFT raises on an adapter_config.json of wrong JSON, of another type than an object, or without a known method.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

NO_ADAPTER_PER_SAMPLE = (
    "adapter_names= (an adapter per sample) is not supported: all samples of a batch share one sequence layout. "
    "Activate one adapter with set_adapter(name), and run the samples of each adapter together."
)


def setting(default: Any, help: str, rule: Rule) -> Any:
    """Make a dataclass field of a config. Its metadata hold the help text and the rule that its values must obey."""
    return field(default=default, metadata={"help": help, "rule": rule})


@dataclass
class PromptConfig(PeftConfig):
    """
    Base class of a prompt method's config. Its values are checked when it is created.

    Attributes:
        method_type: the value of `peft_type`, under which PEFT finds the method.

    Raises:
        ValueError: if a value breaks the rule of its field. The message names the field and the value.
    """

    modules_to_save: Optional[list[str]] = setting(
        None, "Modules of the base model to train and save beside the prompts.", either(MODULE_NAMES, None)
    )
    folded: bool = setting(
        False,
        "The prompts are constants, computed once and for all. Set by fold_adapter; not for training.",
        TRUE_OR_FALSE,
    )
    class_names: Optional[list[str]] = setting(
        None,
        "The classes the adapter was trained on, in label order. A note: it changes no number.",
        either(CLASS_NAMES, None),
    )
    # In the file beside `peft_type`: the package to import for whoever meets PEFT's bare "KeyError: 'MUDPT'".
    peft_mudpt_version: Optional[str] = setting(
        None, "peft_mudpt version, leave empty to auto-fill.", either(TEXT, None)
    )

    method_type: ClassVar[Enum]
    # PEFT reads this attribute of every tuner's config. The prompts enter at fixed places: there is nothing to target.
    target_modules: ClassVar[None] = None

    def __post_init__(self):
        self.peft_type = self.method_type
        if self.peft_mudpt_version is None:
            self.peft_mudpt_version = __version__
        self.validate()
        super().__post_init__()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: Optional[str] = None, **kwargs):
        try:
            return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        except UNREADABLE as error:
            cause = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"The adapter_config.json of {pretrained_model_name_or_path} cannot be read ({cause}). Give the "
                "folder or the Hub id of an adapter that save_pretrained wrote."
            ) from error

    def validate(self) -> None:
        """Check everything that does not depend on the base model; raise the ValueError that the class describes."""
        if self.task_type is not None:
            raise ValueError(
                f"task_type={self.task_type!r} is not supported: it makes PEFT pass arguments that the base model "
                "does not take. Leave task_type out."
            )
        for each in fields(self):
            if "rule" in each.metadata:
                each.metadata["rule"].check(getattr(self, each.name), each.name)
        TRUE_OR_FALSE.check(self.inference_mode, "inference_mode")  # a field of PEFT's
