"""What a command imports and builds before it has anything to do: its own kind, and nothing of the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import KINDS
from tests.workloads.process import Place, train

WITNESS = """if True:
    import json, runpy, sys
    from pydantic import BaseModel
    from alpaca_operator.api.resource import Resource

    def below(model):
        return {each for child in model.__subclasses__() for each in (child, *below(child))}

    sys.argv, answers = sys.argv[2:], sys.stdout
    sys.stdout = sys.stderr
    try:
        run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
        run(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    ours = {model for model in below(BaseModel) if model.__module__.startswith("alpaca_operator")}
    imported = sorted(model.__name__ for model in ours if issubclass(model, Resource) and model.workload)
    built = sorted(model.__name__ for model in ours if model.__pydantic_complete__)
    json.dump({"code": code, "imported": imported, "built": built}, answers)
"""
COMMANDS = {kind.workload: name for name, kind in KINDS.items()} | {
    "chat_ui": "ChatDeployment",
    "chat_api": "ChatDeployment",
    "engine": "ChatDeployment",
}


def witnessed(place: Place, *arguments: str) -> dict[str, Any]:
    """The exit code of a command, the kinds that it imported, and the models whose validators it built."""
    ended = subprocess.run(
        [sys.executable, "-c", WITNESS, "", *arguments],
        cwd=place.folder,
        env=place.environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(("command", "kind"), COMMANDS.items(), ids=COMMANDS)
def test_help_imports_one_kind_and_builds_no_validator(command: str, kind: str, tmp_path: Path) -> None:
    found = witnessed(Place(tmp_path), f"workloads.{command}", "--help")

    assert found == {"code": 0, "imported": [kind], "built": []}


def test_a_job_that_is_done_is_reused_by_its_own_kind_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.run(train()).last_word["reason"] == "Succeeded"

    _, script, *flags = place.arguments("raise AssertionError('it ran')")
    found = witnessed(place, script, *flags)

    assert (found["code"], found["imported"]) == (0, ["SFTJob"])
    assert "SFTJob" in found["built"]
    assert [model for model in found["built"] if model.endswith(("Spec", "Status"))] == []
