"""Kills runs at every kind of moment, and checks that the same command then ends as if nothing had happened.

    python -m tests.kills          # some minutes; prints how often which moment was hit

Each run is a fork of this process, which has imported everything. A fork counts what it does to its folder, and sends
itself a signal at a given count. `tests/test_kills.py` runs a few of these kills in the suite.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import torch

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.classification import experiment, plan
from peft_mudpt.lab.run import run
from peft_mudpt.lab.training import checkpoints
from peft_mudpt.lab.training.objectives import CrossEntropy
from tests.lab.test_experiment import save_pictures


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = {  # the first name that the path holds
    ".lock": "lock",
    "learned.partial": "weights",
    "adapter_": "weights",
    "linear_probe": "weights",
    "README.md": "card",
    "result.json": "result",
    "checkpoints": "checkpoint",
    "run.json": "record",
}
MINE = {"notes.txt": b"my notes", "checkpoints/best/weights.pt": b"my weights"}
SHORT = {"max_train_steps": 4, "checkpointing_steps": 1}
CASES = {
    "adapter": {"method": "coop", **SHORT},
    "dropout": {"method": "lora", "method_kwargs": '{"lora_dropout": 0.5}', **SHORT},
    "probe": {"method": "linear_probe", **SHORT},
    "search": {"method": "coop", "evaluate_on": "validation", "learning_rate": 0.01, **SHORT},
}


def prepare(folder: Path) -> dict:
    """Draw pictures, and return the options that all cases share."""
    train, test = save_pictures(folder / "train", 3), save_pictures(folder / "test", 2, seed=4)
    return {"train_dir": train, "test_dir": test, "shots": 2}


def attempt(options: dict, at: Optional[int] = None, number: int = signal.SIGKILL) -> tuple[int, list[str]]:
    """
    Run an experiment in a fork.

    Args:
        options: fields of `Arguments`.
        at: the count at which the fork sends itself a signal; None: it is left alone.
        number: the signal.

    Returns:
        The exit status of the fork, as `waitpid` gives it, and the moments that it counted.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            torch.set_num_threads(1)  # a fork lacks the threads of its parent
            # a shell starts what it runs in the background with interrupts ignored
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _silence(Path(options["output_dir"]).parent / "output.txt")
            _count(Path(options["output_dir"]), write, at, number)
            run(Arguments(**options))
            status = 0
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as told:
        moments = told.read().splitlines()
    return os.waitpid(child, 0)[1], moments


def _silence(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)


def _count(folder: Path, told: int, at: Optional[int], number: int) -> None:
    """Count what this process does to the folder, and kill it when the count is reached."""
    count, place = 0, os.path.abspath(folder)

    def moment(name: str, spoil: Callable[[], object] = lambda: None) -> None:
        nonlocal count
        os.write(told, f"{name}\n".encode())
        if count == at:
            spoil()
            os.kill(os.getpid(), number)
        count += 1

    def hook(event: str, arguments: tuple) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        path = arguments[0]
        if event == "open" and not (arguments[2] and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:  # relative to an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), os.fsdecode(path))
        if event in ("os.remove", "os.rmdir") and not os.path.lexists(path):
            return
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(place):
            return
        inside = os.path.abspath(os.fsdecode(path)).removeprefix(place)
        what = next((moment for name, moment in MOMENTS.items() if name in inside), "folder")
        deleted = event in ("os.remove", "os.rmdir") or (event == "os.rename" and "partial" in str(arguments[1]))
        moment(f"{what} {'deleted' if deleted else 'written'}")

    def announced(function: Callable, name: str) -> Callable:
        def call(*args, **options):
            target = args[1] if name == "checkpoint half written" else None
            moment(name, lambda: Path(target).write_bytes(b"half") if isinstance(target, (str, Path)) else None)
            return function(*args, **options)

        return call

    sys.addaudithook(hook)  # of this process only
    CrossEntropy.loss = announced(CrossEntropy.loss, "training")
    for stage in (experiment, plan):  # before training, and after it
        stage.evaluate_task = announced(stage.evaluate_task, "testing")
    checkpoints.save_file = announced(checkpoints.save_file, "checkpoint half written")
    torch.save = announced(torch.save, "checkpoint half written")


def contents(folder: Path) -> dict[str, object]:
    """Every file of a finished run, without measured times and memory."""
    found: dict[str, object] = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = json.loads(found["result.json"])
    del result["seconds"], result["peak_memory_bytes"]
    found["result.json"] = result
    return found


def start_with_mine(folder: Path) -> None:
    for name, content in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class Case:
    """A run, its undisturbed end, and the moments at which it can be killed."""

    def __init__(self, name: str, options: dict, place: Path):
        self.name, self.place = name, place / name
        self.options = {**options, **CASES[name], "output_dir": str(self.place / "run")}
        start_with_mine(self.place / "run")
        status, self.moments = attempt(self.options)
        assert status == 0, (self.place / "output.txt").read_text()
        self.end = contents(self.place / "run")
        assert MINE.items() <= self.end.items()

    def kill(self, at: int, number: int, again: Optional[int] = None) -> str:
        """
        Kill a new run, and then repeat its command.

        Args:
            at: the moment at which it is killed.
            number: the signal.
            again: the moment at which the second attempt is killed; None: it is left alone.

        Returns:
            The moment.
        """
        shutil.rmtree(self.place / "run")
        start_with_mine(self.place / "run")
        status, _ = attempt(self.options, at, number)
        assert status != 0, f"{self.name}: signal {number} at {at} killed nothing"
        if again is not None:
            attempt(self.options, again, number)
        self.must_end(f"signal {number} at {at} ({self.moments[at]}), then {again}")
        return self.moments[at]

    def fill(self, pages: int) -> bool:
        """
        Run on a disk that has few pages left, then make room and repeat the command.

        Args:
            pages: the free pages of 4 KiB.

        Returns:
            True if the disk was too full for the run.
        """
        shutil.rmtree(self.place / "run")
        (self.place / "run").mkdir()
        with small_disk(self.place / "run") as disk:
            start_with_mine(disk)
            free = os.statvfs(disk)
            (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - 4096 * pages))
            status, _ = attempt(self.options)
            (disk / "ballast").unlink()
            self.must_end(f"{pages} free pages")
        return status != 0

    def must_end(self, after: str) -> None:
        """Check that the same command now ends as the undisturbed run did."""
        status, _ = attempt(self.options)
        assert status == 0, f"{self.name}: after {after}:\n{(self.place / 'output.txt').read_text()}"
        end = contents(self.place / "run")
        differing = [name for name in {**end, **self.end} if end.get(name) != self.end.get(name)]
        assert not differing, f"{self.name}: after {after}, other than undisturbed: {differing}"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB. Raises CalledProcessError if this process may not mount."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def spread(number: int, over: int) -> list[int]:
    """Choose evenly spaced moments."""
    return sorted({round(i * (over - 1) / max(1, number - 1)) for i in range(number)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default=",".join(CASES), help="Comma-separated runs to kill.")
    parser.add_argument("--kills", type=int, default=30, help="Kills of each run.")
    parser.add_argument("--disks", type=int, default=10, help="Full disks for each run.")
    arguments = parser.parse_args()
    kills, disks = Counter(), Counter()
    with tempfile.TemporaryDirectory() as place:
        options = prepare(Path(place))
        for name in arguments.cases.split(","):
            case = Case(name, options, Path(place))
            for i, at in enumerate(spread(arguments.kills, len(case.moments))):
                number = SIGNALS[i % len(SIGNALS)]
                again = len(case.moments) // 3 if i % 5 == 4 else None
                kills[case.kill(at, number, again), number.name] += 1
            for pages in spread(arguments.disks, 40) if can_mount(Path(place)) else ():
                disks["full" if case.fill(pages) else "large enough"] += 1
            print(f"{name}: {len(case.moments)} moments", file=sys.stderr, flush=True)
    for (moment, how), count in sorted(kills.items()):
        print(f"{moment:<24}{how:<10}{count:4}")
    print("disks:", ", ".join(f"{count} {how}" for how, count in disks.items()) or "this process may not mount one")
    print(f"{sum(kills.values())} kills; the same command always ended as if undisturbed")


def can_mount(place: Path) -> bool:
    (place / "disk").mkdir(exist_ok=True)
    try:
        with small_disk(place / "disk"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


if __name__ == "__main__":
    main()
