"""Loads a classifier from a saved adapter, and saves one as an adapter."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union, cast

from peft import PeftModel

from ..calibration.calibration import Calibration
from ..config import MuDPTConfig
from ..image_size import image_size_of, set_image_size
from ..library_warnings import without_known_warnings
from .class_texts import active_adapter
from .loading import HUB_OPTIONS, ModelSource, check_method, find_adapter, find_base
from .saving import KnownClasses, read_classes, save_with_classes


if TYPE_CHECKING:
    from typing_extensions import Self


class Pretrained:
    """
    A classifier that is loaded from the folder or the repository of an adapter, and saved as one.

    Attributes:
        model: the CLIP, plain or with adapters.
        calibration: what held-out pictures tell about the probabilities; None if it was not measured.
    """

    model: Any
    calibration: Optional[Calibration]
    _source: Optional[ModelSource]

    @abstractmethod
    def _known(self) -> KnownClasses:
        """What the classifier knows beside the weights."""

    @abstractmethod
    def _knows(self, known: KnownClasses) -> bool:
        """Whether these are the classes and the texts of this classifier."""

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | os.PathLike,
        class_names: Optional[Sequence[str]] = None,
        template: Union[str, Sequence[str], None] = None,
        base_model_name_or_path: Optional[str | os.PathLike] = None,
        class_batch_size: Optional[int] = None,
        *,
        revision: Optional[str] = None,
        subfolder: Optional[str] = None,
        base_revision: Optional[str] = None,
        descriptions: Optional[Mapping[str, Sequence[str]]] = None,
        image_size: Optional[int] = None,
        **kwargs,
    ) -> Self:
        """
        Load an adapter, the CLIP that its config names, and the classes: those in its config or, of an adapter of
        another method, those that `save_pretrained` has stored beside it.

        Args:
            adapter: folder or Hub id.
            class_names, template, class_batch_size, descriptions: see the class.
            base_model_name_or_path: the CLIP, if it is not where the adapter's config says. It warns if the config
                names another one.
            revision, subfolder: where the adapter is in its Hub repository or folder; None: the main branch, the root.
            base_revision: the revision of the CLIP on the Hub; None: the one that the adapter's config records.
            image_size: pixels of both sides of the images, such as 336 for a CLIP that was trained on 224 (see
                `set_image_size`); None: those that the adapter is for or, if it records none, those of the CLIP. With
                another size than this, the classifier has no calibration, because the stored one does not hold.
            **kwargs: `cache_dir`, `token`, `local_files_only` and `force_download` are for all downloads: the adapter,
                the CLIP, its tokenizer and its image processor. The others are for `AutoModel.from_pretrained`:
                `device_map`, `dtype` (default: float32), ...

        Raises:
            ValueError: if there is no adapter, if it names no CLIP or does not fit the one given, if the CLIP cannot
                take images of `image_size`, or if neither the caller nor the adapter gives classes.
        """
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder, config = find_adapter(adapter, revision, subfolder, **hub)
        check_method(adapter, config, "MuDPTClassifier")
        source = find_base(adapter, config, base_model_name_or_path, base_revision, **hub)
        clip = source.clip(**kwargs)
        given: dict[str, Any] = {"class_names": class_names, "template": template, "descriptions": descriptions}
        notes = config if isinstance(config, MuDPTConfig) else read_classes(folder)
        known = notes if isinstance(notes, KnownClasses) else None
        if known is not None:
            given = known.completed(**given)
        size_of_clip = image_size_of(clip)
        recorded = (None if notes is None else notes.image_size) or size_of_clip
        image_size = recorded if image_size is None else image_size
        if image_size is not None and image_size != size_of_clip:
            set_image_size(clip, image_size)
        calibration_holds = image_size == recorded
        if isinstance(config, MuDPTConfig):
            config.image_size = image_size
            if not calibration_holds:
                config.calibration = None
        with without_known_warnings():
            model = PeftModel.from_pretrained(clip, folder, config=config).eval()
        tokenizer = source.tokenizer()
        classifier = cast(Any, cls)(model, tokenizer=tokenizer, class_batch_size=class_batch_size, **given)
        classifier._source = source
        if known is not None and calibration_holds and classifier._knows(known):
            classifier.calibration = known.calibration
        return classifier

    def save_pretrained(self, save_directory: str | os.PathLike, overwrite: bool = False, **kwargs) -> None:
        """
        Save the active adapter with the classes, their texts and their calibration, so that `from_pretrained` gives an
        equal classifier. The config of a MuDPT adapter stores them; beside an adapter of another method, such as LoRA,
        they are in adapter_classes.json. PEFT loads the adapter as usual.

        `model.save_pretrained`, of PEFT and transformers, replaces files without asking, saves all adapters, those
        that are not named "default" in subfolders, and writes a model card. This method saves the active one, in
        `save_directory` itself, without a card. It changes neither the model nor its configs. The CLIP, its tokenizer
        and its image processor are not saved: the adapter's config names the CLIP.

        Args:
            save_directory: the folder to write to; it is created if needed.
            overwrite: whether an adapter in the folder is replaced.
            **kwargs: other arguments of `PeftModel.save_pretrained`, such as `save_embedding_layers`.

        Raises:
            ValueError: if the model is not a `PeftModel`, or not exactly one adapter is active; or if the folder holds
                an adapter, and `overwrite` is False.
        """
        if not isinstance(self.model, PeftModel):
            raise ValueError(
                f"The model is a {type(self.model).__name__}, but save_pretrained saves an adapter of a PeftModel. "
                "Make one with get_peft_model. A plain CLIP has nothing to save but the classes."
            )
        active = list(self.model.active_adapters)
        if len(active) != 1 or active_adapter(self.model) is None:
            raise ValueError(
                f"save_pretrained saves the active adapter, but {len(active)} are active, or they are disabled. "
                "Activate one with set_adapter."
            )
        save_with_classes(self.model, active[0], self._known(), Path(save_directory), overwrite, **kwargs)
