"""Progress as people, the operator and Prometheus read it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpaca_operator.api.contract import Goodput, Progress
from tests.workloads.process import STEP_SECONDS, Place, train
from workloads.runtime import metrics_server
from workloads.runtime.progress import JsonLines, ProgressTracker


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture
def tracker() -> Iterator[ProgressTracker]:
    made = ProgressTracker(JsonLines(io.StringIO()))
    yield made
    made.close()


@pytest.fixture
def port(tracker: ProgressTracker) -> Iterator[int]:
    with metrics_server.serve(tracker, "127.0.0.1", 0) as port:
        yield port


def get(port: int, path: str) -> tuple[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_progress_is_the_contract_s_json(tracker: ProgressTracker, port: int) -> None:
    tracker.update(stage="Training", step=3, total_steps=10, loss=2.5, learning_rate=1e-4, eta_seconds=70)

    content_type, body = get(port, "/progress")

    assert content_type == "application/json"
    assert json.loads(body) == {
        "stage": "Training", "step": 3, "totalSteps": 10, "loss": 2.5, "learningRate": 1e-4, "etaSeconds": 70
    }  # fmt: skip
    assert Progress.model_validate_json(body, strict=True) == tracker.current


def test_a_loss_that_is_no_number_is_null_not_broken_json(tracker: ProgressTracker, port: int) -> None:
    tracker.update(step=1, total_steps=2, loss=float("nan"))

    assert json.loads(get(port, "/progress")[1])["loss"] is None


def test_metrics_are_prometheus_s(tracker: ProgressTracker, port: int) -> None:
    tracker.update(stage="Evaluating", step=3, total_steps=10, loss=2.5, goodput=Goodput(steps=0.75, time=0.5))

    content_type, body = get(port, "/metrics")

    assert content_type.startswith("text/plain; version=")
    assert [line for line in body.splitlines() if not line.startswith("#")] == [
        "alpaca_step 3.0",
        "alpaca_total_steps 10.0",
        "alpaca_loss 2.5",
        "alpaca_goodput_steps_ratio 0.75",
        "alpaca_goodput_time_ratio 0.5",
        'alpaca_stage{stage="Evaluating"} 1.0',
    ]


def test_other_paths_say_what_there_is(port: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(port, "/")

    with refused.value as error:
        assert (error.code, error.read()) == (404, b"here are /progress and /metrics\n")


def test_the_time_that_is_left_follows_from_the_last_steps(
    tracker: ProgressTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))

    left = []
    for step in range(5):
        tracker.update(step=step, total_steps=10)
        left.append(tracker.current.eta_seconds)

    assert left == [None, 18, 16, 14, 12]


def test_a_field_that_the_contract_lacks_is_a_mistake_of_ours(tracker: ProgressTracker) -> None:
    with pytest.raises(TypeError, match=re.escape("contract.Progress has no field totalSteps")):
        tracker.update(totalSteps=3)


def test_json_lines_carry_the_logged_steps_stages_and_words() -> None:
    out = io.StringIO()
    tracker = ProgressTracker(JsonLines(out))

    tracker.update(stage="Preparing")
    tracker.log("200 行")
    tracker.update(stage="Training", step=0, total_steps=2)
    tracker.update(step=1, loss=1.5, log=True)
    tracker.update(stage="Saving")
    tracker.update(stage="Training")
    tracker.update(step=2, loss=float("inf"), log=True)

    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("time")) for line in lines)
    assert lines == [
        {"stage": "Preparing"},
        {"message": "200 行"},
        {"stage": "Training"},
        {"stage": "Training", "step": 1, "totalSteps": 2, "loss": 1.5, "etaSeconds": 0},
        {"stage": "Saving"},
        {"stage": "Training", "step": 2, "totalSteps": 2, "loss": None, "etaSeconds": 0},
    ]


def test_progress_is_served_while_the_run_goes_on(place: Place) -> None:
    run = place.start(train(STEP_SECONDS), "--training.maxSteps", "1000", ALPACA_PROGRESS_PORT="0")
    run.until(lambda said: "progress is served at" in said and '"step": 2,' in said)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/progress", run.out)
    assert found is not None

    progress = Progress.model_validate_json(get(int(found[1]), "/progress")[1], strict=True)

    assert progress.stage == "Training"
    assert progress.total_steps == 1000
    assert progress.step is not None
    assert progress.checkpoint is not None
    assert progress.step - progress.checkpoint.step in (0, 1)


def test_without_being_asked_a_laptop_opens_no_port(place: Place) -> None:
    body = "import socketserver\nruntime.progress.log(str('http.server' in sys.modules))"

    assert place.run(body).messages == ["False"]


def test_a_port_that_is_taken_does_not_end_the_run(place: Place, port: int) -> None:
    ended = place.run(train(), ALPACA_PROGRESS_PORT=str(port))

    assert ended.code == 0
    assert f"/progress is not served: port {port}: Address already in use" in ended.messages


@pytest.mark.parametrize("columns", [pytest.param(120, id="sized"), pytest.param(0, id="without a size")])
def test_a_terminal_gets_a_bar_with_step_loss_speed_and_time(place: Place, columns: int) -> None:
    body = train(
        "runtime.progress.update(tokens_per_second=1234.5); runtime.progress.log(f'said at {step}'); time.sleep(0.2)"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40 if columns else 0, columns))
    with subprocess.Popen(
        place.arguments(body),
        cwd=place.folder,
        env=place.environ(TERM="xterm"),
        stdout=theirs,
        stderr=theirs,
    ) as popen:
        os.close(theirs)
        text = _read_all(ours)
        assert popen.wait(60) == 0
    os.close(ours)

    assert "said at 2" in text
    assert re.search(r"Training: +50%\|.*\| 2/4 \[\d\d:\d\d<.*, loss=0\.5000, tokens/s=1,23[45]\]", text), text
    assert "published out (sha256:" in text
    assert "{" not in text


def _read_all(terminal: int) -> str:
    """What a program wrote to a pseudo-terminal until it closed it."""
    chunks = []
    while select.select([terminal], [], [], 60)[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()
