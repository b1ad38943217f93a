"""A plan changes only on purpose."""

from __future__ import annotations

import pytest

from alpaca_operator.plan import PLANNERS
from tests.golden import HERE, SAMPLES, VARIANTS, cases, load_all, planned

CASES = list(cases())


@pytest.mark.parametrize(("manifest", "golden"), CASES, ids=[golden.stem for _, golden in CASES])
def test_what_a_resource_becomes(manifest, golden):
    assert planned(manifest) == golden.read_text(encoding="utf-8"), "`make golden`, and read the diff"


def test_no_golden_file_is_left_behind():
    assert {path.name for path in HERE.glob("*.yaml")} == {golden.name for _, golden in CASES}


def test_every_kind_has_a_sample():
    kinds = [job.kind for manifest, _ in CASES for job in load_all(manifest)]
    assert set(kinds) == set(PLANNERS)
    assert list(SAMPLES.glob("*.yaml"))
    assert list(VARIANTS.glob("*.yaml"))
