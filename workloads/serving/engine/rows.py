"""What the model remembers of a conversation: a key and a value of every token in every layer, as much as the conversation is long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

GROWTH = 64
"""Positions that are held beyond those in use, at least: to hold more of them a row is copied."""

Tensors = list[torch.Tensor]
"""One for each layer."""


@dataclass(frozen=True)
class Places:
    """Where the newest tokens of a group stand."""

    rows: torch.Tensor
    at: torch.Tensor
    end: int
    """Behind the last of them."""


class Row:
    """One conversation, in memory of its own or, while its answer is written, as a part of a `Group`."""

    def __init__(self, most: int, capacity: int, adapter: int | None = None) -> None:
        self.adapter = adapter
        """What the model wore as it read this: another makes other keys and values of the same text."""
        self.tokens: list[int] = []
        self.most = most
        """Positions that it may come to."""
        self.capacity = capacity
        """Positions that memory of its own is held for."""
        self.keys: Tensors = []
        self.values: Tensors = []
        self.group: Group | None = None

    @property
    def length(self) -> int:
        return len(self.tokens)

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Set what follows the known tokens, (heads, new tokens, width); returns all, (heads, tokens, width)."""
        end = self.length + keys.shape[1]
        for own, new in ((self.keys, keys), (self.values, values)):
            if layer == len(own):
                own.append(new.new_empty((new.shape[0], self.capacity, new.shape[2])))
            elif own[layer].shape[1] < self.capacity:
                own[layer] = _resized(own[layer], self.length, self.capacity)
            own[layer][:, self.length : end] = new
        return self.keys[layer][:, :end], self.values[layer][:, :end]

    def copy_of(self, other: Row, length: int) -> None:
        """Begin as ``other`` does."""
        self.tokens = other.tokens[:length]
        self.keys, self.values = (
            [_resized(layer, length, self.capacity) for layer in tensors] for tensors in other.tensors
        )

    def take_over(self, other: Row, length: int) -> None:
        """Begin as ``other`` does, in its memory."""
        self.tokens, self.keys, self.values = other.tokens[:length], other.keys, other.values
        self.capacity = max(self.capacity, other.capacity)
        other.keys, other.values = [], []

    @property
    def tensors(self) -> tuple[Tensors, Tensors]:
        """Its keys and values, (heads, at least as many as tokens, width) each."""
        if self.group is None:
            return self.keys, self.values
        slot = self.group.rows.index(self)
        return [layer[slot] for layer in self.group.keys], [layer[slot] for layer in self.group.values]


class Group:
    """Answers that are written and are about as long: their rows are one tensor, (rows, heads, length, width), which one kernel computes.
    They grow together, so that they only become more alike."""

    def __init__(self, row: Row) -> None:
        """With one row, which gives its memory."""
        self.rows = [row]
        self.adapter = row.adapter
        """What the model wears for all of them; known also once the last has left."""
        self.slots, self.length = 1, row.capacity
        self.keys = [layer[None] for layer in row.keys]
        self.values = [layer[None] for layer in row.values]
        self._own(row)

    @property
    def held(self) -> int:
        return self.slots * self.length

    @property
    def reach(self) -> int:
        """Positions of the longest."""
        return max(row.length for row in self.rows)

    def suits(self, row: Row) -> bool:
        """Whether one kernel can compute both, and neither pays much for the other's length."""
        return self.adapter == row.adapter and abs(self.reach - row.length) <= GROWTH + min(self.reach, row.length) // 2

    def put(
        self, layer: int, places: Places, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the newest token of every row, (rows, heads, width); returns all, (rows, heads, tokens, width)."""
        for own, new in ((self.keys, keys), (self.values, values)):
            own[layer][places.rows, :, places.at] = new
        count = len(places.rows)
        return self.keys[layer][:count, :, : places.end], self.values[layer][:count, :, : places.end]

    def places(self, device: torch.device) -> Places:
        """Those of the newest tokens, on a layer's device."""
        at = torch.tensor([row.length for row in self.rows], device=device)
        return Places(torch.arange(len(self.rows), device=device), at, self.reach + 1)

    def resize(self, slots: int, length: int) -> None:
        """Zeros where nothing is in use: a value that no weight falls on is still multiplied by zero, and NaN would stay NaN."""
        count, used = len(self.rows), self.reach
        for tensors in (self.keys, self.values):
            for number, layer in enumerate(tensors):
                tensors[number] = layer.new_zeros((slots, layer.shape[1], length, layer.shape[3]))
                tensors[number][:count, :, :used] = layer[:count, :, :used]
        self.slots, self.length = slots, length

    def add(self, row: Row) -> None:
        """Take a row in, into a slot that is free. It gives its memory layer by layer, so that it is not held twice."""
        slot, length = len(self.rows), row.length
        for tensors, own in ((self.keys, row.keys), (self.values, row.values)):
            for number, layer in enumerate(tensors):
                layer[slot, :, :length] = own[number][:, :length]
                layer[slot, :, length:] = 0
                own[number] = own[number][:, :0].clone()
        self.rows.append(row)
        self._own(row)

    def remove(self, row: Row) -> None:
        """Give up a row's slot. The last row takes it."""
        slot, last = self.rows.index(row), self.rows.pop()
        if last is not row:
            for tensors in (self.keys, self.values):
                for layer in tensors:
                    layer[slot] = layer[len(self.rows)]
            self.rows[slot] = last
        row.group = None

    def give_back(self, row: Row) -> None:
        """Remove a row with what it knows: it has memory of its own again."""
        keys, values = row.tensors
        alone = self.slots == 1
        row.capacity = self.length if alone else row.length
        keep: Callable[[torch.Tensor], torch.Tensor] = (
            (lambda layer: layer) if alone else (lambda layer: layer[:, : row.length].clone())
        )
        row.keys, row.values = [keep(layer) for layer in keys], [keep(layer) for layer in values]
        self.remove(row)

    def _own(self, row: Row) -> None:
        row.keys, row.values, row.capacity, row.group = [], [], 0, self

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def _resized(layer: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    resized = layer.new_empty((layer.shape[0], capacity, layer.shape[2]))
    resized[:, :length] = layer[:, :length]
    return resized
