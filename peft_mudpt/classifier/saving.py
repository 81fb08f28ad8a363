"""Saves an adapter with the classes of its classifier, and reads them again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from ..calibration.calibration import Calibration
from ..config import CALIBRATION, IMAGE_SIZE, MuDPTConfig
from ..rules import check_class_names, either
from .class_texts import ClassTexts


# Beside an adapter whose config has no fields for classes, such as LoRA's. `find_adapter` downloads names like this.
CLASSES = "adapter_classes.json"
FILES = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME, CLASSES)


@dataclass(frozen=True)
class KnownClasses:
    """
    What a classifier knows beside the weights.

    Args:
        class_names: names of the classes, in the order of the labels.
        texts: what the texts of the classes are made from.
        calibration: what held-out pictures told about the probabilities; None: nothing.
        image_size: pixels of both sides of the images that the adapter is for; None: those of the CLIP.
    """

    class_names: list[str]
    texts: ClassTexts
    calibration: Optional[Calibration] = None
    image_size: Optional[int] = None

    def completed(
        self,
        class_names: Optional[Sequence[str]],
        template: Union[str, Sequence[str], None],
        descriptions: Optional[Mapping[str, Sequence[str]]],
        owner: str = CLASSES,
    ) -> dict[str, Any]:
        """
        Arguments of a classifier, in which these classes and texts stand for what is None. Raise a ValueError if the
        descriptions of these texts lack a class, which says that they are those of `owner`.
        """
        names = self.class_names if class_names is None else class_names
        if template is None and descriptions is None:
            return {"class_names": names, **self.texts.only(names, owner).as_arguments()}
        return {"class_names": names, "template": template, "descriptions": descriptions}

    def note_in(self, config: MuDPTConfig) -> None:
        """Write all of it into the config of an adapter."""
        own = self.texts.only(self.class_names).as_arguments()
        several = isinstance(own["template"], list)
        config.class_names = list(self.class_names)
        config.class_template = None if several else own["template"]
        config.class_templates = own["template"] if several else None
        config.class_descriptions = own["descriptions"]
        config.calibration = None if self.calibration is None else self.calibration.as_dict()
        config.image_size = self.image_size

    def write(self, folder: Path) -> None:
        """Write all of it to the file `CLASSES` in a folder."""
        calibration = None if self.calibration is None else self.calibration.as_dict()
        texts = self.texts.only(self.class_names).as_arguments()
        notes = {"calibration": calibration, "image_size": self.image_size}
        content = {"class_names": list(self.class_names), **texts, **notes}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / CLASSES).write_text(text + "\n", encoding="utf-8")


def save_with_classes(
    model: PeftModel, adapter: str, known: KnownClasses, folder: Path, overwrite: bool, **kwargs
) -> None:
    """
    Save an adapter of a model with what a classifier knows, without changing the model or its configs.

    Args:
        model: the model with the adapter.
        adapter: the name of the adapter. Whatever it is, the files are in `folder` itself.
        known: what the classifier knows.
        folder: the folder to write to; it is created if needed.
        overwrite: whether an adapter in the folder is replaced.
        **kwargs: arguments of `PeftModel.save_pretrained`.

    Raises:
        ValueError: if `folder` is a file, or holds an adapter and `overwrite` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give a folder.")
    found = [name for name in FILES if os.path.lexists(folder / name)]
    if found and not overwrite:
        raise ValueError(f"{folder} holds an adapter already ({', '.join(found)}). Give another folder, or overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving_", dir=folder) as partial:
        model.save_pretrained(partial, selected_adapters=[adapter], **kwargs)
        written = Path(partial) if adapter == "default" else Path(partial) / adapter
        config = model.peft_config[adapter]
        if isinstance(config, MuDPTConfig):
            own = MuDPTConfig.from_pretrained(os.fspath(written))
            known.note_in(own)
            own.save_pretrained(os.fspath(written))
        else:
            known.write(written)
        # the config last: without it, there is no adapter
        for name in (*FILES[1:], CONFIG_NAME):
            if (written / name).exists():
                os.replace(written / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def read_classes(folder: Path) -> Optional[KnownClasses]:
    """
    Read what `save_with_classes` wrote beside an adapter whose config has no fields for classes.

    Args:
        folder: the folder of the adapter.

    Returns:
        What the classifier knew; None if there is no such file.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / CLASSES
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, Mapping):
            raise ValueError("it holds no object")
        names = check_class_names(stored["class_names"])
        texts = ClassTexts.given(stored["template"], stored["descriptions"]).only(names)
        calibration = stored["calibration"]
        either(CALIBRATION, None).check(calibration, "calibration")
        IMAGE_SIZE.check(image_size := stored.get("image_size"), "image_size")
        return KnownClasses(names, texts, None if calibration is None else Calibration(**calibration), image_size)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). Save the classifier again.") from error
