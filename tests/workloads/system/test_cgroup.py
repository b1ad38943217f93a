"""What the control group allows, read from files as kernels and container runtimes lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workloads.system import cgroup

V2 = "0::/kubepods/pod1/container\n"
V1 = "5:cpu,cpuacct:/kubepods/pod1\n4:memory:/kubepods/pod1\n0::/\n"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0, id="a container's own group"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, id="no limit"),
        pytest.param(
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/kubepods/pod1/container/cpu.max": "max 100000\n",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/kubepods/cpu.max": "800000 100000\n",
            },
            1.5,
            id="the narrowest of the groups around it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4.0,
            id="version 1, whose path is the host's and not there",
        ),
        pytest.param(
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/kubepods/pod1/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/kubepods/pod1/cpu.cfs_period_us": "100000\n",
            },
            None,
            id="version 1 without a limit",
        ),
        pytest.param({}, None, id="no control groups at all"),
    ],
)  # fmt: skip
def test_the_quota(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    write(tmp_path, files)
    assert cgroup.quota(tmp_path) == quota
    bound = len(os.sched_getaffinity(0))
    assert cgroup.cores(tmp_path) == (min(bound, int(quota)) if quota else bound)


def test_less_than_a_processor_is_one(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert cgroup.cores(tmp_path) == 1


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": "oom 3\noom_kill 2\n"}, id="version 2"),
        pytest.param(
            {"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, id="version 1"
        ),
    ],
)  # fmt: skip
def test_kills_for_want_of_memory_are_counted(files: dict[str, str], tmp_path: Path) -> None:
    assert cgroup.kills(tmp_path) == 0
    write(tmp_path, files)
    assert cgroup.kills(tmp_path) == 2


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
