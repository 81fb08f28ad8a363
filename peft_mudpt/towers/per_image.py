"""The forward of a whole model whose text features depend on the image: once per image, or mixed over domains.

What belongs to one call is passed as an argument, as the prompts are (see `base`), so that the hooks hold no state.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .base import CONDITION, IMAGES, PromptSource
from .domains import mixed_features
from .family import Family
from .images import Images


NO_LOSS = (
    "return_loss=True is not supported while the text features of the active adapter depend on the image, because the "
    "loss of the model compares one text feature per text. Leave return_loss out, and compute the loss from "
    "logits_per_image (images, texts), for example torch.nn.functional.cross_entropy."
)
OUTPUTS = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")  # as in a tuple without loss


class TextPerImage:
    """
    The hooks on a whole model and its two towers. While text prompts depend on the image, a forward of the model with
    C texts and B images runs the image tower once and the text tower on B * C texts, image by image. Its outputs are

        logits_per_image (B, C), logits_per_text (C, B), image_embeds (B, D), text_embeds (B, C, D)

    and `text_model_output` has B * C rows. If the adapter has K domains, the text tower runs on K * C texts instead,
    domain by domain, and each image mixes their features by its own weights. Otherwise, and if the caller gives a
    condition, the hooks change nothing.

    Args:
        source: the object that the hooks ask whether text prompts depend on the image.
        family: the family of the model.
    """

    def __init__(self, source: PromptSource, family: Family):
        self.source = source
        self.family = family

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Register the hooks. Those of the towers must be registered afterwards."""
        text, vision = self.family.text_tower(model), self.family.vision_tower(model)
        return [
            model.register_forward_pre_hook(self.begin, with_kwargs=True),
            vision.register_forward_hook(self.read_images, with_kwargs=True),
            text.register_forward_pre_hook(self.repeat_texts, with_kwargs=True),
            model.register_forward_hook(self.shape_outputs, with_kwargs=True),
        ]

    def begin(self, model: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        """Pass an empty `Images` to both towers, if text features depend on the images of this call."""
        depends = self.source.text_depends_on_image or self.source.num_domains
        if not depends or kwargs.get(CONDITION) is not None:
            return None
        place = self.family.return_loss_place
        if kwargs.get("return_loss") or any(args[place : place + 1]):
            raise ValueError(NO_LOSS)
        return args, {**kwargs, IMAGES: Images(model)}

    def read_images(self, tower: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Read the features of the images after the vision tower, if text prompts depend on them."""
        images = kwargs.get(IMAGES)
        if images is not None and self.source.text_depends_on_image:
            vision = self.family.vision
            images.features = vision.project(images.model, vision.pooled(output))  # (B, D)

    def repeat_texts(self, tower: nn.Module, args: tuple, kwargs: dict) -> Optional[tuple[tuple, dict]]:
        """Repeat the texts for each image or domain, with the image or the domain as their condition."""
        names = self.family.text.argument_names
        given = {**dict(zip(names, args)), **kwargs}
        images = given.pop(IMAGES, None)
        if images is None or given.get("input_ids") is None:
            return None
        input_ids, domains = given["input_ids"], self.source.num_domains
        if domains:
            condition = torch.arange(domains, device=input_ids.device)  # (K,)
        else:
            condition = self.source.image_condition(images.features)  # (B, D)
        b, c = condition.shape[0], input_ids.shape[0]
        for name in names:
            value = given.get(name)
            if value is not None and value.shape[0] == c:  # positions or a mask of one row hold for all texts
                given[name] = value.repeat(b, *[1] * (value.dim() - 1))  # (C, ...) -> (B * C, ...)
        # (B, D) -> (B * C, D), or (K,) -> (K * C,)
        given[CONDITION] = condition[:, None].expand(-1, c, *condition.shape[1:]).flatten(0, 1)
        return args[len(names) :], given

    def shape_outputs(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """Compare each image with its own text features."""
        images = kwargs.get(IMAGES)
        if images is None:
            return None
        named = dict(zip(OUTPUTS, output)) if isinstance(output, tuple) else output
        if images.domain_weights is None:
            self._compare_own_texts(named)
        else:
            self._mix_domains(model, images.domain_weights, named)
        return (*named.values(), *output[len(named) :]) if isinstance(output, tuple) else output

    def _compare_own_texts(self, named: Any) -> None:
        b = named["image_embeds"].shape[0]
        every = named["logits_per_text"].unflatten(0, (b, -1))  # (B * C, B) -> (B, C, B)
        per_text = every.diagonal(dim1=0, dim2=2)  # (C, B)
        named["logits_per_text"], named["logits_per_image"] = per_text, per_text.t()
        named["text_embeds"] = named["text_embeds"].unflatten(0, (b, -1))  # (B * C, D) -> (B, C, D)

    def _mix_domains(self, model: nn.Module, weights: torch.Tensor, named: Any) -> None:
        of_domains = named["text_embeds"].unflatten(0, (weights.shape[1], -1))  # (K * C, D) -> (K, C, D)
        mixed = mixed_features(weights, of_domains)  # (B, C, D)
        logits = self.family.logits(model, torch.einsum("bd,bcd->bc", named["image_embeds"], mixed))  # (B, C)
        named["logits_per_image"], named["logits_per_text"] = logits, logits.t()
        named["text_embeds"] = mixed
