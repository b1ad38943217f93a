"""A QuantizeJob that is stopped or killed: what is kept, and that the result is that of a run that nobody disturbed."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.workloads.quantized import done, job, run
from tests.workloads.runs import Line, Place


@pytest.fixture
def processes(bench: Path) -> Place:
    """Runs in processes of their own, over the same folder."""
    return Place(bench, {"ALPACA_RUN_ID": ""})


def digest(folder: Path) -> str:
    return str(json.loads((folder / "artifact.json").read_text(encoding="utf-8"))["digest"])


def at_layer(number: int, sent: signal.Signals):
    return lambda line: sent if (line.get("stage"), line.get("step")) == ("Quantizing", number) else None


def test_a_stopped_and_a_killed_run_are_gone_on_from(made: Path, bench: Path, processes: Place) -> None:
    stopped = processes.run(job(), at=at_layer(1, signal.SIGTERM), cold=True)
    assert (stopped.exit_code, stopped.termination["reason"]) == (75, "Interrupted"), stopped.text
    found = re.fullmatch(
        r"stopped after layer (\d) of 2, which are kept: run again to go on", stopped.termination["message"]
    )
    assert found, stopped.termination["message"]
    assert not (bench / "out").exists()

    def saving(line: Line) -> int | None:
        return signal.SIGKILL if line.get("stage") == "Saving" else None

    killed = processes.run(job(), at=saving, cold=True)
    assert killed.exit_code == -signal.SIGKILL
    assert f"going on after layer {found[1]}, which an earlier run finished" in killed.messages
    assert not (bench / "out").exists()

    ended = done(run(bench, job(maxPerplexityIncrease=1.0)))  # a gate shapes no layer
    assert "going on after layer 2, which an earlier run finished" in ended.messages
    assert not [line for line in ended.lines if line.get("stage") == "Quantizing" and "step" in line], (
        "no layer is made twice"
    )
    assert digest(bench / "out") == digest(made / "out")
    layers = [json.loads((folder / "out" / "report.json").read_text())["layers"] for folder in (bench, made)]
    assert layers[0] == layers[1], "those of the earlier runs are in the report"
    assert [path.name for path in bench.iterdir() if path.name.startswith((".out", "out."))] == []
