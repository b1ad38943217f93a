"""What the model remembers of each answer in progress: keys and values in rows of one cache that answers join and leave.

Rows are filled from the left and each has a length of its own, so that a row's numbers are the same whoever its neighbours are, and
an answer joins or leaves without the others being moved.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

STEP = 128
"""Positions by which the cache grows: each growth copies it."""


class Slots(Cache):
    """The cache of a batch whose rows have lengths of their own. Rows 0 … `count`-1 are in use."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        """Positions in use, by row."""
        self._at = torch.empty(0, dtype=torch.long)
        self._rows = torch.empty(0, dtype=torch.long)

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def _slot_layers(self) -> list[SlotLayer]:
        return cast("list[SlotLayer]", self.layers)

    def join(self, prompt: DynamicCache) -> int:
        """Take what was read of a prompt as the next row; returns its number."""
        row, length = self.count, prompt.get_seq_length()
        if not self.layers:
            self.layers = [SlotLayer(self) for _ in prompt.layers]
        for layer, read in zip(self._slot_layers, cast("list[Any]", prompt.layers), strict=True):
            layer.reserve(row + 1, length + 1, read.keys, read.values)
            layer.keys[row, :, :length] = read.keys[0]
            layer.values[row, :, :length] = read.values[0]
        self.lengths.append(length)
        return row

    def leave(self, row: int) -> None:
        """Give up a row. The last row takes its number."""
        last = self.count - 1
        if row != last:
            length = self.lengths[last]
            for layer in self._slot_layers:
                layer.keys[row, :, :length] = layer.keys[last, :, :length]
                layer.values[row, :, :length] = layer.values[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        if not self.lengths:
            self.layers = []  # a long answer's memory is not kept for short ones

    def step(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """The arguments of a forward pass that adds a token to every row: its positions, and a mask of what each row may see."""
        self._at = torch.tensor(self.lengths, dtype=torch.long, device=device)
        self._rows = torch.arange(self.count, device=device)
        self.reach = max(self.lengths) + 1
        for layer in self._slot_layers:
            layer.reserve(self.count, self.reach, layer.keys, layer.values)
        seen = torch.arange(self.reach, device=device)[None] <= self._at[:, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)
        return {"past_key_values": self, "position_ids": self._at[:, None], "attention_mask": mask[:, None, None]}

    def advance(self) -> None:
        """The pass is through: every row has one token more."""
        self.lengths = [length + 1 for length in self.lengths]


class SlotLayer(CacheLayerMixin):
    """One layer's part."""

    keys: torch.Tensor
    values: torch.Tensor
    is_sliding = False

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise AssertionError("rows join with their prompt read; see Slots.join")

    def reserve(self, rows: int, length: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> None:
        """Make room. Zeros, as a value that no weight falls on is still multiplied by zero, and NaN would stay NaN."""
        if self.is_initialized and rows <= self.keys.shape[0] and length <= self.keys.shape[2]:
            return
        old_rows, old_length = (self.keys.shape[0], self.keys.shape[2]) if self.is_initialized else (0, 0)
        rows = max(rows, old_rows) if rows <= old_rows else max(rows, 2 * old_rows)
        length = max(old_length, -(-length // STEP) * STEP)
        for name, like in (("keys", like_keys), ("values", like_values)):
            grown = torch.zeros((rows, like.shape[1], length, like.shape[3]), dtype=like.dtype, device=like.device)
            if self.is_initialized:
                grown[:old_rows, :, :old_length] = getattr(self, name)
            setattr(self, name, grown)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put a token (rows, heads, 1, width) behind every row; returns all that the rows may see."""
        slots = self._slots
        self.keys[slots._rows, :, slots._at] = key_states[:, :, 0]
        self.values[slots._rows, :, slots._at] = value_states[:, :, 0]
        return self.keys[: slots.count, :, : slots.reach], self.values[: slots.count, :, : slots.reach]

    def get_seq_length(self) -> int:
        return max(self._slots.lengths, default=0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1
