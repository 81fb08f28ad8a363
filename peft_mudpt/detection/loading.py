"""Loads detectors, and makes them ready for PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, TypeVar

import torch
from peft import PeftConfig, PeftModel
from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection, PreTrainedModel

from ..classifier.loading import ModelSource


DETECTORS: tuple[Any, ...] = (GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection)
Model = TypeVar("Model", bound=torch.nn.Module)


def base_detector(model: torch.nn.Module) -> Any:
    """
    The transformers model in a detector.

    Args:
        model: a detector, plain or with an adapter.

    Raises:
        ValueError: if it is no (MM)GroundingDINO for object detection.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, DETECTORS):
        raise ValueError(
            f"The model is a {type(base).__name__}, but a detector must be one of "
            f"{', '.join(kind.__name__ for kind in DETECTORS)}, plain or in a PeftModel. Load it with "
            "AutoModelForZeroShotObjectDetection."
        )
    return base


def prepare_detector_for_peft(model: Model) -> Model:
    """
    Make a detector ready for LoRA and PEFT's other methods, in place. SDPT does not need it.

    PEFT asks a model that shares weights between modules for its input embeddings. These detectors share the layers
    that predict boxes, but do not tell their input embeddings, so PEFT ends with `NotImplementedError:
    get_input_embeddings not auto-handled`. This function adds the method that is missing.

    Args:
        model: a GroundingDINO or MM-GroundingDINO for object detection, before `get_peft_model` or
            `PeftModel.from_pretrained`.

    Returns:
        The model.

    Raises:
        ValueError: if it is another model.
    """
    detector = base_detector(model)
    detector.get_input_embeddings = detector.model.text_backbone.get_input_embeddings
    return model


def load_detector(source: ModelSource, **model_kwargs) -> PreTrainedModel:
    """
    Load a detector that is ready for PEFT.

    Args:
        source: where it is loaded from.
        **model_kwargs: those of `AutoModelForZeroShotObjectDetection.from_pretrained`.

    Raises:
        ValueError: if the model is no (MM)GroundingDINO. Its weights are not loaded then.
    """
    found, types = source.config().model_type, [kind.config_class.model_type for kind in DETECTORS]
    if found not in types:
        raise ValueError(
            f"{source.name_or_path} is a model of type {found}, but a detector must be of type {' or '.join(types)}. "
            "Name such a model."
        )
    return prepare_detector_for_peft(source.detector(**model_kwargs))


def classes_of(class_names: Optional[Sequence[str]], config: Optional[PeftConfig]) -> Sequence[str]:
    """
    The class names that are given, or else those in the config of an adapter.

    Raises:
        ValueError: if there are none.
    """
    if class_names is None:
        class_names = getattr(config, "class_names", None)
    if class_names is None:
        raise ValueError("No class_names are given, and there is no adapter whose config has some. Give class_names.")
    return class_names
