"""The methods that the lab compares in detection. Each is one `Method` record."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig

from ...sdpt.config import SDPTConfig
from ..method import BLACK, GRAY, GREEN, PINK, VERMILLION, Method
from .learner import train_all


# The linear layers of the fusion layers, which are the ones that SDPT's prompts pass through.
FUSION_PROJECTIONS = [
    "vision_proj",
    "text_proj",
    "values_vision_proj",
    "values_text_proj",
    "out_vision_proj",
    "out_text_proj",
]
DETECTOR: dict[str, Any] = {"objective": "per_picture_loss", "optimizer": "adamw"}
# SDPT's released learning rate of 1e-5 is far too small to change its prototypes, which start in (-1, 1): see
# docs/adapt_a_detector.md. Rates and LoRA's rank are ours.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "zero_shot",
            "The detector as it is",
            objective="per_picture_loss",
            optimizer=None,
            learning_rate=None,
            look=dict(color=BLACK, marker="*", linestyle="none", markersize=13),
        ),
        Method(
            "lora",
            "LoRA on the fusion layers",
            "2106.09685",
            adapter=LoraConfig,
            fields={"r": 4, "lora_alpha": 4, "target_modules": FUSION_PROJECTIONS},
            learning_rate=3e-3,
            look=dict(color=BLACK, marker="D"),
            **DETECTOR,
        ),
        Method(
            "full",
            "Full tuning",
            put_on=train_all,
            learning_rate=1e-4,
            look=dict(color=GRAY, marker="s"),
            **DETECTOR,
        ),
        Method(
            "dual_prompts",
            "Prompts in both streams, without prototypes",
            "2407.11414",
            adapter=SDPTConfig,
            fields={"unified_prototypes": False},
            learning_rate=0.1,
            look=dict(color=GREEN, marker="P"),
            **DETECTOR,
        ),
        Method(
            "sdpt_released",
            "SDPT with text prompts masked, as in the released code",
            "2407.11414",
            adapter=SDPTConfig,
            fields={"mask_text_prompts": True},
            learning_rate=0.1,
            look=dict(color=PINK, marker="v", linestyle="--"),
            **DETECTOR,
        ),
        Method(
            "sdpt",
            "SDPT",
            "2407.11414",
            adapter=SDPTConfig,
            learning_rate=0.1,
            look=dict(color=VERMILLION, marker="o", linewidth=3, markersize=9, zorder=5),
            emphasized=True,
            **DETECTOR,
        ),
    )
}
