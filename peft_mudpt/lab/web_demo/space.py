"""Writes a folder that is ready to be pushed as a Hugging Face Space."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from huggingface_hub import SpaceCardData

from ...classifier.saving import CLASSES
from ..hub import leave_out_paths
from ..learner import HEADS
from ..run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..saving import find_file
from ..schema import RESULT
from ..storage import PARTIAL, naming
from .about import About, is_embedded
from .demo import Demo


PACKAGE = "peft_mudpt"
ADAPTER = "adapter"  # the folder of the adapter in the Space
COPIED = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CLASSES, RESULT, *(head.file for head in HEADS))
APP, REQUIREMENTS, README = "app.py", "requirements.txt", "README.md"


def write_space(
    folder: str | os.PathLike,
    adapter: str | os.PathLike,
    class_names: Optional[list[str]] = None,
    template: Optional[str] = None,
    model_name_or_path: Optional[str] = None,
) -> Path:
    """
    Write a Space: the page as a program, what it needs to be installed, its description, and the adapter. The
    classifier is loaded first, so that no Space is written that could not start.

    Args:
        folder: the folder to write; it must be new or empty. If an error occurs, it stays as it was.
        adapter: see `load_classifier`.
        class_names: the classes that the page shows first; None: those the adapter was trained on.
        template: see `load_classifier`.
        model_name_or_path: the Hub id of the CLIP; None: the one that the adapter or the run names.

    Returns:
        The folder.

    Raises:
        ValueError: as `load_classifier`; also if the folder holds files, or if the CLIP is a folder of this machine.
        OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists, and is no empty folder. Give a new one.")
    demo = Demo.load(adapter, class_names, template, model_name_or_path)
    base = _base_of(demo)
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{folder.name}{PARTIAL}", dir=folder.parent) as partial:
            space = Path(partial) / folder.name
            (space / ADAPTER).mkdir(parents=True)
            for file in filter(None, (find_file(adapter, name) for name in COPIED)):
                shutil.copyfile(file, space / ADAPTER / file.name)
            if (space / ADAPTER / ADAPTER_CONFIG).exists():
                leave_out_paths(space / ADAPTER / ADAPTER_CONFIG)
            given = model_name_or_path if base is not None else None
            (space / APP).write_text(
                _app(class_names, template, base is None, given, demo.about.name), encoding="utf-8"
            )
            (space / REQUIREMENTS).write_text(f"{PACKAGE}[demo]=={version(PACKAGE)}\n", encoding="utf-8")
            (space / README).write_text(_readme(adapter, base, demo.about), encoding="utf-8")
            os.replace(space, folder)
    return folder


def _base_of(demo: Demo) -> Optional[str]:
    """The Hub id of the CLIP; None if it is the embedded one, which the package contains."""
    base = demo.base_model_name_or_path
    if is_embedded(base):
        return None
    if not Path(base).is_dir():
        return base
    raise ValueError(
        f"The CLIP {base} is a folder of this machine, which a Space cannot load. Upload it to the Hub, and give its "
        "id (--model_name_or_path)."
    )


def _app(
    class_names: Optional[list[str]], template: Optional[str], on_embedded: bool, base: Optional[str], name: str
) -> str:
    """The program that shows the page. Names are written as Python writes them, so that none is run."""
    given = {"class_names": class_names, "template": template, "model_name_or_path": base, "name": name}
    arguments = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    imports = f"from {PACKAGE}.lab.web_demo.demo import Demo\nfrom {PACKAGE}.lab.web_demo.page import launch\n"
    if on_embedded:
        imports = f"from {PACKAGE} import demo\n{imports}"
        arguments.append("model_name_or_path=demo.MODEL_PATH")
    call = ", ".join([f'Path(__file__).with_name("{ADAPTER}")', *arguments])
    return (
        f'"""The page of a classifier of pictures, written by {PACKAGE} {version(PACKAGE)}."""\n\n'
        f"from pathlib import Path\n\n{imports}\n\nlaunch(Demo.load({call}))\n"
    )


def _readme(adapter: str | os.PathLike, base: Optional[str], about: About) -> str:
    """The description, which begins with the settings of the Space."""
    on_hub = None if Path(adapter).exists() else os.fspath(adapter)
    card = SpaceCardData(
        title=about.title,
        emoji="🔎",
        colorFrom="indigo",
        colorTo="gray",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=".".join(platform.python_version_tuple()[:2]),
        app_file=APP,
        models=[name for name in (base, on_hub) if name] or None,
        tags=["peft", "clip", "few-shot"],
    )
    return (
        f"---\n{card.to_yaml()}\n---\n\n{about.as_markdown()}\n\nDrop a picture, edit the classes, and see what "
        f"{base or 'a tiny CLIP of drawn shapes'} with a few-shot adapter answers, and where it looks.\n"
    )
