"""Where a workload runs, as its environment tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workloads.environment import Environment
from workloads.errors import SpecError

POD = {"ALPACA_IN_POD": "1", "ALPACA_RUN_ID": "uid-1", "HOME": "/tmp"}


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        pytest.param(POD, "run_id", "uid-1", id="the run of a pod is its UID"),
        pytest.param(POD, "claims", Path("/mnt"), id="claims are mounted in a pod"),
        pytest.param(POD, "cache", Path("/tmp/.cache/literary-alpaca"), id="a pod without a cache volume starts cold"),
        pytest.param(POD, "cache_is_kept", False, id="and says so"),
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
