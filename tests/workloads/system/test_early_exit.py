"""Process 1 obeys SIGTERM from its first import on, and that import is cheap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from alpaca_operator.api.contract import ExitCode
from workloads.system import early_exit


@pytest.mark.parametrize(
    ("process", "handler"),
    [
        pytest.param(1, early_exit.leave, id="process 1 has no handler unless it sets one"),
        pytest.param(2, None, id="any other process ends by itself"),
    ],
)
def test_process_1_leaves_at_sigterm(process: int, handler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, object] = {}
    monkeypatch.setattr(os, "getpid", lambda: process)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    early_exit.obey_sigterm()
    assert handlers.get(signal.SIGTERM) is handler


def test_it_leaves_as_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    early_exit.leave(signal.SIGTERM, None)
    assert codes == [ExitCode.INTERRUPTED]


def test_nothing_but_the_standard_library_is_imported_before() -> None:
    program = "import sys, workloads; print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    before = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    with_workloads, without = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for code in (program, before)
    )
    assert set(with_workloads) - set(without) == {"workloads"}
