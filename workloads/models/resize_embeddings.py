"""Another vocabulary for a model: its embeddings get a row for each token of the new tokenizer.

A token that the old tokenizer has keeps its row, whatever its id was; a new one gets the mean of the rows of the tokens that the old
tokenizer wrote it with, so that the model starts out reading the new token as it read its parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.data import tokenize

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class EmbeddingRemap:
    """Of which old rows each new row is the mean: ``parts[starts[row]:starts[row + 1]]``."""

    parts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    kept: int
    """Rows that stay where they are."""
    moved: int
    """Rows of tokens that both tokenizers have, under different ids."""
    averaged: int
    dropped: int
    """Old rows that no token needs any more."""

    @property
    def rows(self) -> int:
        return len(self.starts) - 1

    @property
    def changes(self) -> bool:
        """Whether any row is not where it was."""
        return bool(self.moved or self.averaged or self.dropped)

    def __str__(self) -> str:
        counts = [f"{self.kept:,} kept", f"{self.averaged:,} new ones, each the mean of its old sub-tokens"]
        counts += [f"{self.moved:,} moved to other ids"] if self.moved else []
        counts += [f"{self.dropped:,} dropped"] if self.dropped else []
        return f"{self.rows:,} embedding rows: {', '.join(counts)}"

    def of(self, old: torch.Tensor) -> torch.Tensor:
        """The new weights, from the old (rows, width), in the same dtype."""
        import torch

        mean = torch.nn.functional.embedding_bag(
            torch.as_tensor(self.parts, device=old.device),
            old.float(),
            torch.as_tensor(self.starts[:-1], device=old.device),
            mode="mean",
        )
        return mean.to(old.dtype)


def embedding_remap(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, old_rows: int) -> EmbeddingRemap:
    """Where each row for ``new`` comes from, in a model that has ``old_rows`` rows for ``old``."""
    known = {piece: number for piece, number in old.get_vocab().items() if number < old_rows}
    pieces: dict[int, str] = {number: piece for piece, number in new.get_vocab().items()}
    rows = tokenize.rows_of(new)
    unknown = [number for number in range(rows) if pieces.get(number) not in known]
    spelled = dict(zip(unknown, _sub_tokens(old, [_text(new, pieces.get(number)) for number in unknown]), strict=True))
    everything = list(range(old_rows))
    found: list[Sequence[int]] = []
    for number in range(rows):
        if number in spelled:
            parts = [part for part in spelled[number] if part < old_rows]
            found.append(parts or everything)  # a token without text, or one that only fills a gap between ids
        else:
            found.append((known[pieces[number]],))
    kept = sum(parts[0] == number for number, parts in enumerate(found) if number not in spelled)
    return EmbeddingRemap(
        parts=np.concatenate([np.asarray(parts, dtype=np.int64) for parts in found]),
        starts=np.concatenate([[0], np.cumsum([len(parts) for parts in found])]).astype(np.int64),
        kept=kept,
        moved=rows - len(spelled) - kept,
        averaged=len(spelled),
        dropped=old_rows - (rows - len(spelled)),
    )


def change_vocabulary(model: PreTrainedModel, remap: EmbeddingRemap) -> None:
    """Give ``model`` the rows that ``remap`` says, at both ends; tied ends stay tied."""
    with _whole([end.weight for end in _ends(model)]):
        weights = [remap.of(end.weight.detach()) for end in _ends(model)]
    model.resize_token_embeddings(remap.rows, mean_resizing=False)
    ends = _ends(model)[: len(weights)]
    with _whole([end.weight for end in ends]):
        for end, weight in zip(ends, weights, strict=True):
            end.weight.data.copy_(weight)


def _ends(model: PreTrainedModel) -> list[Any]:
    """The embedding, and the head where it has weights of its own."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return [inputs] if outputs is None or outputs.weight is inputs.weight else [inputs, outputs]


def freeze_all_but_embeddings(model: PreTrainedModel) -> None:
    """Freeze all but the embeddings at both ends, which are held in float32: small steps vanish in half precision."""
    model.requires_grad_(False)
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        end.float()
        end.weight.requires_grad_(True)


def _text(tokenizer: PreTrainedTokenizerBase, piece: str | None) -> str:
    """What a token stands for."""
    if piece is None:
        return ""
    number = tokenizer.convert_tokens_to_ids(piece)
    assert isinstance(number, int), "of one piece"
    added = tokenizer.added_tokens_decoder.get(number)
    if added is not None:
        return str(added.content)
    if tokenize.is_byte_level(json.loads(tokenizer.backend_tokenizer.to_str())):
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte = {character: number for number, character in bytes_to_unicode().items()}
        return bytes(byte[character] for character in piece).decode("utf-8", "replace")
    return piece.replace(tokenize.SPACE, " ")


def _sub_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """How the tokenizer writes each text inside a longer one."""
    backend = tokenize.inside(json.loads(tokenizer.backend_tokenizer.to_str()))
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


@contextmanager
def _whole(weights: list[Any]) -> Iterator[None]:
    """Under ZeRO-3 every process holds a part of a weight; inside, each holds all of it."""
    sharded = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=0):
        yield
