"""The losses of a run, as numbers, as a picture and in characters."""

from __future__ import annotations

from pathlib import Path

from workloads.training import curves
from workloads.training.curves import Curves

CURVES = Curves(train=[(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)], validation=[(2, 3.5), (4, 2.5)])


def test_the_curve_is_kept_as_numbers(tmp_path: Path) -> None:
    CURVES.write(tmp_path / "loss.csv")
    assert (tmp_path / "loss.csv").read_text() == "step,loss,evalLoss\n1,4.0,\n2,3.0,3.5\n3,2.0,\n4,1.0,2.5\n"
    assert Curves.read(tmp_path / "loss.csv") == CURVES


def test_the_curve_is_drawn_in_characters() -> None:
    assert curves.chart(CURVES, width=8, height=4).split("\n") == [
        "   4.00 ┤██o",
        "        ┤  ██",
        "        ┤    ██o",
        "   1.00 ┤      ██",
        "        └────────",
        "         step 1       4",
        "         █ training loss, o validation loss",
    ]


def test_the_picture_is_the_same_for_the_same_curve(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        curves.picture(CURVES, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
