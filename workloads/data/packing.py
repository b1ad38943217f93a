"""From examples to token sequences on disk, one example each or several packed together.

Sequences are kept as Arrow files that are mapped into memory, so that neither preparing nor training holds a large set at once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workloads.data.conversations import Example
from workloads.data.report import Report

Integers = npt.NDArray[np.int64]

IGNORED = -100
"""Label of a token that no loss is taken of (PyTorch's cross_entropy)."""
SEQUENCES_PER_BATCH = 256
"""In one record batch of the Arrow file."""


class ExampleFiles:
    """Examples in two flat files, read back in any order."""

    def __init__(self, path: Path) -> None:
        self._paths = (path, path.with_suffix(".mask"))
        self._lengths = array("q")
        self._conversations = array("Q")
        self._rows = array("q")
        self._sources = array("H")

    def __enter__(self) -> ExampleFiles:
        self._ids, self._masks = (path.open("w+b") for path in self._paths)
        return self

    def __exit__(self, *_: object) -> None:
        self._ids.close()
        self._masks.close()
        for path in self._paths:
            path.unlink()

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, example: Example, source: int = 0) -> None:
        """``source`` is the number of the source that it is from."""
        self._ids.write(example.ids.tobytes())
        self._masks.write(example.loss_mask.tobytes())
        self._lengths.append(len(example.ids))
        self._conversations.append(example.conversation)
        self._rows.append(example.row)
        self._sources.append(source)

    @property
    def lengths(self) -> Integers:
        return np.asarray(self._lengths, dtype=np.int64)

    @property
    def conversations(self) -> npt.NDArray[np.uint64]:
        return np.asarray(self._conversations, dtype=np.uint64)

    @property
    def rows(self) -> Integers:
        """The number of each example's conversation within its source."""
        return np.asarray(self._rows, dtype=np.int64)

    @property
    def sources(self) -> Integers:
        return np.asarray(self._sources, dtype=np.int64)

    def arrays(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], Integers]:
        """Ids and masks of all examples end to end, and where each begins."""
        self._ids.flush()
        self._masks.flush()
        ids = np.memmap(self._paths[0], dtype=np.int32, mode="r")
        masks = np.memmap(self._paths[1], dtype=bool, mode="r")
        return ids, masks, np.concatenate([[0], np.cumsum(self.lengths)])


def best_fit(lengths: Integers, capacity: int) -> list[list[int]]:
    """Indices of the examples that share a sequence: best-fit decreasing, each in the fullest sequence that still has room.

    No example is cut. Sequences come in the order of their first example, examples in their own order.
    """
    sequences: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room, ascending
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, number = capacity, len(sequences)
            sequences.append([])
        else:
            room = rooms[at]
            number = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        sequences[number].append(index)
        left = room - length
        if left:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(number)
    return sorted((sorted(sequence) for sequence in sequences), key=lambda sequence: sequence[0])


def write_sequences(
    path: Path, files: ExampleFiles, rounds: Sequence[Integers], report: Report, on_progress: Callable[[Report], None]
) -> None:
    """Writes the chosen examples (indices) to ``path`` as sequences, one each or packed; completes ``report``. Those of a round share no
    sequence with those of another, so that none holds an example twice."""
    ids, masks, starts = files.arrays()
    chosen = np.concatenate(rounds)
    lengths = files.lengths[chosen]
    groups: list[list[int]] = []
    for first, examples in zip(np.cumsum([0, *map(len, rounds)]).tolist(), rounds, strict=False):
        packed = best_fit(files.lengths[examples], report.sequence_length) if report.packed else None
        groups += [
            [first + index for index in group] for group in packed or [[index] for index in range(len(examples))]
        ]
    column = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", column), ("labels", column), ("seq_lengths", column)])
    trained = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for begin in range(0, len(groups), SEQUENCES_PER_BATCH):
            batch = groups[begin : begin + SEQUENCES_PER_BATCH]
            members = chosen[[index for group in batch for index in group]]
            pieces = [slice(starts[member], starts[member + 1]) for member in members]
            tokens = np.concatenate([ids[piece] for piece in pieces])
            mask = np.concatenate([masks[piece] for piece in pieces])
            trained += int(mask.sum())
            each = files.lengths[members]
            counts = np.array([len(group) for group in batch])
            bounds = np.concatenate([[0], np.cumsum(counts)])
            offsets = np.concatenate([[0], np.cumsum(each)])[bounds].astype(np.int32)
            columns = [
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.where(mask, tokens, IGNORED).astype(np.int32))),
                pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(each.astype(np.int32))),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            on_progress(report)
    report.examples, report.tokens, report.trained_tokens = len(chosen), int(lengths.sum()), trained
    report.sequences = len(groups)
