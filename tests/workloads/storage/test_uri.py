"""Addresses as paths, and what is said of those that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workloads.process import ROOT, Place, train
from workloads.errors import SpecError
from workloads.storage.uri import local_path
from workloads.system.environment import Environment


@pytest.mark.parametrize(("uri", "message"), [
    ("pvc://a/../../x", "FIELD leaves its claim: write pvc://<claim>/<path without ..>"),
    ("file://host/x", "FIELD names the host 'host': write file:///path, with three slashes"),
    ("file:///a%00b", "FIELD: a path holds no NUL: remove it"),
    ("~nobody-of-this-name/x", "FIELD: nobody knows this home directory: write the whole path"),
])  # fmt: skip
def test_what_is_no_path_is_refused_with_the_field(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        local_path(uri, Environment.read({"ALPACA_STORAGE": str(tmp_path)}), "FIELD")
    assert str(refusal.value) == message


def test_a_name_that_the_locale_cannot_write_is_found_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "诗.txt").write_text("床前明月光", encoding="utf-8")
    program = (
        "from workloads.storage.uri import local_path; from workloads.system.environment import Environment\n"
        "print(ascii(local_path(chr(0x8bd7) + '.txt', Environment.read({}), 'FIELD').read_text(encoding='utf-8')))"
    )
    environ = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "HOME": str(tmp_path),
    }
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == ascii("床前明月光")


@pytest.mark.parametrize(("output", "message"), [
    ("pvc://a/../../x", "spec.output.uri: pvc://a/../../x leaves its claim: write pvc://<claim>/<path without ..>"),
    ("loop/x", "spec.output.uri: loop/x: cannot write {folder}/loop: File exists: a file, or a link to nothing, is in the way: remove it, or name another place"),
    ("n" * 300, "spec.output.uri: " + "n" * 300 + ": cannot write {folder}/" + "n" * 300 + ": File name too long: shorten the name"),
])  # fmt: skip
def test_an_output_that_is_no_path_ends_in_exit_64_with_the_field(tmp_path: Path, output: str, message: str) -> None:
    place = Place(tmp_path)
    (tmp_path / "loop").symlink_to("loop")

    ended = place.run(train(), "--output.uri", output)

    assert (ended.code, ended.last_word["reason"]) == (64, "InvalidSpec")
    assert ended.last_word["message"] == message.format(folder=tmp_path)
