"""Runs the benchmark: measures the time and the peak memory of every case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import product
from statistics import median
from typing import Any

import psutil
import torch

from .banks import ways_to_build
from .cases import (
    ADAPTERS,
    ATTACKED,
    DEFAULT_ADAPTER,
    KNOWN,
    MODELS,
    OURS,
    PADDED,
    TASKS,
    TRAINING,
    WAYS,
    Case,
    build_model,
    way_to_run,
)
from .detectors import PICTURE_SIZE, WAYS_OF, DetectorCase
from .measuring import peak_memory_of, seconds_in_turns


MOST_OF_MEMORY = 0.9  # largest share of the available memory that a case may need


def run(
    models: Sequence[str],
    tasks: Sequence[str],
    classes: Sequence[int],
    memory_classes: Sequence[int],
    batch_sizes: Sequence[int],
    autocast: bool = False,
    compiled: bool = False,
    seconds_per_way: float = 10.0,
    adapters: Sequence[str] = (DEFAULT_ADAPTER,),
    bank_pictures: Sequence[int] = (),
    detectors: Sequence[str] = (),
    picture_size: int = PICTURE_SIZE,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """
    Run the benchmark, on the GPU if there is one.

    Args:
        models: names in `MODELS`; the weights are random.
        tasks: names in `TASKS`.
        classes: numbers of classes at which time is measured.
        memory_classes: numbers of classes at which the memory of a training step is measured.
        batch_sizes: images per batch.
        autocast: True for bfloat16 autocast, False for float32.
        compiled: True if the ways "ours" and "plain" use `torch.compile`.
        seconds_per_way: seconds for which each way is timed in each case; at least two steps are timed.
        adapters: names in `ADAPTERS`.
        bank_pictures: numbers of pictures of which a bank of attacked pictures is built, in float32.
        detectors: names in `DETECTORS`; the weights are random. They are measured in the same tasks, at the same
            numbers of classes and in the same batches as the models, and never compiled.
        picture_size: height of the detectors' pictures in pixels.
        say: called with each line of progress.

    Returns:
        `times`: one row per case, with the seconds of each timed step, by way. `memory`: one row per model, adapter
        and number of classes at the smallest batch, with the peak in bytes, by way. If the way "padded" does not fit
        into memory, the `extrapolated` field of a row holds its value on the line through the two measurements of
        "padded" with the most classes. `banks`: one row per model and number of pictures, with the seconds of each
        turn, by way. `detector_times` and `detector_memory`: as `times` and `memory`, one row per case of a detector.
        The other fields name the device, the number of threads, the precision and the version of torch.

    Raises:
        ValueError: if a model, a task, an adapter or a detector is unknown, a number is less than 1, or a detector
            cannot take as many classes or pictures as small.
    """
    _check(models, tasks, adapters, [*classes, *memory_classes, *batch_sizes, *bank_pictures, picture_size])
    timed_detectors = [
        DetectorCase(name, task, number, batch_size, picture_size, autocast)
        for name, task, batch_size, number in product(detectors, tasks, batch_sizes, sorted(classes))
    ]
    weighed_detectors = [
        DetectorCase(name, TRAINING, number, min(batch_sizes), picture_size, autocast)
        for name, number in product(detectors if TRAINING in tasks else [], sorted(memory_classes))
    ]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory: list[dict[str, Any]] = []
    if TRAINING in tasks:
        for name, adapter in product(models, adapters):
            memory += _measure_memory(name, adapter, sorted(memory_classes), min(batch_sizes), autocast, device, say)
    times: list[dict[str, Any]] = []
    for name, adapter, task, batch_size in product(models, adapters, tasks, batch_sizes):
        built = {way: build_model(name, way, device, adapter) for way in WAYS}
        rows: list[dict[str, Any]] = []
        for number in sorted(classes):
            case = Case(name, task, number, batch_size, autocast, compiled, adapter)
            ways = [way for way in WAYS if way != PADDED or task != TRAINING or _fits(case, memory)]
            steps = {way: way_to_run(way, case, built[way]) for way in ways}
            if case.knows_images:
                steps[KNOWN] = way_to_run(KNOWN, case, built[OURS])
            if case.attacks_images:
                steps[ATTACKED] = way_to_run(ATTACKED, case, built[OURS])
            seconds = seconds_in_turns(steps, seconds_per_way)
            row = {**_described(case), "task": task, "seconds": seconds}
            measured = {r["classes"]: median(r["seconds"][PADDED]) for r in rows if PADDED in r["seconds"]}
            row["extrapolated"] = {} if PADDED in ways else _line(measured, number)
            rows.append(row)
            say(f"{case}: {_medians(seconds)}")
        times += rows
    banks: list[dict[str, Any]] = []
    for name, number in product(models, bank_pictures):
        seconds = seconds_in_turns(ways_to_build(name, number, device), seconds_per_way)
        banks.append({"model": name, "pictures": number, "seconds": seconds})
        say(f"{name}, bank of {number}: {_medians(seconds)}")
    return {
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "precision": ("bfloat16 autocast" if autocast else "float32") + (", compiled" if compiled else ""),
        "torch": torch.__version__.split("+")[0],
        "times": times,
        "memory": memory,
        "banks": banks,
        "detector_times": [_time_of(case, seconds_per_way, device, say) for case in timed_detectors],
        "detector_memory": [_memory_of(case, device, say) for case in weighed_detectors],
    }


def _time_of(case: DetectorCase, seconds_per_way: float, device: str, say: Callable[[str], None]) -> dict[str, Any]:
    seconds = seconds_in_turns({way: case.step(way, device) for way in WAYS_OF[case.task]}, seconds_per_way)
    say(f"{case}: {_medians(seconds)}")
    return {**asdict(case), "picture_shape": case.picture_shape, "seconds": seconds}


def _memory_of(case: DetectorCase, device: str, say: Callable[[str], None]) -> dict[str, Any]:
    peaks = {way: peak_memory_of(way, case, device) for way in WAYS_OF[TRAINING]}
    say(f"{case}: {_gigabytes(peaks)}")
    return {**asdict(case), "picture_shape": case.picture_shape, "bytes": peaks}


def _measure_memory(
    model: str,
    adapter: str,
    classes: Iterable[int],
    batch_size: int,
    autocast: bool,
    device: str,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in classes:
        case = Case(model, TRAINING, number, batch_size, autocast, adapter=adapter)
        expected = _line({row["classes"]: row["bytes"][PADDED] for row in rows if PADDED in row["bytes"]}, number)
        limit = MOST_OF_MEMORY * _available_memory(device)
        ways = [way for way in WAYS if way != PADDED or expected.get(PADDED, 0) < limit]
        peaks = {way: peak_memory_of(way, case, device) for way in ways}
        rows.append({**_described(case), "bytes": peaks, "extrapolated": {} if PADDED in ways else expected})
        say(f"{case}: {_gigabytes(peaks)}")
    return rows


def _medians(seconds: dict[str, list[float]]) -> str:
    return ", ".join(f"{way} {median(turns):.3g} s" for way, turns in seconds.items())


def _gigabytes(peaks: dict[str, int]) -> str:
    return ", ".join(f"{way} {peak / 1e9:.2f} GB" for way, peak in peaks.items())


def _described(case: Case) -> dict[str, Any]:
    return {"model": case.model, "adapter": case.adapter, "batch_size": case.batch_size, "classes": case.classes}


def _fits(case: Case, memory: list[dict[str, Any]]) -> bool:
    """True unless the memory measurements say that the way "padded" does not fit at this number of classes."""
    same = [row for row in memory if (row["model"], row["adapter"]) == (case.model, case.adapter)]
    too_large = [row["classes"] for row in same if row["extrapolated"]]
    return not too_large or case.classes < min(too_large)


def _line(measured: dict[int, float], at: int) -> dict[str, float]:
    """
    Extrapolate the value of the way "padded" to `at` classes, on the line through the two measurements with the most
    classes. `measured` holds the values by number of classes; with fewer than two, the result is empty.
    """
    if len(measured) < 2:
        return {}
    (x0, y0), (x1, y1) = sorted(measured.items())[-2:]
    return {PADDED: y1 + (at - x1) * (y1 - y0) / (x1 - x0)}


def _available_memory(device: str) -> int:
    return psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]


def _check(models: Iterable[str], tasks: Iterable[str], adapters: Iterable[str], numbers: Iterable[int]) -> None:
    for kind, given, known in (("model", models, MODELS), ("task", tasks, TASKS), ("adapter", adapters, ADAPTERS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"Unknown {kind} {unknown[0]!r}; the known ones are {', '.join(known)}.")
    too_small = [number for number in numbers if number < 1]
    if too_small:
        raise ValueError(
            f"The number of classes, images, pictures or pixels must be at least 1; found {too_small[0]}."
        )
