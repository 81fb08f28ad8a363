"""Name what is on pictures, with a saved adapter and the classes it was trained on, or others.

python examples/predict.py outputs/fewshot picture.jpg another.jpg
python examples/predict.py user/adapter picture.jpg --classes "cat,dog,sea lion" --template "{}."
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Optional


if TYPE_CHECKING:
    from peft import PeftConfig
    from PIL.Image import Image

BATCH_SIZE = 32


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", metavar="ADAPTER", help="A folder with adapter_config.json, or a Hub id.")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="Picture files.")
    parser.add_argument("--classes", help="Names with commas between. Default: those the adapter was trained on.")
    parser.add_argument(
        "--template",
        help="Text of a class, {} for its name, as it stands after the text prompts. Default: the adapter's.",
    )
    parser.add_argument("--model_name_or_path", help="The base CLIP. Default: the one the adapter names.")
    parser.add_argument("--top", type=int, default=5, help="How many classes are printed per picture. Default: 5.")
    return parser.parse_args()


def read_config(adapter: str) -> PeftConfig:
    """The adapter's config, from a folder or the Hub."""
    from peft import PeftConfig

    import peft_mudpt  # noqa: F401  registers MuDPT with PEFT

    file = Path(adapter) / "adapter_config.json"
    if Path(adapter).exists() and not file.is_file():
        raise ValueError(f"ADAPTER {adapter} holds no {file.name}: give the folder that an adapter was saved to.")
    try:
        return PeftConfig.from_pretrained(adapter)
    except (ValueError, KeyError, TypeError) as error:
        found = f"has an unreadable {file.name}" if file.is_file() else "is no folder, and no adapter of the Hub"
        raise ValueError(f"ADAPTER {adapter} {found} ({error}). Give a folder or Hub id of an adapter.") from error


def remembered_classes(config: PeftConfig, adapter: str) -> tuple[Optional[list[str]], Optional[str]]:
    """The classes the adapter was trained on and the text of one; None for what it does not remember."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    from peft_mudpt.lab.schema import RESULT, read_result

    class_names, template = getattr(config, "class_names", None), getattr(config, "class_template", None)
    if class_names is None and template is None:  # a LoRA adapter: its config has no place for them
        try:
            folder = Path(adapter) if Path(adapter).is_dir() else Path(hf_hub_download(adapter, RESULT)).parent
            result = read_result(folder) or {}
        except EntryNotFoundError:
            result = {}
        class_names, template = result.get("class_names"), result.get("template_after_prompts")
    return class_names, template


def choose_classes(arguments: argparse.Namespace, config: PeftConfig) -> tuple[list[str], str]:
    """The class names and the text of one, as asked for or as the adapter remembers them."""
    class_names = None if arguments.classes is None else [name.strip() for name in arguments.classes.split(",")]
    template = arguments.template
    if class_names is None or template is None:
        remembered_names, remembered_template = remembered_classes(config, arguments.adapter)
        class_names = remembered_names if class_names is None else class_names
        template = remembered_template if template is None else template
    if class_names is None:
        raise ValueError(
            f'ADAPTER {arguments.adapter} does not remember the classes it was trained on. Give --classes "cat,dog".'
        )
    if template is None:
        raise ValueError(
            f"ADAPTER {arguments.adapter} does not remember the text of a class. Give --template: what stands after "
            'the text prompts, such as "{}.".'
        )
    if len(class_names) < 2 or not all(class_names):
        raise ValueError(f"--classes needs at least two names with commas between; these are {class_names}.")
    twice = sorted({name for name in class_names if class_names.count(name) > 1})
    if twice and arguments.classes is not None:
        raise ValueError(f"--classes names {', '.join(map(repr, twice))} more than once. Give each class once.")
    if template.count("{}") != 1:
        raise ValueError(f'--template {template!r} must hold {{}} once, where the class name goes: "{{}}."')
    return class_names, template


def check_picture(file: str) -> None:
    """Refuse now what could not be read once the model is loaded. Looks at the head of the file only."""
    from PIL import Image

    if not Path(file).is_file():
        raise ValueError(f"IMAGE {file} is no file. Give picture files.")
    try:
        with Image.open(file) as picture:
            picture.verify()
    except Exception as error:  # each format of Pillow has its own
        raise ValueError(f"IMAGE {file} cannot be read as a picture ({error}). Leave it out.") from error


def read_picture(file: str) -> Image:
    """The whole picture, upright, in RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")  # the pictures it was trained on were upright, too
    except Exception as error:
        raise ValueError(f"IMAGE {file} breaks off or is damaged ({error}). Leave it out.") from error


def choose_base(arguments: argparse.Namespace, config: PeftConfig) -> str:
    """Hub id or folder of the CLIP."""
    base = arguments.model_name_or_path or config.base_model_name_or_path
    if not base:
        raise ValueError(f"ADAPTER {arguments.adapter} does not name its base CLIP. Give --model_name_or_path.")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ValueError(
            f"The base CLIP {base} is no folder on this machine. Give --model_name_or_path: the CLIP that the adapter "
            "was trained on."
        )
    return base


def main() -> None:
    arguments = parse_arguments()
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top} is too few; give at least 1.")
    config = read_config(arguments.adapter)
    class_names, template = choose_classes(arguments, config)
    base = choose_base(arguments, config)
    for file in arguments.images:
        check_picture(file)

    import torch

    from peft_mudpt import MuDPTClassifier

    classifier = MuDPTClassifier.from_pretrained(arguments.adapter, class_names, template, base)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    for start in range(0, len(arguments.images), BATCH_SIZE):
        files = arguments.images[start : start + BATCH_SIZE]
        for file, best in zip(files, classifier.top_k([read_picture(file) for file in files], arguments.top)):
            print(file)
            for name, probability in best:
                print(f"  {100 * probability:5.1f} %  {name}")


if __name__ == "__main__":
    main()
