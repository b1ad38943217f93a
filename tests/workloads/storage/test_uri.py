"""Addresses as paths, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workloads.process import Place, train
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
