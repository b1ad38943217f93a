"""A GGUF file in the hands of llama.cpp itself, by cyllama's bindings: its tokens, its logits, its answers, and its quantizer."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.errors import OutOfMemory, SpecError

INSTALL = "pip install 'literary-alpaca[quantize]'"
AT_ONCE = 512
"""Tokens of a pass."""
BEAT = 2.0
"""Seconds between two signs of life."""


def must_be_there(asked: str = "format GGUF") -> None:
    """Raises SpecError, which begins with what of the spec ``asked`` for it, with the command where llama.cpp is not installed."""
    if importlib.util.find_spec("cyllama") is None:
        raise SpecError(
            f"{asked}: llama.cpp is not installed here: {INSTALL} (there are wheels for Linux on x86-64, macOS and Windows), or use the "
            "image quantize"
        )


def quantize(source: Path, target: Path, file_type: int, heartbeat: Callable[[], None]) -> None:
    """``source``, a file of a plain type, into ``target`` by llama.cpp's own quantizer.

    It works in a process of its own: a call that takes minutes would hear no signal, and what it cannot do ends the process.
    """
    worker = multiprocessing.get_context("spawn").Process(target=_quantize, args=(source, target, file_type))
    worker.start()
    try:
        while worker.is_alive():
            heartbeat()
            worker.join(BEAT)
    finally:
        if worker.is_alive():
            worker.kill()
        worker.join()
    if worker.exitcode == -signal.SIGKILL:
        raise OutOfMemory("llama.cpp was killed while it quantized: ask for more memory in pod.resources.limits")
    if worker.exitcode:
        raise RuntimeError(f"llama.cpp could not quantize {source.name} (exit {worker.exitcode})")


def _quantize(source: Path, target: Path, file_type: int) -> None:
    bindings = library()
    settings = bindings.LlamaModelQuantizeParams()
    settings.ftype = file_type
    settings.nthread = os.cpu_count() or 1
    bindings.model_quantize(str(source), str(target), settings)


class Runner:
    """A loaded file. Not to be used from several threads."""

    def __init__(self, path: Path, longest: int) -> None:
        """``longest``: tokens of the longest row, answer included."""
        bindings = library()
        model = bindings.LlamaModelParams()
        model.n_gpu_layers = 0
        self._model = model_class(bindings)(str(path), model, verbose=False)
        self._vocabulary = self._model.get_vocab()
        context = bindings.LlamaContextParams()
        context.n_ctx = longest
        context.n_batch = context.n_ubatch = min(AT_ONCE, longest)
        context.n_threads = context.n_threads_batch = os.cpu_count() or 1
        self._context = bindings.LlamaContext(self._model, context, verbose=False)
        self._batch = bindings.LlamaBatch(n_tokens=context.n_batch, embd=0, n_seq_max=1, verbose=False)
        self._at_once = context.n_batch

    def tokens(self, text: str) -> list[int]:
        """Ids of a text in which control tokens are meant; nothing is put before it."""
        found: list[int] = self._vocabulary.tokenize(text, False, True)
        return found

    def ends(self, token: int) -> bool:
        """Whether an answer is over with it."""
        return bool(self._vocabulary.is_eog(token))

    def logits(
        self, ids: Sequence[int], wanted: npt.NDArray[np.bool_], heartbeat: Callable[[], None]
    ) -> npt.NDArray[np.float32]:
        """After each position of ``ids`` that is ``wanted``, as (positions, vocabulary)."""
        self._context.kv_cache_clear()
        return np.concatenate([*self._passed(ids, wanted, 0, heartbeat)])

    def answer(self, prompt: Sequence[int], most: int, heartbeat: Callable[[], None]) -> list[int]:
        """The likeliest token after the likeliest token, up to ``most``, the one that ends it included."""
        self._context.kv_cache_clear()
        last = np.zeros(len(prompt), dtype=bool)
        last[-1] = True
        rows = [*self._passed(prompt, last, 0, heartbeat)]
        said: list[int] = []
        while len(said) < most:
            said.append(int(rows[-1][-1].argmax()))
            if self.ends(said[-1]) or len(said) == most:
                break
            rows = [*self._passed(said[-1:], np.ones(1, dtype=bool), len(prompt) + len(said) - 1, heartbeat)]
        return said

    def _passed(
        self, ids: Sequence[int], wanted: npt.NDArray[np.bool_], past: int, heartbeat: Callable[[], None]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """The logits of each pass that has some."""
        for start in range(0, len(ids), self._at_once):
            heartbeat()
            part = ids[start : start + self._at_once]
            asked = wanted[start : start + self._at_once]
            self._batch.reset()
            for offset, (token, asks) in enumerate(zip(part, asked, strict=True)):
                self._batch.add(int(token), past + start + offset, [0], bool(asks))
            self._context.decode(self._batch)
            places = np.flatnonzero(asked)
            if len(places):
                yield np.array([self._context.get_logits_ith(int(place)) for place in places], dtype=np.float32)

    def close(self) -> None:
        """Gives back its memory."""
        self._batch.close()
        self._context.close()
        self._model.close()


@contextmanager
def opened(path: Path, longest: int) -> Iterator[Runner]:
    """The file, until the block ends."""
    runner = Runner(path, longest)
    try:
        yield runner
    finally:
        runner.close()


def model_class(bindings: Any) -> Any:
    """cyllama's contexts ask a model for the size of its vocabulary, which it has moved to another class."""

    class Model(bindings.LlamaModel):  # type: ignore[misc]
        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    return Model


def library() -> Any:
    """cyllama's bindings. Silent: its own lines would stand among ours, which are read by programs."""
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    return llama_cpp
