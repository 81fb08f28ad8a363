#!/usr/bin/env bash
# Seen with peft 0.21.2 and transformers 5.24.0 (torch 2.13.0, Python 3.11):
# the first adapter that a process adds, of any method of PEFT, makes transformers build its rules for converting old
# checkpoints of all architectures and compile their regular expressions, also for a CLIP, whose weights no rule renames.
# For a small model this is nearly all the time of `get_peft_model`; the second adapter costs none of it.
#
# Output seen:
#     patterns compiled for the first adapter: 904
#     patterns compiled for the second adapter: 0
#     weights of CLIP that were renamed: 0
#
# It fails if that changes. It installs the packages into a temporary folder and needs no network besides pip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q transformers==5.24.0 peft==0.21.2
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import cProfile
import pstats

from peft import LoraConfig, get_peft_model
from transformers import CLIPConfig, CLIPModel

sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
text = dict(vocab_size=100, max_position_embeddings=16, bos_token_id=98, eos_token_id=99, **sizes)
vision = dict(image_size=16, patch_size=8, **sizes)


def patterns_compiled(clip: CLIPModel) -> int:
    """Regular expressions compiled while a LoRA adapter is added."""
    profile = cProfile.Profile()
    profile.runcall(get_peft_model, clip, LoraConfig(target_modules=["q_proj"]))
    calls = pstats.Stats(profile).stats.items()
    return sum(entry[1] for (file, _, name), entry in calls if name == "compile" and "_compiler" in file)


clips = [CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)) for _ in range(2)]
names = set(clips[0].state_dict())
first, second = map(patterns_compiled, clips)
adapted = {name.replace(".base_layer", "") for name in clips[0].state_dict() if "lora" not in name}
print(f"patterns compiled for the first adapter: {first}")
print(f"patterns compiled for the second adapter: {second}")
print(f"weights of CLIP that were renamed: {len(names - adapted)}")
assert first > 100 and second == 0 and names == adapted
PYTHON
