"""A workload in a process of its own: the real command line, the real runtime, and a ``run`` that the test gives as text."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """\
import faulthandler, os, pathlib, signal, sys, time
from alpaca_operator.api import SFTJob
from workloads.runtime import command
from workloads.errors import *

def run(job, runtime):
{body}

if __name__ == "__main__":
    sys.exit(command.main(SFTJob, run))
"""

TRAIN = """
start = runtime.checkpoints.newest()
done = int((start / "state").read_text()) if start else 0
runtime.progress.update(stage="Training", step=done, total_steps=job.spec.training.max_steps)
for step in range(done + 1, job.spec.training.max_steps + 1):
    runtime.progress.update(step=step, loss=1 / step, log=True)
    if step % job.spec.training.save_steps == 0 or runtime.stop.requested:
        with runtime.checkpoints.write(step) as folder:
            (folder / "state").write_text(str(step))
        runtime.checkpoints.prune(job.spec.training.keep_checkpoints)
    if runtime.stop.requested:
        raise Interrupted(f"stopped after saving checkpoint-{step}: run again to go on")
    PAUSE
with runtime.output("LoRAAdapter", {"evalLoss": 0.5}) as folder:
    (folder / "adapter.safetensors").write_text(f"trained from {done} to {step}")
return {"evalLoss": 0.5}
"""
"""Counts steps like a training: goes on from the newest checkpoint, saves every `saveSteps`, publishes."""

STEP_SECONDS = "time.sleep(0.02)"


def train(pause: str = "pass") -> str:
    return TRAIN.replace("PAUSE", pause)


@dataclass
class Ended:
    """What a process left: its exit code and what it said."""

    code: int
    out: str
    err: str
    last_word: dict[str, Any]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines; fails on any that is not."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines if "message" in line]


class Process:
    """A started workload. ``tag`` sets the files of one apart from those of another in the same folder."""

    def __init__(self, arguments: list[str], cwd: Path, environ: dict[str, str], tag: str = "") -> None:
        self._log = cwd / f"{tag}termination-log"
        self._log.unlink(missing_ok=True)
        self._out, self._err = cwd / f"{tag}stdout", cwd / f"{tag}stderr"
        environ = {"ALPACA_TERMINATION_LOG": str(self._log), **environ}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.popen = subprocess.Popen(arguments, cwd=cwd, env=environ, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def until(self, condition: Callable[[str], bool], seconds: float = 60) -> None:
        """Wait until what it printed, on either stream, fulfils ``condition``."""
        limit = time.monotonic() + seconds
        while not condition(self.out + self.err):
            assert self.popen.poll() is None, f"it ended meanwhile: {self.out}{self.err}"
            assert time.monotonic() < limit, f"it never came: {self.out}{self.err}"
            time.sleep(0.01)

    def until_step(self, step: int) -> None:
        self.until(lambda out: re.search(rf'"step": {step}\b', out) is not None)

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self, seconds: float = 120) -> Ended:
        code = self.popen.wait(seconds)
        word = self._log.read_text(encoding="utf-8") if self._log.exists() else "{}"
        return Ended(code, self.out, self.err, json.loads(word))


class Place:
    """A folder with a model, a data set, and a script that runs ``body`` as an SFTJob."""

    def __init__(self, folder: Path) -> None:
        self._started: list[Process] = []
        self.folder = folder
        self.output = folder / "out"
        self.checkpoints = folder / "out.checkpoints"
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        (folder / "rows.jsonl").write_text('{"text": "白日依山尽"}\n')

    def arguments(self, body: str, *flags: str) -> list[str]:
        """The command that runs ``body``, with what the test does not give filled in."""
        script = self.folder / "job.py"
        script.write_text(SCRIPT.format(body=textwrap.indent(body, "    ")))
        defaults = {
            "--model.uri": "model",
            "--dataset.train": "[{uri: rows.jsonl}]",
            "--output.uri": "out",
            "--training.maxSteps": "4",
            "--training.saveSteps": "1",
        }
        given = " ".join(flags)
        filled = [word for flag, value in defaults.items() if flag not in given for word in (flag, value)]
        return [sys.executable, str(script), *filled, *flags]

    def start(self, body: str, *flags: str, tag: str = "", **environ: str) -> Process:
        process = Process(self.arguments(body, *flags), self.folder, self.environ(**environ), tag)
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what a failed test left running."""
        for process in self._started:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait()

    def run(self, body: str, *flags: str, **environ: str) -> Ended:
        return self.start(body, *flags, **environ).end()

    def environ(self, **more: str) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALPACA_", "AWS_", "HF_", "HUGGINGFACE_"))
        }
        return {
            **clean,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
            "ALPACA_CACHE": str(self.folder / "cache"),
            **more,
        }
