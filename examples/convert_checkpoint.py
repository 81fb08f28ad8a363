"""Convert a checkpoint of the published research code to an adapter that PEFT loads.

    python examples/convert_checkpoint.py MultiModalPromptLearner/model.pth.tar-5 --output_dir outputs/converted \\
        --model_name_or_path openai/clip-vit-base-patch16 --class_template "of a {}."
"""

from dataclasses import dataclass, field
from typing import Optional

from transformers import HfArgumentParser

from peft_mudpt.lab.terminal import one_line_errors


@dataclass
class Arguments:
    output_dir: str = field(metadata={"help": "Folder for adapter_config.json and adapter_model.safetensors."})
    method: Optional[str] = field(
        default=None,
        metadata={
            "help": "Published name: coop, cocoop, tcp, vpt, ivlp, mpt, promptsrc, maple, mudpt, umudpt, uumudpt. "
            "Default: the one whose parameters the file holds."
        },
    )
    model_name_or_path: Optional[str] = field(
        default=None, metadata={"help": "The CLIP that the checkpoint was trained on; the config will name it."}
    )
    class_template: Optional[str] = field(
        default=None,
        metadata={"help": "Text of a class that follows the prompts, with {} for the name; the config notes it."},
    )
    condition_template: Optional[str] = field(
        default=None,
        metadata={"help": "TCP: text, with {} for the class, whose feature the class tokens are made from."},
    )
    class_token_layer: Optional[int] = field(
        default=None, metadata={"help": "TCP: layer, counted from 0, before which the class tokens enter."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace an adapter in --output_dir."})


class Ignored:
    """Replaces objects that are not tensors, such as the scheduler that Dassl saves with the weights."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def load_weights(file: str) -> dict:
    """Read the tensors of a file. No code in it is executed, because every other object is read as `Ignored`."""
    import os
    import zipfile
    from pathlib import Path

    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    from peft_mudpt.conversion import unwrapped

    if os.path.isdir(file):
        inside = sorted(str(path) for path in Path(file).rglob("*.pth.tar*"))
        raise ValueError(f"{file} is a folder. Give a checkpoint: {', '.join(inside) or 'there is none in it'}.")
    try:
        # files of torch before 1.6 are not zip archives; they can be read only if they hold nothing but tensors
        others = get_unsafe_globals_in_checkpoint(file) if zipfile.is_zipfile(file) else []
        with safe_globals([(Ignored, name) for name in others]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # each kind of damage raises another type
        raise ValueError(f"{file} cannot be read safely as a checkpoint. Give a file saved by torch.save.") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{file} holds a {type(loaded).__name__}; expected a dictionary of tensors.")
    return {name: tensor for name, tensor in unwrapped(loaded).items() if isinstance(tensor, torch.Tensor)}


def main() -> None:
    parser = HfArgumentParser(Arguments, description=__doc__.splitlines()[0])
    parser.add_argument("file", help="The checkpoint (.pth, .pth.tar).")
    arguments, file = parser.parse_args_into_dataclasses()

    from pathlib import Path

    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import save_file

    from peft_mudpt.conversion import NOT_STORED, convert

    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give a folder.")
    adapter = sorted(path.name for path in folder.glob("adapter_*"))
    if adapter and not arguments.overwrite_output_dir:
        raise ValueError(
            f"--output_dir {folder} holds an adapter already ({', '.join(adapter)}). Give another folder, or "
            "--overwrite_output_dir to replace it."
        )
    known = {name: value for name in NOT_STORED if (value := getattr(arguments, name, None)) is not None}
    form, config, weights, left_aside = convert(load_weights(file.file), arguments.method, known)
    config.base_model_name_or_path = arguments.model_name_or_path
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    print(f"Method {arguments.method or form.methods[0]}, as stored by {form.code}.")
    print(f"{len(weights)} tensors, {sum(w.numel() for w in weights.values()):,} numbers: {folder}")
    print(f"{len(left_aside)} tensors left aside, which are weights of CLIP or embedded class names.")
    if config.class_template is None:
        print("The adapter does not note the text of a class. Give --class_template, or give it with the class names.")


if __name__ == "__main__":
    with one_line_errors():
        main()
