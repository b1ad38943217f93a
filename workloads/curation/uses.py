"""Which stages of a cache are anybody's: each run notes what it uses, and when one has published, what no job refers to any more goes.

A job is known by its name and output; the stages of its last run are its own, for as long as KEPT_DAYS say. What was used within GRACE_HOURS stays,
whoever used it: a run of another machine may be about to note it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from alpaca_operator.api.resource import Job
from workloads.curation.nodes import MEETING
from workloads.storage import hashing
from workloads.system import atomic

KEPT_DAYS = 30
"""After its last run, a job is taken for gone."""
GRACE_HOURS = 24
FOLDER = "uses"
STAGE = re.compile(r"(?P<stage>[a-z-]+-[0-9a-f]{24})(\.npz|\.moved)?")
"""What lies beside the notes: folders of stages and rows of evaluation sets, and such a folder on its way into an output."""


class Uses:
    """The stages that one job uses."""

    def __init__(self, home: Path, job: Job, heartbeat: Callable[[], None]) -> None:
        self._home, self._heartbeat = home, heartbeat
        named = [job.kind, job.metadata.namespace, job.metadata.name, job.spec.output.uri]
        self._file = home / FOLDER / f"{hashing.of_json(named).removeprefix('sha256:')[:24]}.json"
        self._job = f"{job.kind} {job.metadata.name}"
        self._stages: list[str] = []

    def note(self, path: Path) -> None:
        """From here on this job uses the stage at ``path``, whether it is there or not."""
        self._stages.append(_stage_of(path) or path.name)
        with atomic.file_lock(self._home / FOLDER, self._heartbeat):
            before = _noted(self._file)
            self._write([*self._stages, *(stage for stage in before if stage not in self._stages)])
            if path.exists():
                path.touch()

    def settle(self, log: Callable[[str], None]) -> None:
        """The run has published: what it used is what the job refers to, and what nobody does goes."""
        with atomic.file_lock(self._home / FOLDER, self._heartbeat):
            self._write(self._stages)
            removed = prune(self._home, time.time())
        if removed:
            log(f"removed {len(removed)} stages from {self._home} that no job refers to any more")

    def _write(self, stages: list[str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self._file, json.dumps({"job": self._job, "stages": stages}))


def prune(home: Path, now: float) -> list[str]:
    """Remove the stages that no job refers to, and where machines met that are gone; returns their names."""
    referred: set[str] = set()
    for file in (home / FOLDER).glob("*.json"):
        if now - file.stat().st_mtime > KEPT_DAYS * 86400:
            file.unlink(missing_ok=True)
        else:
            referred.update(_noted(file))
    removed = []
    for path in sorted(home.iterdir()):
        stage = _stage_of(path)
        is_nobodys = _is_meeting(path) if stage is None else stage not in referred
        if is_nobodys and now - _last_used(path) > GRACE_HOURS * 3600:
            atomic.discard(path)
            removed.append(path.name)
    return removed


def _noted(file: Path) -> list[str]:
    """The stages that a job refers to; none where the note cannot be read, of a version before or after this one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["stages"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return [str(stage) for stage in found]


def _stage_of(path: Path) -> str | None:
    found = STAGE.fullmatch(path.name)
    return found["stage"] if found else None


def _is_meeting(path: Path) -> bool:
    """Whether machines of a run met there."""
    return path.name.startswith(MEETING) and any(path.glob("alive.*"))


def _last_used(path: Path) -> float:
    """When it was noted last, a share of it was made, or a machine that meets others there showed life."""
    return max(each.stat().st_mtime for each in (path, path / "completions", *path.glob("alive.*")) if each.exists())
