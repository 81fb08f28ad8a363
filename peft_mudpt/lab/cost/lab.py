"""Measures what the lab around a model costs, in the embedded world: training, testing, prediction, a sweep."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from ... import demo
from ...classifier.batches import in_ranges
from ..classification.experiment import Experiment
from ..data.options import DataOptions
from ..data.unlabeled import PictureFiles
from ..evaluation import evaluate_task
from ..experiment import prepare, select
from ..feature_cache import OFF, CacheOptions
from ..predicting import classify
from ..protocols import ProtocolOptions
from ..question import Question
from ..training_options import TrainingOptions
from .limits import Limits, Stopped, in_child


Row = dict[str, Any]

SHOTS = 16
PREDICTED = 2000  # pictures
WORKERS = (0, 1, 2)  # processes that read pictures
BATCH_SIZE = 64
RUNS_OF_SWEEP = 2
SWEEP = (
    "--protocol few-shot --methods zero_shot,coop --shots 1 --seeds 1 --learning_rate_factors 1 --max_train_steps 50 "
    "--feature_cache off"
)


def measure_lab(scripts: Path, limits: Limits, say: Callable[[str], None]) -> list[Row]:
    """
    Measure each part of the lab in a process of its own.

    Args:
        scripts: the folder of `examples/`.
        limits: the limits of each process.
        say: called with each line of progress.

    Returns:
        Rows with `what` was done, its `amount` and `unit`, the `seconds`, the share of them that the model `waits` for
        data (None: unknown), and `notes` on what was not measured, and why.
    """
    rows: list[Row] = []
    parts: list[tuple[str, Callable[..., list[Row]], dict[str, Any]]] = [
        ("epoch", measure_epoch, {}),
        ("evaluation", measure_evaluation, {}),
        ("prediction", measure_prediction, {}),
        ("sweep", measure_sweep, {"script": scripts / "sweep.py"}),
    ]
    for name, measure, arguments in parts:
        try:
            rows += in_child(measure, arguments, limits)
        except Stopped as reason:
            rows.append({**_row(name, 0, "", 0.0), "notes": [f"the process of the {name} {reason}"]})
        say(f"lab: {rows[-1]}")
    return rows


def measure_epoch(shots: int = SHOTS) -> list[Row]:
    """
    Train for one epoch.

    Args:
        shots: training pictures of each class.

    Returns:
        One row (see `measure_lab`).
    """
    protocol = ProtocolOptions(shots=shots)
    pictures = len(select(Experiment(DataOptions(), protocol=protocol)).task.train)
    steps = pictures // TrainingOptions().per_device_train_batch_size
    accelerator = WaitingAccelerator()
    training = TrainingOptions(max_train_steps=steps)
    plan = prepare(
        Experiment(DataOptions(), protocol=protocol, training=training, reuse=CacheOptions(OFF)), accelerator
    )
    accelerator.waited = 0.0
    seconds = plan.train(None).seconds
    row = _row(f"an epoch of {plan.method.name}", pictures, "pictures", seconds)
    return [{**row, "waits": accelerator.waited / seconds}]


def measure_evaluation() -> list[Row]:
    """
    Test two models that share their image tower, one after the other.

    Returns:
        Two rows (see `measure_lab`): the first model, for which every picture is encoded, and the second one.
    """
    plan = prepare(Experiment(DataOptions(), "coop", protocol=ProtocolOptions(shots=1), reuse=CacheOptions(OFF)))
    features: dict = {}
    rows = []
    for caches in ("cold", "warm"):
        started = time.perf_counter()
        evaluate_task(plan.accelerator, plan.backbone, plan.learner.model, plan.task, features=features)
        pictures = sum(len(test.pictures) for test in plan.task.tests.values())
        rows.append(_row(f"evaluation of coop, caches {caches}", pictures, "pictures", time.perf_counter() - started))
    return rows


def measure_prediction(pictures: int = PREDICTED) -> list[Row]:
    """
    Classify picture files.

    Args:
        pictures: number of files.

    Returns:
        A row for each of `WORKERS` (see `measure_lab`).
    """
    plan = prepare(Experiment(DataOptions(), "coop", protocol=ProtocolOptions(shots=1), reuse=CacheOptions(OFF)))
    drawn = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=1, seed=0)["image"]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(pictures)]
        for number, file in enumerate(files):
            drawn[number % len(drawn)].save(file)
        batches, rows = in_ranges(0, pictures, BATCH_SIZE), []
        for workers in WORKERS:
            started = time.perf_counter()
            found = classify(plan.classifier, PictureFiles(files), Question(1), batches, workers)
            answers = sum(map(len, found))
            rows.append(_row(f"prediction, {workers} workers", answers, "pictures", time.perf_counter() - started))
    return rows


def measure_sweep(script: Path) -> list[Row]:
    """
    Run a small sweep in a fresh folder.

    Args:
        script: `examples/sweep.py`.

    Returns:
        One row (see `measure_lab`).
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), *SWEEP.split(), "--output_dir", folder]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        return [_row("a small sweep", RUNS_OF_SWEEP, "runs", time.perf_counter() - started)]


def _row(what: str, amount: int, unit: str, seconds: float) -> Row:
    return {"what": what, "amount": amount, "unit": unit, "seconds": seconds, "waits": None, "notes": []}


class WaitingAccelerator(Accelerator):
    """An accelerator that measures how long the loop over its loaders waits for batches (`waited`, in seconds)."""

    waited = 0.0

    def prepare_data_loader(self, data_loader: DataLoader, *args: Any, **kwargs: Any) -> Any:
        """Prepare a loader, and time it."""
        return _TimedLoader(super().prepare_data_loader(data_loader, *args, **kwargs), self)


class _TimedLoader:
    def __init__(self, loader: Any, accelerator: WaitingAccelerator):
        self.loader, self.accelerator = loader, accelerator

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.accelerator.waited += time.perf_counter() - started
            yield batch
