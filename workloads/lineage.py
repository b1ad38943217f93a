"""Where an artifact comes from: ``python -m workloads lineage PATH`` prints what it was made from, back to the first inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from alpaca_operator.api import contract
from workloads.errors import InputError

Artifact = contract.Artifact | contract.Ancestor
SHOWN = 12
"""Characters of a digest that are printed: as many as git shows of a large repository's."""


def read(path: Path) -> contract.Artifact:
    """The artifact in a folder, or in the ``artifact.json`` given. Raises InputError where there is none."""
    file = path / contract.ARTIFACT_FILE if path.is_dir() else path
    try:
        return contract.Artifact.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no {contract.ARTIFACT_FILE} there: name the output of a job") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InputError(
            f"{file} cannot be read as an artifact ({type(error).__name__}): {str(error).splitlines()[0]}"
        ) from error


def ancestor(path: Path) -> contract.Ancestor | None:
    """What made the input at ``path``, to be told in the artifact that is made from it; None for what no job made."""
    file = path / contract.ARTIFACT_FILE
    if not file.is_file():
        return None
    found = contract.Artifact.model_validate_json(file.read_text(encoding="utf-8"))
    return contract.Ancestor(
        kind=found.kind, job=found.job, spec_digest=found.spec_digest, spec=found.spec, inputs=found.inputs
    )


def tree(artifact: contract.Artifact, name: str) -> str:
    """The artifact and below it, indented, all that it was made from."""
    lines = [f"{name}  {_made(artifact)}  {_short(artifact.digest)}"]
    return "\n".join([*lines, *_below(artifact, "")])


def _below(made: Artifact, indent: str) -> Iterator[str]:
    if made.spec:
        yield f"{indent}{'│' if made.inputs else ' '}    spec {_short(made.spec_digest)}: {_settings(made)}"
    for number, (field, source) in enumerate(made.inputs.items(), start=1):
        last = number == len(made.inputs)
        by = f"  {_made(source.made_by)}" if source.made_by else ""
        yield f"{indent}{'└─' if last else '├─'} {field}: {source.uri}{by}  {_short(source.digest)}"
        if source.made_by:
            yield from _below(source.made_by, indent + ("   " if last else "│  "))


def _made(made: Artifact) -> str:
    return f"({made.kind} by {made.job.get('kind', '?')} {made.job.get('name', '?')})"


def _short(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"{kind}:{value[:SHOWN]}"


def _settings(made: Artifact) -> str:
    """The settings that were not defaults, without the inputs that have lines of their own."""
    kept = {
        name: value
        for name, value in made.spec.items()
        if name not in {field.partition(".")[0] for field in made.inputs}
    }
    return json.dumps(kept, ensure_ascii=False, separators=(", ", ": ")) if kept else "defaults"
