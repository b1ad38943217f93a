"""The libraries' own output and optional imports: kept off the log and out of the process, and brought back for a job that needs them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator

from workloads.errors import WorkloadError
from workloads.system.hardware import has_gpu

UNUSED_BY_TRAINING = ("torchao", "gptqmodel", "optimum", "awq", "hqq", "quanto", "torchvision", "torchaudio")
"""Packages that transformers and peft import wherever they are installed, and that no fine-tuning needs."""
KEPT_LINES = 40
"""Of what the library prints, kept for the log of a failure."""


def quiet(*, bitsandbytes: bool = False, deepspeed: bool = False) -> None:
    """Keep the libraries' own progress bars and deprecation notes off the log, and their optional imports out of the process.

    What is not asked for counts as not installed from here on (a name that is None in `sys.modules`): importing it would cost
    every start two seconds. Called before transformers is first imported.
    """
    unused = {*UNUSED_BY_TRAINING}
    if not bitsandbytes and not has_gpu():
        unused.add("bitsandbytes")
    if not deepspeed and not has_gpu():
        unused.add("deepspeed")
    for name in unused:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # Meant for the libraries' authors, not for whoever trains.
    for library in ("transformers", "peft", "accelerate"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for library in ("accelerate", "bitsandbytes", "deepspeed", "DeepSpeed"):
        logging.getLogger(library).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def show(*names: str) -> None:
    """Undo `quiet` for packages that this job needs, which an earlier job of the same process has hidden."""
    for name in names:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
    from transformers.utils import import_utils

    for name in names:
        known = getattr(import_utils, f"is_{name}_available", None)
        if known is not None:
            known.cache_clear()


def prepare_gptqmodel() -> None:
    """Bring GPTQModel into the process, silent. Called before anything else imports transformers' quantizers."""
    # One worker is what it takes on two cores, and its loader then asks for two and fails.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, min(12, ((os.cpu_count() or 1) + 1) // 2))))
    os.environ.setdefault("GPTQMODEL_DISABLE_GIL_WARNING", "1")
    os.environ.setdefault("LOGBAR_DISABLE_NOTEBOOK_DETECTION", "1")
    quiet()
    show("gptqmodel", "optimum")
    with silenced():
        import gptqmodel  # noqa: F401 - it mends the libraries that come after it


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """Models that are made within are whole in this process. Once a run under ZeRO-3 has its settings, transformers has DeepSpeed deal out
    the weights of every model, which those on the meta device do not have."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep what the library prints off the log; where it fails, its last lines go to standard error."""
    last_lines: deque[str] = deque(maxlen=KEPT_LINES)
    with contextlib.redirect_stdout(_LastLines(last_lines)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except WorkloadError:
            raise
        except Exception:
            print("\n".join(last_lines), file=sys.stderr)
            raise


@contextlib.contextmanager
def without_compiling() -> Iterator[None]:
    """On a CPU, run GPTQModel's kernels as they are: it would have some of them compiled, which takes a compiler, and longer than it saves."""
    import torch

    if torch.cuda.is_available():
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class _LastLines(io.TextIOBase):
    """Takes text, and keeps its last whole lines without the bars that are drawn over themselves."""

    def __init__(self, lines: deque[str]) -> None:
        self._lines = lines

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._lines.extend(line.rstrip() for line in text.split("\n") if line.strip() and "\r" not in line)
        return len(text)
