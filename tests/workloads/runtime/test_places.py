"""Whose error one of the system's is: an input's, a place's, or nobody's that the user could mend."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from alpaca_operator.api import SFTJob
from workloads.errors import InputError, SpecError
from workloads.runtime import exits
from workloads.runtime.places import Places
from workloads.system.environment import Environment


@pytest.fixture
def places(tmp_path: Path) -> Places:
    job = SFTJob.model_validate({
        "metadata": {"name": "poet"},
        "spec": {
            "model": {"uri": "hf://org/llama"},
            "dataset": {"train": [{"uri": "pvc://data/rows"}]},
            "output": {"uri": "pvc://models/poet"},
        },
    })  # fmt: skip
    return Places.of(
        job, Environment.read({"ALPACA_STORAGE": str(tmp_path / "storage"), "ALPACA_CACHE": str(tmp_path / "cache")})
    )


READ = "spec.dataset.train[0].uri: pvc://data/rows: "
WRITTEN = "spec.output.uri: pvc://models/poet: "


@pytest.mark.parametrize(("number", "file", "error", "message"), [
    pytest.param(
        errno.EIO, "storage/data/rows/a.jsonl", InputError,
        READ + "cannot read {file}: Input/output error: the volume or its network reports an error: look at the volume, then copy the file again",
        id="a broken volume under an input",
    ),
    pytest.param(
        errno.ESTALE, "storage/data/rows/a.jsonl", InputError,
        READ + "cannot read {file}: Stale file handle: the network volume was replaced under the job: mount it again", id="a stale handle",
    ),
    pytest.param(
        errno.EACCES, "storage/data/rows/a.jsonl", InputError,
        READ + "{file} may not be read by user {user}: chmod -R a+rX {file}, or change its owner", id="somebody else's file",
    ),
    pytest.param(
        errno.ELOOP, "storage/data/rows/a.jsonl", InputError,
        READ + "cannot read {file}: Too many levels of symbolic links: its links lead in a circle: link to the file itself", id="a circle of links",
    ),
    pytest.param(
        errno.ENAMETOOLONG, "storage/models/poet", SpecError, WRITTEN + "cannot write {file}: File name too long: shorten the name", id="a long name",
    ),
    pytest.param(
        errno.EROFS, "storage/models/.poet.r.partial/x", SpecError,
        WRITTEN + "cannot write {file}: Read-only file system: the volume is mounted for reading only: mount it for writing, or name another",
        id="a volume for reading only",
    ),
    pytest.param(
        errno.EACCES, "cache/tokens/x", SpecError,
        "spec.cache: {file} may not be written by user {user}: chmod -R a+rwX {file}, or change its owner", id="a cache of somebody else's",
    ),
])  # fmt: skip
def test_an_error_of_the_system_is_told_by_the_field_that_named_the_place(
    places: Places, tmp_path: Path, number: int, file: str, error: type[Exception], message: str
) -> None:
    path = str(tmp_path / file)
    known = exits.explain(OSError(number, os.strerror(number), path), places)
    assert isinstance(known, error)
    assert str(known) == message.format(file=path, user=os.getuid())


@pytest.mark.parametrize("error", [
    pytest.param(OSError(errno.EMFILE, "Too many open files", "/x"), id="of the process"),
    pytest.param(OSError(errno.ENOENT, "No such file or directory", "nvcc"), id="of no place"),
    pytest.param(BrokenPipeError(errno.EPIPE, "Broken pipe"), id="of no file"),
])  # fmt: skip
def test_what_is_about_no_place_stays_unexplained(places: Places, error: OSError) -> None:
    assert exits.explain(error, places).exit_code == 70


def test_a_full_volume_is_named_with_the_field_whose_it_is(places: Places, tmp_path: Path) -> None:
    (tmp_path / "storage" / "models").mkdir(parents=True)
    known = exits.explain(OSError(errno.EDQUOT, "", str(tmp_path / "storage" / "models" / ".poet.r.partial")), places)
    assert (known.exit_code, known.reason) == (64, "DiskFull")
    assert str(known).startswith(f"no space left on the volume of {tmp_path}/storage/models (")
    assert f" for {WRITTEN[:-2]}: enlarge the volume" in str(known)
