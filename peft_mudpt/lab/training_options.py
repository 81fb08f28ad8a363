"""The options of training and testing that the user gives. What is left out, the method decides (see `recipe`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Optional, get_args

from ..config import PromptInitialization
from .data.memory import DEFAULT_LIMIT
from .flags import Count, OptionalCount, Options, at_least, flag, more_than, share
from .training.anchors import TEXT_ANCHORS


WARMUPS = ("constant", "linear")
DECAYS = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class LoopOptions(Options):
    """Options of training and testing that every task has. `--help` describes each."""

    title: ClassVar[str] = "training and testing"

    optimizer: Optional[str] = flag(None, "Optimizer. None: the method's default.", choices=("sgd", "adamw"))
    learning_rate: Annotated[Optional[float], more_than(0)] = flag(
        None, "Peak learning rate. None: the method's default."
    )
    lr_scheduler_type: str = flag(
        "cosine", "How the learning rate decays from its peak to zero; constant: it does not.", choices=DECAYS
    )
    weight_decay: Annotated[Optional[float], at_least(0)] = flag(None, "None: 5e-4 for sgd, 0.01 for adamw.")
    warmup: str = flag(
        "linear",
        "Learning rate before the peak. linear: rises from 1e-5 to the peak. constant: stays at 1e-5, as in CoOp and "
        "the methods that follow it.",
        choices=WARMUPS,
    )
    warmup_ratio: Annotated[float, share(0, 1)] = flag(
        0.05, "Share of the optimizer steps before the peak learning rate. 0: no warmup."
    )
    per_device_train_batch_size: Count = flag(8, "Pictures per device and forward pass in training.")
    gradient_accumulation_steps: Count = flag(1, "Forward passes per optimizer step.")
    num_train_epochs: Count = flag(5, "Least number of times that each training picture is seen.")
    min_train_steps: Count = flag(
        1200, "Least number of optimizer steps; if the pictures are few, they are seen more often."
    )
    max_train_steps: OptionalCount = flag(
        None, "Exact number of optimizer steps. None: --num_train_epochs and --min_train_steps decide."
    )
    logging_steps: Count = flag(10, "Optimizer steps between two reports of the mean loss since the previous one.")
    mixed_precision: Optional[str] = flag(
        None, "Training precision, as in accelerate.", choices=("no", "fp16", "bf16")
    )
    per_device_eval_batch_size: Count = flag(100, "Pictures per device and forward pass in testing.")
    dataloader_num_workers: Annotated[Optional[int], at_least(0)] = flag(
        None,
        "Processes that load pictures. None: half of the cores or, with an accelerator, all but one; none if the "
        "pictures are in memory.",
    )
    picture_memory: Annotated[float, at_least(0)] = flag(
        DEFAULT_LIMIT / 2**30,
        "Memory for pictures, in GiB per process. A picture that fits is decoded once; the others, for each use.",
    )


@dataclass(frozen=True)
class TrainingOptions(LoopOptions):
    """Options of training and testing a classifier. `--help` describes each."""

    prompt_initialization: Optional[str] = flag(
        None,
        "Start the vision prompts from tokens of the training pictures, as in SPT. random: tokens. mean_pool, "
        "max_pool: pooled tokens. kmeans: cluster centers. None: the method's default, which is random numbers for "
        "most methods.",
        choices=get_args(PromptInitialization),
    )
    text_anchor: Optional[str] = flag(
        None,
        "Kind of distance between the class features and those of the frozen CLIP: l1, as in PromptSRC, or cosine, as "
        "in TCP. None: the method's default, or l1.",
        choices=TEXT_ANCHORS,
    )
    text_anchor_weight: Annotated[Optional[float], at_least(0)] = flag(
        None, "Weight of this distance in the loss; 0: none. None: the method's default, which is 0 for most methods."
    )
    image_anchor_weight: Annotated[Optional[float], at_least(0)] = flag(
        None, "Weight of the distance of the image features from those of the frozen CLIP. None: as above."
    )
    logit_anchor_weight: Annotated[Optional[float], at_least(0)] = flag(
        None, "Weight of the divergence of the class probabilities from those of the frozen CLIP. None: as above."
    )
    averaging_mean: Annotated[Optional[float], at_least(0)] = flag(
        None,
        "Epoch at the center of the Gaussian by which the learned parameters are averaged over the epochs. 0: no "
        "average. None: the method's default, which is 0 for most methods.",
    )
    averaging_std: Annotated[Optional[float], more_than(0)] = flag(
        None, "Standard deviation of this Gaussian, in epochs. None: the method's default."
    )
    class_batch_size: OptionalCount = flag(
        None, "Classes encoded at a time; a smaller number needs less memory. None: the size of the model decides."
    )
    image_size: OptionalCount = flag(
        None,
        "Pixels of both sides of the images, a multiple of the CLIP's patch size, such as 336 for a CLIP that was "
        "trained on 224. None: those on which the CLIP was trained.",
    )
    augmentation: str = flag(
        "auto",
        "crop: random resized crops with random flips, as in CoOp. auto: crop, except in the embedded world, where a "
        "part of a shape does not show its class, and with --adversarial, where it would cost an attack in each step.",
        choices=("auto", "crop", "none"),
    )
    eval_steps: Annotated[int, at_least(0)] = flag(
        0, "Optimizer steps between two tests on validation pictures, in the precision of training. 0: no such tests."
    )
    load_best_model_at_end: bool = flag(
        False, "Keep what was learned at the best of these tests, in place of the last step. Of equal ones, the first."
    )
    early_stopping_patience: OptionalCount = flag(
        None, "Stop after this number of such tests in a row that are not better than the best one. None: never."
    )
    cached_views: OptionalCount = flag(
        None,
        "Draw this number of random crops of each training picture, and encode each once; the epochs take them in "
        "turn. It makes methods that leave the image tower as it is much faster. None: other crops in each epoch.",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.eval_steps and (self.load_best_model_at_end or self.early_stopping_patience is not None):
            raise ValueError(
                "--load_best_model_at_end and --early_stopping_patience need tests on validation pictures; give "
                "--eval_steps, such as 50."
            )

    @property
    def loading(self) -> dict[str, Any]:
        """How test pictures are loaded, as arguments of `evaluation.evaluate_task`."""
        return {"batch_size": self.per_device_eval_batch_size, "num_workers": self.dataloader_num_workers}
