"""llama.cpp's memory of several conversations, and the pass that adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workloads.quantization.gguf import llama_cpp

if TYPE_CHECKING:
    import torch

AT_ONCE = 512
"""Tokens of a pass: so long a pause of the answers in progress is hardly seen."""
MOST_ROWS = 64
"""Conversations that every llama.cpp keeps apart."""


class Placed(NamedTuple):
    """A token in its conversation."""

    token: int
    position: int
    row: int
    asks: bool
    """What comes after it is wanted."""


class Context:
    """A loaded file with ``rows`` conversations, which share ``positions``. Not to be used from several threads at once."""

    def __init__(self, path: Path, *, positions: int, rows: int, threads: int) -> None:
        bindings = llama_cpp.library()
        settings = bindings.LlamaModelParams()
        settings.n_gpu_layers = 0
        self._model = llama_cpp.model_class(bindings)(str(path), settings, verbose=False)
        self._vocabulary = self._model.get_vocab()
        context = bindings.LlamaContextParams()
        context.n_ctx = positions
        context.n_batch = context.n_ubatch = AT_ONCE
        context.n_seq_max = rows
        context.kv_unified = True  # else each row would have its share of the positions, however long the others are
        context.n_threads = context.n_threads_batch = threads
        self._context = bindings.LlamaContext(self._model, context, verbose=False)
        self._batch = bindings.LlamaBatch(n_tokens=AT_ONCE, embd=0, n_seq_max=1, verbose=False)

    def passed(self, tokens: Sequence[Placed]) -> torch.Tensor:
        """Scores of what comes after those ``tokens`` that ask, (asking, vocabulary), in their order. At most `AT_ONCE` tokens."""
        import torch

        self._batch.reset()
        for token in tokens:
            self._batch.add(token.token, token.position, [token.row], token.asks)
        self._context.decode(self._batch)
        asking = [place for place, token in enumerate(tokens) if token.asks]
        if not asking:
            return torch.empty((0, int(self._vocabulary.n_vocab)))
        return torch.tensor([self._context.get_logits_ith(place) for place in asking], dtype=torch.float32)

    def forget(self, row: int) -> None:
        """A conversation is over."""
        self._context.memory_seq_rm(row, -1, -1)

    def forget_all(self) -> None:
        self._context.kv_cache_clear()

    def tokens(self, text: str) -> list[int]:
        """As llama.cpp cuts a text in which control tokens are meant."""
        found: list[int] = self._vocabulary.tokenize(text, False, True)
        return found

    def ends(self) -> list[int]:
        """Tokens at which llama.cpp lets an answer end."""
        return [number for number in range(int(self._vocabulary.n_vocab)) if self._vocabulary.is_eog(number)]

    def close(self) -> None:
        """Gives back its memory."""
        self._batch.close()
        self._context.close()
        self._model.close()
