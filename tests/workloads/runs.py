"""Real runs of `workloads.<noun>`, each a process with its own signals, exit code and standard output."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca_operator.api import KINDS

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.workloads.warm"])

Line = dict[str, Any]
"""A JSON line of the log."""


@dataclass
class Ended:
    """A run that is over."""

    exit_code: int
    lines: list[Line]
    text: str
    """What it wrote besides JSON lines: the reason on standard error."""
    termination: Line
    peak_bytes: int
    """Most memory that the process had resident."""

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines if "message" in line]

    @property
    def metrics(self) -> Line:
        """Those of the result that are the same however often the run was stopped and gone on with."""
        return {
            name: value
            for name, value in self.termination["metrics"].items()
            if name not in ("goodputSteps", "goodputTime")
        }

    @property
    def losses(self) -> dict[int, float]:
        """Training loss by step."""
        return {line["step"]: line["loss"] for line in self.lines if "loss" in line and line["stage"] == "Training"}

    @property
    def evaluations(self) -> dict[int, float]:
        """Validation loss by step."""
        return {
            line["step"]: line["evalLoss"]
            for line in self.lines
            if line.get("stage") == "Evaluating" and "evalLoss" in line
        }


@dataclass
class Place:
    """A folder that jobs run in, as a user would run them."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        job: dict[str, Any],
        *arguments: str,
        at: Callable[[Line], int | None] = lambda line: None,
        cold: bool = False,
    ) -> Ended:
        """Run ``job``. ``at`` sees every line as it comes, and names the signal to send then, if any; one is sent, the first.

        A ``cold`` run is a new interpreter, for jobs that use packages which the fork server has hidden (bitsandbytes), and, as outside
        tests, its several processes are new interpreters too.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / "job.json"
        manifest.write_text(json.dumps(job, ensure_ascii=False), encoding="utf-8")
        pipe, errors = self.folder / "stdout", self.folder / "stderr"
        last, peak = self.folder / "termination", self.folder / "peak"
        for path in (pipe, last, peak):
            path.unlink(missing_ok=True)
        os.mkfifo(pipe)
        environment = {
            "ALPACA_CACHE": str(self.folder / "cache"),
            "ALPACA_TERMINATION_LOG": str(last),
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "TORCH_EXTENSIONS_DIR": str(Path(tempfile.gettempdir(), "literary-alpaca-torch-extensions")),
            **({} if cold else {"ALPACA_START_METHOD": "fork"}),  # what is imported is shared with every process
            **self.environment,
        }
        arguments = ("job.json", *arguments)
        kind = job["kind"]
        process = self._cold(kind, arguments, environment) if cold else _Warm(kind, arguments, self.folder, environment)
        lines = []
        sent = False
        with pipe.open(encoding="utf-8") as stdout:
            for raw in stdout:
                line = json.loads(raw)
                lines.append(line)
                # A second one could find the run past its end: no longer listening, or its number another process's.
                number = at(line)
                if number is not None and not sent:
                    sent = True
                    os.kill(process.pid, number)
        exit_code = process.wait(120)
        return Ended(
            exit_code=exit_code,
            lines=lines,
            text=errors.read_text(encoding="utf-8"),
            termination=json.loads(last.read_text(encoding="utf-8")) if last.exists() else {},
            peak_bytes=int(peak.read_text()) if peak.exists() else 0,
        )

    def _cold(self, kind: str, arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        # Opened by a shell of its own: opening a named pipe waits for its reader, which is us.
        line = 'exec "$@" > stdout 2> stderr'
        return subprocess.Popen(
            ["sh", "-c", line, "sh", sys.executable, "-m", f"workloads.{KINDS[kind].workload}", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )


class _Warm:
    """A process forked from one that has imported everything."""

    def __init__(self, kind: str, arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self._process = SERVER.Process(target=_run, args=(kind, list(arguments), str(folder), environment))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the run closed its standard output and did not end"
        return self._process.exitcode


def _run(kind: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """In the forked process: become `python -m workloads.<noun>`."""
    os.chdir(folder)
    os.environ.update(environment)
    signal.set_wakeup_fd(-1)  # the fork server's own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((2, "stderr"), (1, "stdout")):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)

    from workloads.runtime import command
    from workloads.system import memory

    workload = importlib.import_module(f"workloads.{KINDS[kind].workload}")
    code = command.main(KINDS[kind], workload.run, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    Path("peak").write_text(str(memory.high_water()))
    sys.exit(code)


def job(name: str = "tiny", **spec: Any) -> dict[str, Any]:
    """A manifest over `base` and `train.json`; ``spec`` adds to it and overrides it, field by field."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": name},
        "spec": merged(
            {
                "model": {"uri": "base"},
                "dataset": {"train": [{"uri": "train.json"}], "validationSplit": 0},
                "template": "HumanAssistant",
                "training": {
                    "epochs": 1,
                    "learningRate": 1e-2,
                    "sequenceLength": 128,
                    "gradientAccumulation": 2,
                    "reportTo": [],
                },
                "output": {"uri": "out"},
            },
            spec,
        ),
    }


def merged(part: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """``part`` with the values of ``other``, map by map."""
    both = dict(part)
    for key, value in other.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both
