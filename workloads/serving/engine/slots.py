"""What the model remembers of each answer in progress: keys and values in rows of one cache that answers join and leave.

Rows are filled from the left and each has a length of its own, so that a row's numbers are the same whoever its neighbours are, and
an answer joins or leaves without the others being moved.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

STEP = 128
"""Positions by which the cache grows, where there is room for so many: each growth copies it."""


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

    @property
    def positions(self) -> int:
        """Those that memory is held for, in use or not."""
        return self._slot_layers[0].rows * self._slot_layers[0].length if self.layers else 0

    def join(self, prompt: DynamicCache, most: int) -> int:
        """Take what was read of a prompt as the next row; returns its number. ``most``: positions to be held, where more rows than are
        needed would do good later. ``prompt`` is given up layer by layer, so that it is not held twice."""
        row, length = self.count, prompt.get_seq_length()
        if not self.layers:
            self.layers = [SlotLayer(self) for _ in prompt.layers]
        rows, room = self._grown(row + 1, length + 1, most)
        for layer, read in zip(self._slot_layers, cast("list[Any]", prompt.layers), strict=True):
            layer.resize(rows, room, read.keys, read.values)
            layer.keys[row, :, :length] = read.keys[0]
            layer.values[row, :, :length] = read.values[0]
            read.keys = read.values = None
        self.lengths.append(length)
        return row

    def make_room(self, most: int) -> None:
        """Give back what is held and not in use, where more than ``most`` positions are held."""
        if self.positions > most:
            rows, length = self._grown(self.count, max(self.lengths) + 1, 0)
            for layer in self._slot_layers:
                layer.resize(rows, length, layer.keys, layer.values)

    def _grown(self, rows: int, length: int, most: int) -> tuple[int, int]:
        """Rows and length to hold, for so many in use: those that are held where they do, else more within ``most``."""
        held = self._slot_layers[0]
        if rows <= held.rows and length <= held.length and self.positions <= max(most, rows * length):
            return held.rows, held.length
        length = max((length, *self.lengths))
        length = max(length, min(-(-length // STEP) * STEP, most // rows))
        spare = held.rows if rows <= held.rows else 2 * held.rows
        return max(rows, min(spare, most // length)), length

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

    def step(self, device: torch.device, dtype: torch.dtype, most: int) -> dict[str, Any]:
        """The arguments of a forward pass that adds a token to every row: its positions, and a mask of what each row may see. ``most`` as
        for `join`."""
        self._at = torch.tensor(self.lengths, dtype=torch.long, device=device)
        self._rows = torch.arange(self.count, device=device)
        self.reach = max(self.lengths) + 1
        rows, length = self._grown(self.count, self.reach, most)
        for layer in self._slot_layers:
            layer.resize(rows, length, layer.keys, layer.values)
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

    @property
    def rows(self) -> int:
        return self.keys.shape[0] if self.is_initialized else 0

    @property
    def length(self) -> int:
        return self.keys.shape[2] if self.is_initialized else 0

    def resize(self, rows: int, length: int, like_keys: torch.Tensor, like_values: torch.Tensor) -> None:
        """Hold so much, with what is in use. Zeros, as a value that no weight falls on is still multiplied by zero, and NaN would stay
        NaN."""
        if (rows, length) == (self.rows, self.length):
            return
        used = max(self._slots.lengths, default=0)
        for name, like in (("keys", like_keys), ("values", like_values)):
            grown = torch.zeros((rows, like.shape[1], length, like.shape[3]), dtype=like.dtype, device=like.device)
            if used:
                count = self._slots.count
                grown[:count, :, :used] = getattr(self, name)[:count, :, :used]
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
