"""The CLIP that a run adapts, its tokenizer and its image processor."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Optional, Union

import torch
from transformers import BaseImageProcessor, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from .. import demo
from ..classifier.class_texts import ClassTexts
from ..classifier.classifier import MuDPTClassifier
from ..classifier.loading import ModelSource
from ..classifier.prediction import PictureClassifier
from ..image_size import set_image_size
from ..towers.registry import family_of
from .data.fingerprints import fingerprint_of_file
from .flags import Options, flag


EMBEDDED = "embedded"
FOR_PHOTOGRAPHS = "openai/clip-vit-base-patch16"
# Files that transformers loads a model, its tokenizer and its image processor from; of the weights, those of one kind.
SETTINGS = ("config.json", "*processor_config.json", "tokenizer*", "vocab*", "*.model", "merges.txt", "*tokens*.json")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
KNOWS_SHAPES_ONLY = "The embedded CLIP knows drawn shapes only"
PICTURES_FROM = ("train_dir", "dataset_name", "coop_root", "domains_dir")  # flags that name other pictures than ours


@dataclass(frozen=True)
class BackboneOptions(Options):
    """The options that name the CLIP to adapt."""

    title: ClassVar[str] = "the model"

    embedded: ClassVar[str] = demo.MODEL_PATH  # folder of the embedded model
    for_photographs: ClassVar[str] = FOR_PHOTOGRAPHS  # the default for other pictures than ours

    model_name_or_path: str = flag(
        EMBEDDED,
        f"The CLIP: a Hub id, a folder, or '{EMBEDDED}' for the tiny CLIP of drawn shapes. If another flag names "
        f"pictures, such as a folder, the default is {FOR_PHOTOGRAPHS}.",
    )
    model_revision: Optional[str] = flag(
        None, "Branch, tag or commit of the CLIP's repository on the Hub. None: the main branch."
    )

    def __post_init__(self):
        super().__post_init__()
        is_local = self.model_name_or_path == EMBEDDED or Path(self.model_name_or_path).is_dir()
        if self.model_revision is not None and is_local:
            raise ValueError(
                f"--model_revision {self.model_revision} needs a model of the Hub, but {self.model_name_or_path!r} is "
                "on this machine. Give a Hub id with --model_name_or_path, or leave --model_revision out."
            )

    @classmethod
    def implied(cls, given: Namespace) -> list[str]:
        """The embedded model is the default for the embedded pictures alone (see `Options.implied`)."""
        are_embedded = all(getattr(given, name, None) is None for name in PICTURES_FROM)
        words = super().implied(given)
        return words if are_embedded else [*words, "--model_name_or_path", cls.for_photographs]

    def source(self) -> ModelSource:
        """Where the model is loaded from."""
        name = self.embedded if self.model_name_or_path == EMBEDDED else self.model_name_or_path
        return ModelSource(name, self.model_revision)

    def fingerprints(self) -> Optional[dict[str, str]]:
        """
        Identify the files of the model, its tokenizer and its image processor by their content.

        Returns:
            The fingerprint of each file, by name; None for a model of the Hub.
        """
        folder = Path(self.source().name_or_path)
        if not folder.is_dir():
            return None
        settings = {file for pattern in SETTINGS for file in folder.glob(pattern)}
        weights = next(filter(None, (list(folder.glob(pattern)) for pattern in WEIGHTS)), [])
        return {file.name: fingerprint_of_file(str(file)) for file in sorted({*settings, *weights}) if file.is_file()}


def load_processors(
    source: ModelSource, what: str, image_size: Optional[int] = None
) -> tuple[Tokenizer, BaseImageProcessor]:
    """
    Load the tokenizer and the image processor of a model.

    Args:
        source: where the model is loaded from.
        what: what the model is, for the message.
        image_size: pixels of both sides of the images; None: those on which the model was trained.

    Returns:
        The tokenizer and the image processor.

    Raises:
        OSError: if the model is no folder of a model, and cannot be downloaded.
    """
    try:
        return source.tokenizer(), source.image_processor(image_size)
    except (OSError, ValueError) as error:  # a ValueError of a folder without a tokenizer
        cause = str(error).partition("\n")[0]
        raise OSError(
            f"The {what} {source.name_or_path!r} cannot be loaded ({cause}). Connect to the network for the first "
            "download, or give a folder or another Hub id by --model_name_or_path; to try it without a network, give "
            f"{EMBEDDED!r}, the tiny {what} of the package, which knows drawn shapes only."
        ) from error


@dataclass(frozen=True)
class Backbone:
    """
    A CLIP by name, with its tokenizer and its image processor. `load_clip` loads the weights.

    Args:
        source: where the CLIP is loaded from.
        device: device of the models that `load_clip` returns.
        tokenizer: tokenizer of the CLIP.
        image_processor: image processor of the CLIP.
        class_batch_size: number of classes encoded at a time (see `MuDPTClassifier`).
        image_size: pixels of both sides of the images (see `set_image_size`); None: those on which the CLIP was
            trained.
    """

    source: ModelSource
    device: torch.device
    tokenizer: Tokenizer
    image_processor: BaseImageProcessor
    class_batch_size: Optional[int] = None
    image_size: Optional[int] = None

    @classmethod
    def load(
        cls,
        source: ModelSource,
        device: torch.device,
        class_batch_size: Optional[int] = None,
        image_size: Optional[int] = None,
    ) -> Backbone:
        """
        Load the tokenizer and the image processor of a CLIP, but not its weights.

        Args:
            source, device, class_batch_size, image_size: see the class.

        Raises:
            OSError: if the CLIP is no folder, and cannot be downloaded.
        """
        return cls(source, device, *load_processors(source, "CLIP", image_size), class_batch_size, image_size)

    def load_clip(self) -> PreTrainedModel:
        """
        Load a new copy of the CLIP, in float32.

        Raises:
            ValueError: if the model belongs to no supported family, takes images of any size (SigLIP 2 NaFlex), or
                cannot take images of `image_size`.
        """
        clip = self.source.clip()
        family_of(clip).image_shape(clip.config)  # before PEFT, which refuses some models by NotImplementedError
        if self.image_size is not None:
            set_image_size(clip, self.image_size)
        return clip.to(self.device)

    def classifier(
        self, model: torch.nn.Module, class_names: Sequence[str], texts: Union[str, ClassTexts]
    ) -> PictureClassifier:
        """
        Make a classifier that maps B images (B, 3, H, W) to `logits` (B, C) over C classes.

        Args:
            model: a CLIP, plain or adapted, or a head on one, such as a linear probe. A head is returned as it is.
            class_names: the C classes.
            texts: text of a class, with `{}` for its name, or several texts. They may describe other classes, too.

        Raises:
            ValueError: if a class has no text.
        """
        if isinstance(model, PictureClassifier):
            return model
        texts = ClassTexts.given(texts) if isinstance(texts, str) else texts.only(class_names)
        return MuDPTClassifier(
            model,
            class_names,
            tokenizer=self.tokenizer,
            image_processor=self.image_processor,
            class_batch_size=self.class_batch_size,
            **texts.as_arguments(),
        )
