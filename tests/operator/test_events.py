"""Events: few, after the status, in the API server's shape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from alpaca_operator.api import SFTJob
from alpaca_operator.events import NOTE_LIMIT, Note, event, of_completion, of_exposure, of_transition
from tests.operator import build


def status(reason: str, message: str = "why and what to do") -> dict[str, Any]:
    return {
        "conditions": [{"type": "Complete", "reason": "x"}, {"type": "Ready", "reason": reason, "message": message}]
    }


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        pytest.param({}, status("Pending"), None, id="a start is usual"),
        pytest.param(status("Pending"), status("Starting"), None, id="so is a pod"),
        pytest.param(status("Starting"), status("Running"), None, id="and a step"),
        pytest.param(
            status("Running"), status("Succeeded"), Note("Normal", "Succeeded", "why and what to do"), id="a good end"
        ),
        pytest.param(
            status("Running"),
            status("InvalidData"),
            Note("Warning", "InvalidData", "why and what to do"),
            id="a bad end",
        ),
        pytest.param(
            status("Pending"),
            status("Unschedulable"),
            Note("Warning", "Unschedulable", "why and what to do"),
            id="something to do",
        ),
        pytest.param(
            status("Unschedulable"), status("Unschedulable", "more words"), None, id="the same again is not told"
        ),
        pytest.param(status("Running"), {}, None, id="a status without conditions"),
    ],
)
def test_a_change_of_status_is_worth(before: dict[str, Any], after: dict[str, Any], note: Note | None) -> None:
    assert of_transition(before, after) == note


def test_that_a_deployment_is_open_to_everybody_is_told_once() -> None:
    closed = status("Serving")
    exposed = {"type": "Exposed", "status": "True", "reason": "WithoutAuth", "message": "set auth.secretName"}
    opened = {"conditions": [*closed["conditions"], exposed]}
    note = Note("Warning", "WithoutAuth", "set auth.secretName")
    assert of_exposure(closed, opened) == of_exposure({}, opened) == note
    assert of_exposure(opened, opened) is of_exposure(opened, closed) is None


@pytest.mark.parametrize(
    ("before", "note"),
    [
        pytest.param(
            status("Succeeded") | {"completionTime": "2026-01-02T02:55:00Z"},
            Note("Normal", "Succeeded", "why and what to do"),
            id="nine minutes ago: an operator that died just then may not have told it",
        ),
        pytest.param(status("Succeeded") | {"completionTime": "2026-01-02T02:54:00Z"}, None, id="ten minutes ago"),
        pytest.param(status("Unschedulable"), None, id="not at its end"),
    ],
)
def test_an_end_is_told_again_while_it_is_new(before: dict[str, Any], note: Note | None) -> None:
    assert of_completion(before, datetime(2026, 1, 2, 3, 4, tzinfo=UTC)) == note


def test_one_end_has_one_event_whoever_tells_it_and_when() -> None:
    job, note = SFTJob.model_validate(build.job()), Note("Normal", "Succeeded", "published")
    times = [datetime(2026, 1, 2, 3, minute, tzinfo=UTC) for minute in (4, 5)]
    names = {event("any", job, note, now, "2026-01-02T03:04:00Z")["metadata"]["name"] for now in times}
    assert len(names) == 1
    assert len({event("any", job, note, now)["metadata"]["name"] for now in times}) == 2, "what is no end may recur"


def test_an_event_is_about_the_resource_and_fits() -> None:
    job = SFTJob.model_validate(build.job())
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    made = event("operator-0", job, Note("Warning", "InvalidData", "行" * NOTE_LIMIT), now)
    assert made["eventTime"] == "2026-01-02T03:04:05.678901Z"
    assert made["regarding"]["uid"] == "uid-poet"
    assert made["metadata"]["namespace"] == "team"
    assert made["note"] == "行" * (NOTE_LIMIT // 3 - 1) + "…", "cut between characters"


def test_a_name_of_a_kilobyte_does_not_hide_what_is_said_of_it() -> None:
    job = SFTJob.model_validate(build.job())
    now = datetime(2026, 1, 2, tzinfo=UTC)
    made = event(
        "operator-0", job, Note("Warning", "InvalidSpec", f"output.uri /{'a' * 1020} lies within the pod"), now
    )
    assert made["note"].endswith(" lies within the pod")
    assert len(made["note"].encode()) <= NOTE_LIMIT
