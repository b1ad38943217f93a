"""A corpus that is made: what became of its documents, and its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workloads.curation.clusters import CLUSTERS
from workloads.curation.ledger import KEPT, READ, VALIDATION, Amount, Ledger
from workloads.curation.shards import TRAIN_FOLDER, VALIDATION_FOLDER
from workloads.curation.stages import ALIKE, EXACT, Work
from workloads.data.selection import DESCRIBES, Selection
from workloads.system import atomic

MOVED = ".moved"
"""Behind the name of a stage whose files are on their way into the output."""


class Corpus:
    """What the stages made."""

    def __init__(
        self, work: Work, ledger: Ledger, folders: Sequence[Path], weights: Sequence[float], near: Path | None = None
    ) -> None:
        """``folders`` are those of the stages that wrote it, the files of the output in the last."""
        self.work = work
        self.ledger = ledger
        self._folders = folders
        self.weights = weights
        """How often documents of each source stand in the training part."""
        self.clusters: dict[str, Any] | None = (
            None if near is None else json.loads((near / CLUSTERS).read_text("utf-8"))
        )
        """Of documents that are nearly alike: how many, and the largest."""

    @property
    def read(self) -> Amount:
        return self.ledger.total(READ)

    @property
    def kept(self) -> Amount:
        """For training and for validation."""
        found = self.ledger.total(KEPT)
        held = self.ledger.total(VALIDATION)
        found.add(held.documents, held.characters, held.bytes)
        return found

    def dropped(self) -> dict[str, Amount]:
        """By reason, the most frequent first."""
        return self._by_reason("dropped")

    def changed(self) -> dict[str, Amount]:
        """What each rule took out, by its name, the most frequent first."""
        return self._by_reason("changed")

    def _by_reason(self, what: str) -> dict[str, Amount]:
        reasons = {reason for _, happened, reason in self.ledger.amounts if happened == what}
        found = {reason: self.ledger.total(what, reason) for reason in reasons}
        return dict(sorted(found.items(), key=lambda entry: (-entry[1].documents, entry[0])))

    def metrics(self) -> dict[str, float | None]:
        """For the status and the artifact."""
        dropped = self.dropped()
        return {
            "documentsRead": self.read.documents,
            "documentsKept": self.kept.documents,
            "charactersKept": self.kept.characters,
            "bytesKept": self.kept.bytes,
            "documentsDropped": sum(amount.documents for amount in dropped.values()),
            "duplicates": sum(dropped[reason].documents for reason in (EXACT, ALIKE) if reason in dropped),
            "validationDocuments": self.ledger.total(VALIDATION).documents,
        }

    def lines(self) -> Iterator[str]:
        """For the log."""
        yield f"read {_told(self.read)}; kept {_told(self.kept)}"
        for reason, amount in self.dropped().items():
            yield f"dropped: {_told(amount)}: {reason}"
        for rule, amount in self.changed().items():
            yield f"changed by {rule}: {amount.documents:,} documents, {amount.characters:,} characters fewer"
        for sentence, (count, where) in self.ledger.notes.items():
            yield f"{count:,} {sentence} (first: {where})"

    def note_left_out(self, selections: Sequence[Selection]) -> None:
        """For the report: files of the sources that were not read, but for those that describe what another job made."""
        for selection in selections:
            for reason, names in selection.by_reason().items():
                if reason != DESCRIBES:
                    self.ledger.note(f"files were {reason}", names[0], len(names))

    def move_to(self, folder: Path) -> None:
        """The files of the corpus into the output: they are moved, as a corpus may be large, and the stage makes them again where a run ends
        before it has published them."""
        last = self._folders[-1]
        moved = last.with_name(f"{last.name}{MOVED}")
        atomic.discard(moved)
        last.rename(moved)  # at once: no other machine or run finds half of it there
        for part in (TRAIN_FOLDER, VALIDATION_FOLDER):
            files = sorted((moved / part).glob("[0-9]*"))
            for file in files:
                (folder / part).mkdir(exist_ok=True)
                shutil.move(file, folder / part / file.name)
        for written in (moved, *self._folders[:-1]):
            atomic.discard(written)


def _told(amount: Amount) -> str:
    return f"{amount.documents:,} documents ({amount.characters:,} characters)"
