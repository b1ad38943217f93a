"""Where a workload runs, as its environment tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workloads.errors import SpecError
from workloads.system import environment
from workloads.system.environment import Environment, share_processors

POD = {"ALPACA_IN_POD": "1", "ALPACA_RUN_ID": "uid-1", "HOME": "/tmp"}


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        pytest.param(POD, "run_id", "uid-1", id="the run of a pod is its UID"),
        pytest.param(POD, "claims", Path("/mnt"), id="claims are mounted in a pod"),
        pytest.param(POD, "cache", Path("/tmp/.cache/literary-alpaca"), id="a pod without a cache volume starts cold"),
        pytest.param(POD, "cache_is_kept", False, id="and says so"),
        pytest.param(POD, "cpu_for_gpu", False, id="a pod has the GPUs that it asks for"),
        pytest.param(POD | {"ALPACA_CPU_FOR_GPU": "1"}, "cpu_for_gpu", True, id="or is told that it may have none"),
        pytest.param(POD | {"ALPACA_CACHE": "/cache"}, "cache_is_kept", True, id="a cache volume is kept"),
        pytest.param(POD | {"ALPACA_CACHE": "/cache"}, "hub_cache", Path("/cache/huggingface"), id="downloads go to it"),
        pytest.param(POD | {"ALPACA_CACHE": "/cache", "HF_HOME": "/hf"}, "hub_cache", None, id="unless the hub's own variable says otherwise"),
        pytest.param(POD, "termination_log", Path("/dev/termination-log"), id="the kubelet reads the last word"),
        pytest.param(POD, "progress_address", ("", 8085), id="the operator reads progress from any address"),
        pytest.param(POD | {"ALPACA_PROGRESS_PORT": "9000"}, "progress_address", ("", 9000), id="on another port"),
        pytest.param({"HOME": "/home/me"}, "cache", Path("/home/me/.cache/literary-alpaca"), id="a laptop's cache"),
        pytest.param({"XDG_CACHE_HOME": "/x"}, "cache", Path("/x/literary-alpaca"), id="a laptop's cache elsewhere"),
        pytest.param({}, "hub_cache", None, id="a laptop shares the hub's cache with other programs"),
        pytest.param({}, "claims", Path.cwd() / "storage", id="claims are folders in ./storage"),
        pytest.param({"ALPACA_STORAGE": "/data"}, "claims", Path("/data"), id="or elsewhere"),
        pytest.param({}, "termination_log", None, id="nobody reads a last word"),
        pytest.param({}, "progress_address", None, id="a laptop opens no port"),
        pytest.param({}, "nodes", None, id="the spec says how many nodes there are"),
        pytest.param({"ALPACA_NODES": "3"}, "nodes", 3, id="unless there are fewer"),
        pytest.param({"ALPACA_ATTEMPT": "2"}, "attempt", 2, id="which attempt of a set it is"),
        pytest.param({}, "attempt", 0, id="the first, where there is no set"),
        pytest.param({"ALPACA_PROGRESS_PORT": "0"}, "progress_address", ("127.0.0.1", 0), id="unless asked, and for itself alone"),
    ],
)  # fmt: skip
def test_the_environment_is_read(environ: dict[str, str], field: str, value: Any) -> None:
    assert getattr(Environment.read(environ), field) == value


def test_runs_outside_a_pod_have_names_of_their_own() -> None:
    assert Environment.read({}).run_id != Environment.read({}).run_id


@pytest.mark.parametrize("port", ["http", "-1", "65536", "８０"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(SpecError) as refused:
        Environment.read({"ALPACA_PROGRESS_PORT": port})

    assert str(refused.value) == f"ALPACA_PROGRESS_PORT is {port!r}: give a port, or 0 for a free one"


def test_an_attempt_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError) as refused:
        Environment.read({"ALPACA_ATTEMPT": "second"})

    assert str(refused.value) == "ALPACA_ATTEMPT is 'second': give how often the nodes were started again, from 0"


def test_a_way_to_start_processes_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError) as refused:
        Environment.read({"ALPACA_START_METHOD": "clone"})

    assert str(refused.value) == "ALPACA_START_METHOD is 'clone': give one of spawn, forkserver, fork"


@pytest.mark.parametrize(
    ("set_before", "quota", "processes", "threads"),
    [
        pytest.param(None, 6.0, 1, "6", id="as many as the CPU limit"),
        pytest.param(None, 6.0, 2, "3", id="shared by the processes"),
        pytest.param(None, 6.0, 8, "1", id="one at least"),
        pytest.param(None, None, 1, None, id="without a limit torch decides"),
        pytest.param(None, None, 2, "4", id="without a limit processes share the processors"),
        pytest.param("5", 6.0, 2, "5", id="what the user set stays"),
    ],
)
def test_threads_follow_the_cpu_limit(
    set_before: str | None, quota: float | None, processes: int, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.os, "environ", {} if set_before is None else {"OMP_NUM_THREADS": set_before})
    monkeypatch.setattr(environment.sys, "modules", {})
    monkeypatch.setattr(environment.cgroup, "quota", lambda: quota)
    monkeypatch.setattr(environment.cgroup, "cores", lambda: int(quota or 8))
    share_processors(processes)
    assert environment.os.environ.get("OMP_NUM_THREADS") == threads


def test_what_was_shared_out_before_is_shared_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.os, "environ", {})
    monkeypatch.setattr(environment.sys, "modules", {})
    monkeypatch.setattr(environment.cgroup, "quota", lambda: 6.0)
    monkeypatch.setattr(environment.cgroup, "cores", lambda: 6)
    share_processors()
    share_processors(3)
    assert environment.os.environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_nodes_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(SpecError) as refused:
        Environment.read({"ALPACA_NODES": number})

    assert str(refused.value) == f"ALPACA_NODES is {number!r}: give the number of nodes that train together"
