"""How many documents a stage has gone over, on all machines, of how many: what is whole is counted from its files, what this machine makes
from what it hears."""

from __future__ import annotations

import json
import time
from collections import Counter

from workloads.curation import steps
from workloads.curation.executor import Stage
from workloads.curation.ledger import READ, Ledger
from workloads.curation.stages import Work

LOOK_SECONDS = 2.0
"""Between two looks at what is whole."""


class Count:
    """Of one stage after the other, the first of which reads."""

    def __init__(self, work: Work) -> None:
        self._sizes = [sum(file.size for file in share) for share in work.shares[: work.own]]
        self._read: dict[int, int] = {}
        """Documents that were read of each share."""
        self._left: dict[int, int] = {}
        """Documents of each share that reading left."""
        self._stage: Stage | None = None
        self._reading: Stage | None = None
        self._whole: set[int] = set()
        self._heard: Counter[int] = Counter()
        self._looked = float("-inf")

    def begin(self, stage: Stage) -> None:
        """A stage begins; the first is the one that reads."""
        if self._reading is None:
            self._reading = stage
        else:
            self._see_reading()
        self._stage, self._whole, self._heard = stage, set(), Counter()
        self._looked = float("-inf")
        self.look()

    def hear(self, rank: int, documents: int) -> None:
        """This machine's processes went over so many documents more of a share."""
        self._heard[rank] += documents

    def look(self, *, at_once: bool = False) -> None:
        """See what is whole by now, on all machines; else seldom, as there may be hundreds of shares on a slow volume."""
        stage, now = self._stage, time.monotonic()
        if stage is None or (now - self._looked < LOOK_SECONDS and not at_once):
            return
        self._looked = now
        self._whole |= {rank for rank in range(stage.tasks) if rank not in self._whole and stage.is_marked(rank)}
        if stage is self._reading:
            self._see_reading()

    @property
    def step(self) -> int:
        """Documents that were gone over."""
        stage = self._stage
        if stage is None:
            return 0
        going = {rank: count for rank, count in self._heard.items() if rank not in self._whole}
        if stage is self._reading:
            return sum(self._read.values()) + sum(count for rank, count in going.items() if rank not in self._read)
        documents = sum(self._left.values())
        if stage.tasks != len(self._sizes):  # its shares are not those of the documents
            return documents * len(self._whole) // int(stage.tasks)
        return sum(self._left[rank] for rank in self._whole) + sum(
            min(count, self._left[rank]) for rank, count in going.items()
        )

    @property
    def total(self) -> int | None:
        """Documents in all. While they are read it is what the shares that are read so far, and their bytes, make likely; None before the
        first is."""
        if self._stage is not self._reading:
            return sum(self._left.values())
        size = sum(self._sizes[rank] for rank in self._read)
        if not size:
            return None
        likely = round(sum(self._read.values()) * sum(self._sizes) / size)
        return likely if len(self._read) == len(self._sizes) else max(likely, self.step)

    def _see_reading(self) -> None:
        """What was read of the shares that are whole."""
        assert self._reading is not None
        for rank in range(self._reading.tasks):
            if rank in self._read or not self._reading.is_marked(rank):
                continue
            path = self._reading.folder / steps.LEDGERS / f"{rank:05d}.json"
            try:
                ledger = Ledger.of_json(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:  # marked by another machine, and not to be seen here yet
                continue
            read = ledger.total(READ).documents
            self._read[rank] = read - steps.bad_rows_of(ledger)
            self._left[rank] = read - ledger.total("dropped").documents
