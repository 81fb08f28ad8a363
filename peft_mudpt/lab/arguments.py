"""The flags of examples/fewshot.py: the options of every room, and where a run is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .. import demo
from .backbone import BackboneOptions
from .data.sources import DataOptions
from .flags import OptionalCount, Options, flag
from .methods import MethodOptions, find_method
from .protocols import TRANSFER_PROTOCOLS, ProtocolOptions, target_names
from .recipe import TrainingOptions
from .training.checkpoints import LATEST


@dataclass(frozen=True)
class OutputOptions(Options):
    """Where a run is kept, how it is watched and shared. Nothing of it changes what the run finds."""

    output_dir: str = flag("outputs/fewshot", "Where the adapter and result.json are written.")
    overwrite_output_dir: bool = flag(False, "Delete another run's files there.")
    checkpointing_steps: OptionalCount = flag(None, "Keep what is needed to go on, every so many steps.")
    resume_from_checkpoint: Optional[str] = flag(
        None, f"A checkpoint folder, or '{LATEST}': the last in --output_dir, or the beginning if there is none."
    )
    with_tracking: bool = flag(False, "Log losses and results to a tracker.")
    report_to: str = flag("all", "Which: tensorboard, wandb, ... or all that are installed.")
    push_to_hub: bool = flag(False, "Upload the adapter with its model card.")
    hub_model_id: Optional[str] = flag(None, "Where to: user/name.")
    hub_private_repo: bool = flag(False, "Make it private.")

    def __post_init__(self):
        super().__post_init__()
        if self.overwrite_output_dir and self.resume_from_checkpoint is not None:
            raise ValueError("--overwrite_output_dir starts over, --resume_from_checkpoint goes on; give one.")
        if Path(self.output_dir).is_file():
            raise ValueError(f"--output_dir {self.output_dir} is a file; give a folder.")
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("--push_to_hub needs --hub_model_id, such as user/name.")


# Dataclasses take the fields of the last base first: --help lists them from the CLIP to the output.
@dataclass(frozen=True)
class Arguments(OutputOptions, TrainingOptions, ProtocolOptions, DataOptions, MethodOptions, BackboneOptions):
    """
    One experiment, by its flags. Checked when made.

    Raises:
        ValueError: if a value is out of range or contradicts another; the message names the flag.
    """

    def __post_init__(self):
        super().__post_init__()
        self._check_data()
        if self.push_to_hub and not find_method(self.method).leaves_adapter:
            raise ValueError(f"--push_to_hub uploads an adapter; {self.method} has none.")

    def _check_data(self) -> None:
        transfer = self.protocol in TRANSFER_PROTOCOLS  # --coop_root may be for the targets
        named = self.dataset != demo.ADAPTATION_STYLE or self.coop_root is not None
        sources = {"--train_dir": self.train_dir, "--dataset_name": self.dataset_name}
        given = [name for name, value in sources.items() if value is not None]
        if given and named and not transfer:
            given.append("--dataset")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two data sets; give one.")
        if self.test_dir is not None and self.train_dir == self.test_dir:
            raise ValueError(f"--test_dir {self.test_dir} is --train_dir: it would test on what it trains on.")
        if self.test_dir is not None and self.train_dir is None:
            raise ValueError("--test_dir goes with --train_dir, which is not given.")
        if self.coop_root is not None and not Path(self.coop_root).is_dir():
            raise ValueError(f"--coop_root {self.coop_root} is no folder.")
        if not given and self.dataset in demo.STYLES and self.coop_root is not None and not transfer:
            raise ValueError("--coop_root needs --dataset, the name of one of the data sets there.")
        target_names(self, self)
