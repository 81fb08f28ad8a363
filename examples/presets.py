"""Print the presets as a Markdown table, with their trainable parameters on ViT-B/16 (no weights are loaded)."""

import torch
from peft import get_peft_model
from transformers import CLIPConfig, CLIPModel

from peft_mudpt import PRESETS, MuDPTConfig
from peft_mudpt.library_warnings import without_known_warnings


def vit_b_16() -> CLIPModel:
    """CLIP ViT-B/16 on the meta device, which has shapes but no weights."""
    text = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8)
    vision = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16)
    with torch.device("meta"):
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))


def row(preset: str, clip: CLIPModel) -> str:
    config = MuDPTConfig.from_preset(preset)
    with without_known_warnings():
        trainable, _ = get_peft_model(clip, config).get_nb_trainable_parameters()

    def prompts(modality: str) -> str:
        tokens = config.num_tokens(modality)
        return f"{tokens} / {config.depth(modality)}" if tokens else "none"

    fusion = "none"
    if config.fusion_direction != "none":
        parts = (config.fusion_direction, config.fusion_type, config.fusion_combine, config.fusion_sharing)
        fusion = ", ".join(part.replace("_", " ") for part in parts)
    if config.conditioning != "none":
        fusion += f"; texts depend on the {config.conditioning}"
    if config.num_domains is not None:
        fusion += f"; {config.num_domains} domains, mixed for each image"
    return f"| `{preset}` | {prompts('text')} | {prompts('vision')} | {fusion} | {trainable:,} |"


def main() -> None:
    print("| preset | text tokens / depth | vision tokens / depth | fusion | trainable at ViT-B/16 |")
    print("|---|---|---|---|---|")
    for preset in PRESETS:
        print(row(preset, vit_b_16()))


if __name__ == "__main__":
    main()
