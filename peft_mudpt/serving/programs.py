"""What is exported: programs with fixed weights, which need neither this package nor transformers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

import torch
from torch.export import Dim
from torch.nn.functional import normalize

from ..classifier.classifier import MuDPTClassifier
from ..classifier.prediction import PictureClassifier
from ..config import Modality
from ..layer import MuDPTLayer, layer_of, logit_shift_of
from ..towers.base import PromptedTower
from ..towers.domains import mixed_features
from ..towers.images import Images
from .folding import fold_adapter


BATCH = Dim("batch")  # any number of images
TEXTS = Dim("texts")  # any number of texts
SHORTEST_TEXT = 3  # tokens; for shorter ones torch.export would write another program

AnyClassifier = TypeVar("AnyClassifier", bound=PictureClassifier)


@dataclass(frozen=True)
class Program:
    """
    A module to export.

    Attributes:
        module: the module, in float32 and on the CPU.
        inputs: an example of each input, by its name, in the order of the module's arguments.
        output: the name of the output.
        dynamic_shapes: for each input, the axes whose sizes are left open, as `torch.export.export` takes them.
    """

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    output: str
    dynamic_shapes: dict[str, dict[int, Any]]


@torch.autocast("cpu", enabled=False)  # which computes the features of the classes
def classifier_program(classifier: PictureClassifier) -> Program:
    """
    A classifier with its classes: `pixel_values` (B, 3, H, W) to `probabilities` (B, C), those of `predict_proba`.

    Args:
        classifier: the classifier. It stays as it is.

    Raises:
        ValueError: if the CLIP takes images of any size (SigLIP 2 NaFlex).
    """
    inputs = _pixel_values(classifier)
    layer = layer_of(classifier.model)
    logits: torch.nn.Module
    if layer is not None and layer.text_depends_on_image:
        logits = _ClassifierOfTexts(classifier)
    elif layer is not None and layer.num_domains and isinstance(classifier, MuDPTClassifier):
        logits = _ClassifierOfDomains(classifier)
    else:
        logits = _ImageClassifier(classifier)
    module = _Probabilities(logits, classifier.temperature_for())
    return Program(module, inputs, "probabilities", {"pixel_values": {0: BATCH}})


@torch.autocast("cpu", enabled=False)
def vision_program(classifier: PictureClassifier) -> Program:
    """
    The image encoder of a CLIP: `pixel_values` (B, 3, H, W) to `image_embeds` (B, D), each with L2 norm 1.

    Args:
        classifier: a classifier with the CLIP. It stays as it is.

    Raises:
        ValueError: if the CLIP takes images of any size (SigLIP 2 NaFlex).
    """
    inputs = _pixel_values(classifier)
    module = _ImageEncoder(_ready(classifier, "vision"))
    return Program(module, inputs, "image_embeds", {"pixel_values": {0: BATCH}})


@torch.autocast("cpu", enabled=False)
def text_program(classifier: MuDPTClassifier) -> Program:
    """
    The text encoder of a CLIP: `input_ids` (T, L) to `text_embeds` (T, D), each with L2 norm 1. If the text tower
    needs a mask that hides the padding, it also takes `attention_mask` (T, L).

    Args:
        classifier: a classifier with the CLIP, whose text features depend on the texts alone. It stays as it is.
    """
    tower, kind = classifier.family.text_tower(classifier.model), classifier.family.text
    length, axes = kind.pad_multiple(tower), {0: TEXTS}
    if length is None:
        length = room_for_text(classifier)
        axes = {**axes, 1: Dim("length", min=SHORTEST_TEXT, max=length)}
    names = ["input_ids", "attention_mask"] if kind.hides_padding else ["input_ids"]
    inputs = {name: torch.ones(2, length, dtype=torch.long) for name in names}
    module = _TextEncoder(_ready(classifier, "text"))
    return Program(module, inputs, "text_embeds", dict.fromkeys(inputs, axes))


def room_for_text(classifier: PictureClassifier) -> int:
    """Number of tokens that a text may have, with those that the tokenizer adds: the positions without the prompts."""
    layer, family = layer_of(classifier.model), classifier.family
    # prompts that start above the input take no positions
    prompts = 0 if layer is None or layer.start("text") else layer.num_tokens("text")
    return family.text.num_positions(family.text_tower(classifier.model)) - prompts


def _pixel_values(classifier: PictureClassifier) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.zeros(2, *classifier.family.image_shape(classifier.model.config))}


def _ready(classifier: AnyClassifier, modality: Modality) -> AnyClassifier:
    """A copy of a classifier in float32 on the CPU, with constant prompts if the tower of this modality has some."""
    classifier = copy.deepcopy(classifier).cpu().float().eval()
    layer = layer_of(classifier.model)
    if layer is not None and layer.num_tokens(modality):
        fold_adapter(classifier.model)
    return classifier


class _Encoder(torch.nn.Module):
    """A tower of a CLIP, and its projection. It holds no other module of the CLIP."""

    prompt_learner: Optional[MuDPTLayer]

    def __init__(self, model: Any, kind: type[PromptedTower]):
        super().__init__()
        self.kind = kind
        self.tower, *projections = kind.feature_parts(model)
        self.projections = torch.nn.ModuleList(projections)
        self.prompt_learner = layer_of(model)  # the hooks on the tower read its prompts

    def features(self, **inputs: Optional[torch.Tensor]) -> torch.Tensor:
        """The features (B, D), each with L2 norm 1, of the tower's inputs."""
        features = self.kind.pooled(self.tower(**inputs))
        for projection in self.projections:
            features = projection(features)
        return normalize(features, dim=-1)


class _ImageEncoder(_Encoder):
    def __init__(self, classifier: PictureClassifier):
        super().__init__(classifier.model, classifier.family.vision)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.features(pixel_values=pixel_values)  # (B, D)


class _TextEncoder(_Encoder):
    def __init__(self, classifier: PictureClassifier):
        super().__init__(classifier.model, classifier.family.text)

    def forward(self, input_ids: torch.Tensor, attention_mask: Optional[torch.Tensor] = None) -> torch.Tensor:
        return self.features(input_ids=input_ids, attention_mask=attention_mask)  # (T, D)


class _Probabilities(torch.nn.Module):
    """A classifier with fixed classes: its logits, divided by its temperature if it has one, as probabilities."""

    def __init__(self, logits: torch.nn.Module, temperature: Optional[float]):
        super().__init__()
        self.logits, self.temperature = logits, temperature

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = self.logits(pixel_values)  # (B, C)
        if self.temperature is not None:
            logits = logits / self.temperature
        return logits.softmax(dim=-1)


class _ImageClassifier(torch.nn.Module):
    """The logits of fixed classes: the image encoder, and the linear layer that compares features with them."""

    class_weights: torch.Tensor
    class_biases: Optional[torch.Tensor]

    def __init__(self, classifier: PictureClassifier):
        super().__init__()
        classifier = _ready(classifier, "vision")
        self.encoder = _ImageEncoder(classifier)
        with torch.no_grad():
            weights, biases = classifier.linear_head()
        self.register_buffer("class_weights", weights)  # (C, D)
        self.register_buffer("class_biases", biases)  # (C,)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = self.encoder(pixel_values) @ self.class_weights.t()  # (B, C)
        if self.class_biases is not None:
            logits = logits + self.class_biases
        return logits


class _ClassifierOfDomains(torch.nn.Module):
    """The logits of fixed classes whose text features each image mixes over the domains of the adapter."""

    domain_features: torch.Tensor

    def __init__(self, classifier: MuDPTClassifier):
        super().__init__()
        classifier = copy.deepcopy(classifier).cpu().float().eval()
        self.family, self.model = classifier.family, classifier.model
        with torch.no_grad():
            self.register_buffer("domain_features", classifier.domain_features())  # (K, C, D)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        images = Images(self.model)
        image_features = normalize(self.family.image_features(self.model, pixel_values, images), dim=-1)  # (B, D)
        assert images.domain_weights is not None, "the adapter has domains"
        class_features = mixed_features(images.domain_weights, self.domain_features)  # (B, C, D)
        cosines = torch.einsum("bd,bcd->bc", image_features, class_features)
        return self.family.logits(self.model, cosines, logit_shift_of(self.model))  # (B, C)


class _ClassifierOfTexts(torch.nn.Module):
    """The logits of fixed classes whose texts are encoded again for each image: both towers of the CLIP."""

    def __init__(self, classifier: PictureClassifier):
        super().__init__()
        self.classifier = copy.deepcopy(classifier).cpu().float().eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(pixel_values).logits  # (B, C)
