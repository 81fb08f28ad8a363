"""Base classes with what the text towers of all families share."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

import torch
from peft.utils.integrations import gather_params_ctx
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from ..config import TowerShape
from .base import CONDITION, DEEP_PROMPTS, INPUT_PROMPTS, PromptedTower, part
from .last_layer import SHORTENED, Shortened


NEEDS_IMAGES = (
    "The text prompts of the active adapter depend on the image, but the text tower was given none. Give the whole "
    f"model pixel_values beside input_ids, or use MuDPTClassifier. For texts alone, give {CONDITION}: one image "
    "feature per text (texts, feature_size). Or disable the adapter: with model.disable_adapter()."
)
NEEDS_CLASSES = (
    "The text prompts of the active adapter depend on the class, but the text tower was given texts alone. Use "
    f"MuDPTClassifier, or give {CONDITION}: for each text, the feature of its class in the CLIP without the adapter "
    "(texts, feature_size), as `text_bank` computes it. Without the adapter, as in `with model.disable_adapter():`, "
    "texts need no more."
)
NEEDS_CLASS_NUMBERS = (
    "The active adapter has text prompts of its own for each class, but the text tower was given texts alone. Use "
    f"MuDPTClassifier, or give {CONDITION}: for each text, the position of its class among those that the adapter was "
    "trained on (texts,), as int64."
)
NEEDS_DOMAINS = (
    "The active adapter has text prompts of its own for each domain, but the text tower was given texts alone. Give "
    f"the whole model pixel_values beside input_ids, or use MuDPTClassifier. For texts of known domains, give "
    f"{CONDITION}: for each text, the number of its domain (texts,), as int64."
)


def attention_bias(tower: nn.Module, mask: torch.Tensor) -> torch.Tensor:
    """
    A mask of four axes in the form that a tower's attention takes: eager attention adds its mask to the scores, so
    that booleans, or ones and zeros, would mask nothing. A mask in floating point, which all kinds add, stays.
    """
    if mask.is_floating_point():
        return mask
    mask = mask.bool()
    if part(tower, "config")._attn_implementation != "eager":
        return mask
    dtype = part(tower, "dtype")
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


class PromptedText(PromptedTower):
    """
    A text tower whose n prompts stand before the words. The prompts get the embeddings of their positions, and the
    words move n positions to the right. Prompts that start above the input get no positions, and move no word.

    The prompts are inserted after the embeddings and removed before the tower pools. The pooling rule of each family
    therefore still holds, and the token ids need no placeholders.

    Attributes:
        argument_names: names of the tower's first positional arguments, in order.
        token_embedding: where the embeddings keep the module that maps token ids to embeddings.
        final_norm: where the tower keeps the LayerNorm after its encoder; None if there is none.
        tokens_before: how many tokens stand before the prompts (BOS, or none).
        is_causal: whether attention is causal, so that the texts of several classes can share a row of the batch (see
            `classifier.packing`). A causal family has BOS before its prompts and must override `is_eos`.
        hides_padding: whether the attention mask that the tokenizer makes hides the padding, so that it may have any
            length (see `bidirectional`). A family of which neither is true must override `text_lengths`.
    """

    modality = "text"
    tower: ClassVar[str] = "text_model"
    projection: ClassVar[Optional[str]] = "text_projection"
    argument_names: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "position_ids")
    token_embedding: ClassVar[str] = "token_embedding"
    final_norm: ClassVar[Optional[str]] = "final_layer_norm"
    tokens_before: ClassVar[int]
    is_causal: ClassVar[bool]
    hides_padding: ClassVar[bool] = False

    @classmethod
    def split(cls, hidden: torch.Tensor, n: int) -> tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        before = hidden[:, : cls.tokens_before] if cls.tokens_before else None
        return before, hidden[:, cls.tokens_before + n :]

    @classmethod
    def pooled_tokens(cls, hidden: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        return hidden.flatten(0, 1)[which][None]  # (B, L, d) -> (1, C, d), by the indices (C,) among all tokens

    @classmethod
    def shape(cls, tower: nn.Module) -> TowerShape:
        return super().shape(tower)._replace(num_positions=cls.num_positions(tower))

    @classmethod
    def num_positions(cls, tower: nn.Module) -> int:
        """Maximum number of tokens in the tower's sequence, prompts included."""
        return part(tower, "config").max_position_embeddings  # ZeRO-3 may have left the table's weight empty

    @classmethod
    def pad_multiple(cls, tower: nn.Module) -> Optional[int]:
        """Texts must be padded to a multiple of this number of tokens; None if any length gives the same feature."""
        return None if cls.is_causal or cls.hides_padding else cls.num_positions(tower)

    @classmethod
    def vocabulary_size(cls, tower: nn.Module) -> int:
        """Number of tokens (V) of the vocabulary: what the config says, or else the rows of the table."""
        known = getattr(part(tower, "config"), "vocab_size", None)
        return len(cls.token_table(tower)) if known is None else known

    @classmethod
    def token_table(cls, tower: nn.Module) -> torch.Tensor:
        """The embeddings (V, d) of all V tokens of the vocabulary."""
        return part(tower, f"{cls.embeddings}.{cls.token_embedding}").weight

    @classmethod
    def embed_tokens(cls, tower: nn.Module, ids: list[int]) -> torch.Tensor:
        """The token embeddings (m, d) of m token ids, without position embeddings."""
        module, weight = part(tower, f"{cls.embeddings}.{cls.token_embedding}"), cls.token_table(tower)
        # an offloaded weight is on "meta" until its module runs; the ids then go where it will be
        device = "cpu" if weight.is_meta else weight.device
        with gather_params_ctx(module.parameters(), modifier_rank=None):  # if DeepSpeed's ZeRO-3 has partitioned it
            return module(torch.tensor(ids, device=device))

    @classmethod
    def is_eos(cls, tower: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Mask (B, L) of the token ids (B, L) that the tower treats as EOS; it pools each text at its first EOS."""
        raise NotImplementedError

    @classmethod
    def text_lengths(cls, ids: torch.Tensor) -> torch.Tensor:
        """For each text (B, L), the number (B,) of leading tokens that must not be cut off."""
        raise NotImplementedError

    @classmethod
    def first_position(cls, embeddings: nn.Module) -> int:
        """The position of a text's first token in the position table of the embeddings."""
        return 0

    @classmethod
    def unread(cls, tower: nn.Module, ids: torch.Tensor, mask: Optional[torch.Tensor], n: int) -> torch.Tensor:
        """
        Mask (B, L) of the tokens that cannot influence the text's feature, so that their positions are arbitrary.

        Args:
            tower: the text tower.
            ids: token ids (B, L).
            mask: the attention mask (B, n + L) of the texts with n prompts; None: there is none.
            n: number of prompts in the input.
        """
        raise NotImplementedError

    def as_embedded(self, embeddings: nn.Module, prompts: torch.Tensor, device: torch.device) -> torch.Tensor:
        start = self.first_position(embeddings) + self.tokens_before
        # through the module, not its weight: offloading loads a weight only while its module runs
        positions = torch.arange(start, start + prompts.shape[1], device=device)
        positioned = part(embeddings, self.position_embedding)(positions)  # (n, d)
        return prompts.to(positioned.device) + positioned  # (b, n, d)

    def prepare(self, tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """
        If the prompts start at the input, move the words' positions by n, and add n columns for the prompts to the
        attention mask. If a condition is given, also compute the input prompts from it. If the mask has four axes, the
        caller has already laid out the sequence, input prompts included (see `classifier.packing`), and positions and
        mask stay as they are.
        """
        condition = kwargs.get(CONDITION)
        args, kwargs = super().prepare(tower, args, kwargs)
        prompts = self.source.num_tokens(self.modality)
        n = 0 if self.source.start(self.modality) else prompts
        given = {**dict(zip(self.argument_names, args)), **kwargs}
        input_ids, mask = given.get("input_ids"), given.get("attention_mask")
        if not prompts or input_ids is None:
            return args, kwargs
        if condition is None and self.source.text_depends_on_image:
            raise ValueError(NEEDS_IMAGES)
        if condition is None and self.source.text_depends_on_class:
            raise ValueError(NEEDS_CLASSES)
        if condition is None and self.source.num_class_contexts:
            raise ValueError(NEEDS_CLASS_NUMBERS)
        if condition is None and self.source.num_domains:
            raise ValueError(NEEDS_DOMAINS)
        if condition is not None:
            kwargs |= {CONDITION: condition, **self._input_prompts(tower, condition, input_ids.device)}
        if mask is not None and mask.dim() == 4:
            self._check_layout(input_ids, mask, given.get("position_ids"), n)
            given |= {**kwargs, "attention_mask": attention_bias(tower, mask)}
            return args[len(self.argument_names) :], given
        given |= kwargs
        if mask is not None:
            if mask.dim() != 2:
                raise ValueError(
                    f"attention_mask has shape {tuple(mask.shape)}; with text prompts it must be (batch, length) as "
                    "the tokenizer makes it, since the prompts' columns are added to it, or a mask of four axes that "
                    "has them already."
                )
            given["attention_mask"] = self._widened(mask, n)
        position_ids, length = given.get("position_ids"), input_ids.shape[-1]
        if position_ids is not None and (position_ids.dim() != 2 or position_ids.shape[1] != length):
            raise ValueError(
                f"position_ids has shape {tuple(position_ids.shape)}, expected (batch, {length}) like input_ids."
            )
        return args[len(self.argument_names) :], self._make_room(tower, given, n)

    def _input_prompts(self, tower: nn.Module, condition: torch.Tensor, device: torch.device) -> dict[str, Any]:
        """The argument of the encoder with the input prompts that depend on a condition, if there are any."""
        own = self.source.prompts(self.modality, 0, 1, condition).get(0)  # (b, n, d)
        return {} if own is None else {INPUT_PROMPTS: self.as_embedded(part(tower, self.embeddings), own, device)}

    def _widened(self, mask: torch.Tensor, n: int) -> Optional[torch.Tensor]:
        """The attention mask (B, n + L) of texts with n prompts, from that of the texts alone (B, L)."""
        return self._with_columns(mask, n)

    def _with_columns(self, mask: torch.Tensor, n: int) -> torch.Tensor:
        """A mask (B, L) with n columns of ones for the prompts, (B, n + L)."""
        before, after = mask.tensor_split([self.tokens_before], dim=1)
        # not len(mask), which torch.export would take for a constant
        return torch.cat([before, mask.new_ones(mask.shape[0], n), after], dim=1)

    def _make_room(self, tower: nn.Module, kwargs: dict, n: int) -> dict:
        """The tower's arguments, with positions that leave room for n prompts; the mask already covers the prompts."""
        input_ids, given = kwargs["input_ids"], kwargs.get("position_ids")
        ids = input_ids.view(-1, input_ids.shape[-1])  # (B, L)
        table, length = self.num_positions(tower), ids.shape[1]
        first = self.first_position(part(tower, self.embeddings))
        end, begin = first + table, first + self.tokens_before  # of the table, and of the prompts in it
        positions = torch.arange(first, first + length, device=ids.device)  # (L,)
        stays = positions < begin
        position_ids = positions[None] if given is None else given  # (1 or B, L)
        moved = position_ids + torch.where(stays, 0, n)  # (1 or B, L)
        # without a branch while it is compiled or exported: one graph serves all lengths
        if given is None and not torch.compiler.is_compiling() and length + n <= table:
            return {**kwargs, "position_ids": moved}
        unread = self.unread(tower, ids, kwargs.get("attention_mask"), n)
        out_of_order = (position_ids < first) | ((position_ids < begin) != stays)
        out_of_order = out_of_order.any(dim=1, keepdim=True)  # (1 or B, 1)
        if not torch.compiler.is_compiling():  # values cannot be read there; the position table itself then refuses
            if out_of_order.any():
                before = f"{first} for the first token (BOS) and " if self.tokens_before else ""
                raise ValueError(
                    f"position_ids must be {before}at least {begin} for the others: the prompts stand at positions "
                    f"{begin} to {begin + n - 1} and the words after them. Leave position_ids out, or disable the "
                    "adapter."
                )
            needed = moved.masked_fill(unread, first).amax().item() + 1 - first
            if needed > table:
                raise ValueError(
                    f"The text needs {needed} positions with its {n} prompt tokens, but the text tower has {table}: "
                    f"{table - n} tokens are left for words and those that the tokenizer adds. Shorten the text, or "
                    f"tokenize it with truncation=True, max_length={table - n}."
                )
        moved = torch.where(unread, moved.clamp(max=end - 1), moved).masked_fill(out_of_order, end)
        return {**kwargs, "position_ids": moved}

    def mask_with_room(self, mask: torch.Tensor, n: int) -> torch.Tensor:
        """
        The encoder's attention mask, (B, 1, L, L) or (B, L), for sequences into which n prompts were inserted above
        the input. The tokens after the prompts see them; with causal attention, the prompts see what is before them.
        """
        if mask.dim() == 2:
            return self._with_columns(mask, n)
        allowed, denied = (0.0, torch.finfo(mask.dtype).min) if mask.is_floating_point() else (True, False)
        batch, heads, length, _ = mask.shape
        t, unseen = self.tokens_before, denied if self.is_causal else allowed

        def block(rows: int, columns: int, value: float | bool) -> torch.Tensor:
            return mask.new_full((batch, heads, rows, columns), value)

        among = torch.ones(n, n, dtype=torch.bool, device=mask.device)  # which prompt sees which
        among = among.tril() if self.is_causal else among
        if mask.is_floating_point():  # booleans stay, because onnxruntime chooses no booleans by others
            among = mask.new_zeros(n, n).masked_fill(~among, denied)
        among = among.expand(batch, heads, n, n)
        above, below = mask[:, :, :t], mask[:, :, t:]  # the rows of the tokens before and after the prompts
        rows = [
            torch.cat([above[..., :t], block(t, n, unseen), above[..., t:]], dim=-1),
            torch.cat([block(n, t, allowed), among, block(n, length - t, unseen)], dim=-1),
            torch.cat([below[..., :t], block(length - t, n, allowed), below[..., t:]], dim=-1),
        ]
        return torch.cat(rows, dim=-2)  # (B, 1, L + n, L + n)

    def run_layers(
        self,
        tower: nn.Module,
        hidden: torch.Tensor,
        mask: Optional[torch.Tensor],
        layers: range,
        condition: Optional[torch.Tensor] = None,
        prompted: bool = True,
        pooled: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """
        Run some layers of a tower.

        Args:
            tower: the text tower.
            hidden: the input (B, L, d) of the first of these layers.
            mask: the attention mask, with two axes as the tower takes it or with four as its layers do, without room
                for prompts that are not in `hidden`; None: the default of the tower.
            layers: indices of the layers.
            condition: what the prompts depend on, one row per sample; None: nothing.
            prompted: False if the hooks put no prompts into these layers, as in rows that have another layout.
            pooled: the indices (C,) of the tokens that are read among all tokens of the sequences without prompts, if
                the layers end with the tower's last one; None: all tokens are read. It needs a mask of four axes.

        Returns:
            The output (B, L or L + n, d) of the last of these layers, not normalized. It includes the prompts. With
            `pooled`, the output (C, d) of these tokens.
        """
        encoder = part(tower, self.encoder)
        options: dict[str, Any] = {"is_causal": True} if self.is_causal and mask is None else {}
        options |= {} if condition is None else {CONDITION: condition}
        if mask is not None and mask.dim() == 2:
            mask = create_bidirectional_mask(part(tower, "config"), inputs_embeds=hidden, attention_mask=mask)
        if layers.start == 0 and condition is not None:
            options |= self._input_prompts(tower, condition, hidden.device)
        if pooled is not None:
            assert mask is not None
            n = self.source.num_tokens(self.modality) if prompted else 0
            length = mask.shape[-1] - (0 if self.source.start(self.modality) else n)  # of a row without prompts
            pooled = pooled + (pooled // length + 1) * n  # the prompts stand before the words of each row
            if self.shortened(encoder) is not None:
                options[SHORTENED] = Shortened(layers.stop - 1, pooled)
        if prompted:
            (hidden, *_), options = self.hand_down(encoder, (hidden, mask), options)
        else:
            options[DEEP_PROMPTS] = {}
        for layer in list(part(encoder, self.layers))[layers.start : layers.stop]:
            hidden = layer(hidden, mask, **options)
        if pooled is None:
            return hidden
        return (hidden if SHORTENED in options else self.pooled_tokens(hidden, pooled))[0]  # (C, d)

    @classmethod
    def normed(cls, tower: nn.Module, states: torch.Tensor) -> torch.Tensor:
        """The last hidden states (B, L, d) of a tower from those of its encoder."""
        return states if cls.final_norm is None else part(tower, cls.final_norm)(states)

    @classmethod
    def pooled_states(cls, tower: nn.Module, states: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """
        The pooled output (B, d) from what `normed` returned (B, L, d), of a tower that is not causal. `mask` is the
        attention mask (B, L) of the texts; None if there is none.
        """
        raise NotImplementedError

    @staticmethod
    def _check_layout(
        input_ids: torch.Tensor, mask: torch.Tensor, position_ids: Optional[torch.Tensor], n: int
    ) -> None:
        length = n + input_ids.shape[-1]
        if tuple(mask.shape[-2:]) != (length, length) or position_ids is None:
            given = "no position_ids" if position_ids is None else "position_ids"
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}, beside {given}. With four axes it must say which of "
                f"all {length} tokens sees which, the {n} prompts included: (batch, 1, {length}, {length}), and "
                f"position_ids must give the positions of the other {length - n} tokens."
            )


class PromptedCausalText(PromptedText):
    """Sequence: [BOS, prompts, words, EOS, padding], causal. The tower pools at EOS."""

    tokens_before = 1
    is_causal = True

    @classmethod
    def is_eos(cls, tower: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return ids == part(tower, "eos_token_id")

    @classmethod
    def unread(cls, tower: nn.Module, ids: torch.Tensor, mask: Optional[torch.Tensor], n: int) -> torch.Tensor:
        # Attention is causal: tokens after EOS cannot influence it.
        is_eos = cls.is_eos(tower, ids)
        return (is_eos.cumsum(dim=1) - is_eos.long()) > 0  # nowhere without an EOS
