"""What the repository promises at its root: continuous integration and editors say what make and pyproject.toml say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
NAMED_IN_TEXT = ("README.md", "CONTRIBUTING.md")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow).values() for step in job["steps"]]


def test_there_are_workflows_for_a_push_and_for_the_night() -> None:
    assert [workflow.name for workflow in WORKFLOWS] == ["ci.yaml", "nightly.yaml"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_every_job_of_a_workflow_runs_a_target_of_the_makefile(workflow: Path) -> None:
    for name, job in jobs(workflow).items():
        called = re.findall(r"^make ([a-z-]+)$", "\n".join(step.get("run", "") for step in job["steps"]), re.MULTILINE)
        assert called, f"{name} runs nothing"
        assert set(called) <= TARGETS, name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_a_workflow_may_only_read_and_its_actions_have_a_version(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    assert [use for step in steps(workflow) if (use := step.get("uses")) and not re.search(r"@v\d+$", use)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_what_a_cache_is_keyed_by_is_there(workflow: Path) -> None:
    keys = [step["with"]["key"] for step in steps(workflow) if step.get("uses", "").startswith("actions/cache@")]
    files = [file for key in keys for file in re.findall(r"'([^']+)'", key)]
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_pre_commit_has_the_ruff_of_pyproject() -> None:
    (ruff,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f"ruff=={ruff['rev'].removeprefix('v')}" in project()["dependency-groups"]["dev"]


def test_the_editor_breaks_lines_where_ruff_does() -> None:
    assert f"max_line_length = {project()['tool']['ruff']['line-length']}" in (ROOT / ".editorconfig").read_text()


@pytest.mark.parametrize("name", NAMED_IN_TEXT)
def test_commands_that_the_text_shows_are_targets_of_the_makefile(name: str) -> None:
    shown = re.findall(r"^[$#] make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE)
    shown += re.findall(r"`make ([a-z-]+)[^`]*`", (ROOT / name).read_text())
    assert shown
    assert set(shown) <= TARGETS
