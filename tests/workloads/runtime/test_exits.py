"""The last word of a run: whole JSON within what the kubelet keeps."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import DatasetJob, SFTJob
from alpaca_operator.api.contract import TERMINATION_LIMIT, Checkpoint, Progress, Published, Termination
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Reason
from workloads.errors import DiskFull, GateFailed, OutOfMemory, SpecError
from workloads.runtime import exits
from workloads.runtime.places import Places
from workloads.system.environment import Environment

PUBLISHED = Published(uri="pvc://models/poet", digest="sha256:" + "0" * 64, kind="LoRAAdapter")


def word(**fields: Any) -> Termination:
    return Termination(reason=Reason.SUCCEEDED, **fields)


def test_a_short_one_is_left_as_it_is() -> None:
    said = word(message="done", output=PUBLISHED, checkpoint=Checkpoint(uri="x", step=3))

    assert Termination.model_validate_json(exits.shortened(said)) == said


def test_half_a_character_of_damaged_data_is_told_as_a_question_mark() -> None:
    said = exits.termination(Reason.INVALID_DATA, 65, "row 3: '\ud83d'", Progress())

    assert Termination.model_validate_json(exits.shortened(said)).message == "row 3: '?'"


def test_what_broke_a_gate_is_told_with_all_that_was_measured() -> None:
    said = exits.failed(
        GateFailed("stop rate 0.5, minStopRate 0.9", {"stopRate": 0.5, "perplexity": None}), Progress(step=4)
    )

    assert (said.reason, said.exit_code, said.metrics) == (
        Reason.GATE_FAILED,
        64,
        {"stopRate": 0.5, "perplexity": None},
    )


def test_several_lines_become_one() -> None:
    assert Termination.model_validate_json(exits.shortened(word(message="a\nb"))).message == "a; b"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("x" * 10_000, id="letters"),
        pytest.param("诗" * 10_000, id="characters of three bytes"),
        pytest.param('"\\\t' * 10_000, id="characters that JSON escapes"),
        pytest.param("𠮷\x00" * 10_000, id="characters outside the first plane, and control characters"),
    ],
)
def test_a_long_message_is_cut_between_characters(message: str) -> None:
    text = exits.shortened(word(message=message, output=PUBLISHED))

    read = Termination.model_validate_json(text)
    assert TERMINATION_LIMIT - 100 < len(text.encode()) <= TERMINATION_LIMIT
    assert read.message.endswith("…")
    assert message.startswith(read.message[:-1])
    assert read.output == PUBLISHED


def test_the_reason_stands_behind_uris_of_a_kilobyte() -> None:
    uris = [f"pvc://claim/{letter * 1010}" for letter in "abcde"]
    message = f"{uris[0]} was made from {', '.join(uris[1:])}: set output.overwrite"
    read = Termination.model_validate_json(exits.shortened(word(message=message, output=PUBLISHED)))
    assert read.message.endswith(": set output.overwrite")
    assert read.output == PUBLISHED


def test_what_the_operator_can_do_without_gives_way() -> None:
    many = {
        f"dataset.train[{index}]": {"uri": "pvc://data/" + "x" * 80, "digest": "sha256:" + "0" * 64}
        for index in range(64)
    }

    read = Termination.model_validate_json(
        exits.shortened(word(message="done", resolved_inputs=many, metrics={"evalLoss": 0.5}, output=PUBLISHED))
    )

    assert read == word(message="done", metrics={"evalLoss": 0.5}, output=PUBLISHED)


def test_a_loss_that_is_no_number_is_null() -> None:
    text = exits.shortened(word(metrics={"evalLoss": float("nan"), "steps": 3.0}))

    assert text == '{"reason":"Succeeded","exitCode":0,"message":"","metrics":{"evalLoss":null,"steps":3.0}}'


def test_an_error_of_ours_is_found_below_what_a_library_raised() -> None:
    ours = SpecError("training.optimizer: adamw_8bit needs a GPU")
    wrapped = RuntimeError("worker 0 failed")
    wrapped.__cause__ = ours

    assert exits.explain(wrapped) is ours


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError(), id="Python's"),
        pytest.param(OSError(errno.ENOMEM, "Cannot allocate memory"), id="the kernel's"),
        pytest.param(RuntimeError("CUDA error: out of memory"), id="the driver's"),
        pytest.param(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), id="cuBLAS's"),
    ],
)
def test_want_of_memory_is_known_in_every_form(error: BaseException) -> None:
    known = exits.explain(error)

    assert isinstance(known, OutOfMemory)
    assert str(known).endswith(exits.MEMORY_REMEDY)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="Python's"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), id="a quota's"),
        pytest.param(RuntimeError("Error while serializing: IoError(Os { code: 28, message: No space left on device })"), id="safetensors'"),
        pytest.param(OSError("Not enough free space to write 32000000 bytes"), id="numpy's"),
    ],
)  # fmt: skip
def test_a_full_disk_is_known_in_every_form(error: BaseException, tmp_path: Path) -> None:
    known = exits.explain(error, Places(written={"spec.cache": tmp_path / "not" / "there"}))

    assert isinstance(known, DiskFull)
    assert (known.exit_code, known.reason) == (64, "DiskFull")
    assert str(known).startswith(f"no space left on the volume of {tmp_path} (")


@pytest.mark.parametrize(
    ("job", "spec", "remedies"),
    [
        pytest.param(
            SFTJob,
            {"model": {"uri": "base"}, "dataset": {"train": [{"uri": "rows.json"}]}},
            ": enlarge the volume, remove what is not needed, or lower training.keepCheckpoints",
            id="a training",
        ),
        pytest.param(
            DatasetJob,
            {"sources": [{"uri": "raw"}]},
            ": enlarge the volume, or remove what is not needed",
            id="a job without checkpoints",
        ),
    ],
)
def test_what_helps_against_a_full_disk_is_what_the_job_has(
    job: type[Job], spec: dict[str, Any], remedies: str
) -> None:
    asked = {"kind": job.__name__, "metadata": {"name": "poet"}, "spec": {**spec, "output": {"uri": "out"}}}
    places = Places.of(job.model_validate(asked), Environment.read({}))

    assert str(exits.explain(OSError(errno.ENOSPC, "No space left on device"), places)).endswith(remedies)


def test_a_runtime_error_of_another_kind_is_a_bug() -> None:
    assert str(exits.explain(RuntimeError("shapes differ\nmore"))) == (
        "RuntimeError: shapes differ (the traceback is in the log)"
    )


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), False, id="a full disk"),
        pytest.param(SpecError("seed: -1 is no seed"), False, id="one of ours"),
        pytest.param(RuntimeError("shapes differ"), True, id="a bug"),
    ],
)
def test_a_traceback_is_for_what_no_sentence_of_ours_tells(
    error: Exception, printed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exits.failed(error, Progress(), Places(written={"spec.cache": tmp_path}))
    assert (type(error).__name__ in capsys.readouterr().err) is printed
