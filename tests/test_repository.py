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
SOURCES = [file for folder in ("operator", "workloads") for file in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(f for folder in ("docs", "examples", "images", "manifests") for f in (ROOT / folder).rglob("*.md")),
    ]
)
PATH = re.compile(r"`([\w./-]+(?:/|\.(?:py|md|yaml|html|js|jinja)))`")
PACKAGES = [
    package.parent
    for root in (ROOT / "operator" / "alpaca_operator", ROOT / "workloads")
    for package in sorted(root.glob("*/__init__.py"))
]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def the_map() -> dict[str, list[str]]:
    """The paths of README's map, from the root, by the folder that the head of their table names."""
    text = (ROOT / "README.md").read_text().split("## The map\n")[1]
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in text.split("\n\n")]
    found = {}
    for head, _, *rows in filter(None, tables):
        folder = "".join(PATH.findall(head))
        found[folder] = [folder + path for row in rows for path in PATH.findall(row.split("|")[1])]
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


def test_the_map_names_files_and_folders_that_are_there() -> None:
    named = the_map()
    assert list(named) == ["operator/alpaca_operator/", "workloads/", ""]
    assert [path for paths in named.values() for path in paths if not (ROOT / path).exists()] == []


def test_every_package_has_a_line_in_the_map() -> None:
    named = [path for paths in the_map().values() for path in paths]
    assert PACKAGES
    folders = [f"{package.relative_to(ROOT)}/" for package in PACKAGES]
    assert [folder for folder in folders if not any(path.startswith(folder) for path in named)] == []


def test_paths_that_contributing_names_are_there() -> None:
    named = {path for path in PATH.findall((ROOT / "CONTRIBUTING.md").read_text()) if "/" in path.rstrip("/")}
    assert named
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_modules_that_the_text_names_are_there() -> None:
    named = {
        name for text in TEXTS for name in re.findall(r"-m ((?:workloads|alpaca_operator)(?:\.\w+)*)", text.read_text())
    }
    assert named
    found = {".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("operator.") for file in SOURCES}
    assert sorted(name for name in named if not {name, f"{name}.__main__"} & found) == []


def test_files_that_the_source_names_lie_beside_it_or_above() -> None:
    """In comments and docstrings; a name is read from the folder of who says it, or from one above."""
    missing, count = [], 0
    for source in SOURCES:
        above = [folder for folder in source.parents if folder.is_relative_to(ROOT)]
        for name in re.findall(r"[\w/]+\.py\b", source.read_text()):
            count += 1
            if not any((folder / name).exists() for folder in above):
                missing.append(f"{source.relative_to(ROOT)}: {name}")
    assert count
    assert missing == []
