"""A base held in 4 or 8 bits, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workloads import tiny
from tests.workloads.runs import Ended, Place, job


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose widths nf4 can hold on a CPU: multiples of 64."""
    return tiny.write_model(tmp_path_factory.mktemp("wide") / "wide", hidden=64)


def run(place: Place, wide: Path, name: str, bits: int, **spec: Any) -> Ended:
    if not (place.folder / "wide").exists():
        (place.folder / "wide").symlink_to(wide)
    ended = place.run(
        job(
            output={"uri": name},
            model={"uri": "wide"},
            method="QLoRA",
            load={"bits": bits},
            lora={"dropout": 0},
            training={"epochs": 2},
            **spec,
        ),
        cold=True,
    )
    assert ended.exit_code == 0, ended.text
    return ended


@pytest.mark.parametrize(("bits", "weights"), [(4, "nf4"), (8, "int8")])
def test_an_adapter_is_trained_on_a_quantized_base_and_merged_into_the_whole_one(
    bits: int, weights: str, wide: Path, place: Place
) -> None:
    ended = run(place, wide, "merged", bits, merge=True)
    assert ended.termination["resolvedPolicy"]["weights"] == weights
    assert ended.termination["metrics"]["mergeTokenAgreement"] == 1.0
    if bits == 4:
        # bitsandbytes repacks 4-bit weights for inference where it can: an evaluation in between must leave the training as it is.
        evaluated = run(place, wide, "evaluated", bits, dataset={"validation": [{"uri": "train.json"}]})
        assert evaluated.evaluations
        assert evaluated.losses == pytest.approx(ended.losses, abs=1e-6)
