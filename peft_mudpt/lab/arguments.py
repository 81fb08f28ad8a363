"""The flags of a run: where it is stored, and for examples/fewshot.py the options of every module."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Optional

from .. import demo
from .adversarial import AdversarialOptions
from .backbone import BackboneOptions
from .classification.experiment import Experiment
from .data.catalogue import refuse_test_only
from .data.folders import folder_name
from .data.options import DataOptions
from .feature_cache import CacheOptions
from .flags import Count, Options, at_least, flag
from .method import CLASSIFICATION
from .methods import MethodOptions, find_method
from .plan import BaseExperiment
from .protocols import TRANSFER_PROTOCOLS, ProtocolOptions, target_names
from .robustness import RobustnessOptions
from .run_folder import TRACKING
from .training.checkpoints import LATEST
from .training_options import TrainingOptions


@dataclass(frozen=True)
class OutputOptions(Options):
    """Where a run is stored, and how it is tracked and shared. These options do not change the result of the run."""

    title: ClassVar[str] = "where the run is stored, tracked and shared"

    output_dir: str = flag(
        "outputs/fewshot",
        "Folder for the adapter and result.json. With --train_dir FOLDER it is outputs/FOLDER.",
        metavar="FOLDER",
    )
    overwrite_output_dir: bool = flag(False, "Delete the files of a previous run in --output_dir.")
    checkpointing_steps: Annotated[int, at_least(0)] = flag(
        100, "Optimizer steps between two checkpoints. 0: no checkpoints."
    )
    save_total_limit: Count = flag(1, "Number of checkpoints that are kept while training; the oldest are deleted.")
    resume_from_checkpoint: Optional[str] = flag(
        None,
        f"A checkpoint folder, or '{LATEST}' for the last checkpoint in --output_dir. None: the last if there is one, "
        "unless --overwrite_output_dir is given.",
        metavar="FOLDER",
    )
    with_tracking: bool = flag(False, "Log losses and results to the trackers of --report_to.")
    report_to: str = flag("all", "A tracker, such as tensorboard or wandb, or 'all' for all that are installed.")
    tracker_project: str = flag(TRACKING, "Project of the trackers; of trackers that write files, their folder.")
    run_name: Optional[str] = flag(None, "Name of the run on the trackers. None: they choose one.")
    push_to_hub: bool = flag(
        False, "Upload the adapter with its model card to --hub_model_id; of a detector also some test pictures."
    )
    hub_model_id: Optional[str] = flag(None, "Repository on the Hub: user/name.")
    hub_private_repo: bool = flag(False, "Make a new repository private.")

    def __post_init__(self):
        super().__post_init__()
        if self.overwrite_output_dir and self.resume_from_checkpoint is not None:
            raise ValueError(
                "--overwrite_output_dir starts a run again and --resume_from_checkpoint continues it; give only one."
            )
        if Path(self.output_dir).is_file():
            raise ValueError(f"--output_dir {self.output_dir} is a file; give a folder.")
        if not self.tracker_project or Path(self.tracker_project).name != self.tracker_project:
            raise ValueError(
                f"--tracker_project {self.tracker_project!r} must be a name without slashes, because some trackers "
                "make a folder of it."
            )
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("--push_to_hub needs --hub_model_id, such as user/name.")


@dataclass(frozen=True)
class RunArguments(OutputOptions):
    """
    All flags of one run. A subclass adds the flags of a task. They are checked on creation.

    Raises:
        ValueError: if a value is out of range or contradicts another; the message names the flag.
    """

    task: ClassVar[str]

    def __post_init__(self):
        super().__post_init__()
        if self.push_to_hub and not find_method(self.method, self.task).leaves_adapter:
            raise ValueError(
                f"--push_to_hub uploads an adapter, but method {self.method} leaves none that works without a head; "
                "leave it out."
            )
        self._check_output_dir()

    @classmethod
    def implied(cls, given: Namespace) -> list[str]:
        """A folder of pictures names the folder of the run, too (see `Options.implied`)."""
        words = super().implied(given)
        if given.train_dir is not None:
            words += ["--output_dir", str(Path("outputs", folder_name(Path(given.train_dir))))]
        return words

    def experiment(self) -> BaseExperiment:
        """Describe the run that the flags ask for. Raises a ValueError if a file that a flag names cannot be read."""
        raise NotImplementedError

    def _check_output_dir(self) -> None:
        output_dir = Path(self.output_dir).resolve()
        for name in ("train_dir", "test_dir"):
            pictures = getattr(self, name)
            if pictures is not None and output_dir.is_relative_to(Path(pictures).resolve()):
                raise ValueError(
                    f"--output_dir {self.output_dir} lies in --{name} {pictures}, whose folders are read as data. "
                    "Give a folder elsewhere."
                )


# A dataclass lists the fields of its last base first. In this order, --help lists the CLIP first and the output last.
@dataclass(frozen=True)
class Arguments(
    RunArguments,
    CacheOptions,
    RobustnessOptions,
    AdversarialOptions,
    TrainingOptions,
    ProtocolOptions,
    DataOptions,
    MethodOptions,
    BackboneOptions,
):
    """
    All flags of examples/fewshot.py (see `RunArguments`).
    """

    task: ClassVar[str] = CLASSIFICATION

    def __post_init__(self):
        super().__post_init__()
        self._check_data()

    def experiment(self) -> Experiment:
        return Experiment.of(self)

    def _check_data(self) -> None:
        transfer = self.protocol in TRANSFER_PROTOCOLS  # --coop_root may hold the targets only
        named = self.dataset != demo.ADAPTATION_STYLE or self.coop_root is not None
        sources = {"--train_dir": self.train_dir, "--dataset_name": self.dataset_name}
        given = [name for name, value in sources.items() if value is not None]
        if given and named and not transfer:
            given.append("--dataset")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} name two data sets; give only one.")
        if self.coop_root is not None and not Path(self.coop_root).is_dir():
            raise ValueError(f"--coop_root {self.coop_root} is not a folder.")
        if not given and self.dataset in demo.STYLES and self.coop_root is not None and not transfer:
            raise ValueError("--coop_root needs --dataset: give the name of one of the data sets in that folder.")
        if not given:
            refuse_test_only(self.dataset)
        target_names(self, self)
