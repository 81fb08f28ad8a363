"""Packs class texts into rows of many classes that share one prefix, so that the text tower computes it once per row.

In a causal tower nothing before the class name depends on the class: BOS, the prompts, and the words the texts have in
common are the same for all classes, at every layer. So a row is [BOS, prompts, common words, class 1, class 2, ...]:
each class sees the prefix and itself, at the positions it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Optional

import torch


@dataclass(frozen=True)
class PackedClasses:
    """
    C classes in R rows of L tokens, for a text tower whose hooks insert n prompt tokens in each row.

    Attributes:
        input_ids: token ids (R, L), without the prompts.
        eos: (C,), the index of each class's EOS among the R * L tokens; None if the tower pools each row itself.
        position_ids: positions (R, L) of the tokens in `input_ids`, which leave room for the n prompts; None for the
            tower's default positions.
        attention_mask: (R, 1, n + L, n + L), true where the token of the third axis attends to the token of the
            fourth; None for the tower's default attention.
    """

    input_ids: torch.Tensor
    eos: Optional[torch.Tensor] = None
    position_ids: Optional[torch.Tensor] = None
    attention_mask: Optional[torch.Tensor] = None

    @property
    def num_classes(self) -> int:
        """Number of classes (C)."""
        return self.input_ids.shape[0] if self.eos is None else self.eos.shape[0]

    def repeated(self, times: int) -> PackedClasses:
        """The same classes several times: all of them for the first image, then all for the second, and so on."""
        eos, positions, mask = self.eos, self.position_ids, self.attention_mask
        if eos is not None:
            first_tokens = torch.arange(times, device=eos.device) * self.input_ids.numel()
            eos = (first_tokens[:, None] + eos).flatten()  # (times, C) -> (times * C,)
        return PackedClasses(
            self.input_ids.repeat(times, 1),  # (times * R, L), as positions and mask
            eos,
            None if positions is None else positions.repeat(times, 1),
            None if mask is None else mask.repeat(times, 1, 1, 1),
        )

    def to(self, device: torch.device) -> PackedClasses:
        """The same classes on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: None if t is None else t.to(device) for name, t in tensors.items()}
        return PackedClasses(**moved)


def class_words(
    class_tokens: dict[str, torch.Tensor], is_eos: Callable[[torch.Tensor], torch.Tensor]
) -> list[list[int]]:
    """
    The token ids of each class text, from BOS to its EOS.

    Args:
        class_tokens: `input_ids` (C, L) of C classes. Also `attention_mask` (C, L), if padding before EOS is to be
            detected.
        is_eos: maps token ids (C, L) to booleans (C, L): true where the text tower takes the token for EOS.

    Raises:
        ValueError: if a text begins with another token than the first text, has no EOS, or has padding before it.
    """
    ids = class_tokens["input_ids"].cpu()  # (C, L)
    ends = is_eos(ids)  # (C, L)
    lengths = ends.long().argmax(dim=1) + 1  # (C,), to the first EOS
    mask = class_tokens.get("attention_mask")
    padded = torch.zeros_like(ends) if mask is None else mask.cpu() == 0
    padded_before_eos = padded & (torch.arange(ids.shape[1]) < lengths[:, None])
    for wrong, what in (
        (ids[:, 0] != ids[0, 0], "begins with another token than the first one: all need the same BOS"),
        (~ends[:, 1:].any(dim=1), "has no EOS token"),
        (padded_before_eos.any(dim=1), "has padding before its EOS; pad on the right"),
    ):
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"The text of class {row} (token ids {ids[row].tolist()}) {what}. Tokenize the classes with CLIP's "
                "own tokenizer, or tokenize_classes."
            )
    return [row[:length] for row, length in zip(ids.tolist(), lengths.tolist())]


def pack_classes(words: list[list[int]], num_tokens: int, max_length: int) -> PackedClasses:
    """
    Fill rows with classes, in order.

    Args:
        words: token ids of each class from BOS to EOS, as `class_words` returns them.
        num_tokens: number of prompt tokens (n) that are inserted after BOS.
        max_length: largest number of tokens in a row, without the prompts; no class may be longer.
    """
    prefix = _common_prefix(words)
    shared = len(prefix)
    ids: list[list[int]] = []  # of each row, as are the next two
    positions: list[list[int]] = []
    owners: list[list[int]] = []  # which text a token belongs to: 0 the prefix, then the classes
    eos: list[tuple[int, int]] = []  # row and column, by class
    for own in (text[shared:] for text in words):
        if not ids or len(ids[-1]) + len(own) > max_length:
            ids.append(list(prefix))
            positions.append([0, *range(1 + num_tokens, shared + num_tokens)])
            owners.append([0] * shared)
        ids[-1] += own
        positions[-1] += range(shared + num_tokens, shared + num_tokens + len(own))
        owners[-1] += [len(eos) + 1] * len(own)
        eos.append((len(ids) - 1, len(ids[-1]) - 1))

    length = max(map(len, ids))

    def filled_up(rows: list[list[int]], filler: int) -> torch.Tensor:  # (R, L)
        return torch.tensor([row + [filler] * (length - len(row)) for row in rows])

    owner = filled_up(owners, -1)
    owner = torch.cat([owner.new_zeros(len(owner), num_tokens), owner], dim=1)  # (R, n + L): prompts are prefix
    in_prefix = owner[:, None, :] == 0  # (R, 1, n + L)
    same_text = owner[:, None, :] == owner[:, :, None]  # (R, n + L, n + L)
    return PackedClasses(
        filled_up(ids, 0),
        torch.tensor([row * length + column for row, column in eos]),
        filled_up(positions, 0),
        (in_prefix | same_text).tril()[:, None],  # (R, 1, n + L, n + L)
    )


def class_per_row(words: list[list[int]]) -> PackedClasses:
    """Put one class in each row, for attention that does not accept the four-axis mask that packing needs."""
    length = max(map(len, words))
    return PackedClasses(
        torch.tensor([text + [0] * (length - len(text)) for text in words]),
        torch.tensor([row * length + len(text) - 1 for row, text in enumerate(words)]),
    )


def _common_prefix(words: list[list[int]]) -> list[int]:
    """The longest common prefix of the token ids, shortened so that every text keeps at least one token after it."""
    first = words[0]
    longest = min(map(len, words)) - 1
    shared = next((i for i in range(longest) if any(text[i] != first[i] for text in words)), longest)
    return first[:shared]
