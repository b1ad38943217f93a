"""What is pushed: the files of an artifact as they lie at its output, with the card for strangers in place of its own README."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ARTIFACT_FILE

CARD = "README.md"


@dataclass(frozen=True)
class Bundle:
    """Files by their path within, of which the last, ``artifact.json``, names all others: a place that lacks it holds nothing whole."""

    artifact: contract.Artifact
    files: Mapping[str, Path | bytes]
    """On this machine, or their content."""

    @property
    def title(self) -> str:
        """What a commit of it is called."""
        job = self.artifact.job
        return f"{self.artifact.kind} by {job.get('kind', 'an unknown job')} {job.get('name', '')}".rstrip()

    def is_of(self, other: contract.Artifact | None) -> bool:
        """Whether ``other`` is the same result: made from the same, with the same content. Cards and curves may tell of another day."""
        mine = (self.artifact.digest, self.artifact.spec_digest)
        return other is not None and (other.digest, other.spec_digest) == mine


def bundle(folder: Path, artifact: contract.Artifact, card: str) -> Bundle:
    """The artifact in ``folder`` with ``card`` as its README, which the list of its files then names."""
    readme = card.encode()
    entry = contract.ArtifactFile(path=CARD, size=len(readme), sha256=hashlib.sha256(readme).hexdigest())
    listed = [*(file for file in artifact.files if file.path != CARD), entry]
    pushed = artifact.model_copy(update={"files": sorted(listed, key=lambda file: file.path)})
    files: dict[str, Path | bytes] = {file.path: folder / file.path for file in artifact.files if file.path != CARD}
    files[CARD] = readme
    files[ARTIFACT_FILE] = (pushed.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    return Bundle(pushed, files)


def read(text: bytes) -> contract.Artifact | None:
    """The artifact.json that lies at a place; None for what is none."""
    try:
        return contract.Artifact.model_validate_json(text)
    except ValueError:
        return None
