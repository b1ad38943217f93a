"""Each row once, and as many batches for all."""

from __future__ import annotations

from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler, SequentialSampler

from workloads.data.collator import IGNORED, Collator
from workloads.data.samplers import EMPTY, PaddedDataset, PadToMultipleSampler


def dealt(rows: int, batch: int, processes: int) -> list[list[list[int]]]:
    """The batches that each process gets, by accelerate's own hand."""
    sampler = PadToMultipleSampler(SequentialSampler(range(rows)), processes * batch)
    batches = BatchSampler(sampler, batch, drop_last=False)
    return [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]


def test_batches_are_dealt_in_turn() -> None:
    assert dealt(rows=8, batch=2, processes=2) == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


@pytest.mark.parametrize(("rows", "batch", "processes"), [(1, 1, 2), (5, 2, 2), (7, 3, 2), (17, 4, 3), (3, 8, 8)])
def test_every_row_is_there_once_and_all_have_as_many(rows: int, batch: int, processes: int) -> None:
    shares = dealt(rows, batch, processes)
    assert len({tuple(map(len, share)) for share in shares}) == 1
    seen = [row for share in shares for numbers in share for row in numbers if row != EMPTY]
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("rows", [64, 61, 33, 17, 5])
def test_a_step_sees_the_same_rows_however_many_processes_share_it(rows: int) -> None:
    def steps(processes: int) -> list[list[int]]:
        """The rows of each step of two passes: eight batches of two, shared by ``processes``."""
        found = []
        for epoch in range(2):
            shares = []
            for rank in range(processes):
                shuffled = SeedableRandomSampler(data_source=range(rows), data_seed=7)
                sampler = PadToMultipleSampler(shuffled, 2 * processes)
                sampler.set_epoch(epoch)
                shares.append(list(BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), processes, rank)))
            passes = 8 // processes
            for start in range(0, len(shares[0]), passes):
                seen = [row for share in shares for batch in share[start : start + passes] for row in batch]
                found.append(sorted(row for row in seen if row != EMPTY))
        return found

    of_one = steps(1)
    assert sorted(row for step in of_one for row in step) == sorted(2 * list(range(rows)))
    for processes in (2, 4, 8):
        assert steps(processes) == of_one


def test_a_row_that_fills_up_has_nothing_to_learn_and_is_not_counted() -> None:
    class Rows:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> dict[str, Any]:
            assert number == 0
            return {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7], "seq_lengths": (3,)}

    filled = PaddedDataset(Rows(), pad=9)
    assert len(filled) == 1
    batch = Collator(pad=9)([filled[0], filled[EMPTY]])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 9, 9]]
    assert batch["labels"].tolist() == [6, 7]
    assert batch["tokens"] == 3


def test_each_pass_has_an_order_of_its_own() -> None:
    class Shuffled:
        epoch = 0

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Any:
            return iter([0, 1] if self.epoch == 0 else [1, 0])

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    rows = PadToMultipleSampler(Shuffled(), 3)
    rows.set_epoch(1)
    assert list(rows) == [1, 0, EMPTY]
