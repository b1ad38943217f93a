"""What another version wrote is read without what cannot be read, and what was left out is named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alpaca_operator.api import tolerant


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=0)
    name: str | None = None


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: list[Part] = Field(default_factory=list)
    named: dict[str, Part] = Field(default_factory=dict)
    one: Part | None = None
    number: int | str = 0


@pytest.mark.parametrize(
    ("given", "read", "left_out"),
    [
        pytest.param({"one": {"size": 1}}, {"one": {"size": 1}}, (), id="nothing is wrong"),
        pytest.param({"novel": 1}, {}, (("novel",),), id="an unknown field"),
        pytest.param(
            {"one": {"size": 1, "novel": {"a": []}}}, {"one": {"size": 1}}, (("one", "novel"),), id="one further in"
        ),
        pytest.param(
            {"parts": [{"size": -1}, {"size": 2}, {"size": "x"}]},
            {"parts": [{"size": 2}]},
            (("parts", 2, "size"), ("parts", 0, "size"), ("parts", 2), ("parts", 0)),
            id="what lacks what it must have goes too",
        ),
        pytest.param({"named": {"a": {"name": "x"}}}, {"named": {}}, (("named", "a"),), id="of a map an entry"),
        pytest.param({"number": [1]}, {}, (("number",),), id="of a union the whole"),
    ],
)
def test_all_is_forgiven(given: dict[str, Any], read: dict[str, Any], left_out: tuple[tolerant.Path, ...]) -> None:
    found, missing = tolerant.read(Whole, given)
    assert found == Whole.model_validate(read)
    assert missing == left_out


@pytest.mark.parametrize("given", [pytest.param([1], id="another shape"), pytest.param(None, id="nothing")])
def test_what_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        tolerant.read(Whole, given)


def test_what_is_not_forgiven_is_refused_and_the_given_is_left_as_it_was() -> None:
    given = {"novel": 1, "one": {"size": -1}}
    with pytest.raises(ValidationError):
        tolerant.read(Whole, given, lambda kind, _: kind == "extra_forbidden")
    assert given == {"novel": 1, "one": {"size": -1}}
