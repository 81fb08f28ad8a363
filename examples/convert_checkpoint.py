"""Turn a checkpoint of the published research code into an adapter that PEFT loads.

    python examples/convert_checkpoint.py model.pth.tar-5 --method maple --output_dir my-adapter \\
        --model_name_or_path openai/clip-vit-base-patch16
"""

from dataclasses import dataclass, field
from typing import Optional

from transformers import HfArgumentParser


@dataclass
class Arguments:
    method: str = field(metadata={"help": "Published name: coop, vpt, mpt, maple, mudpt, umudpt or uumudpt."})
    output_dir: str = field(metadata={"help": "Where adapter_config.json and adapter_model.safetensors are written."})
    model_name_or_path: Optional[str] = field(
        default=None, metadata={"help": "The CLIP that the checkpoint was trained on, to be noted in the config."}
    )


def load_weights(file: str):
    """The tensors of a file. Only tensors are read: nothing in the file is executed."""
    import pickle

    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors, and is not loaded since that could run code.") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, expected a dictionary of tensors.")
    loaded = loaded.get("state_dict", loaded)  # Dassl, the published trainers' framework, wraps the weights
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}


def main() -> None:
    parser = HfArgumentParser(Arguments, description=__doc__.splitlines()[0])
    parser.add_argument("file", help="The checkpoint (.pth, .pth.tar).")
    arguments, file = parser.parse_args_into_dataclasses()

    from pathlib import Path

    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import save_file

    from peft_mudpt import convert_checkpoint

    config, weights = convert_checkpoint(load_weights(file.file), arguments.method)
    config.base_model_name_or_path = arguments.model_name_or_path
    config.inference_mode = True
    config.save_pretrained(arguments.output_dir)
    save_file(weights, Path(arguments.output_dir) / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    print(f"{len(weights)} tensors, {sum(w.numel() for w in weights.values()):,} numbers: {arguments.output_dir}")


if __name__ == "__main__":
    main()
