"""Circles of references, found in chains of any length."""

from __future__ import annotations

import pytest

from alpaca_operator.api import SFTJob
from alpaca_operator.api.chain import cycle
from alpaca_operator.api.sources import JobReference


def jobs(reads: dict[str, list[str]]) -> dict[str, SFTJob]:
    """Jobs by name, each of which goes on from the adapters of others."""
    return {
        name: SFTJob.model_validate(
            {
                "metadata": {"name": name},
                "spec": {
                    "model": {"uri": "pvc://models/base"},
                    "dataset": {
                        "train": [{"from": {"kind": "SFTJob", "name": other}} for other in others]
                        or [{"uri": "pvc://data/rows.jsonl"}]
                    },
                    "output": {"uri": f"pvc://models/{name}"},
                },
            }
        )
        for name, others in reads.items()
    }


def circle(reads: dict[str, list[str]], start: str) -> list[str] | None:
    known = jobs(reads)

    def find(reference: JobReference) -> SFTJob | None:
        return known.get(reference.name)

    return cycle(known[start], find)


@pytest.mark.parametrize(
    ("reads", "found"),
    [
        pytest.param({"a": []}, None, id="a job that reads no other"),
        pytest.param({"a": ["a"]}, ["a", "a"], id="one that reads itself"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c", "a"], id="three in a ring"),
        pytest.param({"a": ["gone", "b"], "b": ["a"]}, ["a", "b", "a"], id="beside one that is not there"),
        pytest.param(
            {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, None, id="two ways to the same job are no circle"
        ),
        pytest.param(
            {"a": ["b", "c"], "b": ["d"], "d": [], "c": ["e"], "e": ["a"]},
            ["a", "c", "e", "a"],
            id="the way that leads nowhere is not told",
        ),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["b"]}, None, id="a circle that the job only leads to is others'"),
    ],
)
def test_a_circle_is_told_by_the_names_along_it(reads, found):
    assert circle(reads, "a") == found


def test_a_chain_may_be_longer_than_python_recurses():
    names = [f"step-{number}" for number in range(1, 2001)]
    line = dict(zip(names, ([name] for name in [*names[1:], "end"]), strict=True))
    assert circle(line | {"end": []}, names[0]) is None
    assert circle(line | {"end": [names[0]]}, names[0]) == [*names, "end", names[0]]
