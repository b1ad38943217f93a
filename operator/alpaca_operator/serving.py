"""Pure: where a deployment stands, by an ordered list of small judgements, and its status. What status.py and verdicts.py are to jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from alpaca_operator import addresses, traffic
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ANNOTATION_ENGINE, LABEL_KIND, LABEL_NAME, LABEL_REVISION
from alpaca_operator.api.serving import EngineStatus, Newer, ServedModel, ServingStatus
from alpaca_operator.api.status import Condition, ConditionStatus, Failure, Reason, ResolvedInput
from alpaca_operator.conditions import Wish, condition, conditions, dump
from alpaca_operator.crash import crash
from alpaca_operator.diagnosis import Diagnosis, Refusal, changes_at, diagnose, one_line, refusal
from alpaca_operator.inputs import Inputs
from alpaca_operator.updates import follow, serving, short, token
from alpaca_operator.verdicts import Seen, Standing, Verdict, child_condition

Object = dict[str, Any]

CHILDREN = ("Deployment", "Service", "PodDisruptionBudget", "HTTPRoute")
"""Kinds of objects that a deployment owns, besides pods."""
inputs = follow

INPUTS_MISSING = frozenset({Reason.INPUT_NOT_FOUND, Reason.VOLUME_NOT_READY})


@dataclass(frozen=True, slots=True)
class Case:
    """A deployment, what was seen of it, and what follows from both: read by every verdict."""

    chat: ChatDeployment
    seen: Seen
    refusal: Refusal | None
    before: ServingStatus
    new: tuple[Object, ...]
    """Pods of the newest spec and model that are not on their way out."""
    old: tuple[Object, ...]
    """Pods of an earlier one."""
    trouble: Diagnosis | None
    """Why a new pod does not answer."""

    @property
    def child(self) -> Object:
        return self.seen.child or {}

    @property
    def wanted(self) -> int:
        replicas = self.child.get("spec", {}).get("replicas")
        return self.chat.spec.replicas if replicas is None else int(replicas)

    @property
    def ready(self) -> int:
        """Pods that answer, new or old."""
        return _count_ready((*self.new, *self.old))

    @property
    def inputs(self) -> Inputs:
        """Of the newest pods. What was refused was not written: they are still of what the child says."""
        return self.seen.inputs if self.refusal is None else serving(self.chat, self.seen.child)

    @property
    def late(self) -> bool:
        """The Deployment controller has seen nothing become ready for longer than a pod may take."""
        conditions: list[Object] = self.child.get("status", {}).get("conditions") or []
        return any(
            one.get("type") == "Progressing" and one.get("reason") == "ProgressDeadlineExceeded" for one in conditions
        )

    @property
    def hopeless(self) -> bool:
        """Whether only a person can help the new pods."""
        ended = self.trouble is not None and self.trouble.ended
        return self.late or (ended and self.trouble is not None and not self.trouble.retried)

    @property
    def serves(self) -> str:
        model = _model(self)
        what = (model and model.display) or "the model"
        return f"serves {what} on {self.ready} of {_pods(self.wanted)}"


def case_of(chat: ChatDeployment, seen: Seen, refused: Refusal | None) -> Case:
    labels = (seen.child or {}).get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
    revision = labels.get(LABEL_REVISION)
    live = [pod for pod in seen.pods if _is_live(pod)]
    new = tuple(pod for pod in live if pod["metadata"].get("labels", {}).get(LABEL_REVISION) == revision)
    waiting = [pod for pod in new if not _is_ready(pod)]
    troubles = (crash(pod, seen.now) or diagnose(pod, seen.now) for pod in waiting)
    return Case(
        chat=chat,
        seen=seen,
        refusal=refused,
        before=chat.status or ServingStatus(),
        new=new,
        old=tuple(pod for pod in live if pod not in new),
        trouble=next((one for one in troubles if one), None),
    )


# --- Verdicts --------------------------------------------------------------------------------------------------------


def refused(case: Case) -> Verdict | None:
    """By the API server or the planner; what is served goes on."""
    if case.refusal is None:
        return None
    standing = Standing.WORKING if case.refusal.passes else Standing.STUCK
    return Verdict(standing, case.refusal.reason, _while_serving(case, case.refusal.message), case.refusal)


def inputs_lacking(case: Case) -> Verdict | None:
    """What the spec asks for is not there; what was served before goes on."""
    lack = case.seen.lack
    if lack is None:
        return None
    standing = Standing.WORKING if lack.passes else Standing.STUCK
    reason = lack.reason
    if case.ready:
        reason = Reason.UPDATING if lack.passes else Reason.UPDATE_FAILED
    return Verdict(standing, reason, _while_serving(case, lack.message), Refusal(lack.reason, lack.message))


def pods_refused(case: Case) -> Verdict | None:
    """A quota or a policy takes no pod: the Deployment controller passes on what it heard."""
    failed = child_condition(case.child, "ReplicaFailure")
    found = refusal(403, str(failed.get("message", "")), again="") if failed else None
    if found is None:
        return None
    standing = Standing.WORKING if found.passes else Standing.STUCK
    return Verdict(standing, found.reason, _while_serving(case, found.message), found)


def scaled_to_zero(case: Case) -> Verdict | None:
    if case.seen.child is None or case.wanted > 0:
        return None
    name = case.chat.metadata.name
    return Verdict(
        Standing.HELD,
        Reason.SCALED_TO_ZERO,
        f"no pods are wanted (spec.replicas is 0): kubectl scale chat {name} --replicas=1",
    )


def settled(case: Case) -> Verdict | None:
    """Everything that is wanted answers, and nothing else."""
    if case.seen.child is None or _is_unseen(case.child) or case.old or _count_ready(case.new) < case.wanted:
        return None
    held = case.seen.held
    if held is None:
        return Verdict(Standing.DONE, Reason.SERVING, case.serves)
    message = f"{case.serves}; {_newer(held.inputs)}is not served: {held.message}"
    if held.failed:
        return Verdict(Standing.STUCK, Reason.UPDATE_FAILED, message, Refusal(Reason.UPDATE_FAILED, held.message))
    return Verdict(Standing.DONE, Reason.UPDATE_HELD, message)


def update_failed(case: Case) -> Verdict | None:
    """Those that answer are kept until the new ones do."""
    if not (case.old and case.ready and case.hopeless):
        return None
    why = case.trouble.message if case.trouble else _too_late(case)
    message = f"{case.serves}, of before; the new pods do not become ready: {why}"
    return Verdict(Standing.STUCK, Reason.UPDATE_FAILED, message, case.trouble or Refusal(Reason.UPDATE_FAILED, why))


def updating(case: Case) -> Verdict | None:
    if not case.ready or not (case.old or _is_unseen(case.child)):
        return None
    how = case.trouble.message if case.trouble else "the old ones answer until they are ready"
    message = f"{case.serves}; {_count_ready(case.new)} of {case.wanted} new ones are ready: {how}"
    return Verdict(Standing.WORKING, Reason.UPDATING, message, case.trouble)


def degraded(case: Case) -> Verdict | None:
    if not case.ready:
        return None
    how = case.trouble.message if case.trouble else "others start"
    standing = Standing.STUCK if case.hopeless else Standing.WORKING
    return Verdict(standing, Reason.DEGRADED, f"{case.serves}: {how}", case.trouble)


def pod_troubled(case: Case) -> Verdict | None:
    """Nothing answers, and a pod says why."""
    if case.trouble is None:
        return None
    standing = Standing.STUCK if case.hopeless else Standing.WORKING
    return Verdict(standing, case.trouble.reason, case.trouble.message, case.trouble)


def too_late(case: Case) -> Verdict | None:
    if not case.late:
        return None
    why = _too_late(case)
    return Verdict(Standing.STUCK, Reason.DEADLINE_EXCEEDED, why, Refusal(Reason.DEADLINE_EXCEEDED, why))


def starting(case: Case) -> Verdict | None:
    pod = next((pod for pod in case.new if pod.get("status", {}).get("phase") == "Running"), None)
    if pod is None:
        return None
    name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName", "")
    return Verdict(Standing.WORKING, Reason.STARTING, f"pod {name} on node {node} loads the model")


def pending(case: Case) -> Verdict:
    return Verdict(Standing.WORKING, Reason.PENDING, "waits for its pods to start")


VERDICTS: tuple[Callable[[Case], Verdict | None], ...] = (
    refused,  # before what the pods do: they are not of this spec
    inputs_lacking,
    pods_refused,
    scaled_to_zero,
    settled,
    update_failed,
    updating,
    degraded,
    pod_troubled,  # from here on nothing answers
    too_late,
    starting,
    pending,
)
"""The first that speaks wins."""


def judge(case: Case) -> Verdict:
    return next(verdict for check in VERDICTS if (verdict := check(case)))


# --- Wish and status -------------------------------------------------------------------------------------------------


def is_terminal(resource: ChatDeployment) -> bool:
    """It ends with its deletion alone."""
    return False


def is_final(written: dict[str, Any]) -> bool:
    return False


def wish(resource: ChatDeployment, seen: Seen) -> Wish:
    """Without what the spec asks for, what is there goes on."""
    return Wish.STAY if resource.metadata.deletion_timestamp or seen.lack else Wish.EXIST


def look_again(resource: ChatDeployment, seen: Seen) -> timedelta | None:
    """Once more, too, after it was told that only a person can help: an update may then give its place back."""
    told = (
        any(one.type == Condition.STALLED and one.status == "True" for one in resource.status.conditions)
        if resource.status
        else False
    )
    if not told and judge(case_of(resource, seen, None)).standing is Standing.STUCK:
        return timedelta(seconds=1)
    moments = [changes_at(pod, seen.now) for pod in seen.pods]
    return min((moment - seen.now for moment in moments if moment and moment > seen.now), default=None)


def compute(resource: ChatDeployment, seen: Seen, refusal: Refusal | None) -> dict[str, Any]:
    """The whole next status, camelCase, without absent fields; equal to the present one when nothing happened."""
    case = case_of(resource, seen, refusal)
    verdict = judge(case)
    generation = resource.metadata.generation or 0
    name, _, why = case.child.get("metadata", {}).get("annotations", {}).get(ANNOTATION_ENGINE, "").partition(": ")
    exists = seen.child is not None
    return dump(
        ServingStatus(
            observed_generation=generation,
            conditions=_conditions(case, verdict, generation),
            url=addresses.page(resource, seen) if exists else None,
            api_url=addresses.api(resource, seen) if exists else None,
            replicas=int(case.child.get("status", {}).get("replicas", 0)),
            ready_replicas=case.ready,
            updated_replicas=len(case.new),
            replicas_display=f"{case.ready}/{case.wanted}" if exists else None,
            selector=f"{LABEL_KIND}={resource.kind},{LABEL_NAME}={resource.metadata.name}",
            engine=EngineStatus(name=name, message=why) if name else None,
            model=_model(case),
            newer=_newer_status(case),
            traffic=traffic.told(seen.traffic),
            resolved_inputs=dict(case.inputs) if exists and case.inputs else case.before.resolved_inputs,
            served_inputs=dict(case.inputs) if _count_ready(case.new) and case.inputs else case.before.served_inputs,
            failure=_failure(verdict),
        )
    )


def _conditions(case: Case, verdict: Verdict, generation: int) -> list[ConditionStatus]:
    states = {
        Condition.READY: case.ready > 0,
        Condition.RECONCILING: verdict.standing is Standing.WORKING,
        Condition.STALLED: verdict.standing is Standing.STUCK,
        Condition.SUSPENDED: verdict.standing is Standing.HELD,
    }
    found = conditions(case.before, case.seen.now, states, verdict.reason, verdict.message, generation)
    lack = case.seen.lack
    if lack is not None:
        inputs = ("False", lack.reason, lack.message)
    elif verdict.reason in INPUTS_MISSING:
        inputs = ("False", verdict.reason, verdict.message)
    elif _count_ready(case.new):
        inputs = ("True", Reason.SERVING, "the model is loaded")
    else:
        inputs = ("Unknown", Reason.PENDING, "the model is not loaded yet")
    return [*found, condition(case.before, case.seen.now, Condition.INPUTS_READY, *inputs, generation)]


def _failure(verdict: Verdict) -> Failure | None:
    cause = verdict.cause
    if cause is None or verdict.standing is not Standing.STUCK:
        return None
    known: dict[str, Any] = {"class": cause.failure_class, "reason": cause.reason.value, "message": cause.message}
    if isinstance(cause, Diagnosis):
        known |= {"exitCode": cause.exit_code, "pod": cause.pod or None, "rank": cause.rank}
    return Failure.model_validate(known)


def _model(case: Case) -> ServedModel | None:
    """Of the newest pods that answer. While only old ones do, what they were said to serve."""
    if case.seen.child is None or not _count_ready(case.new):
        return case.before.model
    if case.chat.spec.endpoint is not None:
        url = case.chat.spec.endpoint.url
        return ServedModel(uri=url, display=url)
    inputs = case.inputs
    model = inputs.get("model")
    if model is None:
        return case.before.model
    others = [one for field, one in inputs.items() if field.startswith("adapters[")]
    return ServedModel(
        uri=model.uri,
        digest=model.digest or _told_digest(case),
        display=" + ".join(_display(one) for one in (model, *others)),
    )


def _told_digest(case: Case) -> str | None:
    """Of a model that no job made, by the engines' own word, where they are of one mind."""
    told = {one.digests.get(case.chat.metadata.name) for one, _ in case.seen.traffic}
    return told.pop() if len(told) == 1 else None


def _display(one: ResolvedInput) -> str:
    return f"{one.uri}@{short(one.digest)}" if one.digest else one.uri


def _newer(inputs: Inputs) -> str:
    """What is held, as a subject; of a producer that failed there is nothing."""
    model = inputs.get("model")
    return f"{_display(model)} is there and " if model else "a newer one "


def _newer_status(case: Case) -> Newer | None:
    held = case.seen.held
    if held is None:
        return None
    model = held.inputs.get("model")
    return Newer(
        uri=model.uri if model else None,
        digest=model.digest if model else None,
        update=token(held.inputs) if held.inputs else None,
        failed=held.failed,
        message=held.message,
    )


# --- Reading ---------------------------------------------------------------------------------------------------------


def _while_serving(case: Case, message: str) -> str:
    return f"{case.serves}, of before; {message}" if case.ready else message


def _too_late(case: Case) -> str:
    limit = case.chat.spec.startup_timeout_seconds
    names = ", ".join(pod["metadata"]["name"] for pod in case.new) or "no pod"
    return one_line(
        f"not ready within startupTimeoutSeconds ({limit} s): see kubectl logs -n {case.chat.metadata.namespace} of {names}, or raise it"
    )


def _is_unseen(child: Object) -> bool:
    """Whether the Deployment controller has not seen the newest spec yet."""
    return int(child.get("status", {}).get("observedGeneration", 0)) < int(child["metadata"].get("generation", 0))


def _is_live(pod: Object) -> bool:
    phase = pod.get("status", {}).get("phase")
    return phase not in ("Succeeded", "Failed") and not pod["metadata"].get("deletionTimestamp")


def _is_ready(pod: Object) -> bool:
    conditions: list[Object] = pod.get("status", {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _count_ready(pods: tuple[Object, ...]) -> int:
    return sum(_is_ready(pod) for pod in pods)


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"
