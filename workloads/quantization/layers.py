"""What is quantized already: kept beside the output layer by layer, so that a run that was stopped or lost goes on after the last.

GPTQModel keeps it in a store of its own: immutable objects, and a file CURRENT that names those of the last whole layer. Each run has one
in its own folder. A new run takes over the objects of an earlier one by links, and so never writes where another may still write.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

STORE = "layers"
MADE_FROM = "made-from"
CURRENT = "CURRENT"
OBJECTS = "objects"
KEPT_AT_ONCE = 2**30
"""Bytes written for each layer, about: a checkpoint holds the inputs of the next layer for every calibration row, which is gigabytes for
large models, and is then made once in several layers."""
SUPPORTED = ("llama",)
"""Values of `model_type` that GPTQModel knows how to go on with."""


class LayerStore:
    """The store of one run."""

    def __init__(self, folder: Path, made_from: str, interval: int) -> None:
        self._folder = folder
        self._made_from = made_from
        self._interval = interval

    @property
    def config(self) -> Any:
        """For GPTQModel."""
        from gptqmodel.looper.checkpoint_store import CheckpointConfig

        return CheckpointConfig(path=self._folder, interval=f"layer:{self._interval}")

    @property
    def done(self) -> int:
        """Layers in the newest complete checkpoint."""
        try:
            newest = json.loads((self._folder / CURRENT).read_text(encoding="utf-8"))["generations"][0]
            return int(json.loads((self._folder / OBJECTS / newest).read_text(encoding="utf-8"))["cursor"])
        except (OSError, ValueError, KeyError, IndexError):
            return 0

    def take_over(self, runs: Path) -> int:
        """Go on from what earlier runs of the same job left below ``runs``; returns the layers that are done."""
        others = [
            LayerStore(folder, self._made_from, self._interval)
            for folder in sorted(runs.glob(f"run-*/{STORE}"))
            if folder != self._folder
        ]
        if not self._is_made_from(self._made_from):
            self.begin()
        for attempt in self._folder.glob("attempt-*"):  # of a container that was started again in the same pod
            shutil.rmtree(attempt)
        mine = [other for other in others if other._is_made_from(self._made_from)]
        best = max(mine, key=lambda other: other.done, default=None)
        if best is not None and best.done > self.done:
            for path in (best._folder / OBJECTS).iterdir():
                if not (self._folder / OBJECTS / path.name).exists():
                    _link(path, self._folder / OBJECTS / path.name)
            shutil.copyfile(best._folder / CURRENT, self._folder / CURRENT)
        return self.done

    def begin(self) -> None:
        """An empty store."""
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / OBJECTS).mkdir(parents=True)
        (self._folder / MADE_FROM).write_text(self._made_from, encoding="utf-8")

    def _is_made_from(self, made_from: str) -> bool:
        try:
            return (self._folder / MADE_FROM).read_text(encoding="utf-8") == made_from
        except OSError:
            return False


def interval(tokens: int, width: int) -> int:
    """Layers between two checkpoints, for calibration rows of so many ``tokens`` in a model of ``width``; two bytes a value."""
    return max(1, -(-tokens * width * 2 // KEPT_AT_ONCE))


def stand_for(source: Path, target: Path) -> None:
    """Let ``target`` be the file ``source``: under a second name where the volume is the same, else behind a link."""
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)


def _link(source: Path, target: Path) -> None:
    """Objects never change, so one file may stand in two places; where the volume has no links it is copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
