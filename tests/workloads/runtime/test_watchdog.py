"""A run that makes no step any more ends with the stacks of its threads, exit code 72 and a reason."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workloads.process import ROOT, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def under_watch(body: str) -> subprocess.CompletedProcess[str]:
    """Run ``body`` in a process with a watchdog of one second, whose last resort comes two seconds later."""
    program = f"""
import ctypes, sys, threading, time
from workloads.runtime.watchdog import Watchdog

def last_words(silence):
    print(f"silent for {{silence:.0f}} s", file=sys.stderr, flush=True)

watchdog = Watchdog(1.0, last_resort_after=2.0)
watchdog.start(last_words)
{textwrap.dedent(body)}
watchdog.stop()
"""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "stuck",
    [
        pytest.param("def stuck(): time.sleep(600)", id="in a C call that gives the interpreter back"),
        pytest.param("def stuck():\n    while True: pass", id="in a loop of Python"),
        pytest.param("lock = threading.Lock(); lock.acquire()\ndef stuck(): lock.acquire()", id="on a lock"),
    ],
)
def test_whatever_the_main_thread_hangs_in_the_process_ends(stuck: str) -> None:
    ended = under_watch(f"{stuck}\nstuck()")

    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (72, "silent for 1 s")
    assert "in stuck" in ended.stderr


def test_a_c_call_that_keeps_the_interpreter_to_itself_is_ended_by_the_c_library() -> None:
    ended = under_watch("def stuck(): ctypes.PyDLL(None).sleep(600)\nstuck()")

    assert ended.returncode == 72
    assert "in stuck" in ended.stderr
    assert "silent" not in ended.stderr


def test_beats_keep_a_slow_run_alive() -> None:
    ended = under_watch(
        "for _ in range(40):\n    time.sleep(0.1)\n    watchdog.heartbeat()\nwatchdog.stop()\ntime.sleep(3.5)\nsys.exit(5)"
    )

    assert (ended.returncode, ended.stderr) == (5, "")


MOVES = """
import os
from pathlib import Path
out = open({path!r}, "wb", 0)
def move(seconds, size):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        out.write(bytes(size))
        out.seek(0)
        time.sleep(0.02)
"""


def test_bytes_that_move_are_signs_of_life_and_a_hang_after_them_is_noticed(tmp_path: Path) -> None:
    body = (
        MOVES.format(path=str(tmp_path / "out")) + "move(4, 1 << 20)\nprint('moved', file=sys.stderr)\ntime.sleep(600)"
    )
    ended = under_watch(body)

    assert (ended.returncode, ended.stderr.splitlines()[0]) == (72, "moved")
    assert ended.stderr.splitlines()[-1].startswith("silent for ")


def test_a_few_bytes_are_none(tmp_path: Path) -> None:
    """A process that hangs goes on answering to whoever asks for its metrics."""
    ended = under_watch(MOVES.format(path=str(tmp_path / "out")) + "move(600, 100)")

    assert ended.returncode == 72


def test_a_job_that_hangs_says_at_which_step_and_what_to_do(place: Place) -> None:
    body = "runtime.progress.update(stage='Training', step=7, total_steps=9)\ntime.sleep(600)"

    ended = place.run(body, "--failurePolicy.hangTimeoutSeconds", "10")

    message = (
        "nothing moved for 10 s while training at step 7: the stacks of all threads are in the log; "
        "if a step or an evaluation takes this long, raise failurePolicy.hangTimeoutSeconds"
    )
    assert ended.code == 72
    assert ended.err.endswith(f"Hung: {message}\n")
    assert "job.py" in ended.err
    assert ended.last_word == {"reason": "Hung", "exitCode": 72, "message": message, "step": 7, "totalSteps": 9}
