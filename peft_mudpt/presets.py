"""The settings of `MuDPTConfig` that give each published method."""

from __future__ import annotations


# Of each method only what differs from the defaults of `MuDPTConfig`, which are MuDPT's.
PRESETS: dict[str, dict] = {
    # Zhou et al., "Learning to Prompt for Vision-Language Models", arXiv 2109.01134
    "coop": dict(num_virtual_tokens=16, prompt_depth=1, vision_prompt_depth=0, fusion_direction="none"),
    # Zhou et al., "Conditional Prompt Learning for Vision-Language Models", arXiv 2203.05557
    "cocoop": dict(prompt_depth=1, vision_prompt_depth=0, fusion_direction="none", conditioning="image"),
    # Yao et al., "TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model", arXiv 2311.18231
    "tcp": dict(
        prompt_depth=1,
        vision_prompt_depth=0,
        fusion_direction="none",
        conditioning="class",
        meta_net_reduction=4,
    ),
    # Jia et al., "Visual Prompt Tuning", arXiv 2203.12119
    "vpt_shallow": dict(prompt_depth=1, text_prompt_depth=0, fusion_direction="none"),
    "vpt_deep": dict(num_virtual_tokens=8, prompt_depth="all", text_prompt_depth=0, fusion_direction="none"),
    # independent vision-language prompting, the baseline of Khattak et al., arXiv 2210.03117
    "ivlp": dict(num_virtual_tokens=2, prompt_depth="all", fusion_direction="none"),
    # Wei et al., "Dual Prompt Tuning for Domain-Aware Federated Learning", arXiv 2310.03103
    "fed_dpt": dict(num_virtual_tokens=16, prompt_depth=1, fusion_direction="none", num_domains=4),
    # the prompts of Khattak et al., "Self-regulating Prompts: Foundational Model Adaptation without Forgetting", arXiv
    # 2307.06948; its losses are no part of an adapter
    "promptsrc": dict(fusion_direction="none"),
    # Khattak et al., "MaPLe: Multi-modal Prompt Learning", arXiv 2210.03117
    "maple": dict(
        num_virtual_tokens=2,
        fusion_direction="text_to_vision",
        fusion_type="linear",
        fusion_combine="replace",
        fusion_sharing="per_layer",
    ),
    # Miao et al., "MuDPT: Multi-modal Deep-symphysis Prompt Tuning", arXiv 2306.11400: the one-directional ablation,
    # the linear form of the authors' released trainer, and the method as in the paper
    "umudpt": dict(num_virtual_tokens=2, fusion_direction="text_to_vision", fusion_combine="replace"),
    "mudpt_linear": dict(fusion_type="linear", fusion_sharing="input_and_deep"),
    "mudpt": dict(),
}
