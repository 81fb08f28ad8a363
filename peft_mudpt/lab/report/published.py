"""Accuracies that others published for CLIP ViT-B/16. None was reproduced here; ≈ marks values read from a plot."""

from __future__ import annotations

from typing import NamedTuple

from ..data.catalogue import CROSS_DATASET_TARGETS
from .markdown import markdown_table


class Published(NamedTuple):
    """A table of accuracies in percent, by method. The last cell of a row is its source or a remark."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


LIST = "https://github.com/zhengli97/Awesome-Prompt-Adapter-Learning-for-VLMs"
COLLECTED = f"[table 1 of this list]({LIST})"
MAPLE, CASPL = "MaPLe's README", "CasPL's README (PromptSRC's table)"
PUBLISHED = (
    Published(
        "Few-shot: all classes, mean of 11 data sets, by shots per class",
        ("1", "2", "4", "8", "16", "source"),
        {
            "linear probe": ("45.83", "57.98", "68.01", "74.47", "78.79", CASPL),
            "CoOp": ("67.56", "70.65", "74.02", "76.98", "79.89", CASPL),
            "CoCoOp": ("66.79", "67.65", "71.21", "72.96", "74.90", CASPL),
            "MaPLe": ("69.27", "72.58", "75.37", "78.89", "81.79", CASPL),
            "PromptSRC": ("72.32", "75.29", "78.35", "80.69", "82.87", CASPL),
            "CLIP-LoRA": ("≈72.3", "≈75.3", "≈77.4", "≈80.2", "≈83.0", "its repository's few_shot.png"),
        },
    ),
    Published(
        "Base to new: 16 shots, mean of 11 data sets",
        ("base", "new", "harmonic mean", "source"),
        {
            "CLIP zero-shot": ("69.34", "74.22", "71.70", COLLECTED),
            "CoOp": ("82.69", "63.22", "71.66", COLLECTED),
            "CoCoOp": ("80.47", "71.69", "75.83", COLLECTED),
            "VPT-deep": ("80.24", "73.43", "76.68", MAPLE),
            "IVLP": ("82.15", "74.07", "77.90", COLLECTED),
            "MaPLe": ("82.28", "75.14", "78.55", COLLECTED),
            "PromptSRC": ("84.26", "76.10", "79.97", COLLECTED),
        },
    ),
    Published(
        "Trained on ImageNet: mean of 10 other data sets (cross-dataset) and of 4 ImageNets (domain generalization)",
        ("cross-dataset", "domain generalization", "remark"),
        {
            "CLIP zero-shot": ("65.15", "57.18", ""),
            "CoOp": ("63.88", "59.28", ""),
            "CoCoOp": ("65.74", "59.91", ""),
            "VPT": ("62.61", "", "as run by DePT's authors"),
            "MaPLe": ("66.30", "60.27", ""),
            "PromptSRC": ("65.81", "60.65", ""),
        },
    ),
)
ELEVEN = (*CROSS_DATASET_TARGETS, "imagenet")
SWEEP = "peft-mudpt compare --coop_root DIR --model_name_or_path openai/clip-vit-base-patch16"
SWEEPS = (
    f"{SWEEP} --datasets {','.join(ELEVEN)} --shots 1,2,4,8,16 --output_dir outputs/eleven",
    f"{SWEEP} --datasets imagenet --protocol cross-dataset,domain-generalization --output_dir outputs/imagenet",
)


def published_report() -> str:
    """
    Write the published tables as Markdown, with the commands that would reproduce them.

    Returns:
        The Markdown text.
    """
    blocks = [
        "## Published by their authors, not reproduced here",
        "CLIP ViT-B/16, accuracy in %. ≈: read from a plot. Results of other groups differ by up to 3.5 points.",
        "These commands use the same protocols, pictures and CLIP, but one training recipe for all methods. They "
        "leave out VPT, which is `--methods vpt_deep`:",
        "\n".join(f"    {command}" for command in SWEEPS),
    ]
    for table in PUBLISHED:
        blocks += [
            f"### {table.title}",
            markdown_table(["method", *table.columns], ([m, *r] for m, r in table.rows.items())),
        ]
    return "\n\n".join(blocks) + "\n"
