"""Runs of the lab that several tests look at."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.run import run
from tests.conftest import reset_accelerator


def runs_in(root: Path, **options) -> Callable[[str], Path]:
    """The folder of a finished run of each method, made when it is first asked for."""

    @cache
    def of(method: str) -> Path:
        reset_accelerator()
        short = {"shots": 2, "max_train_steps": 2, "output_dir": str(root / method)}
        run(Arguments(**short, method=method, **options))
        reset_accelerator()
        return root / method

    return of
