"""A long name is shortened where it stands, so that what is said of it is still there."""

from __future__ import annotations

import pytest

from alpaca_operator.api.text import fitted


def test_what_fits_is_left_as_it_is():
    assert fitted("pvc://models/" + "a" * 400, 413) == "pvc://models/" + "a" * 400


def test_the_reason_stands_behind_names_of_a_kilobyte():
    names = [f"pvc://{letter}/" + letter * 1010 for letter in "abc"]
    line = f"output {names[0]} was made from {names[1]} and {names[2]}: set output.overwrite"
    short = fitted(line, 1000)
    assert len(short) <= 1000
    assert short.endswith(": set output.overwrite")
    assert [short.count(f"pvc://{letter}/") for letter in "abc"] == [1, 1, 1]
    assert short.count("…") == 3


def test_no_more_names_are_shortened_than_needed():
    line = f"pvc://a/{'a' * 300} differs from pvc://b/{'b' * 200}"
    assert fitted(line, 400).endswith(f"pvc://b/{'b' * 200}")


@pytest.mark.parametrize("text", ["x" * 2000, "诗" * 2000, "床前明月光，疑是地上霜 " * 100])
def test_what_is_no_name_is_cut_at_its_end(text):
    short = fitted(text, 1000, size=lambda part: len(part.encode()))
    assert 990 < len(short.encode()) <= 1000
    assert text.startswith(short[:-1])
    assert short[-1] == "…"
