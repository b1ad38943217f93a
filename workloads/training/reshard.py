"""A checkpoint of DeepSpeed's, made by another number of processes, for those that there are: by DeepSpeed's own universal checkpoints.

ZeRO cuts the optimizer's state into as many pieces as there are processes. The universal form holds it by parameter; what is loaded from that
is cut anew. It is made beside the checkpoints when it is needed and removed when it is read: what a run saves stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from workloads.errors import SpecError
from workloads.storage import room

PIECES = "*_optim_states.pt"
"""Files of the pieces, in the folder of a checkpoint that DeepSpeed names after its step."""
TAG = "universal"
MOMENTS = {"exp_avg", "exp_avg_sq"}
"""The optimizer states that DeepSpeed's universal form has room for: Adam's."""
WHOLE = {"step"}
"""States that are no piece of anything."""


def pieces(checkpoint: Path) -> list[Path]:
    """The pieces that ZeRO cut the optimizer's state into, by the number of their process; empty where it did not."""
    return sorted(checkpoint.glob(f"global_step*/{PIECES}"))


def needed(checkpoint: Path, processes: int) -> bool:
    """Whether the state is cut for another number of processes."""
    return len(pieces(checkpoint)) not in (0, processes)


def configured(deepspeed: dict[str, Any], checkpoint: Path, processes: int) -> dict[str, Any]:
    """The configuration that lets DeepSpeed load what `to_universal` makes of ``checkpoint``, where that is needed.

    Raises SpecError where it cannot be.
    """
    if not needed(checkpoint, processes):
        return deepspeed
    offload = deepspeed.get("zero_optimization", {}).get("offload_optimizer") or {}
    if offload.get("device") == "nvme":
        raise SpecError(
            f"the checkpoint was made by {len(pieces(checkpoint))} processes, each of which keeps its part of the optimizer's state on a disk of its "
            f"own (deepspeed.config offload_optimizer nvme), and {processes} are to go on: let as many train as before"
        )
    return {**deepspeed, "checkpoint": {**deepspeed.get("checkpoint", {}), "load_universal": True}}


def to_universal(checkpoint: Path, target: Path, output: str) -> None:
    """Make ``target``, a new folder, of ``checkpoint``: the optimizer's state in the universal form, all else as links.

    Raises SpecError where the optimizer has states that this form does not hold, and where the volume of ``output`` (a URI) has no room.
    """
    found = pieces(checkpoint)
    _must_be_adam(found[0])
    _must_have_room(found, target, output)
    from deepspeed.checkpoint import ds_to_universal

    target.mkdir(parents=True)
    silence = io.StringIO()  # it tells of every parameter
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        ds_to_universal.main(
            Namespace(
                input_folder=str(found[0].parent),
                output_folder=str(target / TAG),
                num_extract_workers=1,  # in this process: more would be forks of one that has threads
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # it is the name of the format, which a model without tensor parallelism does not give
            )
        )
    (target / "latest_universal").write_text(TAG, encoding="utf-8")
    # transformers looks for a folder of this name before it leaves the rest to DeepSpeed.
    (target / found[0].parent.name).symlink_to(TAG)
    for entry in checkpoint.iterdir():
        if entry != found[0].parent:
            (target / entry.name).symlink_to(os.path.relpath(entry, target))


def _must_have_room(found: list[Path], target: Path, output: str) -> None:
    """For the state in fragments, and for what is made of them before they go."""
    size = sum(piece.stat().st_size for piece in found)
    what = f"the optimizer's state of {room.in_words(size)}, twice while it is cut anew,"
    room.must_suffice(
        [room.Need(target, 2 * size, what)],
        f"spec.output.uri: {output}",
        f"go on with the {len(found)} process(es) that made the checkpoint",
    )


def _must_be_adam(piece: Path) -> None:
    saved = torch.load(piece, map_location="cpu", weights_only=False, mmap=True)["optimizer_state_dict"]
    base: Any = saved.get("base_optimizer_state") or saved.get("optimizer_state_dict") or {}
    states = base["state"] if isinstance(base, dict) and "state" in base else {}
    names = {name for state in states.values() for name in state} - WHOLE
    if names != MOMENTS:
        raise SpecError(
            f"the checkpoint was made by another number of processes, and DeepSpeed cuts only the state of AdamW anew (exp_avg, exp_avg_sq), not "
            f"what this optimizer keeps ({', '.join(sorted(names)) or 'nothing'}): go on with as many processes as made it, or set "
            "training.optimizer to adamw_torch from the beginning"
        )
