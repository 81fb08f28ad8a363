"""The result of a run, one JSON file: its options, the drawn pictures, the metrics and the costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, NamedTuple, Optional

from ..rules import DESCRIPTIONS, TEMPLATE, TEMPLATES, is_text
from .storage import read_json, write_json


SCHEMA_VERSION = 4
FIRST_VERSION = 1  # may lack the fields of `LATER`
READABLE = (FIRST_VERSION, 2, 3, SCHEMA_VERSION)
RESULT = "result.json"  # written last, so that its presence means that the experiment has finished


class Field(NamedTuple):
    """
    A field of a result.

    Args:
        meaning: what the field holds.
        accepts: True for a value that can be read, which may be any JSON.
    """

    meaning: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_whole(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and abs(value) < 2**63


def _is_option(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool)) or _is_number(value)


def _optional(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _list(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def _by_name(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_text, value)) and all(map(accepts, value.values()))


def _record(**parts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Accepts a dict with these keys; it may have others."""
    return lambda value: isinstance(value, dict) and all(name in value and parts[name](value[name]) for name in parts)


def _is_json_object(value: Any) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (TypeError, ValueError, RecursionError):
        return False


_is_count = _list(_is_whole)
_are_fractions = _list(_optional(_is_number))
_reliability = _record(
    error=_is_number,
    error_by_chance=_is_number,
    pictures=_is_count,
    confidence=_are_fractions,
    accuracy=_are_fractions,
)
_is_calibrated = _record(
    temperature=_optional(_is_number),
    before=_reliability,
    after=_optional(_reliability),
    sets=_list(_record(**dict.fromkeys(("coverage", "held", "classes", "empty"), _is_number))),
)
_counted = _record(
    accuracy=_is_number,
    mean_class_accuracy=_is_number,
    classes=_by_name(lambda counts: _is_count(counts) and len(counts) == 2),
)


# what earlier versions did not write
_may_have = {
    "predictions": _by_name(_by_name(is_text)),
    "mistakes": _by_name(_by_name(_by_name(_is_number))),
    "mistakes_temperature": _optional(_is_number),
    "calibration": _is_calibrated,
}


def _classified(value: Any) -> bool:
    return _counted(value) and all(name not in value or _may_have[name](value[name]) for name in _may_have)


_detected = _record(
    **dict.fromkeys(("map", "ap50", "ap75"), _is_number),
    pictures=_is_whole,
    classes=_by_name(_optional(_is_number)),
    precision=_by_name(_optional(_list(_is_number))),
)
_are_metrics = _by_name(_optional(lambda value: _classified(value) or _detected(value)))
_are_options = _record(
    **dict.fromkeys(("model_name_or_path", "protocol", "evaluate_on"), is_text),
    **dict.fromkeys(("train_dir", "optimizer"), _optional(is_text)),
    method_kwargs=_optional(_is_json_object),
    **dict.fromkeys(("shots", "seed"), _is_whole),
)
_are_class_texts = _record(
    template=lambda value: value is None or TEMPLATE.accepts(value) or TEMPLATES.accepts(value),
    descriptions=_optional(DESCRIPTIONS.accepts),
)

FIELDS = {
    "schema_version": Field("int; version of this layout", _is_whole),
    "arguments": Field(
        "the options that determine the result; runs with equal arguments are the same experiment",
        lambda value: _are_options(value) and all(map(_is_option, value.values())),
    ),
    "dataset": Field("name of the training data", is_text),
    "method": Field("name of the method, as for --method", is_text),
    "class_names": Field("the training classes; the position of a name is its label", _list(is_text)),
    "template": Field(
        "text of a class, with {} for its name; null if classes have several texts, and in detection",
        _optional(is_text),
    ),
    "template_after_prompts": Field(
        "the part of template that follows the text prompts; null in detection", _optional(is_text)
    ),
    "class_texts": Field(
        "{template: text or [text, ...] or null, descriptions: {class name: [text, ...]} or null}: the texts of the "
        "training classes, if they have several; otherwise null",
        _optional(_are_class_texts),
    ),
    "zero_shot_texts": Field(
        "the same for CLIP without the adapter, with the descriptions of all classes", _optional(_are_class_texts)
    ),
    "items": Field(
        "{train, validation: [item, ...]}: the drawn pictures, as paths or split[index]",
        _record(train=_list(is_text), validation=_list(is_text)),
    ),
    "training_pictures": Field(
        "{class name: number of training pictures}; null in results of earlier versions",
        _optional(_by_name(_is_whole)),
    ),
    "metrics": Field(
        "{test set: metrics}; null for a test set whose classes the method cannot name. In classification {accuracy, "
        "mean_class_accuracy: percent, classes: {name: [right, seen]}, predictions: {name: {item: predicted name}}, "
        "mistakes: {name: {item: {name: percent}}} (of each picture that is classified wrongly, the most probable "
        "classes and the true one), mistakes_temperature: the one at which these percentages are calibrated, or null, "
        "calibration: {temperature, before, after: {error, error_by_chance: percent, "
        "pictures, confidence, accuracy: [one per bin]} or null, sets: [{coverage, held: percent, classes: mean, "
        "empty: percent}]}}; earlier versions wrote no predictions, mistakes and calibration. In detection {map, "
        "ap50, ap75: percent, pictures: int, classes: "
        "{name: average precision or null}, precision: {name: [percent at overlap 0.5 and recalls 0, 0.01, ..., 1] or "
        "null}}",
        _are_metrics,
    ),
    "zero_shot": Field("the metrics of the model without the adapter", _are_metrics),
    "summary": Field(
        "in percent, by protocol: {accuracy} | {base, new, harmonic_mean} | {source, mean_of_targets}; in detection "
        "{map, ap50, ap75}",
        _by_name(_optional(_is_number)),
    ),
    "robustness": Field(
        "for each attack on test pictures {name, attack, metrics}: its arguments, and for each test set {pictures, "
        "clean, attacked}, the number of attacked pictures and the accuracies on them in percent; null if none was "
        "attacked",
        _optional(
            _list(
                _record(
                    name=is_text,
                    attack=_by_name(_is_option),
                    metrics=_by_name(_optional(_record(pictures=_is_whole, clean=_is_number, attacked=_is_number))),
                )
            )
        ),
    ),
    "optimizer": Field("sgd or adamw; null if nothing is trained", _optional(is_text)),
    "learning_rate": Field("peak learning rate; null if nothing is trained", _optional(_is_number)),
    "prompt_initialization": Field(
        "how the vision prompts started from the training pictures; null: from random numbers, or there are none",
        _optional(is_text),
    ),
    "anchors": Field(
        "{text_anchor, text_anchor_weight, image_anchor_weight, logit_anchor_weight}: what holds the adapter near the "
        "frozen CLIP; null if nothing does",
        _optional(_by_name(_is_option)),
    ),
    "averaging": Field(
        "{mean, std}, in epochs: how the learned parameters were averaged; null if they were not",
        _optional(_record(mean=_is_number, std=_is_number)),
    ),
    "adversarial": Field(
        "{attack, clean_weight, refresh_every}: how the run learned from attacked pictures; null if it did not",
        _optional(_record(attack=_by_name(_is_option), clean_weight=_is_number, refresh_every=_is_whole)),
    ),
    "steps": Field("optimizer steps", _is_whole),
    "loss": Field("mean training loss of the last steps; null if nothing is trained", _optional(_is_number)),
    "validation": Field(
        "{tests: [{step, accuracy: percent}], kept_step}: tests on validation pictures during training, and the "
        "number of steps after which the saved weights were learned; null if there were none, and in earlier versions",
        _optional(_record(tests=_list(_record(step=_is_whole, accuracy=_is_number)), kept_step=_is_whole)),
    ),
    "trainable_parameters": Field("int", _is_whole),
    "adapter_bytes": Field("size of the saved weights", _is_whole),
    "seconds": Field("{training, total}", _record(training=_is_number, total=_is_number)),
    "peak_memory_bytes": Field("peak of training: of the GPU, or of the whole process on a CPU", _is_whole),
    "nearest_words": Field(
        "nearest words of the vocabulary to each text prompt token: [[{word, distance}]]; null if there are no text "
        "prompts",
        _optional(_list(lambda words: bool(words) and _list(_record(word=is_text, distance=_is_number))(words))),
    ),
    "calibration": Field(
        "{temperature, scores: [[of a validation picture, ...] of each class]}: what the validation pictures told "
        "about the probabilities (see `Calibration`); null if there were none, in detection and in earlier versions",
        _optional(_record(temperature=_optional(_is_number), scores=_list(_list(_is_number)))),
    ),
    "versions": Field("{package: version}", _by_name(is_text)),
    "hardware": Field("{device, threads, processes, mixed_precision}", _by_name(_is_option)),
}
FOLDER = "folder"  # where `read_results` found a result; not in the file
# fields of classification alone, and fields that the first version of the schema may lack
ONLY_CLASSIFICATION = ("template", "template_after_prompts", "nearest_words", "calibration")
NEW = ("calibration", "validation")  # fields that all earlier versions lack
LATER = (
    "training_pictures",
    "prompt_initialization",
    "anchors",
    "averaging",
    "adversarial",
    "robustness",
    "class_texts",
    "zero_shot_texts",
)
# What earlier versions did, whose files do not say it: flags whose default is another one now, ...
EARLIER = {"task": "image-classification", "objective": "cross_entropy", "warmup": "constant"}
# ... default optimizers of methods that have another one now, ...
EARLIER_OPTIMIZERS = {"mudpt": "sgd"}
# ... and options of methods that had none.
EARLIER_OPTIONS = {"linear_probe": {"start": "zero"}}


def in_current_words(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert the options of a run to the form of this version.

    Earlier versions wrote "domain-generalisation", stored `method_kwargs` as the user typed it, and did not write what
    is in `EARLIER`, `EARLIER_OPTIMIZERS` and `EARLIER_OPTIONS`.

    Args:
        asked: options by flag name.

    Returns:
        The same options in the form of this version.
    """
    current = {**EARLIER, **asked}
    if "warmup" not in asked and asked.get("optimizer") is None:
        current["optimizer"] = EARLIER_OPTIMIZERS.get(asked.get("method"))
    current["protocol"] = asked["protocol"].replace("generalisation", "generalization")
    typed = asked.get("method_kwargs")
    method_kwargs = (typed and json.loads(typed)) or EARLIER_OPTIONS.get(asked.get("method"), {})
    if typed is not None or method_kwargs:
        current["method_kwargs"] = json.dumps(method_kwargs, ensure_ascii=False)
    return current


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """
    Write `result.json`, which marks an experiment as finished.

    Args:
        folder: the folder of the run.
        result: all fields of `FIELDS` except `schema_version`; those of `NEW`, `LATER` and `ONLY_CLASSIFICATION` may
            be missing.

    Raises:
        ValueError: if a field is missing or unknown.
    """
    result = {"schema_version": SCHEMA_VERSION, **dict.fromkeys((*NEW, *LATER, *ONLY_CLASSIFICATION)), **result}
    if result.keys() != FIELDS.keys():
        raise ValueError(
            f"A result must have the fields {list(FIELDS)}. Missing or unknown: "
            f"{sorted(result.keys() ^ FIELDS.keys())}."
        )
    write_json(folder / RESULT, result)


def read_result(folder: Path) -> Optional[dict[str, Any]]:
    """
    Read the result of a run.

    Args:
        folder: the folder of the run.

    Returns:
        The result, with the fields of `FIELDS`; None if the folder has no `result.json`.

    Raises:
        ValueError: if the file is not JSON, has another version of the schema, or a field has an unexpected value. The
            message names the file and the field.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    result = read_json(path)
    version = result.get("schema_version")
    if version not in READABLE:
        raise ValueError(
            f"{path} has schema version {short_repr(version)}, but this version of peft_mudpt reads "
            f"{', '.join(map(str, READABLE))}. Run the experiment again."
        )
    if version != SCHEMA_VERSION:
        result = {**dict.fromkeys(NEW + LATER if version == FIRST_VERSION else NEW), **result}
    for name, field in FIELDS.items():
        if name not in result or not field.accepts(result[name]):
            found = short_repr(result[name]) if name in result else "missing"
            raise ValueError(
                f"{path} is damaged: {name} is {found}; expected: {field.meaning}. Delete it and run the experiment "
                "again."
            )
    return {**result, "arguments": in_current_words(result["arguments"])}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """
    Read every result in a folder and its subfolders.

    Args:
        folder: the folder to search.

    Returns:
        The results, sorted by path. Each also has the key `folder`, the path of its folder.

    Raises:
        ValueError: if the folder holds no result, or if a result cannot be read.
    """
    paths = [path for path in sorted(Path(folder).rglob(RESULT)) if path.is_file()]
    results = [{**read_result(path.parent), FOLDER: str(path.parent)} for path in paths]
    if not results:
        raise ValueError(
            f"{str(folder)!r} holds no {RESULT}. Train, or compare methods, with it as --output_dir first."
        )
    return results
