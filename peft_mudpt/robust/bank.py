"""The bank: embeddings of attacked pictures, from which text prompts are learned (AdvPT, arXiv 2311.11261)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, Optional, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import BaseImageProcessor

from ..classifier.pictures import open_picture, pixel_values
from ..layer import layer_of
from ..rules import AT_LEAST_ONE
from ..towers.registry import family_of
from .attacks import EMBEDDING_KL, PGD
from .pixels import Normalization
from .target import Target, clip_of, fixed


if TYPE_CHECKING:
    from ..classifier.pictures import Picture

MADE_BY = "made_by"  # key of the file's metadata
TENSORS = ("embeddings", "labels", "probe")
PROCESSOR = (
    *("size", "crop_size", "do_resize", "do_center_crop", "resample"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
SAME_EMBEDDING = 1e-3  # relative distance below which two embeddings differ by rounding only


@dataclass(frozen=True)
class MadeBy:
    """
    What a bank depends on.

    Args:
        attack: the arguments of the attack.
        image_tower: SHA-256 of the weights of the image tower.
        image_processor: the settings of the image processor.
        pictures: SHA-256 of the pixels of each picture.
    """

    attack: dict[str, Any]
    image_tower: str
    image_processor: dict[str, Any]
    pictures: list[str]

    @property
    def is_valid(self) -> bool:
        """False if it was read from a damaged file."""
        types = {"attack": dict, "image_tower": str, "image_processor": dict, "pictures": list}
        return all(isinstance(getattr(self, name), type) for name, type in types.items())


class AdversarialBank:
    """
    Embeddings of N attacked pictures and their classes.

    Args:
        embeddings: image features (N, D), not normalized.
        labels: classes (N,).
        probe: the embedding (D,) of a made-up image, by which another image tower is told, even if its weights are
            the same, as with another active adapter.
        made_by: what the embeddings depend on.
    """

    def __init__(self, embeddings: torch.Tensor, labels: torch.Tensor, probe: torch.Tensor, made_by: MadeBy):
        self.embeddings = embeddings
        self.labels = labels
        self.probe = probe
        self.made_by = made_by

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def build(
        cls,
        target: Target,
        pictures: Iterable[Picture],
        labels: Sequence[int],
        attack: PGD,
        image_processor: BaseImageProcessor,
        batch_size: int = 32,
    ) -> AdversarialBank:
        """
        Attack pictures, and encode what comes out, without dropout and without autocast.

        Args:
            target: what is attacked (see `PGD.__call__`). Its image tower must have no prompts.
            pictures: N pictures, each as `open_picture` takes it.
            labels: their classes, in the same order.
            attack: the attack, by the objective "embedding_kl".
            image_processor: the image processor of the CLIP.
            batch_size: number of pictures that are attacked at a time.

        Returns:
            The bank, on the CPU.

        Raises:
            ValueError: if a picture cannot be read, if there are no pictures, if they and the labels differ in number,
                if labels are no whole numbers, if the attack has another objective, which depends on texts that are
                learned, or if an adapter has prompts in the image tower: its embeddings change while they are learned.
        """
        AT_LEAST_ONE.check(batch_size, "batch_size")
        if attack.objective != EMBEDDING_KL:
            raise ValueError(
                f"objective={attack.objective!r} depends on the texts of the classes, which training changes, so that "
                f"stored embeddings would be stale. Choose {EMBEDDING_KL!r}."
            )
        clip = clip_of(target)
        _refuse_vision_prompts(clip)
        normalization, classes = Normalization.of(image_processor), _checked_labels(labels)
        embeddings: list[torch.Tensor] = []
        items: list[str] = []
        for pixels in _batches(pictures, image_processor, batch_size):
            first = len(items)
            items += map(_digest, pixels)
            with _full_precision(clip):
                attacked = attack(target, normalization, pixels, positions=range(first, len(items)))
                embeddings.append(_embeddings(target, normalization, attacked))
        if not items:
            raise ValueError("There are no pictures. Give at least one.")
        if len(classes) != len(items):
            raise ValueError(
                f"There are {len(items)} pictures, but {len(classes)} labels. Give one label per picture."
            )
        made_by = MadeBy(attack.as_dict(), _tower_digest(clip), _settings(image_processor), items)
        return cls(torch.cat(embeddings), classes, _probe(clip), made_by)

    def check(
        self,
        target: Target,
        pictures: Optional[Iterable[Picture]] = None,
        image_processor: Optional[BaseImageProcessor] = None,
        attack: Optional[PGD] = None,
    ) -> None:
        """
        Check that the bank belongs to a model, to pictures and to an attack.

        Args:
            target: the model or classifier that is to learn from the bank.
            pictures: its training pictures, in order; None: they are not checked.
            image_processor: its image processor; needed to check pictures.
            attack: the attack that is expected; None: any.

        Raises:
            ValueError: if the bank was made with another image tower, image processor, attack or pictures, or if the
                model's adapter has prompts in the image tower, so that the embeddings are not its own.
        """
        clip = clip_of(target)
        _refuse_vision_prompts(clip)
        if _tower_digest(clip) != self.made_by.image_tower:
            raise ValueError("The bank was made with an image tower of other weights. Build a bank with this model.")
        probe = _probe(clip)
        if not (probe - self.probe).norm() <= SAME_EMBEDDING * self.probe.norm():
            raise ValueError(
                "The bank was made with an image tower that computes other embeddings, although its weights are the "
                "same: another adapter is active, or another setting. Build a bank with this model as it is."
            )
        expected = {
            "attack": attack and attack.as_dict(),
            "image_processor": image_processor and _settings(image_processor),
        }
        for name, settings in expected.items():
            for key, value in (settings or {}).items():
                if (found := getattr(self.made_by, name).get(key)) != value:
                    what = name.replace("_", " ")
                    raise ValueError(
                        f"The bank was made with an {what} of {key}={found}, but this one has {value}. Build a bank "
                        f"with this {what}."
                    )
        if pictures is None:
            return
        if image_processor is None:
            raise ValueError("To check the pictures of a bank, give the image processor, too.")
        known = self.made_by.pictures
        items = [_digest(pixels) for batch in _batches(pictures, image_processor, 32) for pixels in batch]
        others = [index for index, item in enumerate(items) if item not in known[index : index + 1]]
        if others or len(items) != len(known):
            which = f"the first other one is picture {others[0]}" if others else "the first ones are the same"
            raise ValueError(
                f"The bank was made from other pictures: {len(known)} there, {len(items)} here; {which}. Build a bank "
                "from these pictures."
            )

    def save(self, path: Union[str, os.PathLike]) -> None:
        """
        Save the bank as a safetensors file. `path` never holds an incomplete file.

        Args:
            path: path of the file, which must not exist. Its folder is created if needed.

        Raises:
            FileExistsError: if the path exists.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} already exists. Give another path, or delete it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        try:
            save_file(tensors, partial, {MADE_BY: json.dumps(vars(self.made_by))})
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Union[str, os.PathLike]) -> AdversarialBank:
        """
        Load a bank that `save` wrote. Call `check` before you learn from it.

        Args:
            path: path of the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no bank.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is no file. Give one that AdversarialBank.save wrote.")
        try:
            with safe_open(path, "pt") as file:
                made_by = MadeBy(**json.loads((file.metadata() or {})[MADE_BY]))
                embeddings, labels, probe = map(file.get_tensor, TENSORS)
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a bank that AdversarialBank.save wrote: {error}.") from error
        shapes = {name: tuple(tensor.shape) for name, tensor in zip(TENSORS, (embeddings, labels, probe))}
        number = len(made_by.pictures) if made_by.is_valid else -1
        expected = dict(zip(TENSORS, ((number, probe.numel()), (number,), (probe.numel(),))))
        if shapes != expected or not embeddings.is_floating_point() or not embeddings.isfinite().all():
            raise ValueError(
                f"{path} is damaged: it holds {shapes} for {number} pictures, or embeddings that are not finite. "
                "Build the bank again."
            )
        return cls(embeddings, _checked_labels(labels), probe, made_by)


def _checked_labels(labels: Any) -> torch.Tensor:
    """The labels (N,) on the CPU."""
    classes = torch.as_tensor(labels).cpu()
    if classes.dim() != 1 or (len(classes) and (classes.is_floating_point() or classes.min() < 0)):
        raise ValueError(f"labels is {short_repr(labels)}, but must be whole numbers (N,) from 0.")
    return classes.long()


def _full_precision(clip: torch.nn.Module) -> AbstractContextManager:
    """Within this context there is no autocast, so that a bank does not depend on where it is built."""
    return torch.autocast(next(clip.parameters()).device.type, enabled=False)


def _embeddings(target: Target, normalization: Normalization, pixels: torch.Tensor) -> torch.Tensor:
    """The embeddings (N, D), on the CPU, of pixels (N, 3, H, W) in [0, 1]."""
    with fixed(target, normalization, pixels) as model, torch.no_grad():
        return model.image_features(model.clean).float().cpu()


def _probe(clip: Any) -> torch.Tensor:
    image = torch.rand(1, *family_of(clip).image_shape(clip.config), generator=torch.Generator().manual_seed(0))
    with _full_precision(clip):
        return _embeddings(clip, Normalization(), image)[0]


def _refuse_vision_prompts(clip: torch.nn.Module) -> None:
    layer = layer_of(clip)
    if layer is not None and layer.num_tokens("vision"):
        raise ValueError(
            f"The adapter {layer.active_name!r} has prompts in the image tower. They change the embeddings of all "
            "pictures in each step, so that stored ones are stale. Attack the pictures anew during training."
        )


def _batches(
    pictures: Iterable[Picture], image_processor: BaseImageProcessor, batch_size: int
) -> Iterator[torch.Tensor]:
    """The pixels (B, 3, H, W) of pictures, in [0, 1]."""
    each = (pixel_values(open_picture(picture), image_processor, do_normalize=False) for picture in pictures)
    while batch := list(islice(each, batch_size)):
        yield torch.stack(batch)


def _digest(pixels: torch.Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def _tower_digest(clip: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for module in family_of(clip).vision.feature_parts(clip):
        for tensor in (*module.parameters(), *module.buffers()):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _settings(image_processor: BaseImageProcessor) -> dict[str, Any]:
    settings = json.loads(image_processor.to_json_string())
    return {name: settings.get(name) for name in PROCESSOR}
