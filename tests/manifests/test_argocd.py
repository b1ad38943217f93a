"""Argo CD's health check, run by a real Lua of the version that Argo CD embeds, on one file per state."""

from __future__ import annotations

from typing import Any

import pytest
from lupa.lua51 import LuaRuntime

from alpaca_operator.api import KINDS
from alpaca_operator.api.resource import Job
from alpaca_operator.api.schema import resource_schema
from alpaca_operator.api.status import is_told
from alpaca_operator.jobs.status import TRUE_WHEN
from alpaca_operator.outcomes.verdict import Standing
from tests.manifests.build import MANIFESTS, read

FOLDERS = [MANIFESTS / "argocd" / "literary-alpaca.io" / kind for kind in ("SFTJob", "ChatDeployment")]
CHECK = (FOLDERS[0] / "health.lua").read_text(encoding="utf-8")
CASES = [(folder, case) for folder in FOLDERS for case in read(folder / "health_test.yaml")[0]["tests"]]
STATES = [path for folder in FOLDERS for path in sorted((folder / "testdata").glob("*.yaml"))]


def health(obj: dict[str, Any]) -> dict[str, str]:
    """As Argo CD runs it: the object is the global ``obj``, and nothing of the system can be reached."""
    lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    table = lua.globals()

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return lua.table_from({key: convert(each) for key, each in value.items()})
        return lua.table_from([convert(each) for each in value]) if isinstance(value, list) else value

    table.obj = convert(obj)
    for name in ("os", "io", "package", "require", "dofile", "loadfile", "python"):
        table[name] = None
    found = lua.execute(CHECK)
    return dict(found.items())


@pytest.mark.parametrize(
    ("folder", "case"), CASES, ids=[f"{folder.name}: {case['inputPath']}" for folder, case in CASES]
)
def test_the_health_of_each_state(folder, case):
    (obj,) = read(folder / case["inputPath"])
    assert health(obj) == case["healthStatus"]


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_the_states_are_states_that_the_operator_writes(path):
    (obj,) = read(path)
    if "status" in obj and not is_told(obj["status"]):
        assert obj["status"] == resource_schema(KINDS[obj["kind"]])["properties"]["status"]["default"]
        return
    resource = KINDS[obj["kind"]].model_validate(obj)
    if not isinstance(resource, Job):
        # What was there goes on answering whatever else holds: Ready is True beside one of these, or by itself.
        held = {one.type for one in resource.status.conditions if one.status == "True"}
        assert len(held & {"Reconciling", "Stalled", "Suspended"}) == 1 or "Ready" in held
        return
    conditions = {one.type: one.status == "True" for one in resource.status.conditions} if resource.status else {}
    written = {type_: true for type_, true in conditions.items() if type_ in TRUE_WHEN}
    views = [{condition.value: standing in when for condition, when in TRUE_WHEN.items()} for standing in Standing]
    assert not written or written in views


def test_every_file_of_a_state_is_asked_about():
    assert {folder / case["inputPath"] for folder, case in CASES} == set(STATES)


def test_every_kind_has_a_health_check():
    generator = read(MANIFESTS / "argocd" / "kustomization.yaml")[0]["configMapGenerator"][0]
    told = {file.partition("=")[0].rpartition("_")[2] for file in generator["files"]}
    assert told == set(KINDS)
