"""One run of the benchmark: every case, timed and weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import median
from typing import Any

import psutil
import torch

from .cases import MODELS, PADDED, TASKS, TRAINING, WAYS, Case, build_model, way_to_run
from .measuring import peak_memory_of, seconds_in_turns


MOST_OF_MEMORY = 0.9  # what a case may take of the machine's


def run(
    models: Sequence[str],
    tasks: Sequence[str],
    classes: Sequence[int],
    memory_classes: Sequence[int],
    batch_sizes: Sequence[int],
    autocast: bool = False,
    compiled: bool = False,
    seconds_per_way: float = 10.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """
    Measure, on the GPU if there is one.

    Args:
        models: of `MODELS`, with random weights.
        tasks: of `TASKS`.
        classes: numbers of classes at which time is measured.
        memory_classes: numbers of classes at which the memory of a training step is measured.
        batch_sizes: images per batch.
        autocast: bfloat16 autocast, or float32.
        compiled: whether our way and plain CLIP go through `torch.compile`.
        seconds_per_way: how long each way is timed in each case, twice at least.
        say: what is done with a line of progress.

    Returns:
        `times`: one row per case, with the seconds of each turn by way; `memory`: one row per model and number of
        classes, at the smallest batch, with the peak in bytes by way; and what it was measured on. Where the padded
        way does not fit into memory, `extrapolated` holds the line through its two largest measured numbers.

    Raises:
        ValueError: for a model or task that does not exist, or a number that is too small.
    """
    _check(models, tasks, [*classes, *memory_classes, *batch_sizes])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory: list[dict[str, Any]] = []
    if TRAINING in tasks:
        for name in models:
            memory += _weigh(name, sorted(memory_classes), min(batch_sizes), autocast, device, say)
    times: list[dict[str, Any]] = []
    for name, task, batch_size in product(models, tasks, batch_sizes):
        built = {way: build_model(name, way, device) for way in WAYS}
        rows: list[dict[str, Any]] = []
        for number in sorted(classes):
            case = Case(name, task, number, batch_size, autocast, compiled)
            ways = [way for way in WAYS if way != PADDED or task != TRAINING or _fits(name, number, memory)]
            seconds = seconds_in_turns({way: way_to_run(way, case, built[way]) for way in ways}, seconds_per_way)
            row = {"model": name, "task": task, "batch_size": batch_size, "classes": number, "seconds": seconds}
            measured = {r["classes"]: median(r["seconds"][PADDED]) for r in rows if PADDED in r["seconds"]}
            row["extrapolated"] = {} if PADDED in ways else _line(measured, number)
            rows.append(row)
            say(f"{case}: " + ", ".join(f"{way} {median(t):.3g} s" for way, t in seconds.items()))
        times += rows
    return {
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "precision": ("bfloat16 autocast" if autocast else "float32") + (", compiled" if compiled else ""),
        "torch": torch.__version__.split("+")[0],
        "times": times,
        "memory": memory,
    }


def _weigh(
    model: str, classes: Iterable[int], batch_size: int, autocast: bool, device: str, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in classes:
        case = Case(model, TRAINING, number, batch_size, autocast)
        expected = _line({row["classes"]: row["bytes"][PADDED] for row in rows if PADDED in row["bytes"]}, number)
        ways = [way for way in WAYS if way != PADDED or expected.get(PADDED, 0) < MOST_OF_MEMORY * _memory(device)]
        peaks = {way: peak_memory_of(way, case, device) for way in ways}
        row = {"model": model, "batch_size": batch_size, "classes": number, "bytes": peaks}
        rows.append({**row, "extrapolated": {} if PADDED in ways else expected})
        say(f"{case}: " + ", ".join(f"{way} {peak / 1e9:.2f} GB" for way, peak in peaks.items()))
    return rows


def _fits(model: str, classes: int, memory: list[dict[str, Any]]) -> bool:
    """Whether the padded way was measured to fit, or what was measured of it says nothing against it."""
    refused = [row["classes"] for row in memory if row["model"] == model and row["extrapolated"]]
    return not refused or classes < min(refused)


def _line(measured: dict[int, float], at: int) -> dict[str, float]:
    """What the padded way would take, from its two largest measured numbers of classes; nothing if there are none."""
    if len(measured) < 2:
        return {}
    (x0, y0), (x1, y1) = sorted(measured.items())[-2:]
    return {PADDED: y1 + (at - x1) * (y1 - y0) / (x1 - x0)}


def _memory(device: str) -> int:
    return psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]


def _check(models: Iterable[str], tasks: Iterable[str], numbers: Iterable[int]) -> None:
    for kind, given, known in (("model", models, MODELS), ("task", tasks, TASKS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"Unknown {kind} {unknown[0]!r}; there are {', '.join(known)}.")
    too_small = [number for number in numbers if number < 1]
    if too_small:
        raise ValueError(f"{too_small[0]} is too few classes or images; give at least 1.")
