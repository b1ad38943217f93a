"""Errors of libraries that are configured by the spec, or that only read inputs: whose they are is told by the package that raised them.

Such an error comes again each time: what the library was given is the same in the next run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from workloads.errors import InputError, SpecError, WorkloadError
from workloads.system.describe import first_line

OF_ARGUMENTS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, NotImplementedError)
"""Kinds of errors that speak of what a function was given. All others may pass, or are bugs."""
CONFIGURED_BY: Mapping[str, str] = {
    "deepspeed": "deepspeed",
    "peft": "lora",
    "bitsandbytes": "load or training.optimizer",
}
"""Packages, and the field that says what they do."""
READERS = ("tokenizers", "safetensors", "sentencepiece")
"""Packages that do nothing but read and write files of models."""


def explain(error: BaseException) -> WorkloadError | None:
    """The failure as one of the spec or of an input; None where it is neither."""
    raised_by = _package(error)
    said = f"{type(error).__name__}: {first_line(error)[:400]}"
    if raised_by in CONFIGURED_BY and isinstance(error, OF_ARGUMENTS):
        field = CONFIGURED_BY[raised_by]
        return SpecError(
            f"{field}: {raised_by} refuses what it is asked to do ({said}; the traceback is in the log): change {field}"
        )
    if type(error).__module__.partition(".")[0] in READERS:
        return InputError(
            f"{raised_by or 'a library'} cannot use a file of the model or tokenizer ({said}; the traceback is in the log): copy it again"
        )
    return None


def _package(error: BaseException) -> str:
    """The package that the error was raised in; where that is a compiled one, its kind says so."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    name = last.tb_frame.f_globals.get("__name__", "") if last is not None else ""
    own = type(error).__module__.partition(".")[0]
    return own if own in READERS else str(name).partition(".")[0]
