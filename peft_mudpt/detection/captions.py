"""Captions: the texts that name all classes for a fusion detector, and which of their tokens belong to which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as short_repr

import torch
from transformers import PreTrainedTokenizerBase

from ..rules import check_class_names, normalized


# Where transformers splits a caption into phrases: the ids of [CLS], [SEP], "." and "?" of BERT, fixed in the code of
# the models, and the padding.
BEGINNING, END, PERIOD, QUESTION, PADDING = 101, 102, 1012, 1029, 0
DELIMITERS = (BEGINNING, END, PERIOD, QUESTION, PADDING)


@dataclass(frozen=True)
class Caption:
    """
    The text of c classes, such as "cat. dog.".

    Args:
        text: the text. It ends with a period, because without one padding would change the scores.
        labels: the labels (c,) of its classes.
        input_ids: its T tokens (T,).
        tokens: the positions of the tokens of each class. Periods, [CLS] and [SEP] belong to no class.
    """

    text: str
    labels: list[int]
    input_ids: torch.Tensor
    tokens: list[slice]


def make_captions(
    tokenizer: PreTrainedTokenizerBase, class_names: Sequence[str], max_text_len: int, split_captions: bool = False
) -> list[Caption]:
    """
    Make the captions of classes.

    Args:
        tokenizer: the tokenizer of the detector.
        class_names: names of the classes. The order is that of the labels.
        max_text_len: the most tokens that a caption may have.
        split_captions: spread the classes over as few captions as their order allows, if one cannot hold them.

    Returns:
        One caption, or several if they are split. Names are in lower case, as transformers' processor writes them.

    Raises:
        ValueError: if there are no names; if one is blank, contains "." or "?", or has no token; if the tokenizer
            cannot tell two apart; if the tokenizer does not belong to such a detector; or if the names have more
            tokens than a caption takes.
    """
    given = check_class_names(class_names)
    names = [" ".join(normalized(name).lower().split()) for name in given]
    _check_tokenizer(tokenizer)
    ids = tokenizer(names, add_special_tokens=False).input_ids
    _check_names(given, ids)
    groups = _grouped(names, ids, max_text_len)
    if len(groups) > 1 and not split_captions:
        number = 2 + sum(len(own) + 1 for own in ids)
        raise ValueError(
            f"The caption of {len(names)} classes has {number} tokens, but max_text_len is {max_text_len}. Give fewer "
            f"or shorter class names, or split_captions=True: the detector then runs once for each of {len(groups)} "
            "captions."
        )
    return [_caption(tokenizer, labels, names, ids) for labels in groups]


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    found = tokenizer(".").input_ids
    if found != [BEGINNING, PERIOD, END]:
        raise ValueError(
            f"The tokenizer makes {found} of '.', but the detector splits captions at the ids "
            f"{[BEGINNING, PERIOD, END]} of BERT. Give the tokenizer of the detector."
        )


def _check_names(names: list[str], ids: list[list[int]]) -> None:
    """Refuse names that would not be one phrase each, or not one of their own."""
    seen: dict[tuple[int, ...], str] = {}
    for name, own in zip(names, ids):
        if "." in name or "?" in name or set(own) & set(DELIMITERS):
            raise ValueError(
                f"The class name {name!r} contains '.' or '?', at which the detector splits a caption, so that it "
                "would be several classes. Write it without, such as 'st bernard'."
            )
        if not own:
            raise ValueError(f"The tokenizer makes no token of the class name {name!r}. Give another name.")
        if tuple(own) in seen:
            raise ValueError(
                f"The class names {seen[tuple(own)]!r} and {name!r} are the same to the tokenizer, which ignores case "
                "and does not know every character. Give each class a name of its own."
            )
        seen[tuple(own)] = name


def _grouped(names: list[str], ids: list[list[int]], max_text_len: int) -> list[list[int]]:
    """Distribute the labels over captions, in their order: each takes as many classes as fit."""
    groups: list[list[int]] = []
    room = 0
    for label, own in enumerate(ids):
        needed = len(own) + 1  # the period
        if needed > max_text_len - 2:  # [CLS] and [SEP]
            raise ValueError(
                f"The class name {short_repr(names[label])} has {len(own)} tokens, but a caption of max_text_len "
                f"{max_text_len} takes at most {max_text_len - 3}. Give a shorter name."
            )
        if needed > room:
            groups.append([])
            room = max_text_len - 2
        groups[-1].append(label)
        room -= needed
    return groups


def _caption(tokenizer: PreTrainedTokenizerBase, labels: list[int], names: list[str], ids: list[list[int]]) -> Caption:
    text = "".join(f"{names[label]}. " for label in labels).rstrip()
    found = tokenizer(text).input_ids
    expected, tokens = [BEGINNING], []
    for label in labels:
        tokens.append(slice(len(expected), len(expected) + len(ids[label])))
        expected += [*ids[label], PERIOD]
    if found != [*expected, END]:
        raise ValueError(f"The tokenizer splits the names in {short_repr(text)} otherwise than each by itself.")
    return Caption(text, labels, torch.tensor(found), tokens)
