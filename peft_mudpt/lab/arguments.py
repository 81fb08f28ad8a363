"""What can be asked of an experiment: the flags of examples/fewshot.py."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from .. import demo
from ..config import PRESETS


TRANSFER_PROTOCOLS = ("cross-dataset", "domain-generalisation")  # tested on data that is not trained on
PROTOCOLS = ("few-shot", "base-to-new", *TRANSFER_PROTOCOLS)
LATEST = "latest"
EMBEDDED = "embedded"

# Where a run is kept, how it is watched, and how its work is cut up do not change what it finds.
NOT_IN_IDENTITY = (
    *("output_dir", "overwrite_output_dir", "checkpointing_steps", "resume_from_checkpoint"),
    *("per_device_eval_batch_size", "dataloader_num_workers", "class_batch_size", "with_tracking", "report_to"),
    *("push_to_hub", "hub_model_id", "hub_private_repo"),
)
AT_LEAST_ONE = (
    *("shots", "per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"),
    *("num_train_epochs", "min_train_steps", "max_train_steps", "class_batch_size", "checkpointing_steps"),
)
PATHS = ("model_name_or_path", "train_dir", "test_dir", "coop_root")


def flag(default: Any, help: str, **metadata) -> Any:
    """A field of a dataclass that `HfArgumentParser` reads; `metadata` as for argparse's `add_argument`."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class Arguments:
    """
    One experiment. Checked when made.

    Raises:
        ValueError: if a value is out of range or contradicts another; the message names the flag.
    """

    # What is adapted, and how
    model_name_or_path: str = flag(
        EMBEDDED, f"Any CLIP: a Hub id, a folder, or '{EMBEDDED}': the tiny one of drawn shapes."
    )
    method: str = flag("mudpt", f"zero_shot, linear_probe, lora, or a preset: {', '.join(PRESETS)}.")
    method_kwargs: Optional[str] = flag(
        None, """Fields of the method's config as JSON, over the preset's: '{"prompt_depth": 3}'."""
    )
    template: Optional[str] = flag(
        None,
        "Text of a class. Text prompts start from its first words; the rest stands after them. "
        "None: 'a photo of a {}.', or the data set's own for methods without text prompts.",
    )

    # Data
    dataset: str = flag(
        demo.ADAPTATION_STYLE, "A style of the embedded world or, with --coop_root, one of CoOp's data sets."
    )
    coop_root: Optional[str] = flag(None, "The folder of CoOp's data sets.")
    train_dir: Optional[str] = flag(None, "A folder with one folder of pictures per class.")
    test_dir: Optional[str] = flag(
        None, "Likewise, to test on. None: three tenths of each class of --train_dir, never trained on."
    )
    dataset_name: Optional[str] = flag(None, "A data set of the Hub.")
    dataset_config_name: Optional[str] = flag(None, "Its configuration.")
    image_column: str = flag("image", "Its column of pictures.")
    label_column: str = flag("label", "Its column of labels, a ClassLabel.")

    # Protocol
    protocol: str = flag("few-shot", "Which classes and data sets are trained and tested on.", choices=PROTOCOLS)
    shots: int = flag(16, "Training pictures per class.")
    seed: int = flag(1, "Seed of the draw, of the weights and of the batches.")
    targets: Optional[str] = flag(
        None,
        "What to test on without training, for cross-dataset and domain-generalisation: names as for --dataset, "
        "between commas. None: CoOp's; in the embedded world all other styles.",
    )
    evaluate_on: str = flag(
        "test", "validation: to choose hyper-parameters; never looks at a test set.", choices=("test", "validation")
    )

    # Training
    optimizer: Optional[str] = flag(None, "None: the method's own.", choices=("sgd", "adamw"))
    learning_rate: Optional[float] = flag(None, "Peak, annealed by a cosine. None: the method's own.")
    weight_decay: Optional[float] = flag(None, "None: 5e-4 with sgd, 0.01 with adamw.")
    warmup_ratio: float = flag(0.05, "Share of the steps at a constant learning rate of 1e-5, before the peak.")
    per_device_train_batch_size: int = flag(8, "Pictures per device and forward.")
    gradient_accumulation_steps: int = flag(1, "Forwards per step.")
    num_train_epochs: int = flag(5, "How often each training picture is seen, at least.")
    min_train_steps: int = flag(1200, "Few pictures are seen more often: in so many steps.")
    max_train_steps: Optional[int] = flag(None, "Train for exactly so many steps. None: as the two before say.")
    class_batch_size: Optional[int] = flag(
        None, "Classes encoded at a time; bounds the memory. None: by the size of the model."
    )
    augmentation: str = flag(
        "auto",
        "crop: random resized crops, flipped or not, as CoOp does. auto: crop, but not in the embedded world, where "
        "a part of a shape does not tell which it is.",
        choices=("auto", "crop", "none"),
    )
    mixed_precision: Optional[str] = flag(None, "As in accelerate.", choices=("no", "fp16", "bf16"))
    per_device_eval_batch_size: int = flag(100, "Pictures per device when testing.")
    dataloader_num_workers: int = flag(0, "Processes that read pictures.")

    # Output
    output_dir: str = flag("outputs/fewshot", "Where the adapter and result.json are written.")
    overwrite_output_dir: bool = flag(False, "Delete another run's files there.")
    checkpointing_steps: Optional[int] = flag(None, "Keep what is needed to go on, every so many steps.")
    resume_from_checkpoint: Optional[str] = flag(
        None, f"A checkpoint folder, or '{LATEST}': the last in --output_dir, or the beginning if there is none."
    )
    with_tracking: bool = flag(False, "Log losses and results to a tracker.")
    report_to: str = flag("all", "Which: tensorboard, wandb, ... or all that are installed.")
    push_to_hub: bool = flag(False, "Upload the adapter with its model card.")
    hub_model_id: Optional[str] = flag(None, "Where to: user/name.")
    hub_private_repo: bool = flag(False, "Make it private.")

    def __post_init__(self):
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value} is too few; give at least 1.")
        for option in fields(self):
            choices, value = option.metadata.get("choices"), getattr(self, option.name)
            if choices and value is not None and value not in choices:
                raise ValueError(f"--{option.name} {value!r} is none of {', '.join(choices)}.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"--learning_rate {self.learning_rate} must be more than 0.")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ValueError(f"--weight_decay {self.weight_decay} must be at least 0.")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"--warmup_ratio {self.warmup_ratio} must be at least 0 and less than 1.")
        if self.template is not None and self.template.count("{}") != 1:
            raise ValueError(f"--template {self.template!r} must hold {{}} once, where the class name goes.")
        self._check_data()
        self._check_output()
        self.config_fields()

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
        if self.targets is not None and not transfer:
            raise ValueError(f"--targets goes with cross-dataset or domain-generalisation, not with {self.protocol}.")
        if self.targets is None and transfer and given:
            raise ValueError(f"{self.protocol} from {given[0]} needs --targets.")

    def _check_output(self) -> None:
        if self.overwrite_output_dir and self.resume_from_checkpoint is not None:
            raise ValueError("--overwrite_output_dir starts over, --resume_from_checkpoint goes on; give one.")
        if Path(self.output_dir).is_file():
            raise ValueError(f"--output_dir {self.output_dir} is a file; give a folder.")
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("--push_to_hub needs --hub_model_id, such as user/name.")
        if self.push_to_hub and self.method in ("zero_shot", "linear_probe"):
            raise ValueError(f"--push_to_hub uploads an adapter; {self.method} has none.")

    def config_fields(self) -> dict[str, Any]:
        """`method_kwargs`, read."""
        if self.method_kwargs is None:
            return {}
        try:
            values = json.loads(self.method_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"--method_kwargs {self.method_kwargs!r} is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"--method_kwargs {self.method_kwargs!r} must be an object: field names and values.")
        return values

    def clip(self) -> str:
        """Hub id or folder of the CLIP."""
        return demo.MODEL_PATH if self.model_name_or_path == EMBEDDED else self.model_name_or_path

    def identity(self) -> dict[str, Any]:
        """What decides the result: two runs that agree in it are the same experiment."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_IN_IDENTITY}

    def to_share(self) -> dict[str, Any]:
        """The identity, of folders only their names: a result may be uploaded."""
        return {
            name: Path(value).name if name in PATHS and value and Path(value).is_absolute() else value
            for name, value in self.identity().items()
        }
