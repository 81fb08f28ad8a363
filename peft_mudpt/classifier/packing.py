"""Packs class texts into rows of many classes that share one prefix, so that the text tower computes it once per row.

In a causal tower nothing before the class name depends on the class: BOS, the prompts, and the words the texts have in
common are the same for all classes, at every layer. So a row is [BOS, prompts, common words, class 1, class 2, ...]:
each class sees the prefix and itself, at the positions it would have alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Optional, TypeVar

import torch


RowsType = TypeVar("RowsType", bound="_Rows")


@dataclass(frozen=True)
class _Rows:
    """Tensors that describe rows of tokens."""

    def to(self: RowsType, device: torch.device) -> RowsType:
        """The same rows on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if value is None else value.to(device) for name, value in values.items()})


@dataclass(frozen=True)
class OwnRows(_Rows):
    """
    C classes in R rows of L tokens, [BOS, tokens of class 1, its words, tokens of class 2, its words, ...], for the
    layers in which each class has n prompt tokens of its own.

    Attributes:
        sources: (R, L), where each token comes from: its index among all tokens of the rows of `PackedClasses`, with
            the prompts, followed by the C * n tokens of the classes.
        eos: (C,), the index of each class's EOS among the R * L tokens.
        attention_mask: (R, 1, L, L), true where the token of the third axis attends to the token of the fourth.
    """

    sources: torch.Tensor
    eos: torch.Tensor
    attention_mask: torch.Tensor


@dataclass(frozen=True)
class PackedClasses(_Rows):
    """
    C classes in R rows of L tokens, for a text tower whose hooks insert n prompt tokens in each row.

    Attributes:
        input_ids: token ids (R, L), without the prompts.
        eos: (C,), the index of each class's EOS among the R * L tokens; None if the tower pools each row itself.
        position_ids: positions (R, L) of the tokens in `input_ids`, which leave room for the n prompts; None for the
            tower's default positions.
        attention_mask: (R, 1, n + L, n + L), true where the token of the third axis attends to the token of the
            fourth; (R, L), 0 where a token is padding, if the tower pools each row itself; None for the tower's
            default attention.
        own: the rows of the layers in which each class has prompt tokens of its own; None if there are none.
    """

    input_ids: torch.Tensor
    eos: Optional[torch.Tensor] = None
    position_ids: Optional[torch.Tensor] = None
    attention_mask: Optional[torch.Tensor] = None
    own: Optional[OwnRows] = None

    @property
    def num_classes(self) -> int:
        """The number of classes (C)."""
        return len(self.input_ids if self.eos is None else self.eos)

    @property
    def shares_rows(self) -> bool:
        """Whether several classes stand in a row, so that the mask relates pairs of tokens."""
        return self.attention_mask is not None and self.attention_mask.dim() == 4

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
            None if mask is None else mask.repeat(times, *[1] * (mask.dim() - 1)),
        )


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


def unmasked_words(class_tokens: dict[str, torch.Tensor]) -> list[list[int]]:
    """
    The token ids of each class text, without the padding.

    Args:
        class_tokens: `input_ids` and `attention_mask` (C, L) of C classes.

    Raises:
        ValueError: if there is no `attention_mask`, or a text has padding before one of its tokens, or no token.
    """
    ids, mask = class_tokens["input_ids"].cpu(), class_tokens.get("attention_mask")  # (C, L)
    if mask is None:
        raise ValueError(
            "The tokenizer made no attention_mask, but this text tower needs one, which hides the padding. Tokenize "
            "the classes with the CLIP's own tokenizer, or tokenize_classes."
        )
    mask = mask.cpu().bool()
    for wrong, what in (
        (~mask.any(dim=1), "has no token: the tokenizer knows none of its characters"),
        ((mask[:, 1:] > mask[:, :-1]).any(dim=1), "has padding before one of its tokens; pad on the right"),
    ):
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(f"The text of class {row} (token ids {ids[row].tolist()}) {what}. Change the text.")
    return [row[:length] for row, length in zip(ids.tolist(), mask.sum(dim=1).tolist())]


def pack_classes(words: list[list[int]], num_tokens: int, max_length: int) -> PackedClasses:
    """
    Fill rows with classes, so that there is little padding.

    Args:
        words: token ids of each class from BOS to EOS, as `class_words` returns them.
        num_tokens: number of prompt tokens (n) that are inserted after BOS.
        max_length: largest number of tokens in a row, without the prompts; no class may be longer.
    """
    shared = len(_common_prefix(words))
    rows = _best_fit([len(text) - shared for text in words], max_length - shared)
    return _lay_out(words, rows, num_tokens)


def _lay_out(words: list[list[int]], rows: list[list[int]], num_tokens: int) -> PackedClasses:
    """Lay out classes of which the row is known; `rows` has the labels of each row."""
    prefix = _common_prefix(words)
    shared = len(prefix)
    ids: list[list[int]] = []  # of each row, as are the next two
    positions: list[list[int]] = []
    owners: list[list[int]] = []  # which text a token belongs to: 0 the prefix, then the classes
    eos: dict[int, tuple[int, int]] = {}  # row and column, by class
    for labels in rows:
        ids.append(list(prefix))
        positions.append([0, *range(1 + num_tokens, shared + num_tokens)])
        owners.append([0] * shared)
        for label in labels:
            own = words[label][shared:]
            ids[-1] += own
            positions[-1] += range(shared + num_tokens, shared + num_tokens + len(own))
            owners[-1] += [label + 1] * len(own)
            eos[label] = len(ids) - 1, len(ids[-1]) - 1

    length = max(map(len, ids))
    owner = _filled_up(owners, -1)
    owner = torch.cat([owner.new_zeros(len(owner), num_tokens), owner], dim=1)  # (R, n + L): prompts are prefix
    in_prefix = owner[:, None, :] == 0  # (R, 1, n + L)
    same_text = owner[:, None, :] == owner[:, :, None]  # (R, n + L, n + L)
    return PackedClasses(
        _filled_up(ids),
        torch.tensor([row * length + column for row, column in map(eos.__getitem__, range(len(words)))]),
        _filled_up(positions),
        (in_prefix | same_text).tril()[:, None],  # (R, 1, n + L, n + L)
    )


def own_rows(words: list[list[int]], packed: PackedClasses, num_tokens: int, max_length: int) -> OwnRows:
    """
    Fill rows in which each class has its own prompt tokens. Words that the texts begin with stand in them once per
    class, because they attend to the tokens. The rows are filled evenly, so that there is little padding.

    Args:
        words: token ids of each class from BOS to EOS.
        packed: the rows into which `pack_classes` has put these classes.
        num_tokens: number of prompt tokens (n).
        max_length: largest number of tokens in a row.
    """
    shared, length = len(_common_prefix(words)), packed.input_ids.shape[1]
    assert packed.eos is not None, "pack_classes gives it"
    first_own = len(packed.input_ids) * (num_tokens + length)  # index of the first token of the first class
    sources = []  # of each class, from BOS, which is the same in all rows, to EOS
    for label, (text, end) in enumerate(zip(words, packed.eos.tolist())):
        row, column = divmod(end, length)
        row_start = row * (num_tokens + length) + num_tokens
        tokens = range(first_own + label * num_tokens, first_own + (label + 1) * num_tokens)
        columns = [*range(1, shared), *range(column + 1 - len(text) + shared, column + 1)]
        sources.append([0, *tokens, *(row_start + each for each in columns)])
    rows = _lay_out(sources, _even_rows([len(each) - 1 for each in sources], max_length - 1), num_tokens=0)
    assert rows.eos is not None and rows.attention_mask is not None, "pack_classes gives them"
    return OwnRows(rows.input_ids, rows.eos, rows.attention_mask)


def class_per_row(words: list[list[int]]) -> PackedClasses:
    """Put one class in each row, for attention that does not accept the four-axis mask that packing needs."""
    ids = _filled_up(words)
    return PackedClasses(ids, torch.tensor([row * ids.shape[1] + len(text) - 1 for row, text in enumerate(words)]))


def masked_rows(words: list[list[int]]) -> PackedClasses:
    """Put one class in each row, with a mask over the padding, for a tower in which every token sees every other."""
    return PackedClasses(_filled_up(words), attention_mask=_filled_up([[1] * len(text) for text in words]))


def _filled_up(rows: list[list[int]], filler: int = 0) -> torch.Tensor:
    """The rows as a tensor (R, L), each filled up to the length of the longest."""
    length = max(map(len, rows))
    return torch.tensor([row + [filler] * (length - len(row)) for row in rows])


def _even_rows(lengths: list[int], room: int) -> list[list[int]]:
    """
    Distribute classes of these lengths over few rows of equal length, so that there is little padding. A row is at
    most `room` long, unless a class alone is longer.
    """
    fewest = len(_best_fit(lengths, room))
    heights = range(max(max(lengths), -(-sum(lengths) // fewest)), room)
    fitted = (_best_fit(lengths, height) for height in heights)
    return next((rows for rows in fitted if len(rows) <= fewest), _best_fit(lengths, room))


def _best_fit(lengths: list[int], room: int) -> list[list[int]]:
    """Put each class, the longest first, into the row that it fills best. Classes of equal length stay in order."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(room)]  # the rows that are neither full nor empty, by their room
    for label in sorted(range(len(lengths)), key=lambda label: -lengths[label]):
        length = lengths[label]
        left = next((left for left in range(length, room) if with_room[left]), room)
        if left < room:
            row = with_room[left].pop()
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(label)
        if left > length:
            with_room[left - length].append(row)
    return rows


def _common_prefix(words: list[list[int]]) -> list[int]:
    """The longest common prefix of the token ids, shortened so that every text keeps at least one token after it."""
    first = words[0]
    longest = min(map(len, words)) - 1
    shared = next((i for i in range(longest) if any(text[i] != first[i] for text in words)), longest)
    return first[:shared]
