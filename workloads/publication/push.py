"""What lies at an output, pushed to the places of ``spec.publish``, one after the other; one that fails keeps no other from being tried."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.publication import Publication, publications
from alpaca_operator.api.resource import Job
from workloads.errors import InputError, WorkloadError
from workloads.publication import card, hub, licence, modelscope, registry
from workloads.publication.bundle import CARD, bundle
from workloads.publication.place import Place, PlaceUnreachable, PushRefused, Target
from workloads.storage import contents, s3, uri
from workloads.storage.hashing import HashCache
from workloads.system import atomic
from workloads.system.describe import shown
from workloads.system.environment import Environment


def push(
    job: Job,
    places: Sequence[int],
    environment: Environment,
    hashes: HashCache,
    log: Callable[[str], None],
    *,
    digest: str | None = None,
) -> list[contract.PushedTo]:
    """What lies at the output of ``job``, at those places of its ``publish`` that have these numbers. ``digest``: what it has to be.

    Raises InputError where nothing whole lies there; PushRefused or PlaceUnreachable with every place that failed, once all were tried.
    """
    folder = _folder(job.spec.output.uri, environment, hashes.heartbeat)
    artifact = _whole(job, folder, hashes, digest)
    base = card.base_of(artifact)
    bound = licence.of_base(base, environment, log)
    own = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None
    done: list[contract.PushedTo] = []
    failed: list[WorkloadError] = []
    for number in places:
        asked = publications(job.spec)[number]
        target = _target(number, asked, log, hashes.heartbeat)
        try:
            place = _place(target)
            text = card.render(artifact, own, _name_there(base, asked.uri), bound, place.address)
            revision = place.push(bundle(folder, artifact, text))
        except (PushRefused, PlaceUnreachable) as error:
            log(str(error))
            failed.append(error)
        else:
            done.append(contract.PushedTo(uri=asked.uri, revision=revision, digest=artifact.digest))
    if failed:
        raise _together(failed, done)
    return done


def _place(target: Target) -> Place:
    if target.asked.uri.startswith("oci://"):
        return registry.Repository(target)
    if target.asked.uri.startswith("ms://"):
        return modelscope.Repository(target)
    return hub.Repository(target)


def _name_there(base: str | None, place: str) -> str | None:
    """What a card at ``place`` calls the base: its name on a hub that the card's readers know it by."""
    is_known = base is not None and (
        base.startswith("hf://") or (base.startswith("ms://") and place.startswith("ms://"))
    )
    return uri.hub_name(base) if base and is_known else None


def _folder(output: str, environment: Environment, heartbeat: Callable[[], None]) -> Path:
    where = f"spec.output.uri: {output}"
    if output.startswith("s3://"):
        return s3.fetch(output, where, environment.cache, list, heartbeat)
    path = uri.local_path(output, environment, where)
    atomic.recover(path)
    return path


def _whole(job: Job, folder: Path, hashes: HashCache, digest: str | None) -> contract.Artifact:
    where = f"spec.output.uri: {job.spec.output.uri}"
    artifact = contents.read_artifact(folder)
    if artifact is None:
        raise InputError(
            f"{where}: nothing whole lies there to be pushed ({shown(folder)} has no {contract.ARTIFACT_FILE}): run {job.kind} {job.metadata.name} first"
        )
    if digest is not None and artifact.digest != digest:
        raise InputError(
            f"{where} was {digest} when {job.kind} {job.metadata.name} ended, and is {artifact.digest} now: what lies there was replaced; push it by "
            "the job that made it"
        )
    damage = contents.sizes_differ(folder, artifact.files) or contents.contents_differ(folder, artifact.files, hashes)
    if damage is not None:
        raise InputError(
            f"{where}: what lies there is damaged ({damage}): remove it, and let a job of another name make it again"
        )
    return artifact


def _target(number: int, asked: Publication, log: Callable[[str], None], heartbeat: Callable[[], None]) -> Target:
    where = f"spec.publish[{number}].uri: {asked.uri}"
    return Target(asked, where, credentials(os.environ, number), log, heartbeat)


def credentials(environ: Mapping[str, str], number: int) -> dict[str, str]:
    """The environment of one place: the keys of its own Secret, which bear a prefix in a pod, before what all have."""
    prefix = contract.place_prefix(number)
    own = {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix)}
    return {**environ, **own}


def _together(failed: Sequence[WorkloadError], done: Sequence[contract.PushedTo]) -> WorkloadError:
    """One error that tells of all places; tried again where that may help any of them."""
    passing = [error for error in failed if isinstance(error, PlaceUnreachable)]
    kind = PlaceUnreachable if passing else PushRefused
    text = "; ".join(str(error) for error in failed)
    error = kind(f"{text} (pushed: {', '.join(one.uri for one in done)})" if done else text)
    error.publications = list(done)
    return error
