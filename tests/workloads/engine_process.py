"""An engine in a process of its own, as its container runs it, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds for a process to start on a busy machine; nothing is expected to take so long."""


def manifest(name: str = "tiny", **spec: Any) -> dict[str, Any]:
    """A ChatDeployment over `base`, in the format that its model was made for."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "ChatDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"uri": "base"}, "template": "HumanAssistant"} | spec,
    }


class Engine:
    """`python -m workloads.engine chat.json` in ``folder``, from its start to its end."""

    def __init__(self, folder: Path, chat: dict[str, Any], module: str = "engine", **environment: str) -> None:
        self.folder = folder
        (folder / "chat.json").write_text(json.dumps(chat, ensure_ascii=False), encoding="utf-8")
        self._out, self._err, self._last = folder / "stdout", folder / "stderr", folder / "termination"
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("ALPACA_", "HF_", "OPENAI_"))
        }
        variables = {
            **clean,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
            "ALPACA_CACHE": str(folder / "cache"),
            "ALPACA_TERMINATION_LOG": str(self._last),
            "ALPACA_ENGINE_PORT": "0",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"workloads.{module}", "chat.json"],
                cwd=folder,
                env=variables,
                stdout=out,
                stderr=err,
            )
        self.url = self.said("the API comes up at ").rpartition(" ")[2]
        self.root = self.url.removesuffix("/v1")

    def ready(self) -> Engine:
        """Waits until it answers."""
        self.said(" at http", "answer")
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """Ends what is still running."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def messages(self) -> list[str]:
        lines = self._out.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line)["message"] for line in lines if line.endswith("\n")]

    @property
    def errors(self) -> str:
        return self._err.read_text(encoding="utf-8")

    @property
    def last_word(self) -> dict[str, Any]:
        return dict(json.loads(self._last.read_text(encoding="utf-8")))

    def metric(self, name: str) -> float:
        """The value of a metric, by its name with labels."""
        lines = httpx.get(f"{self.root}/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))

    def until(self, name: str, value: float) -> None:
        """Waits until a metric has a value."""
        limit = time.monotonic() + PATIENCE
        while (seen := self.metric(name)) != value:
            assert time.monotonic() < limit, f"{name} stays at {seen}"
            time.sleep(0.02)

    def said(self, *parts: str) -> str:
        limit = time.monotonic() + PATIENCE
        while True:
            found = next((told for told in self.messages if all(part in told for part in parts)), None)
            if found is not None:
                return found
            assert self._process.poll() is None, f"it ended: {self._out.read_text()}{self.errors}"
            assert time.monotonic() < limit, f"it never said {parts}: {self._out.read_text()}{self.errors}"
            time.sleep(0.02)
