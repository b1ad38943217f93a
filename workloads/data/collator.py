"""Batches of token sequences, as training and measuring feed them to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

IGNORED = -100
"""Label of a token that no loss is taken of (PyTorch's cross entropy, `ignore_index`)."""


@dataclass(frozen=True)
class Collator:
    """Makes a batch of sequences (`input_ids`, `labels`, and `seq_lengths`: the lengths of the rows packed into each).

    Gives ``input_ids`` (sequences, longest), ``logits_to_keep``: a mask of the positions whose next token is trained on, and
    ``labels``: those next tokens in the mask's order. FlashAttention tells packed rows apart only in a batch of one, so for it
    (``flat``) the sequences are laid end to end.
    """

    pad: int
    flat: bool = False

    def __call__(self, sequences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        ids = [torch.as_tensor(sequence["input_ids"], dtype=torch.long) for sequence in sequences]
        lengths = [[int(length) for length in sequence["seq_lengths"]] for sequence in sequences]
        targets = [
            _next_tokens(torch.as_tensor(sequence["labels"], dtype=torch.long), rows)
            for sequence, rows in zip(sequences, lengths, strict=True)
        ]
        # A row that fills up the share of a process (`samplers.PaddedDataset`) has no target, and is no row that was seen.
        tokens = sum(len(row) for row, wanted in zip(ids, targets, strict=True) if (wanted != IGNORED).any())
        if self.flat:
            ids, targets, lengths = [torch.cat(ids)], [torch.cat(targets)], [[*chain.from_iterable(lengths)]]
        width = max(map(len, ids))
        batch = {"input_ids": _padded(ids, width, self.pad)}
        if any(len(rows) > 1 for rows in lengths):
            # The padding counts from 0 as if it were one more row: it must not prolong the last one.
            batch["position_ids"] = torch.stack(
                [torch.cat([torch.arange(row) for row in (*rows, width - sum(rows))]) for rows in lengths]
            )
        wanted = _padded(targets, width, IGNORED)
        trained = wanted != IGNORED
        return {
            **batch,
            "labels": wanted[trained],
            "shift_labels": wanted[trained],
            "logits_to_keep": trained,
            "tokens": tokens,
        }


def _next_tokens(labels: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Labels moved one to the left: what each position has to predict. The last token of a row predicts nothing."""
    following = torch.cat([labels[1:], labels.new_full((1,), IGNORED)])
    following[torch.tensor(rows).cumsum(0) - 1] = IGNORED
    return following


def _padded(rows: Sequence[torch.Tensor], width: int, value: int) -> torch.Tensor:
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=value) for row in rows])
