"""Saves the learned weights of a run, also folded, and checks that they can be loaded again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import BaseImageProcessor, PreTrainedModel

from ..calibration.calibration import Calibration
from ..classifier.class_texts import ClassTexts
from ..classifier.saving import KnownClasses
from ..config import MuDPTConfig
from ..image_size import image_size_of
from ..library_warnings import without_known_warnings
from ..serving.folding import fold_adapter
from .heads import Head
from .learner import HEADS, Learner
from .run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, EXAMPLES, LEARNED_PARTIAL
from .schema import RESULT
from .storage import naming


def save_learned(
    learner: Learner,
    class_names: list[str],
    texts: ClassTexts,
    folder: Path,
    calibration: Optional[Calibration] = None,
) -> int:
    """
    Save the learned weights. Each file is completed in a temporary folder, and then moved to `folder`.

    Args:
        learner: the trained learner. Of a PEFT model, the adapter is saved in PEFT's format; of a head, such as
            a linear probe, its tensors, and the adapter below it if there is one; of a plain CLIP, nothing.
        class_names: names of the C classes; the position of a name is its label. The config of a MuDPT adapter stores
            them, and a file beside one of LoRA, unless it is below a head: it would then classify by texts, which it
            was not trained for.
        texts: the texts of the classes, which follow the text prompts. They are stored with the classes.
        folder: the folder to write to; it is created if needed.
        calibration: what validation pictures told about the probabilities; None: nothing. It is stored with the
            classes.

    Returns:
        Size of the files of weights, in bytes; 0 if nothing is saved.

    Raises:
        OSError: if the folder cannot be written.
    """
    if isinstance(learner.model, PreTrainedModel):
        return 0
    model = learner.model

    def write(partial: Path) -> None:
        if isinstance(model, Head):
            save_file(model.head.state_dict(), partial / model.file)
            if isinstance(model.model, PeftModel):
                save_adapter(model.model, partial)
        else:
            known = KnownClasses(class_names, texts, calibration, image_size_of(model))
            config = model.peft_config[model.active_adapter]
            if isinstance(config, MuDPTConfig):
                known.note_in(config)
            else:
                known.write(partial)
            save_adapter(model, partial)

    return save_files(folder, write)


def save_files(folder: Path, write: Callable[[Path], object]) -> int:
    """
    Save files of weights. They are completed in a temporary folder, and then moved to `folder`.

    Args:
        folder: the folder to write to; it is created if needed.
        write: writes the files into the folder that it is given.

    Returns:
        Size of the files of weights, in bytes.

    Raises:
        OSError: if the folder cannot be written.
    """
    partial = folder / LEARNED_PARTIAL
    with naming(folder):
        partial.mkdir(parents=True)
        write(partial)
        size = sum(file.stat().st_size for file in partial.glob("*.safetensors"))
        for file in partial.iterdir():
            os.replace(file, folder / file.name)
        partial.rmdir()
    return size


def load_head(
    kind: type[Head],
    folder: Path,
    clip: PreTrainedModel,
    class_names: Sequence[str],
    image_processor: Optional[BaseImageProcessor] = None,
) -> Head:
    """
    Load a head that `save_learned` has saved, with the adapter below it if there is one.

    Args:
        kind: the class of the head.
        folder: the folder of the run.
        clip: the CLIP that the head was trained on.
        class_names: names of the C classes; the position of a name is its label.
        image_processor: see `Head`.

    Returns:
        The head, on the device of the CLIP.

    Raises:
        ValueError: if the weights do not fit the classes or the CLIP.
    """
    has_adapter, file = (folder / ADAPTER_CONFIG).is_file(), folder / kind.file
    model = _adapted(clip, folder) if has_adapter else clip
    head = kind(model, class_names, image_processor)
    try:
        head.load_learned(load_file(file))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} does not fit its classes or its CLIP: {error}") from error
    return head.to(clip.device).eval()


def save_folded(model: PeftModel, source: str | os.PathLike, folder: str | os.PathLike) -> int:
    """
    Fold the active adapter of a model in place, and save it. If a run has trained the adapter, its model card and its
    `result.json` are copied, because they still describe the adapter.

    Args:
        model: the model, loaded from `source`.
        source: the folder or the Hub id of the adapter.
        folder: the folder to write to; it is created if needed.

    Returns:
        Size of the file of weights, in bytes.

    Raises:
        ValueError: if the adapter is below a head, which would be lost, or if it cannot be folded (see
            `fold_adapter`). No file is written then.
    """
    folder = Path(folder)
    for kind in HEADS:
        if (Path(source) / kind.file).is_file():
            raise ValueError(
                f"{source} holds {kind.words}, which cannot be folded. Export it to a .onnx or .pt2 file."
            )
    fold_adapter(model)
    described = [file for name in (RESULT, CARD) if (file := find_file(source, name)) is not None]
    save_adapter(model, folder)
    if len(described) == 2:
        for file in [*described, *filter(None, [find_file(source, EXAMPLES)])]:
            shutil.copyfile(file, folder / file.name)
    return (folder / ADAPTER_WEIGHTS).stat().st_size


def save_adapter(model: PeftModel, folder: Path) -> None:
    """
    Save the adapters of a model without PEFT's generic card, which would disclose a path of this machine.

    Args:
        model: the model with its adapters.
        folder: the folder to write to.
    """
    model.save_pretrained(folder)
    (folder / CARD).unlink(missing_ok=True)


def find_file(adapter: str | os.PathLike, name: str) -> Optional[Path]:
    """
    Find a file of an adapter; one on the Hub is downloaded.

    Args:
        adapter: the folder or the Hub id of the adapter.
        name: name of the file.

    Returns:
        The path of the file; None if the adapter lacks it.
    """
    if Path(adapter).is_dir():
        file = Path(adapter) / name
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(os.fspath(adapter), name))
    except EntryNotFoundError:
        return None


def reload(model: torch.nn.Module, clip: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """
    Load the saved weights of a trained model.

    Args:
        model: the trained model: a `PeftModel` or a head.
        clip: a new copy of the model that it adapts.
        folder: the folder of the weights.

    Returns:
        The model with the saved weights, on the device of `clip`.
    """
    if isinstance(model, Head):
        return load_head(type(model), folder, clip, model.class_names)
    return _adapted(clip, folder).to(clip.device)


def _adapted(clip: PreTrainedModel, folder: Path) -> PeftModel:
    with without_known_warnings():
        return PeftModel.from_pretrained(clip, folder)


@torch.no_grad()
def check_it_reloads(
    model: torch.nn.Module,
    reloaded: torch.nn.Module,
    folder: Path,
    logits_of: Callable[[torch.nn.Module], torch.Tensor],
) -> None:
    """
    Check that the logits of saved weights equal those of the trained model.

    Args:
        model: the trained model.
        reloaded: the model with the saved weights.
        folder: the folder of the weights, for the message.
        logits_of: computes the logits of a model for fixed inputs.

    Raises:
        RuntimeError: if the logits differ.
    """
    if not torch.equal(logits_of(model.eval()), logits_of(reloaded.eval())):
        raise RuntimeError(f"The weights reloaded from {folder} give other logits than the trained model.")
