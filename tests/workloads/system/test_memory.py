"""What is free is what machine and container leave, with what the kernel would give back; what a program held is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.workloads.process import ROOT
from workloads.system import memory


def test_free_memory_is_the_least_that_machine_and_container_leave(tmp_path: Path) -> None:
    groups = tmp_path / "sys/fs/cgroup"
    (tmp_path / "proc").mkdir()
    (groups / "memory").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000 kB\n")
    assert memory.available(tmp_path) == 1_024_000
    for name, content in (
        ("max", "max\n"),
        ("current", "400000\n"),
        ("stat", "anon 1\ninactive_file 60000\nactive_file 40000\n"),
    ):
        (groups / f"memory.{name}").write_text(content)
    assert memory.available(tmp_path) == 1_024_000
    (groups / "memory.max").write_text("900000\n")
    assert memory.available(tmp_path) == 600_000
    (groups / "memory/memory.limit_in_bytes").write_text("500000\n")
    (groups / "memory/memory.usage_in_bytes").write_text("400000\n")
    (groups / "memory/memory.stat").write_text("inactive_file 7\ntotal_inactive_file 50000\n")
    assert memory.available(tmp_path) == 150_000
    (groups / "memory/memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert memory.available(tmp_path) == 600_000
    (groups / "memory.current").write_text("2000000\n")
    assert memory.available(tmp_path) == 0


def test_the_high_water_is_of_this_program_and_not_of_the_one_that_started_it() -> None:
    """As a test session with torch in it starts a small script: getrusage tells of the session there."""
    small = "from workloads.system import memory; print(memory.high_water())"
    large = f"import subprocess, sys; held = b'x' * 300_000_000; subprocess.run([sys.executable, '-c', {small!r}], check=True)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator")))}
    done = subprocess.run([sys.executable, "-c", large], env=environ, check=True, capture_output=True, text=True)
    assert 1_000_000 < int(done.stdout) < 150_000_000
