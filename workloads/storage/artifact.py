"""Outputs by content: what a job is made from, whether its result is there already, and how a new one is published."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.model import Model, Spec
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import Source
from workloads.errors import OutputExists
from workloads.storage import hashing, lineage
from workloads.storage.checkpoints import Fence
from workloads.storage.contents import relevant
from workloads.storage.hashing import HashCache
from workloads.storage.listing import listing
from workloads.storage.output import OutputPlace
from workloads.storage.sources import Inputs
from workloads.system import atomic
from workloads.system.clock import now

LOADED = ("Model", "LoRAAdapter", "GPTQModel", "FP8Model", "Tokenizer")
"""Kinds of artifacts whose content is what a program loads from them."""
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "datasets",
    "peft",
    "trl",
    "accelerate",
    "deepspeed",
    "gptqmodel",
    "optimum",
    "gguf",
    "cyllama",
)
"""Those of them that a run imported are named in its artifact, with their versions."""


def fingerprint_fields(part: Any, inputs: Inputs, path: str = "", *, published: bool = True) -> Any:
    """The part of a spec that shapes the result, as JSON; not ``published``, the part that shapes the training.

    Fields at their default are left out, so that a version which adds a field does not make every finished job another one. A
    source stands as the digest of what lies there.
    """
    if isinstance(part, Model):
        left_out = _left_out(part, published) if isinstance(part, Spec) else frozenset()
        kept = {}
        for name, field in type(part).model_fields.items():
            value = getattr(part, name)
            if name not in left_out and value != field.get_default(call_default_factory=True):
                alias = field.alias or name
                kept[alias] = fingerprint_fields(
                    value, inputs, f"{path}.{alias}" if path else alias, published=published
                )
        if isinstance(part, Source):
            kept["digest"] = inputs[path].digest
        return kept
    if isinstance(part, list):
        return [
            fingerprint_fields(element, inputs, f"{path}[{index}]", published=published)
            for index, element in enumerate(part)
        ]
    return part


def _left_out(part: Spec, published: bool) -> frozenset[str]:
    return part.non_semantic if published else part.non_semantic | part.publishing


def spec_digest(job: Job, inputs: Inputs, processes: int = 1, *, published: bool = True) -> str:
    """``sha256:…`` of what the result is made from; not ``published``, of what the training is. Several processes see as many times
    the rows in a step."""
    together = {"processes": processes} if processes > 1 else {}
    fields = fingerprint_fields(job.spec, inputs, published=published)
    return hashing.of_json({"kind": job.kind, "spec": fields, **together})


class Publisher:
    """Decides about an output, and publishes it."""

    def __init__(self, job: Job, inputs: Inputs, place: OutputPlace, hashes: HashCache, processes: int = 1) -> None:
        self._job = job
        self._inputs = inputs
        self._place = place
        self._hashes = hashes
        self._fence: Fence | None = None
        self._processes = processes
        self.spec_digest = spec_digest(job, inputs, processes)
        self.training_digest = spec_digest(job, inputs, processes, published=False)
        """Of the result as well, where every field that shapes only the publishing is at its default."""
        self.published: contract.Published | None = None
        """What lies at the output now, made from this spec and these inputs."""
        self.metrics: Mapping[str, float | None] = {}
        """What was measured when that was made, by an earlier run."""

    def look(self) -> str | None:
        """Whether the output is there already.

        Sets ``published`` when it is, whole and made from the same; otherwise returns what is wrong with it, or None when nothing
        is there. Raises OutputExists when something else lies there that may not be replaced.
        """
        uri = self._place.uri
        artifact = self._place.artifact()
        if artifact is None:
            if self._place.is_taken() and self._place.holds_artifact_file():
                raise OutputExists(
                    f"spec.output.uri: the {contract.ARTIFACT_FILE} in {uri} cannot be read, so nobody knows whose these files are: copy the folder "
                    "again, name another one, or remove it"
                )
            if self._place.is_taken():
                raise OutputExists(
                    f"spec.output.uri: {uri} has files but no {contract.ARTIFACT_FILE}, so they are not ours to replace: name another folder, or remove it"
                )
            return None
        if artifact.spec_digest == self.spec_digest:
            damage = self._place.damage(artifact, self._hashes)
            if damage is None:
                self.published = contract.Published(uri=uri, digest=artifact.digest, kind=artifact.kind, reused=True)
                self.metrics = artifact.metrics
                return None
            return f"the artifact at {uri} is damaged ({damage}): it is made again"
        if artifact.spec_digest == self.training_digest == self._unfinished_training():
            return (
                f"{uri} holds what this training published before a merge that did not end: the result takes its place"
            )
        if not self._job.spec.output.overwrite:
            raise OutputExists(
                f"spec.output.uri: {uri} holds another artifact ({self._described(artifact)}): name another folder, or set output.overwrite to true"
            )
        return f"the artifact at {uri} ({self._described(artifact)}) is replaced, as output.overwrite says"

    def _unfinished_training(self) -> str | None:
        """The digest of the training whose last run published what it trained and then did not come to its end."""
        newest = self._place.newest_run()
        return newest.training_digest if newest else None

    def guard(self, fence: Fence) -> None:
        """``fence``, which this run has taken, tells from here on whether it is still the newest."""
        self._fence = fence

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A new empty folder to write the result into; gone when the block ends badly."""
        folder = self._place.staging
        atomic.discard(folder)
        folder.mkdir(parents=True)
        try:
            with atomic.failures_named(folder):
                yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def publish(
        self,
        folder: Path,
        kind: str,
        metrics: Mapping[str, float | None],
        resolved_policy: dict[str, Any],
        attempts: Sequence[contract.Attempt] = (),
        *,
        final: bool = True,
    ) -> contract.Published:
        """Complete ``folder`` with its artifact.json and put it in place; ``attempts`` are the runs that made it. Raises Superseded when another
        run took over.

        Not ``final``, it is what was trained, which the result that is made of it will replace.
        """
        assert self._fence is not None, "publishing without a fence"
        self._fence.check()
        digests = self._hashes.files(folder, listing(folder))
        files = [
            contract.ArtifactFile(path=path, size=(folder / path).stat().st_size, sha256=digest)
            for path, digest in digests.items()
        ]
        # Curves and the card carry times and differ between two equal runs; what is loaded does not, and it is what consumers read.
        content = set(relevant([file.path for file in files], "Model" if kind in LOADED else "File"))
        if kind == "GGUFModel":
            content = {name for name in content if name.endswith(".gguf")}
        artifact = contract.Artifact.model_validate(
            {
                "kind": kind,
                "job": {"kind": self._job.kind, "name": self._job.metadata.name},
                "digest": hashing.of_files({file.path: file.sha256 for file in files if file.path in content}),
                "spec_digest": self.spec_digest if final else self.training_digest,
                "inputs": {
                    field: contract.ArtifactInput(uri=found.uri, digest=found.digest)
                    for field, found in self._inputs.items()
                },
                "ancestors": lineage.ancestors([found.path for found in self._inputs.values()]),
                "files": files,
                "versions": versions(),
                "metrics": dict(metrics),
                "spec": fingerprint_fields(self._job.spec, self._inputs, published=final),
                "processes": self._processes,
                "attempts": [contract.Attempt.model_validate(one.model_dump()) for one in attempts],
                "resolved_policy": resolved_policy,
                "created_at": now(),
            }
        )
        (folder / contract.ARTIFACT_FILE).write_text(
            artifact.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8"
        )
        self._fence.check()
        self._place.publish(folder)
        found = contract.Published(uri=self._place.uri, digest=artifact.digest, kind=artifact.kind)
        if final:
            self._fence.release()
            self.published = found
        return found

    def reject(self, folder: Path) -> str:
        """Keep ``folder``, the report on a result that is not published; returns where. Raises Superseded when another run took over."""
        assert self._fence is not None, "rejecting without a fence"
        self._fence.check()
        return self._place.reject(folder)

    def _described(self, artifact: contract.Artifact) -> str:
        by = " ".join(artifact.job[key] for key in ("kind", "name") if key in artifact.job) or "an unknown job"
        return f"{artifact.kind} by {by}, {artifact.created_at[:10]}"


def versions() -> dict[str, str]:
    """Versions of what made an artifact: ours, Python's, and the libraries that this process imported."""
    from importlib import metadata  # a job that is done, or asks for help, needs none

    found = {"python": platform.python_version()}
    for name in ("literary-alpaca", *(library for library in LIBRARIES if library in sys.modules)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
