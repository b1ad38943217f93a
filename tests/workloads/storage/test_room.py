"""Room on a volume is asked for before the first step, and told as numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.workloads.process import Place
from workloads.errors import SpecError
from workloads.storage import room

GIB = 1 << 30


def need(folder: Path, size: int, what: str = "the output") -> room.Need:
    return room.Need(folder, size, what)


def test_what_fits_is_told(tmp_path: Path) -> None:
    (sentence,) = room.must_suffice([need(tmp_path / "not" / "there", 3 << 20)], "spec.output.uri: x", "lower it")
    free = r"[0-9,.]+ [GM]iB"
    assert re.fullmatch(
        rf"the output need 3\.0 MiB on the volume of {re.escape(str(tmp_path))}, where {free} are free", sentence
    )


def test_needs_on_one_volume_are_added_up(tmp_path: Path) -> None:
    half = shutil.disk_usage(tmp_path).total // 2 + (1 << 20)
    needs = [need(tmp_path / "a", half, "3 checkpoints"), need(tmp_path / "b", half)]
    for one in needs:
        room.must_suffice([need(one.folder, 1)], "spec.output.uri: x", "lower it")
    with pytest.raises(
        SpecError,
        match=r"^spec\.output\.uri: x: 3 checkpoints and the output need .* GiB on the volume of .*, where .* are free: enlarge it, or lower it$",
    ):
        room.must_suffice(needs, "spec.output.uri: x", "lower it")


def test_volumes_are_counted_apart(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    assert other.stat().st_dev != tmp_path.stat().st_dev
    assert len(room.must_suffice([need(tmp_path, 1), need(other, 1)], "x", "y")) == 2


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0.0 MiB"), (1536 << 10, "1.5 MiB"), (GIB, "1.0 GiB"), (1500 * GIB, "1,500.0 GiB")]
)
def test_sizes_are_in_words(size: int, words: str) -> None:
    assert room.in_words(size) == words


def test_a_run_that_has_no_room_ends_before_it_trains(tmp_path: Path) -> None:
    place = Place(tmp_path)
    body = (
        "runtime.must_have_room(result=1 << 60, checkpoints=3 << 50, written='3 checkpoints of 1,048,576.0 GiB each')"
    )
    ended = place.run(body)
    place.close()
    assert ended.code == 64
    assert ended.last_word["message"].startswith(
        "spec.output.uri: out: 3 checkpoints of 1,048,576.0 GiB each and the output of 1,073,741,824.0 GiB need 1,076,887,552.0 GiB on "
        f"the volume of {tmp_path}, where "
    )


def test_checkpoints_that_are_there_already_need_no_room_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    body = """
with runtime.checkpoints.write(1) as folder:
    (folder / "state").write_bytes(bytes(5 << 20))
runtime.must_have_room(result=1 << 20, checkpoints=8 << 20, written="2 checkpoints")
"""
    ended = place.run(body)
    place.close()
    assert any(
        line.startswith("2 checkpoints and the output of 1.0 MiB need 4.0 MiB on the volume of ")
        for line in ended.messages
    )
