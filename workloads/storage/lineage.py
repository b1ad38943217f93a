"""Where an artifact comes from: ``python -m workloads lineage PATH`` prints what it was made from, back to the first inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from alpaca_operator.api import contract
from workloads.errors import InputError
from workloads.storage import contents
from workloads.system.describe import first_line

Artifact = contract.Artifact | contract.Ancestor
DIGEST_CHARACTERS = 12
"""As many of a digest are printed: as many as git shows of a large repository's."""


def read(path: Path) -> contract.Artifact:
    """The artifact in a folder, or in the ``artifact.json`` given. Raises InputError where there is none."""
    file = path / contract.ARTIFACT_FILE if path.is_dir() else path
    try:
        return contract.Artifact.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no {contract.ARTIFACT_FILE} there: name the output of a job") from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InputError(
            f"{file} cannot be read as an artifact ({type(error).__name__}): {first_line(error)}"
        ) from error


def ancestors(inputs: Iterable[Path]) -> dict[str, contract.Ancestor]:
    """By digest, what jobs made of the inputs in these folders, and all that those were made from."""
    found: dict[str, contract.Ancestor] = {}
    for path in inputs:
        made = contents.read_artifact(path)
        if made is None:
            continue  # no job made it
        found |= made.ancestors
        found[made.digest] = contract.Ancestor(
            kind=made.kind, job=made.job, spec_digest=made.spec_digest, spec=made.spec, inputs=made.inputs
        )
    return found


def tree(artifact: contract.Artifact, name: str) -> str:
    """The artifact and below it, indented, all that it was made from. What stands above already is not repeated."""
    lines = [f"{name}  {_made(artifact)}  {_short(artifact.digest)}", *_spec_line(artifact, "")]
    printed = {artifact.digest}
    pending = _inputs(artifact, "")  # a list, and no recursion: a chain may be longer than Python's stack
    while pending:
        indent, last, field, source = pending.pop()
        made = artifact.ancestors.get(source.digest)
        line = f"{indent}{'└─' if last else '├─'} {field}: {source.uri}"
        if made is None:
            lines.append(f"{line}  {_short(source.digest)}")
            continue
        again = source.digest in printed
        lines.append(f"{line}  {_made(made)}  {_short(source.digest)}{', see above' if again else ''}")
        if not again:
            printed.add(source.digest)
            below = indent + ("   " if last else "│  ")
            lines += _spec_line(made, below)
            pending += _inputs(made, below)
    return "\n".join(lines)


def _inputs(made: Artifact, indent: str) -> list[tuple[str, bool, str, contract.ArtifactInput]]:
    """Its inputs with their indent and whether each is the last, backwards: the first is taken first from the end."""
    fields = list(made.inputs.items())
    return [(indent, number == len(fields), field, source) for number, (field, source) in enumerate(fields, 1)][::-1]


def _spec_line(made: Artifact, indent: str) -> list[str]:
    bar = "│" if made.inputs else " "
    return [f"{indent}{bar}    spec {_short(made.spec_digest)}: {_settings(made)}"] if made.spec else []


def _made(made: Artifact) -> str:
    return f"({made.kind} by {made.job.get('kind', '?')} {made.job.get('name', '?')})"


def _short(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"{kind}:{value[:DIGEST_CHARACTERS]}"


def _settings(made: Artifact) -> str:
    """The settings that were not defaults, without the inputs that have lines of their own."""
    kept = {
        name: value
        for name, value in made.spec.items()
        if name not in {field.partition(".")[0] for field in made.inputs}
    }
    return json.dumps(kept, ensure_ascii=False, separators=(", ", ": ")) if kept else "defaults"
