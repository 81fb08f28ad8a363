"""The identity of a run: two runs are the same if what determines their result is equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rules import is_text
from .adversarial import AdversarialOptions
from .backbone import BackboneOptions
from .data.boxes.options import BoxDataOptions
from .data.fingerprints import fingerprints_of
from .data.options import DataOptions
from .detection.options import DetectionMethodOptions, DetectionTrainingOptions, DetectorOptions
from .flags import Options
from .method import CLASSIFICATION, DETECTION, TASKS
from .methods import BaseMethodOptions, MethodOptions, find_method
from .protocols import FewShotOptions, ProtocolOptions, Task
from .robustness import RobustnessOptions
from .schema import FIELDS, in_current_words
from .training_options import TrainingOptions


if TYPE_CHECKING:
    from datasets import Dataset

DECIDING: dict[str, tuple[type[Options], ...]] = {
    CLASSIFICATION: (
        BackboneOptions,
        MethodOptions,
        DataOptions,
        ProtocolOptions,
        TrainingOptions,
        AdversarialOptions,
        RobustnessOptions,
    ),
    DETECTION: (DetectorOptions, DetectionMethodOptions, BoxDataOptions, FewShotOptions, DetectionTrainingOptions),
}
# These change how the work is divided, but not the result.
NOT_DECIDING = (
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "picture_memory",
    "class_batch_size",
    "adversarial_bank",
)
OBJECTIVE = "objective"  # no flag: the method's record names it
TASK = "task"  # no flag: one of `method.TASKS`, which the script knows
DATA_PATHS = ("train_dir", "test_dir", "coop_root", "class_names", "split")
MODEL = "model_name_or_path"
PATHS = (MODEL, "dataset_name", *DATA_PATHS)
PROCESSES = "processes"  # no flag: the launcher sets it, and each step uses the batches of all processes
# In the identity of a run, beside its options; files of earlier versions lack one or both.
PICTURES = "pictures"
MODEL_FINGERPRINTS = "model_files"  # None: the model is from the Hub


def what_was_asked(*groups: Options) -> dict[str, Any]:
    """
    Collect the options that determine a result.

    Args:
        groups: groups of options. Options that do not determine the result, such as --output_dir, are dropped.

    Returns:
        The values by flag name and, if `groups` name a method, its task under "task" and its loss under "objective".
        The options of a method without an adapter include its defaults.
    """
    task = next((group.task for group in groups if isinstance(group, BaseMethodOptions)), CLASSIFICATION)
    names = [option.name for kind in DECIDING[task] for option in fields(kind) if option.name not in NOT_DECIDING]
    given = {name: value for group in groups for name, value in asdict(group).items()}
    asked = {name: given[name] for name in names if name in given}
    if "method" not in given:
        return asked
    asked[TASK] = task
    method = find_method(given["method"], task)
    if method.options:
        typed = json.loads(given["method_kwargs"] or "{}")
        asked["method_kwargs"] = json.dumps({**method.options, **typed}, ensure_ascii=False)
    return {**asked, OBJECTIVE: method.objective}


def pictures_of(task: Task) -> dict[str, dict[str, str]]:
    """
    Identify the pictures of a run by their content.

    Args:
        task: the training, validation and test sets of the run.

    Returns:
        For each set, the fingerprint of each picture and its class or boxes, by item.
    """

    def listed(pictures: Dataset, class_names: Sequence[str]) -> dict[str, str]:
        rest = pictures.remove_columns("image")
        return {
            example["item"]: f"{digest} {_shown(example, class_names)}"
            for digest, example in zip(fingerprints_of(pictures), rest)
        }

    sets = {"training": (task.train, task.class_names), "validation": (task.validation, task.class_names)}
    for name, test in task.tests.items():
        sets[name if name in ("test", "validation") else f"{name} test"] = (test.pictures, test.class_names)
    return {name: listed(*content) for name, content in sets.items()}


def _shown(example: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The class of a picture, or a digest of its boxes and their classes."""
    if "label" in example:
        return class_names[example["label"]]
    boxes = zip(example["boxes"], example["labels"], example["ignored"])
    text = json.dumps([[box, class_names[label], ignored] for box, label, ignored in boxes])
    return f"{len(example['boxes'])} boxes {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def as_identity(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    Normalize the identity of a run, so that runs can be compared, from another working folder too.

    A file that an earlier version of this package wrote lacks flags that were added later. These get the behavior of
    the earlier version, which is the default of the flag, or is listed in `schema.py`.

    Args:
        asked: options by flag name, the number of processes under `PROCESSES` if it is not 1, and the fingerprints
            under `PICTURES` and `MODEL_FINGERPRINTS` if they are known.

    Returns:
        All options that determine a result, by flag name, the number of processes, and the fingerprints that `asked`
        has. The fields of `method_kwargs` are sorted, and paths are absolute.
    """
    defaults = what_was_asked(*(kind() for kind in DECIDING[asked.get(TASK, CLASSIFICATION)]))
    named = {name: defaults[name] for name in ("method", "protocol")}
    identity = {**defaults, PROCESSES: 1, **in_current_words({**named, **asked})}
    if identity["method_kwargs"] is not None:
        method_kwargs = json.loads(identity["method_kwargs"])
        identity["method_kwargs"] = (
            json.dumps(method_kwargs, ensure_ascii=False, sort_keys=True) if method_kwargs else None
        )
    if identity["mixed_precision"] == "no":
        identity["mixed_precision"] = None
    for name in PATHS:  # two of them may also be a Hub id
        value = identity.get(name)
        if isinstance(value, str) and Path(value).exists():
            identity[name] = str(Path(value).resolve())
    return identity


def is_identity(value: Mapping[str, Any]) -> bool:
    """
    Check that a file holds the identity of a run.

    Args:
        value: the object that the file holds.

    Returns:
        True if the object has the options of a run and, if any, the fingerprints of its pictures and its model.
    """
    options = {name: option for name, option in value.items() if name not in (PICTURES, MODEL_FINGERPRINTS)}
    pictures, model = value.get(PICTURES, {}), value.get(MODEL_FINGERPRINTS) or {}
    are_fingerprints = isinstance(pictures, dict) and all(
        isinstance(files, dict) and all(map(is_text, files.values())) for files in (model, *pictures.values())
    )
    known_task = options.get(TASK, CLASSIFICATION) in TASKS
    return are_fingerprints and known_task and is_text(options.get("method")) and FIELDS["arguments"].accepts(options)


def to_share(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    Replace absolute paths by the names of their folders, because a result may be uploaded.

    Args:
        asked: options by flag name.

    Returns:
        The same options without absolute paths.
    """
    return {
        name: Path(value).name
        if isinstance(value, str) and name not in ("template", "templates") and Path(value).is_absolute()
        else value
        for name, value in asked.items()
    }
