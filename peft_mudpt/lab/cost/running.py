"""Runs the benchmark: measures the time and the peak memory of every case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Optional

import torch

from .cases import ADAPTERS, DEFAULT_ADAPTER, MODELS, TASKS, TRAINING, Case
from .detectors import PICTURE_SIZE, DetectorCase
from .lab import measure_lab
from .rows import Group, Measurer


MINUTES_PER_ROW = 20.0


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
    lab_scripts: Optional[Path] = None,
    minutes_per_row: float = MINUTES_PER_ROW,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """
    Run the benchmark, on the GPU if there is one.

    Each row is measured in a process of its own, in which its ways take turns. A way that needs more memory than is
    free, by an estimate, is left out. The process is stopped if it takes more, or takes too long.

    Args:
        models: names in `MODELS`; the weights are random.
        tasks: names in `TASKS`.
        classes: numbers of classes at which time is measured.
        memory_classes: numbers of classes at which the memory of a training step is measured.
        batch_sizes: images per batch.
        autocast: True for bfloat16 autocast, False for float32.
        compiled: True if the ways "ours" and "plain" use `torch.compile`.
        seconds_per_way: seconds for which each way is timed in each case; at least three steps are timed.
        adapters: names in `ADAPTERS`.
        bank_pictures: numbers of pictures of which a bank of attacked pictures is built, in float32.
        detectors: names in `DETECTORS`; the weights are random. They are measured in the same tasks, at the same
            numbers of classes and in the same batches as the models, and never compiled.
        picture_size: height of the detectors' pictures in pixels.
        lab_scripts: the folder of `examples/`, to measure the lab in the embedded world; None: leave it out.
        minutes_per_row: the process of a row is stopped after this time.
        say: called with each line of progress.

    Returns:
        `times`: one row per case, with the seconds of each timed step, by way. `memory`: one row per model, adapter
        and number of classes at the smallest batch, with the peak in bytes, by way. `banks`: one row per model and
        number of pictures, with the seconds of each turn, by way. `detector_times` and `detector_memory`: as `times`
        and `memory`, one row per case of a detector. `lab`: the rows of `lab.measure_lab`.
        In each row, `left_out` holds the estimated bytes of each way that was not run, `extrapolated` its value on the
        line through the two measurements of this way with the most classes, if there are two, and `notes` says what
        was not measured, and why. The other fields name the device, the number of threads, the precision and the
        version of torch.

    Raises:
        ValueError: if a model, a task, an adapter or a detector is unknown, a number is less than 1, or a detector
            cannot take as many classes or pictures as small.
    """
    _check(models, tasks, adapters, [*classes, *memory_classes, *batch_sizes, *bank_pictures, picture_size])
    if not minutes_per_row > 0:
        raise ValueError(f"minutes_per_row={minutes_per_row} must be more than 0.")
    measurer = Measurer("cuda" if torch.cuda.is_available() else "cpu", seconds_per_way, 60 * minutes_per_row, say)

    def of_clips(tasks: Iterable[str], numbers: Iterable[int], sizes: Iterable[int], compiled: bool) -> list[Group]:
        return [
            [Case(name, task, number, size, autocast, compiled, adapter) for number in sorted(numbers)]
            for name, adapter, task, size in product(models, adapters, tasks, sizes)
        ]

    def of_detectors(tasks: Iterable[str], numbers: Iterable[int], sizes: Iterable[int]) -> list[Group]:
        return [
            [DetectorCase(name, task, number, size, picture_size, autocast) for number in sorted(numbers)]
            for name, task, size in product(detectors, tasks, sizes)
        ]

    timed = tasks, classes, batch_sizes
    weighed = [TRAINING] if TRAINING in tasks else [], memory_classes, sorted(batch_sizes)[:1]
    detector_times, detector_memory = of_detectors(*timed), of_detectors(*weighed)  # refuses what they cannot take
    return {
        "device": "cpu" if measurer.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "precision": ("bfloat16 autocast" if autocast else "float32") + (", compiled" if compiled else ""),
        "torch": torch.__version__.split("+")[0],
        "memory": measurer.memory(of_clips(*weighed, compiled=False)),
        "times": measurer.times(of_clips(*timed, compiled)),
        "banks": [measurer.bank(name, number) for name, number in product(models, bank_pictures)],
        "detector_times": measurer.times(detector_times),
        "detector_memory": measurer.memory(detector_memory),
        "lab": [] if lab_scripts is None else measure_lab(lab_scripts, measurer.limits(), say),
    }


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
