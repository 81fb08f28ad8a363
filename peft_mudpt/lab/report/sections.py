"""Groups the results of experiments by task, data set and model, each group a section of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ...demo import SCENE_STYLES, STYLES
from ..method import CLASSIFICATION, DETECTION, MAIN_MEASURES


Result = dict[str, Any]  # with the fields of schema.FIELDS


class Section(NamedTuple):
    """The results of one task and model on one data set. `embedded`: the package itself draws the pictures."""

    title: str
    dataset: str
    model: str
    results: list[Result]
    embedded: bool
    task: str = CLASSIFICATION


def parts_of_models(parts: Sequence[Section]) -> list[tuple[list[Section], str, str]]:
    """
    Group sections by model and task.

    Args:
        parts: as from `sections`.

    Returns:
        The sections of each model and task, what the title of a table over them adds to tell them apart, and the task.
    """
    models = list(dict.fromkeys((part.model, part.task) for part in parts))
    groups = []
    for model, task in models:
        suffix = "" if len({model for model, _ in models}) == 1 else f", {model}"
        suffix += "" if len({task for _, task in models}) == 1 else f", {task.replace('-', ' ')}"
        groups.append(([part for part in parts if (part.model, part.task) == (model, task)], suffix, task))
    return groups


def task_of(results: Iterable[Result]) -> str:
    """
    Find the task of results.

    Args:
        results: results of one task.

    Returns:
        One of `method.TASKS`.
    """
    return next((result["arguments"].get("task", CLASSIFICATION) for result in results), CLASSIFICATION)


def main_measure(result: Result) -> Optional[float]:
    """
    The number of a result by which methods are compared.

    Args:
        result: the result of a run.

    Returns:
        The accuracy, or in detection the mean average precision, in percent; None if it was not measured.
    """
    return result["summary"].get(MAIN_MEASURES[task_of([result])])


def sections(results: Sequence[Result]) -> list[Section]:
    """
    Group results by task, data set and model.

    Args:
        results: results of any runs.

    Returns:
        The groups, in the order in which they first occur. A title names the model if there are several models, and
        the data folder if several data sets share a name.
    """
    by_key: dict[tuple[str, str, Optional[str], str], list[Result]] = {}
    for result in results:
        arguments = result["arguments"]
        model = Path(arguments["model_name_or_path"])
        model = model.name if model.is_absolute() else str(model)  # a folder: its path depends on the machine
        key = result["dataset"], model, arguments["train_dir"], task_of([result])
        by_key.setdefault(key, []).append(result)
    models = {model for _, model, _, _ in by_key}
    tasks = {task for _, _, _, task in by_key}
    alike = Counter((dataset, model, task) for dataset, model, _, task in by_key)
    parts = []
    for (dataset, model, folder, task), members in by_key.items():
        title = dataset if alike[dataset, model, task] == 1 else f"{dataset} ({folder})"
        title = title if len(models) == 1 else f"{title}, {model}"
        title = title if len(tasks) == 1 else f"{title}, {task.replace('-', ' ')}"
        drawn = dataset in (SCENE_STYLES if task == DETECTION else STYLES) and folder is None
        parts.append(Section(title, dataset, model, members, drawn, task))
    return parts
