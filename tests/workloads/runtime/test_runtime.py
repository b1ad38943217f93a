"""A run from start to end: how it goes on, how it stops, and how every way to fail is told."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workloads.process import STEP_SECONDS, Place, train


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_run_publishes_and_says_so(place: Place) -> None:
    ended = place.run(train())

    artifact = json.loads((place.output / "artifact.json").read_text())
    assert ended.code == 0
    assert ended.err == ""
    assert [line["step"] for line in ended.lines if "loss" in line] == [1, 2, 3, 4]
    assert ended.lines[-1]["message"] == f"published out ({artifact['digest']})"
    assert ended.last_word == {
        "reason": "Succeeded",
        "exitCode": 0,
        "message": "out holds the LoRAAdapter",
        "step": 4,
        "totalSteps": 4,
        "loss": 0.25,
        "metrics": {"evalLoss": 0.5},
        "resolvedInputs": {
            field: {"uri": source["uri"], "digest": source["digest"]} for field, source in artifact["inputs"].items()
        },
        "output": {"uri": "out", "digest": artifact["digest"], "kind": "LoRAAdapter", "reused": False},
    }
    assert sorted(path.name for path in place.folder.iterdir()) == [
        "cache", "job.py", "model", "out", "rows.jsonl", "stderr", "stdout", "termination-log"
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_step_boundary_and_the_next_run_goes_on(place: Place, number: signal.Signals) -> None:
    body = train(STEP_SECONDS)
    first = place.start(body, "--training.maxSteps", "100")
    first.until_step(3)
    first.send(number)
    stopped = first.end()

    step = stopped.last_word["step"]
    assert (stopped.code, stopped.last_word["reason"]) == (75, "Interrupted")
    assert stopped.last_word["checkpoint"]["step"] == step
    assert stopped.err.endswith(f"Interrupted: stopped after saving checkpoint-{step}: run again to go on\n")
    assert not place.output.exists()

    ended = place.run(body, "--training.maxSteps", "100")
    assert ended.code == 0
    assert [line["step"] for line in ended.lines if "loss" in line] == list(range(step + 1, 101))
    assert (place.output / "adapter.safetensors").read_text() == f"trained from {step} to 100"
    assert not place.checkpoints.exists()


def test_a_killed_run_is_gone_on_from_its_newest_checkpoint(place: Place) -> None:
    body = train(STEP_SECONDS)
    first = place.start(body, "--training.maxSteps", "100", "--training.saveSteps", "5")
    first.until_step(12)
    first.send(signal.SIGKILL)
    assert first.end().code == -signal.SIGKILL

    ended = place.run(body, "--training.maxSteps", "100", "--training.saveSteps", "5")

    steps = [line["step"] for line in ended.lines if "loss" in line]
    assert ended.code == 0
    assert steps[0] in (11, 16)  # the kill may have come after the next save
    assert steps == list(range(steps[0], 101))


def test_a_second_ctrl_c_ends_at_once(place: Place) -> None:
    run = place.start("runtime.progress.update(step=1, log=True)\nwhile True: time.sleep(0.01)")
    run.until_step(1)
    run.send(signal.SIGINT)
    run.until(lambda said: "stopping after this step; press Ctrl-C again to stop at once" in said)
    run.send(signal.SIGINT)

    assert run.end().code == 130


def test_a_signal_before_the_first_step_ends_at_once(place: Place) -> None:
    body = """
runtime.progress.log("loading")
with runtime.stop.interruptible():
    time.sleep(600)
"""
    run = place.start(body)
    run.until(lambda out: "loading" in out)
    run.send(signal.SIGTERM)
    ended = run.end()

    assert (ended.code, ended.err) == (75, "Interrupted: stopped before the first step: run again to start\n")


def test_a_signal_when_only_the_end_can_be_made_again_says_so(place: Place) -> None:
    body = """
runtime.progress.log("measuring")
with runtime.stop.interruptible("stopped while it was measured: run again to go on"):
    time.sleep(600)
"""
    run = place.start(body)
    run.until(lambda out: "measuring" in out)
    run.send(signal.SIGTERM)
    ended = run.end()

    assert (ended.code, ended.err) == (75, "Interrupted: stopped while it was measured: run again to go on\n")


def test_the_save_knows_how_long_it_may_take(place: Place) -> None:
    body = """
runtime.progress.update(step=1, log=True)
while not runtime.stop.requested: time.sleep(0.01)
left = runtime.stop.deadline - time.monotonic()
raise Interrupted(f"{left:.0f} s left")
"""
    run = place.start(body, "--pod.terminationGracePeriodSeconds", "100")
    run.until_step(1)
    run.send(signal.SIGTERM)

    assert run.end().last_word["message"] == "90 s left"


def test_an_unchanged_job_is_reused_without_running(place: Place) -> None:
    first = place.run(train())
    again = place.run("raise AssertionError('it ran')")

    assert (again.code, again.err) == (0, "")
    assert again.messages == ["reused out: it was made from the same settings and inputs"]
    assert again.last_word["reason"] == "Reused"
    assert again.last_word["output"] == first.last_word["output"] | {"reused": True}
    assert again.last_word["metrics"] == first.last_word["metrics"]


def test_a_job_that_is_reused_lets_one_go_on_that_makes_another_in_its_place(place: Place) -> None:
    """Applied once more, or run on a laptop, while its successor trains."""
    place.run(train())
    successor = ("--training.maxSteps", "100", "--output.overwrite")
    stopped = place.start(train(STEP_SECONDS), *successor, tag="stopped-")
    stopped.until_step(3)
    assert place.run("raise AssertionError('it ran')").last_word["reason"] == "Reused"
    stopped.send(signal.SIGTERM)
    assert stopped.end().last_word["message"].startswith("stopped after saving")

    assert place.run("raise AssertionError('it ran')").last_word["reason"] == "Reused"

    ended = place.run(train(), *successor)
    assert ended.code == 0, ended.err
    assert not (place.output / "adapter.safetensors").read_text().startswith("trained from 0 "), "its steps were kept"
    assert not place.output.with_name("out.checkpoints").exists()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--name", "other"], id="its name"),
        pytest.param(["--pod.env", "[{name: A, value: b}]", "--failurePolicy.maxRestarts", "9"], id="how it is run"),
        pytest.param(["--training.logSteps", "7", "--training.saveSteps", "9"], id="how it is logged and saved"),
        pytest.param(["--training.epochs", "3"], id="a default written out"),
        pytest.param(["--model.uri", "copy"], id="where an input lies"),
    ],
)
def test_what_shapes_no_result_makes_no_other_job(place: Place, flags: list[str]) -> None:
    place.run(train())
    (place.folder / "model").rename(place.folder / "copy")
    (place.folder / "model").symlink_to("copy")

    assert place.run("raise AssertionError('it ran')", *flags).last_word["reason"] == "Reused"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda place: ["--training.learningRate", "2e-4"], id="a setting"),
        pytest.param(lambda place: (place.folder / "rows.jsonl").write_text('{"text": "黄河入海流"}\n') and [], id="a row"),
        pytest.param(lambda place: (place.folder / "model" / "config.json").write_text("{}") and [], id="the model"),
    ],
)  # fmt: skip
def test_what_shapes_the_result_makes_another_job(place: Place, change) -> None:  # type: ignore[no-untyped-def]
    first = place.run(train())
    flags = change(place)

    refused = place.run(train(), *flags)
    assert refused.code == 64
    assert refused.last_word["reason"] == "OutputExists"
    assert refused.last_word["message"].startswith(
        "spec.output.uri: out holds another artifact (LoRAAdapter by SFTJob sft, 2"
    )
    assert refused.last_word["message"].endswith("): name another folder, or set output.overwrite to true")

    replaced = place.run(train(), *flags, "--output.overwrite")
    assert replaced.code == 0
    assert replaced.last_word["output"]["reused"] is False
    assert json.loads((place.output / "artifact.json").read_text())["specDigest"] != first.last_word["output"]["digest"]


def test_checkpoints_of_other_settings_are_not_gone_on_from(place: Place) -> None:
    run = place.start(train(STEP_SECONDS), "--training.maxSteps", "100")
    run.until_step(3)
    run.send(signal.SIGTERM)
    assert run.end().code == 75

    ended = place.run(train(), "--training.maxSteps", "5")

    assert [line["step"] for line in ended.lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert (
        f"2 checkpoint(s) in {place.checkpoints} were made with other settings or inputs: starting from the beginning "
        "(they take 0.0 MiB, and are removed when the output is published)" in ended.messages
    )


def test_a_run_that_another_overtook_publishes_and_removes_nothing(place: Place) -> None:
    body = train(STEP_SECONDS)
    lost = place.start(body, "--training.maxSteps", "1000", ALPACA_RUN_ID="lost")
    lost.until_step(3)
    lost.send(signal.SIGSTOP)
    newer = place.start(body, "--training.maxSteps", "1000", tag="newer-", ALPACA_RUN_ID="newer")
    newer.until(lambda out: '"loss"' in out)
    lost.send(signal.SIGCONT)
    overtaken = lost.end()
    newer.send(signal.SIGTERM)

    assert overtaken.code == 75
    assert overtaken.err.startswith("Interrupted: another run took over at 2")
    assert overtaken.err.endswith("(run newer of SFTJob sft): this one ends without publishing\n")
    assert newer.end().code == 75
    assert (place.checkpoints / "run-newer").is_dir()


def test_a_run_that_starts_again_after_another_took_over_changes_nothing(place: Place) -> None:
    body = train(STEP_SECONDS)
    lost = place.start(body, "--training.maxSteps", "100000", ALPACA_RUN_ID="lost")
    lost.until_step(3)
    lost.send(signal.SIGKILL)
    lost.end()
    newer = place.start(body, "--training.maxSteps", "100000", tag="newer-", ALPACA_RUN_ID="newer")
    newer.until_step(5)
    being_written = place.checkpoints / "run-newer" / ".checkpoint-9999.partial"
    being_written.mkdir()
    left = place.checkpoints / "run-lost"
    before = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}

    back = place.run(body, "--training.maxSteps", "100000", tag="back-", ALPACA_RUN_ID="lost")

    assert back.code == 75, back.err
    assert "(run newer of SFTJob sft): run lost is of before it, and ends without writing anything" in back.err
    assert being_written.is_dir(), "of a younger run nothing is tidied away"
    after = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
    assert after.items() <= before.items(), "the younger one may have pruned some"
    newer.until_step(8)
    newer.send(signal.SIGTERM)
    assert newer.end().last_word["message"].startswith("stopped after saving "), "the younger one did not notice"


@pytest.mark.parametrize(
    ("body", "code", "reason", "line"),
    [
        pytest.param(
            'raise DataError("rows.jsonl, row 3: no answer: add one or remove the row")',
            65,
            "InvalidData",
            "rows.jsonl, row 3: no answer: add one or remove the row",
            id="a failure of ours",
        ),
        pytest.param(
            'try:\n    raise DataError("rows.jsonl, row 3: no answer")\nexcept DataError as error:\n    raise RuntimeError("worker died") from error',
            65,
            "InvalidData",
            "rows.jsonl, row 3: no answer",
            id="a failure of ours that a library wrapped",
        ),
        pytest.param(
            'class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\\nmore")',
            71,
            "OutOfMemory",
            "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB): lower training.batchSizePerDevice (and raise gradientAccumulation alike) or "
            "training.sequenceLength, set training.gradientCheckpointing to Full, use method QLoRA, or ask for more memory in pod.resources.limits",
            id="torch's own error of memory",
        ),
        pytest.param(
            'raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 8 bytes")',
            71,
            "OutOfMemory",
            "out of memory ([enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes): lower "
            "training.batchSizePerDevice (and raise gradientAccumulation alike) or training.sequenceLength, set training.gradientCheckpointing to Full, "
            "use method QLoRA, or ask for more memory in pod.resources.limits",
            id="a RuntimeError for want of memory",
        ),
        pytest.param(
            "1 / 0",
            70,
            "WorkloadError",
            "ZeroDivisionError: division by zero (the traceback is in the log)",
            id="a bug",
        ),
        pytest.param(
            "sys.exit(3)", 70, "WorkloadError", "SystemExit: 3 (the traceback is in the log)", id="a library that exits"
        ),
        pytest.param(
            "return {}",
            70,
            "WorkloadError",
            "SFTJob ended without publishing its output: this is a bug in workloads/sft.py",
            id="a run that forgets to publish",
        ),
    ],
)
def test_a_failure_becomes_an_exit_code_and_one_line(
    place: Place, body: str, code: int, reason: str, line: str
) -> None:
    ended = place.run(body)

    assert (ended.code, ended.last_word["reason"], ended.last_word["message"]) == (code, reason, line)
    assert ended.err.splitlines()[-1] == f"{reason}: {line}"
    assert not place.output.exists()


def test_a_full_disk_is_named_with_what_to_do(place: Place) -> None:
    ended = place.run('raise OSError(28, "No space left on device", str(pathlib.Path("out/weights")))')

    assert (ended.code, ended.last_word["reason"]) == (64, "DiskFull")
    assert ended.last_word["message"].startswith("no space left on the volume of ")
    assert ended.last_word["message"].endswith(
        "enlarge the volume, remove what is not needed, or lower training.keepCheckpoints"
    )


def test_what_libraries_print_does_not_break_the_json_lines(place: Place) -> None:
    body = """
import logging, warnings
print("printed")
os.system("echo from C")
logging.getLogger("transformers").warning("logged")
warnings.warn("warned")
""" + train()
    ended = place.run(body)

    assert ended.code == 0
    assert len(ended.lines) > 4
    for said in ("printed", "from C", "WARNING transformers: logged", "UserWarning: warned"):
        assert said in ended.err


def test_a_reader_that_goes_away_does_not_end_the_training(place: Place) -> None:
    arguments = place.arguments(train(STEP_SECONDS), "--training.maxSteps", "20")
    with subprocess.Popen(
        arguments, cwd=place.folder, env=place.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        popen.stdout.close()
        assert popen.wait(60) == 0
    assert (place.output / "artifact.json").exists()


def test_telemetry_of_libraries_is_off_unless_the_user_wants_it(place: Place) -> None:
    body = 'runtime.progress.log(str([os.environ.get(name) for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")]))'

    assert place.run(body).messages == ["['1', '1']"]
    assert place.run(body, HF_HUB_DISABLE_TELEMETRY="0").messages == ["['0', '1']"]


def test_a_pod_without_its_gpus_trains_nothing_and_finds_what_is_there(place: Place) -> None:
    asking = ("--pod.resources.limits", "{nvidia.com/gpu: 1}")
    pod = {"ALPACA_IN_POD": "1", "ALPACA_PROGRESS_PORT": "0", "CUDA_VISIBLE_DEVICES": ""}

    refused = place.run(train(), *asking, **pod)
    assert (refused.code, refused.last_word["reason"]) == (70, "WorkloadError")
    assert "asks for 1 nvidia.com/gpu, and torch sees 0 in this pod: " in refused.err
    assert not place.output.exists()

    place.run(train())
    assert place.run(train(), *asking, **pod).last_word["reason"] == "Reused"
