"""The training loss of fusion detectors: computed for each picture by itself, then added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional

import torch
from transformers import PretrainedConfig
from transformers.loss.loss_for_object_detection import generalized_box_iou
from transformers.loss.loss_grounding_dino import GroundingDinoHungarianMatcher, sigmoid_focal_loss

from ..rules import one_of
from .boxes import corners


Reduction = Literal["sum", "mean", "none"]
REDUCTION = one_of("sum", "mean", "none")
CLASSIFICATION_WEIGHT = 2.0  # fixed in transformers; the config holds the other weights


def per_picture_loss(
    logits: torch.Tensor,
    labels: Sequence[Mapping[str, torch.Tensor]],
    device: torch.device,
    pred_boxes: torch.Tensor,
    config: PretrainedConfig,
    label_maps: Sequence[torch.Tensor],
    text_mask: torch.Tensor,
    outputs_class: Optional[torch.Tensor] = None,
    outputs_coord: Optional[torch.Tensor] = None,
    encoder_logits: Optional[torch.Tensor] = None,
    encoder_pred_boxes: Optional[torch.Tensor] = None,
    reduction: Reduction = "sum",
    num_boxes: Optional[float] = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], Optional[list[dict[str, torch.Tensor]]]]:
    """
    The loss of (MM)GroundingDINO (arXiv 2303.05499, section 3.5) as a sum over pictures, each of which depends on its
    own caption and boxes only. It takes the place of transformers' loss, `model.loss_function = per_picture_loss`,
    and equals it for one picture and one process.

    Transformers' own loss of a batch trains towards wrong tokens if the captions of its pictures differ in their
    classes, and is N times too large on N processes, because it divides the number of boxes by N twice. This one talks
    to no other process. `DistributedDataParallel` takes the mean of the gradients of N processes; with
    `reduction="mean"` and as many pictures on each process it is that of one process.

    Args:
        logits: scores (B, Q, T) of B pictures, Q queries and T = `max_text_len` tokens.
        labels: for each picture a dict of `class_labels` (n,), positions of classes in its own caption, and `boxes`
            (n, 4): centers x and y, width and height, relative to the picture without its padding. n may be 0.
        device: the device of the logits. It is not used; transformers passes it.
        pred_boxes: boxes (B, Q, 4) as in `labels`.
        config: the config of the detector, with the weights of the losses.
        label_maps: for each picture the tokens (C, T) of each of the C classes of its caption, as 0 and 1.
        text_mask: True (B, Q, T) for the tokens of the captions, False for padding.
        outputs_class, outputs_coord: logits (L, B, Q, T) and boxes (L, B, Q, 4) of all L decoder layers; used if
            `config.auxiliary_loss` is set.
        encoder_logits, encoder_pred_boxes: the proposals of the encoder, (B, N, T) and (B, N, 4); used if
            `config.two_stage` is set. Their loss has no gradient to prompts in the encoder.
        reduction: "sum" over the pictures; "mean" over them, so that the size of a batch does not change the size of a
            step; or "none": (B,).
        num_boxes: what the losses of a picture are divided by; None: the number of its own boxes, at least 1. With the
            number of boxes of the whole batch, the sum is that of the published training.

    Returns:
        The loss, NaN if scores or boxes are not finite; its parts by name, reduced likewise, before weights; and, with
        `config.auxiliary_loss`, the logits and boxes of the earlier decoder layers.

    Raises:
        ValueError: if there are not as many labels as pictures, or if a label is not a class of the picture's caption.
    """
    REDUCTION.check(reduction, "reduction")
    _check_labels(labels, label_maps, len(logits))
    levels: dict[str, Any] = {"": (logits, pred_boxes)}
    auxiliary = None
    if config.auxiliary_loss and outputs_class is not None and outputs_coord is not None:
        earlier = list(zip(outputs_class[:-1], outputs_coord[:-1]))
        levels |= {f"_{i}": level for i, level in enumerate(earlier)}
        auxiliary = [{"logits": scores, "pred_boxes": boxes} for scores, boxes in earlier]
    if config.two_stage:
        levels["_enc"] = (encoder_logits, encoder_pred_boxes)
    weights = {
        "loss_ce": CLASSIFICATION_WEIGHT,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    parts: dict[str, torch.Tensor] = {}
    total: Any = 0
    for suffix, level in levels.items():
        pictures = zip(*level, labels, label_maps, text_mask[:, 0])
        rows = [
            _losses_of_picture(scores, boxes, target, tokens, mask, config, num_boxes)
            for scores, boxes, target, tokens, mask in pictures
        ]
        for name, weight in weights.items():
            parts[name + suffix] = _reduced(torch.stack([row[name] for row in rows]), reduction)
            total = total + weight * parts[name + suffix]
    return total, parts, auxiliary


def _losses_of_picture(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    target: Mapping[str, torch.Tensor],
    label_map: torch.Tensor,
    text_mask: torch.Tensor,
    config: PretrainedConfig,
    num_boxes: Optional[float],
) -> dict[str, torch.Tensor]:
    """The losses of the predictions (Q, T) and (Q, 4) of one picture; its text mask is (T,)."""
    logits, boxes = logits.float(), boxes.float()  # half precision has no distance of boxes, nor enough digits
    if not (boxes.isfinite().all() and logits[:, text_mask].isfinite().all()):  # training diverged; nothing can match
        return dict.fromkeys(("loss_ce", "loss_bbox", "loss_giou"), boxes.sum() * torch.nan)
    wanted_labels, wanted_boxes = target["class_labels"].to(boxes.device), target["boxes"].to(boxes)
    queries, objects = _matched(logits, boxes, wanted_labels, wanted_boxes, label_map, config)
    wanted = torch.zeros_like(logits)
    wanted[queries] = label_map[wanted_labels[objects]].to(wanted)
    divisor: Any = max(len(wanted_labels), 1) if num_boxes is None else num_boxes
    found, wanted_boxes = boxes[queries], wanted_boxes[objects]  # (n, 4)
    overlap = generalized_box_iou(corners(found), corners(wanted_boxes)).diag()
    return {
        "loss_ce": sigmoid_focal_loss(logits[:, text_mask], wanted[:, text_mask], divisor, config.focal_alpha),
        "loss_bbox": (found - wanted_boxes).abs().sum() / divisor,
        "loss_giou": (1 - overlap).sum() / divisor,
    }


def _matched(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    wanted_labels: torch.Tensor,
    wanted_boxes: torch.Tensor,
    label_map: torch.Tensor,
    config: PretrainedConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which query is to find which object: positions (n,) of queries and of objects."""
    matcher = GroundingDinoHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    outputs = {"logits": logits[None], "pred_boxes": boxes[None], "label_maps": [label_map]}
    ((queries, objects),) = matcher(outputs, [{"class_labels": wanted_labels, "boxes": wanted_boxes}])
    return queries.to(boxes.device), objects.to(boxes.device)


def _reduced(losses: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    return losses if reduction == "none" else getattr(losses, reduction)()


def _check_labels(labels: Sequence[Mapping[str, torch.Tensor]], label_maps: Sequence[torch.Tensor], number: int):
    if len(labels) != number:
        raise ValueError(f"labels has {len(labels)} entries for {number} pictures. Give one dict for each picture.")
    for i, (target, label_map) in enumerate(zip(labels, label_maps)):
        own = target["class_labels"]
        wrong = own[(own < 0) | (own >= len(label_map))].tolist()
        if wrong:
            raise ValueError(
                f"Picture {i} has class_labels {wrong}, but its caption has {len(label_map)} classes, counted from 0. "
                "A label is the position of a class in the caption of its own picture."
            )
