"""The classifier: it encodes the class names once, and computes class probabilities of images from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import BaseImageProcessor, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ..calibration.calibration import Calibration
from ..config import MuDPTConfig
from ..image_size import image_size_of
from ..layer import layer_of, logit_scale_of, logit_shift_of
from ..rules import check_class_names
from ..towers.base import part
from ..towers.domains import mixed_features
from ..towers.images import Images
from ..towers.registry import family_of
from .checkpointing import Checkpointed
from .class_features import ClassFeatures
from .class_texts import active_adapter, active_config, class_texts_of, remembered_texts
from .loading import ModelSource
from .prediction import PictureClassifier
from .pretrained import Pretrained
from .saving import KnownClasses


FIXED = (
    "The {} of a classifier cannot be changed, because its texts are tokenized already. Make a new one; it shares the "
    "model: classifier.with_classes(class_names, template)."
)


@dataclass
class MuDPTClassifierOutput(ModelOutput):
    """
    The output of [`MuDPTClassifier`] for B images and C classes. It is a `ModelOutput` of transformers: read a field
    by attribute or by key; `to_tuple` leaves out the fields that are None.

    Args:
        loss: cross-entropy of the logits with the labels, a scalar tensor; None if no labels were given.
        logits: similarities (B, C) of images and classes, scaled as in the model's own `logits_per_image`.
        image_features: features (B, D) of the images, each with L2 norm 1.
        class_features: text features (C, D) of the classes, each with L2 norm 1; (B, C, D), those for each image, if
            the text prompts of the active adapter depend on the image, or if it has domains.
        domain_weights: the weights (B, K) of the K domains for each image; None if the active adapter has no domains.
    """

    loss: Optional[torch.Tensor] = None
    logits: Optional[torch.Tensor] = None
    image_features: Optional[torch.Tensor] = None
    class_features: Optional[torch.Tensor] = None
    domain_weights: Optional[torch.Tensor] = None


class MuDPTClassifier(Pretrained, Checkpointed, PictureClassifier):
    """
    Classifies images with a CLIP, plain or with an adapter.

    A causal text tower encodes many classes in one row (see `packing`). If the class features need gradients, each
    forward encodes the classes. Otherwise the classifier caches the features, computed without dropout, and encodes
    the classes again when something that the features depend on has changed: another adapter is active, or none, or a
    parameter was trained or loaded. It cannot detect writing through `parameter.data`, as PEFT's `hotswap_adapter`
    does: call `forget` afterwards. It caches nothing under `torch.compile`, of fake tensors or inside `torch.func`, or
    while text features depend on the image.

    If the text prompts depend on the class (`conditioning="class"`), the classifier also caches the text features of
    the classes in the CLIP without prompts. Under `torch.compile` it uses those that it knows already; without any,
    the graph breaks once.

    Threads may share a classifier, and one may switch or disable MuDPT adapters while others predict: `predict_proba`,
    `predict` and `top_k` lock the model for each batch, so that it sees one adapter. Hold a lock of your own around
    predictions and around everything else that changes the model: training, loading, switching adapters of other
    methods. Without it, predictions during the change may be wrong or raise an error; later ones are right. One
    exception: `disable_adapter()` on adapters of other methods cannot be detected if it starts and ends while the
    classes are encoded; call `forget` afterwards.

    The classes cannot be changed. `with_classes` makes a classifier for other classes, which shares the model.

    A class with several texts, from templates and descriptions, has the mean of their normalized features, normalized
    again (CLIP, arXiv 2103.00020, section 3.1.4). Each text is encoded, and gets the text prompts: training text
    prompts with k texts of each class takes about k times the time.

    Args:
        model ([`~transformers.CLIPModel`], MetaClip2Model, SiglipModel or [`~peft.PeftModel`] of one): the model that
            classifies. It is shared, not copied.
        class_names: names of the classes, in the order of the labels. None: the names in the active adapter's config,
            on which the adapter was trained.
        template: the text of a class, with `{}` for the class name, or a list of several, such as
            `TEMPLATES["imagenet"]`. It contains only the words that follow the text prompts. None: the descriptions
            are all texts; or, if there are none, the texts in the active adapter's config.
        tokenizer: tokenizer of the class texts. None: the tokenizer of the CLIP that the model was loaded from. A
            plain CLIP does not record its revision on the Hub: if it is not of the main one, give its tokenizer.
        image_processor: needed only for images that are not tensors. None: the image processor of the CLIP that the
            model was loaded from.
        class_batch_size: number of classes that are encoded at a time. It bounds the memory for activations, whatever
            the number of classes. If classes have several texts, it counts texts. None chooses it by the size of the
            model; training then also uses memory that is free to save time.
        descriptions: further texts of each class, by class name, such as `{"cat": ["a cat has whiskers."], ...}`. They
            follow the text prompts as they are. Names are compared in Unicode's form NFC.

    Attributes:
        tokenizer: the tokenizer of the class texts.

    Raises:
        ValueError: if the model is not supported, there are no classes, the template has no place for the name, the
            descriptions lack a class or hold an unknown one, or a text is too long for the text tower.

    Example:

        ```py
        >>> classifier = MuDPTClassifier.from_pretrained("outputs/fewshot")
        >>> classifier.predict(["picture.jpg"])
        ['filled red star']
        ```
    """

    def __init__(
        self,
        model: torch.nn.Module,
        class_names: Optional[Sequence[str]] = None,
        template: Union[str, Sequence[str], None] = None,
        tokenizer: Optional[PreTrainedTokenizerBase] = None,
        image_processor: Optional[BaseImageProcessor] = None,
        class_batch_size: Optional[int] = None,
        descriptions: Optional[Mapping[str, Sequence[str]]] = None,
    ):
        super().__init__()
        self.family = family_of(model)
        if self.family.logit_scale(model).is_meta:
            raise ValueError("The model has offloaded weights, but a classifier needs all of them. Load it whole.")
        self.model: Any = model  # a PeftModel forwards the attributes of the model in it
        config = copy(part(model, "config"))
        # what transformers' Trainer leaves out of predictions; the classes' features have no row per image
        ignored = getattr(config, "keys_to_ignore_at_inference", None) or []
        of_images = ["image_features", "class_features", "domain_weights"]
        config.keys_to_ignore_at_inference = [*ignored, *of_images]
        self.config = config
        if class_names is None:
            remembered = active_config(self.model)
            class_names = None if remembered is None else remembered.class_names
            if class_names is None:
                raise ValueError("The model has no active adapter whose config has class_names. Give class_names.")
        self._class_names = check_class_names(class_names)
        self._texts = class_texts_of(self.model, self._class_names, template, descriptions)
        # a whole processor has both; an exported file records the settings of the part that is for images
        self._image_processor = getattr(image_processor, "image_processor", image_processor)
        if tokenizer is None:
            tokenizer = ModelSource.of(self.model, "tokenizer").tokenizer()
        self.tokenizer = tokenizer
        self._class_features = ClassFeatures(
            model, tokenizer, self._class_names, self.class_texts, self._texts.template is None, class_batch_size
        )
        self._calibrations: dict[Optional[str], Optional[Calibration]] = {}  # by active adapter; None: without one

    def with_classes(
        self,
        class_names: Sequence[str],
        template: Union[str, Sequence[str], None] = None,
        descriptions: Optional[Mapping[str, Sequence[str]]] = None,
    ) -> MuDPTClassifier:
        """
        Make a classifier for other classes. It shares the model, the tokenizer and the image processor.

        Args:
            class_names: names of the classes.
            template, descriptions: the texts of classes (see the class). None for both: those of this classifier.

        Returns:
            The other classifier. It has no calibration, unless the active adapter remembers one for these classes.

        Raises:
            ValueError: see the class; also if this classifier has descriptions, but not of these classes.
        """
        given = self._known().completed(check_class_names(class_names), template, descriptions, "The classifier")
        other = MuDPTClassifier(
            self.model,
            tokenizer=self.tokenizer,
            image_processor=self._image_processor,
            class_batch_size=self._class_features.class_batch_size,
            **given,
        )
        other._source, other._loaded_image_processor = self._source, self._loaded_image_processor
        return other

    @property
    def class_names(self) -> list[str]:
        """
        A copy of the names of the C classes, in the order of the labels.

        Raises:
            ValueError: if it is set; other classes need another classifier, which can share the model.
        """
        return list(self._class_names)

    @class_names.setter
    def class_names(self, _) -> None:
        raise ValueError(FIXED.format("class_names"))

    @property
    def template(self) -> Optional[str]:
        """
        The text of a class, with `{}` for the class name; None if classes have several texts (see `class_texts`). Like
        `class_names`, it cannot be set.
        """
        return self._texts.template

    @template.setter
    def template(self, _) -> None:
        raise ValueError(FIXED.format("template"))

    @property
    def class_texts(self) -> list[list[str]]:
        """The texts of each class, in the order of the labels. They cannot be set."""
        return self._texts.of(self._class_names)

    @property
    def calibration(self) -> Optional[Calibration]:
        """
        What held-out pictures tell about the probabilities with the active adapter, or without an adapter; None if it
        was not measured for these classes and texts. If the config of the adapter remembers the same classes and
        texts, it remembers their calibration, too.
        """
        active = active_adapter(self.model)
        if active not in self._calibrations:
            note = None if (config := self._own_config()) is None else config.calibration
            self._calibrations[active] = None if note is None else Calibration(**note)
        return self._calibrations[active]

    @calibration.setter
    def calibration(self, calibration: Optional[Calibration]) -> None:
        if calibration is not None and len(calibration.scores) != len(self._class_names):
            raise ValueError(
                f"calibration is of {len(calibration.scores)} classes, but the classifier has "
                f"{len(self._class_names)}. Give one that was measured with the same classes and texts."
            )
        self._calibrations[active_adapter(self.model)] = calibration
        if (config := self._own_config()) is not None:
            config.calibration = None if calibration is None else calibration.as_dict()

    def _known(self) -> KnownClasses:
        size = image_size_of(self.model)
        return KnownClasses(self._class_names, self._texts, self.calibration, size)

    def _knows(self, known: KnownClasses) -> bool:
        return known.class_names == self._class_names and known.texts.of(self._class_names) == self.class_texts

    def _own_config(self) -> Optional[MuDPTConfig]:
        """The config of the active adapter, if it remembers the classes and the texts of this classifier."""
        config = None if active_adapter(self.model) is None else active_config(self.model)
        if config is None or config.class_names != self._class_names:
            return None
        texts = remembered_texts(config)
        return config if texts is not None and texts.of(self._class_names) == self.class_texts else None

    def forward(
        self,
        pixel_values: Optional[torch.Tensor] = None,
        labels: Optional[torch.Tensor] = None,
        image_features: Optional[torch.Tensor] = None,
    ) -> MuDPTClassifierOutput:
        """
        Classify images, with gradients if they are enabled.

        Args:
            pixel_values: images (B, 3, H, W), as the image processor makes them.
            labels: the class indices (B,) of the images.
            image_features: in place of `pixel_values`, features (B, D) of the images, each with L2 norm 1. If they are
                computed once and used again, the image tower must not have changed in between.

        Returns:
            The logits (equal to `logits_per_image` of the model's own forward), the image and class features that
            they are computed from, and, if labels are given, the loss.

        Raises:
            ValueError: if both or none of `pixel_values` and `image_features` are given, if `image_features` has
                another shape or type, or if it is given although the active adapter has domains.
        """
        layer, weights = layer_of(self.model), None
        if layer is not None and layer.num_domains and pixel_values is not None and image_features is None:
            images = Images(self.model)
            image_features = self.family.image_features(self.model, pixel_values, images)
            image_features = normalize(image_features, dim=-1)  # (B, D)
            weights = images.domain_weights  # (B, K)
            assert weights is not None, "the vision tower computes them"
            class_features = mixed_features(weights, self.domain_features())  # (B, C, D)
        else:
            image_features = self._features_of_either(pixel_values, image_features)  # (B, D)
            class_features = self.class_features(image_features)  # (C, D) or (B, C, D)
        cosines = _cosines(image_features, class_features)
        logits = self.family.logits(self.model, cosines, logit_shift_of(self.model))  # (B, C)
        loss = None if labels is None else cross_entropy(logits, labels)
        return MuDPTClassifierOutput(loss, logits, image_features, class_features, weights)

    def class_features(self, image_features: Optional[torch.Tensor] = None) -> torch.Tensor:
        """
        The text features (C, D) of the classes, each with L2 norm 1. They carry a gradient if they need one.

        Args:
            image_features: features (B, D) of images. They are only used if the text prompts of the active adapter
                depend on the image: the classes then have other features (B, C, D) for each image, which are not
                cached.

        Raises:
            ValueError: if the text prompts depend on the image, and there are no image features, or some of another
                shape or type; or if the active adapter has domains.
        """
        layer = layer_of(self.model)
        if layer is not None and layer.num_domains:
            raise ValueError(
                f"The adapter {layer.active_name!r} mixes the text features of {layer.num_domains} domains by weights "
                "that the image tower computes. Call the classifier with images, and read class_features (B, C, D) of "
                "its output, or take domain_features()."
            )
        if layer is not None and layer.text_depends_on_image:
            if image_features is None:
                raise ValueError(
                    f"The text prompts of the adapter {layer.active_name!r} depend on the image, so that the classes "
                    "have no features without one. Give image_features (B, D), or call the classifier with images, "
                    "and read class_features (B, C, D) of its output."
                )
            self._check_features(image_features)
            return self._class_features.encode(self.model, layer.image_condition(image_features))
        return self._class_features.of_classes(self.model)

    def domain_features(self) -> torch.Tensor:
        """
        The text features (K, C, D) of the C classes in each of the K domains of the active adapter, each with L2 norm
        1. They carry a gradient if they need one.

        Raises:
            ValueError: if the active adapter has no domains.
        """
        layer = layer_of(self.model)
        if layer is None or not layer.num_domains:
            raise ValueError("The model has no active adapter with domains (num_domains). Take class_features().")
        return self._class_features.of_domains(self.model, layer)

    def forget(self) -> None:
        """Clear the cache: the next call encodes the classes again."""
        self._class_features.forget()

    def linear_head(self) -> tuple[torch.Tensor, None]:
        """
        The features of the classes, multiplied by the logit scale: (C, D), without biases.

        Raises:
            ValueError: if the text features of the active adapter depend on the image.
        """
        return self.class_features() * logit_scale_of(self.model, self.family), None


def _cosines(image_features: torch.Tensor, class_features: torch.Tensor) -> torch.Tensor:
    """The cosines (B, C) of images (B, D) with classes (C, D), or with the classes of each image (B, C, D)."""
    if class_features.dim() == 2:
        return image_features @ class_features.t()
    return torch.einsum("bd,bcd->bc", image_features, class_features)
