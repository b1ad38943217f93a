"""What cannot be cut anew for another number of processes is refused, with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workloads.errors import SpecError
from workloads.training import reshard

ADAM = {"exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4), "step": torch.tensor(3.0)}


def checkpoint(folder: Path, processes: int, state: dict[str, Any]) -> Path:
    """As ZeRO-2 saves one."""
    step = folder / "checkpoint-3" / "global_step3"
    step.mkdir(parents=True)
    for rank in range(processes):
        saved = {"optimizer_state_dict": {"base_optimizer_state": {"state": {0: state}}}}
        torch.save(saved, step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return step.parent


def test_only_a_state_in_pieces_for_others_is_cut_anew(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, 2, ADAM)
    assert [reshard.needed(made, count) for count in (1, 2, 4)] == [True, False, True]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert not reshard.needed(plain, 4), "plain data parallelism has one state for all"
    config = {"zero_optimization": {"stage": 2}, "checkpoint": {"tag_validation": "Fail"}}
    assert reshard.configured(config, made, 2) == config
    assert reshard.configured(config, made, 4)["checkpoint"] == {"tag_validation": "Fail", "load_universal": True}


def test_a_state_on_each_machine_s_own_disk_stays_there(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, 2, ADAM)
    with pytest.raises(SpecError) as refused:
        reshard.configured({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, made, 4)
    assert str(refused.value) == (
        "the checkpoint was made by 2 processes, each of which keeps its part of the optimizer's state on a disk of its own (deepspeed.config "
        "offload_optimizer nvme), and 4 are to go on: let as many train as before"
    )


def test_a_state_that_is_not_adam_s_is_refused_by_its_names(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, 2, {"state1": torch.zeros(4), "qmap1": torch.zeros(4), "step": 3})
    with pytest.raises(SpecError) as refused:
        reshard.to_universal(made, tmp_path / "universal", "out")
    assert str(refused.value) == (
        "the checkpoint was made by another number of processes, and DeepSpeed cuts only the state of AdamW anew (exp_avg, exp_avg_sq), not what "
        "this optimizer keeps (qmap1, state1): go on with as many processes as made it, or set training.optimizer to adamw_torch from the "
        "beginning"
    )
    assert not (tmp_path / "universal").exists()


def test_a_volume_without_room_for_it_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = checkpoint(tmp_path, 2, ADAM)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SpecError) as refused:
        reshard.to_universal(made, tmp_path / "universal", "pvc://models/out")
    assert str(refused.value).startswith(
        "spec.output.uri: pvc://models/out: the optimizer's state of 0.0 MiB, twice while"
    )
    assert str(refused.value).endswith("enlarge it, or go on with the 2 process(es) that made the checkpoint")
    assert not (tmp_path / "universal").exists()
