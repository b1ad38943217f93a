"""The card as strangers read it: the output's own, with the base and its licence in the header, and everything it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alpaca_operator.api import contract
from workloads.manifest import spec
from workloads.system.markdown import front_matter, table

FIRST_INPUTS = ("model", "init.config", "base")
"""Fields that name what a model was made of, the nearest first."""
RELATIONS = {"LoRAAdapter": "adapter", "GPTQModel": "quantized", "GGUFModel": "quantized"}
"""How the hub calls what a result is to its base; a whole model is a fine-tune."""
FENCE = "---\n"
FOLDER = "path/of/this/folder"
"""How cards call the model in the code that loads it."""


@dataclass(frozen=True)
class Licence:
    """Of the base."""

    header: dict[str, str]
    """`license`, and what goes with it, as the hub's cards have it; empty where it is not known."""
    sentence: str


def base_of(artifact: contract.Artifact) -> str | None:
    """The address of the first model that the artifact goes back to, through all that was made between; None where it goes back to none."""
    made: contract.Artifact | contract.Ancestor = artifact
    uri = None
    for _ in range(len(artifact.ancestors) + 1):
        found = next((made.inputs[field] for field in FIRST_INPUTS if field in made.inputs), None)
        if found is None:
            return uri
        uri = found.uri
        if found.digest not in artifact.ancestors:
            return uri
        made = artifact.ancestors[found.digest]
    return uri


def render(artifact: contract.Artifact, own: str | None, base: str | None, licence: Licence, address: str) -> str:
    """``own``: the README of the output, where it has one. ``base``: the name of the base on the hub. ``address``: how those who load
    the model call it, in place of the path that the README has."""
    header, body = split(own or _plain(artifact))
    known = {"base_model": base, "base_model_relation": RELATIONS.get(artifact.kind, "finetune")} if base else {}
    return front_matter({**header, **known, **licence.header}) + "\n".join(
        [body.replace(FOLDER, address).rstrip("\n") + "\n", *_provenance(artifact, licence)]
    )


def split(readme: str) -> tuple[dict[str, Any], str]:
    """The header of a card, and what follows it."""
    if not readme.startswith(FENCE) or FENCE not in readme[len(FENCE) :]:
        return {}, readme
    from ruamel.yaml.error import YAMLError

    header, body = readme[len(FENCE) :].split(FENCE, 1)
    try:
        found = spec.yaml().load(header)
    except YAMLError:
        return {}, readme
    return (found, body) if isinstance(found, dict) else ({}, readme)


def _plain(artifact: contract.Artifact) -> str:
    """Of an output without a README."""
    job = " ".join(artifact.job.values())
    measured = [(name, f"{value:.6g}") for name, value in artifact.metrics.items() if value is not None]
    figures = f"\n## Result\n\n{table(('metric', 'value'), measured)}" if measured else ""
    header = front_matter({"tags": ["literary-alpaca"]})
    return f"{header}# {artifact.job.get('name', artifact.kind)}\n\nA {artifact.kind}, made by `{job}` of Literary Alpaca.\n{figures}"


def _provenance(artifact: contract.Artifact, licence: Licence) -> Iterator[str]:
    yield "## Licence\n"
    yield f"{licence.sentence}\n"
    yield "## Provenance\n"
    yield f"Content `{artifact.digest}`, made {artifact.created_at[:10]} from the settings and inputs `{artifact.spec_digest}`.\n"
    all_made: list[contract.Artifact | contract.Ancestor] = [artifact, *artifact.ancestors.values()]
    rows = [
        (" ".join(ancestor.job.values()) or ancestor.kind, field, found.uri, found.digest)
        for ancestor in all_made
        for field, found in ancestor.inputs.items()
    ]
    if rows:
        yield table(("made by", "from", "uri", "digest"), rows)
    if artifact.versions:
        yield table(("with", "version"), list(artifact.versions.items()))
