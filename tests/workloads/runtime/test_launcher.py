"""Several processes: how many, how their failures are weighed, and what reaches the one that launched them."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import pytest
import torch

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.sft import SFTJob
from alpaca_operator.api.status import Reason
from workloads.errors import DataError, Interrupted, OutOfMemory, WorkloadError
from workloads.runtime import exit_reports, exits, gpus, launcher, worker
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.exit_reports import ExitReport, SiblingLost
from workloads.runtime.progress import ProgressTracker
from workloads.system.environment import Environment
from workloads.system.signals import Stop

# How many

GPUS = {"nvidia.com/gpu": 4}


@pytest.mark.parametrize(
    ("spec", "in_pod", "count"),
    [
        pytest.param({}, True, 1, id="one, where nothing is said"),
        pytest.param({"parallelism": {"processesPerNode": 3}}, True, 3, id="as many as the spec says"),
        pytest.param({"pod": {"resources": {"limits": GPUS}}}, True, 4, id="one for each GPU of the pod"),
        pytest.param({"pod": {"resources": {"limits": {"amd.com/gpu": "2"}}}}, True, 2, id="of any maker"),
        pytest.param({"pod": {"resources": {"limits": {"memory": "4Gi", "cpu": 8}}}}, True, 1, id="not for each processor"),
        pytest.param(
            {"parallelism": {"processesPerNode": 1}, "pod": {"resources": {"limits": GPUS}}}, True, 1, id="fewer than GPUs, if said"
        ),
        pytest.param(
            {"pod": {"resourceClaims": [{"name": "gpus", "resourceClaimName": "four"}]}}, True, 1, id="one with a claim, whose devices nobody counts"
        ),
        pytest.param({"pod": {"resources": {"limits": GPUS}}}, False, 1, id="one on a laptop without the pod's GPUs"),
        pytest.param({"parallelism": {"processesPerNode": 2}}, False, 2, id="two on a laptop without a GPU, if said"),
    ],
)  # fmt: skip
def test_the_number_of_processes(spec: dict[str, Any], in_pod: bool, count: int) -> None:
    assert gpus.processes(job(spec), Environment.read({"ALPACA_IN_POD": "1"} if in_pod else {})) == count


def job(spec: dict[str, Any]) -> SFTJob:
    required = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "output": {"uri": "o"}}
    return SFTJob.model_validate({"metadata": {"name": "j"}, "spec": required | spec})


# On what


ONE_OF_FOUR = {"parallelism": {"processesPerNode": 1}}
LOOK = "see whether the node's driver works and is new enough for the image's CUDA 13.2, and whether the device plugin gives containers their GPUs"


@pytest.mark.parametrize(
    ("limits", "spec", "seen", "cuda", "message", "code"),
    [
        pytest.param({"nvidia.com/gpu": 4}, {}, 4, "13.2", "", 0, id="all that were asked for"),
        pytest.param({}, {"parallelism": {"processesPerNode": 2}}, 0, "13.2", "", 0, id="none, and none was asked for"),
        pytest.param({"nvidia.com/gpu": 0}, {}, 0, "13.2", "", 0, id="none, as was said"),
        pytest.param({"nvidia.com/gpu": 4}, ONE_OF_FOUR, 1, "13.2", "", 0, id="as many as are used"),
        pytest.param(
            {"nvidia.com/gpu": 1}, {}, 0, "13.2",
            f"spec.pod.resources.limits asks for 1 nvidia.com/gpu, and torch sees 0 in this pod: {LOOK}; the next pod may find another node",
            70, id="the only one is not there",
        ),
        pytest.param(
            {"nvidia.com/gpu": 4}, {}, 2, "13.2",
            f"spec.pod.resources.limits asks for 4 nvidia.com/gpu, and torch sees 2 in this pod: {LOOK}, or set parallelism.processesPerNode to 2; "
            "the next pod may find another node",
            70, id="some are not there",
        ),
        pytest.param(
            {"nvidia.com/gpu": 2}, {}, 0, None,
            "spec.pod.resources.limits asks for 2 nvidia.com/gpu, and torch 2.15.0 in the image is not built for CUDA: name another one in pod.image, "
            "or remove the limit",
            64, id="an image without CUDA",
        ),
        pytest.param(
            {"amd.com/gpu": 1}, {}, 0, "13.2",
            "spec.pod.resources.limits asks for 1 amd.com/gpu, and torch 2.15.0 in the image is not built for ROCm: name another one in pod.image, "
            "or remove the limit",
            64, id="an image for another maker's",
        ),
    ],
)  # fmt: skip
def test_a_pod_computes_on_the_gpus_that_it_asks_for_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    spec: dict[str, Any],
    seen: int,
    cuda: str | None,
    message: str,
    code: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    one = job({"pod": {"resources": {"limits": limits}}, **spec})
    pod = {"ALPACA_IN_POD": "1"}

    def look(environ: dict[str, str]) -> tuple[str, int]:
        environment = Environment.read(environ)
        try:
            gpus.must_have_gpus(one, environment, gpus.processes(one, environment))
        except WorkloadError as error:
            return str(error), int(error.exit_code)
        return "", 0

    assert look(pod) == (message, code)
    assert look(pod | {"ALPACA_CPU_FOR_GPU": "1"}) == look({}) == ("", 0)


# Whose ending it is


def word(error: WorkloadError | None, at: float) -> ExitReport:
    if error is None:
        return ExitReport(exits.termination(Reason.SUCCEEDED, ExitCode.OK, "well", contract.Progress()), at, False)
    ending = exits.termination(error.reason, int(error.exit_code), str(error), contract.Progress())
    return ExitReport(ending, at, isinstance(error, SiblingLost))


LOST = SiblingLost("another process ended")
BAD_ROW = DataError("rows.csv, row 7: no answer")
BUG = WorkloadError("KeyError: 'x' (the traceback is in the log)")
TOLD = Interrupted("stopped before the first step: run again to start")
SAVED = Interrupted("stopped after step 3 of 9, with a checkpoint: run again to go on")


@pytest.mark.parametrize(
    ("words", "signals", "ended", "told", "rank", "message"),
    [
        pytest.param([word(LOST, 1.01), word(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="what failed first"),
        pytest.param([word(LOST, 0.9), word(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="not what failed in its wake, whatever the clock says"),
        pytest.param([word(BUG, 0.9), word(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="what knows its cause before what does not"),
        pytest.param([word(TOLD, 1.2), word(BUG, 1.0)], {}, 1.5, {}, 1, str(BUG), id="not those that the launcher then told to stop"),
        pytest.param([word(SAVED, 3.0), word(SAVED, 2.9)], {}, 3.1, {"stopped": True}, 1, str(SAVED), id="a stop that all obeyed"),
        pytest.param([word(LOST, 3.0), word(TOLD, 2.9)], {}, 3.1, {"stopped": True}, 1, str(TOLD), id="a stop that one was too early for"),
        pytest.param([word(SAVED, 3.0), word(LOST, 2.9)], {}, 3.1, {}, 0, str(SAVED), id="a run that was overtaken"),
        pytest.param([word(BUG, 1.0), None], {1: 9}, 32.0, {}, 0, str(BUG), id="not one that hung and was killed by the launcher"),
        pytest.param(
            [word(LOST, 1.0), None], {1: 9}, 1.2, {}, 1,
            "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that was killed",
        ),
        pytest.param(
            [word(BUG, 1.0), None], {1: 9}, 1.2, {}, 1,
            "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that was killed, whatever another made of it",
        ),
        pytest.param(
            [None, word(LOST, 1.0)], {0: 9}, 1.2, {"short_of_memory": True}, 0,
            f"the kernel killed process 0 for want of memory: {exits.MEMORY_REMEDY}",
            id="one that the kernel killed for want of memory",
        ),
        pytest.param([None, None], {0: 15, 1: 15}, 1.0, {"stopped": True}, 0, str(TOLD), id="a stop before they could listen"),
        pytest.param(
            [None, word(LOST, 1.0)], {0: 11}, 1.2, {}, 0,
            "process 0 was ended by SIGSEGV, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that crashed",
        ),
    ],
)  # fmt: skip
def test_the_cause_is_told_from_what_fails_in_its_wake(
    words: list[ExitReport | None],
    signals: dict[int, int],
    ended: float,
    told: dict[str, bool],
    rank: int,
    message: str,
) -> None:
    found, ending = exit_reports.verdict(
        words, signals, ended=ended, **{"stopped": False, "short_of_memory": False, **told}
    )
    assert (found, ending.message) == (rank, message)


def test_want_of_memory_has_its_exit_code() -> None:
    _, ending = exit_reports.verdict([None], {0: 9}, ended=1.0, stopped=False, short_of_memory=True)
    assert (ending.exit_code, ending.reason) == (71, OutOfMemory.reason)


@pytest.mark.parametrize(
    ("error", "collateral"),
    [
        pytest.param(RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True, id="gloo"),
        pytest.param(ConnectionResetError(104, "Connection reset by peer"), True, id="the store"),
        pytest.param(RuntimeError("ncclRemoteError: remote process exited or there was a network error"), True, id="NCCL"),
        pytest.param(RuntimeError("shape mismatch"), False, id="another error"),
        pytest.param(DataError("row 7: Connection closed by peer"), False, id="a row that quotes one"),
    ],
)  # fmt: skip
def test_that_another_is_gone_is_known_by_what_the_libraries_say(error: BaseException, collateral: bool) -> None:
    assert isinstance(exit_reports.recognize_lost_sibling(error), SiblingLost) is collateral


# Real processes


class Heard:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        self.told.append(progress.step)

    def log(self, message: str) -> None:
        self.told.append(message)

    def close(self) -> None:
        pass


def work(what: str, member: worker.Worker) -> contract.Termination:
    """Tells a step, then does ``what``."""
    tracker = ProgressTracker(member.display)
    tracker.update(step=7, total_steps=9, loss=0.5)
    tracker.log(f"here is {member.rank} of {member.count} on {os.environ['MASTER_ADDR']}")
    DistributedContext(member.rank, member.count).barrier()  # what the first tells is under way before the other fails
    error: WorkloadError | None = None
    if what == "rank 1 finds a bad row" and member.rank == 1:
        error = BAD_ROW
    elif what == "rank 1 is killed" and member.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what != "all end well":
        time.sleep(600)  # as in a collective operation that nobody answers any more
    reason, code = (error.reason, int(error.exit_code)) if error else (Reason.SUCCEEDED, 0)
    ending = exits.termination(reason, code, str(error or "well"), tracker.current)
    member.leave(ending)
    return ending


def launched(what: str, start_method: str) -> tuple[contract.Termination, list[Any]]:
    heard = Heard()
    environment = Environment.read({"ALPACA_START_METHOD": start_method})
    ending = launcher.run_workers(2, partial(work, what), environment, ProgressTracker(heard), Stop(60))
    return ending, heard.told


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_what_the_first_tells_is_passed_on_and_its_ending_is_the_run_s(start_method: str) -> None:
    ending, told = launched("all end well", start_method)
    assert (ending.exit_code, ending.message, ending.step, ending.rank) == (0, "well", 7, None)
    assert told == [7, "here is 0 of 2 on 127.0.0.1"]
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_failure_ends_all_and_names_its_process() -> None:
    ending, _ = launched("rank 1 finds a bad row", "fork")
    assert (ending.exit_code, ending.message, ending.rank) == (65, "rows.csv, row 7: no answer", 1)
    assert (ending.step, ending.total_steps, ending.loss) == (7, 9, 0.5)


def test_a_killed_process_ends_all_and_is_named() -> None:
    ending, _ = launched("rank 1 is killed", "fork")
    assert (ending.exit_code, ending.rank, ending.step) == (70, 1, 7)
    assert ending.message.startswith("process 1 was ended by SIGKILL, from outside: ")
