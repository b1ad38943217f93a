"""Errors of libraries: of the spec where it says what they do, of an input where they only read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workloads.runtime import exits, refusals


def raised_in(package: str, error: BaseException) -> BaseException:
    """``error`` as a function of that package raises it."""
    scope: dict[str, Any] = {"__name__": f"{package}.deep.inside", "error": error}
    exec("def fail():\n    raise error", scope)
    with pytest.raises(type(error)) as caught:
        scope["fail"]()
    return caught.value


@pytest.mark.parametrize(("package", "error", "code", "message"), [
    pytest.param(
        "deepspeed", AssertionError("ZeRO is only supported with known optimizers"), 64,
        "deepspeed: deepspeed refuses what it is asked to do (AssertionError: ZeRO is only supported with known optimizers; the traceback is "
        "in the log): change deepspeed",
        id="DeepSpeed's configuration",
    ),
    pytest.param(
        "peft", ValueError("no such layer"), 64,
        "lora: peft refuses what it is asked to do (ValueError: no such layer; the traceback is in the log): change lora",
        id="an adapter that there cannot be",
    ),
    pytest.param(
        "deepspeed", RuntimeError("NCCL timed out"), 70, "RuntimeError: NCCL timed out (the traceback is in the log)",
        id="what may pass is tried again",
    ),
    pytest.param("workloads", ValueError("a bug"), 70, "ValueError: a bug (the traceback is in the log)", id="our own mistake"),
    pytest.param(
        "deepspeed", MemoryError(), 71, f"out of memory (MemoryError): {exits.MEMORY_REMEDY}", id="want of memory in there"
    ),
])  # fmt: skip
def test_a_library_is_refused_by_the_field_that_configures_it(
    package: str, error: BaseException, code: int, message: str
) -> None:
    known = exits.explain(raised_in(package, error))
    assert (int(known.exit_code), str(known)) == (code, message)


def test_a_file_that_cannot_be_read_is_an_input() -> None:
    import safetensors

    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(b"no such thing")
    known = exits.explain(caught.value)
    assert int(known.exit_code) == 66
    assert str(known).startswith("safetensors cannot use a file of the model or tokenizer (SafetensorError: ")


def test_a_bug_has_no_library_to_blame() -> None:
    assert refusals.explain(ValueError("raised nowhere")) is None
    assert refusals.explain(SimpleNamespace(__traceback__=None)) is None  # type: ignore[arg-type]
