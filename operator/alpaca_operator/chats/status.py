"""Pure: (deployment, observed) -> the next status, and what the deployment wants of its children."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ANNOTATION_ENGINE, LABEL_KIND, LABEL_NAME
from alpaca_operator.api.serving import EngineStatus, Newer, ServingStatus
from alpaca_operator.api.status import Condition, ConditionStatus, Reason
from alpaca_operator.chats import adapters, addresses, page, traffic
from alpaca_operator.chats.case import Case, case_of, count_ready, model_of
from alpaca_operator.chats.exposure import unlocked
from alpaca_operator.chats.updates import token
from alpaca_operator.chats.verdicts import judge
from alpaca_operator.diagnosis import changes_at
from alpaca_operator.exits import Exit
from alpaca_operator.outcomes.conditions import InputsReady, condition, conditions, dump, inputs_ready
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.outcomes.verdict import Desired, Standing, Verdict, failure_of, while_unavailable


def desired(resource: ChatDeployment, observed: Observed) -> Desired:
    """Without what the spec asks for, what is there goes on."""
    return Desired.UNCHANGED if resource.metadata.deletion_timestamp or observed.missing else Desired.PRESENT


def requeue_after(resource: ChatDeployment, observed: Observed) -> timedelta | None:
    """Once more, too, after it was told that only a person can help: an update may then give its place back."""
    stalled = (
        any(one.type == Condition.STALLED and one.status == "True" for one in resource.status.conditions)
        if resource.status
        else False
    )
    if not stalled and judge(case_of(resource, observed, None)).standing is Standing.STUCK:
        return timedelta(seconds=1)
    pods = (*observed.pods, *(observed.page.pods if observed.page else ()))
    moments = [changes_at(pod, observed.now) for pod in pods]
    return min((moment - observed.now for moment in moments if moment and moment > observed.now), default=None)


def compute(resource: ChatDeployment, observed: Observed, exit: Exit | None) -> dict[str, Any]:
    """The whole next status, camelCase, without absent fields; equal to the present one when nothing happened."""
    case = case_of(resource, observed, exit)
    verdict = while_unavailable(judge(case), exit)
    generation = resource.metadata.generation or 0
    name, _, why = case.child.get("metadata", {}).get("annotations", {}).get(ANNOTATION_ENGINE, "").partition(": ")
    exists = observed.child is not None
    return dump(
        ServingStatus(
            observed_generation=generation,
            conditions=_conditions(case, verdict, generation),
            url=addresses.page(resource, observed) if exists else None,
            api_url=addresses.api(resource, observed) if exists else None,
            replicas=int(case.child.get("status", {}).get("replicas", 0)),
            ready_replicas=case.ready,
            updated_replicas=len(case.new),
            replicas_display=f"{case.ready}/{case.wanted}" if exists else None,
            selector=f"{LABEL_KIND}={resource.kind},{LABEL_NAME}={resource.metadata.name}",
            engine=EngineStatus(name=name, message=why) if name else None,
            model=model_of(case),
            newer=_newer_status(case),
            traffic=traffic.total(observed.traffic),
            resolved_inputs=dict(case.inputs) if exists and case.inputs else case.before.resolved_inputs,
            served_inputs=dict(case.inputs) if count_ready(case.new) and case.inputs else case.before.served_inputs,
            failure=failure_of(verdict.cause) if verdict.standing is Standing.STUCK else None,
        )
    )


def _conditions(case: Case, verdict: Verdict, generation: int) -> list[ConditionStatus]:
    states = {
        Condition.READY: case.ready > 0,
        Condition.RECONCILING: verdict.standing is Standing.WORKING,
        Condition.STALLED: verdict.standing is Standing.STUCK,
        Condition.SUSPENDED: verdict.standing is Standing.HELD,
    }
    loaded: InputsReady = ("Unknown", Reason.PENDING, "the model is not loaded yet")
    if count_ready(case.new):
        loaded = ("True", Reason.SERVING, "the model is loaded")
    inputs = inputs_ready(case.observed.missing, verdict, loaded)
    found = conditions(case.before, case.observed.now, generation, verdict, states, inputs)
    known = next((one for one in case.before.conditions if one.type == Condition.ADAPTERS_LOADED), None)
    if state := adapters.loaded(case.observed, known if case.ready else None):
        found.append(condition(case.before, case.observed.now, generation, Condition.ADAPTERS_LOADED, *state))
    if state := page.available(case.chat, case.observed):
        found.append(condition(case.before, case.observed.now, generation, Condition.PAGE_AVAILABLE, *state))
    if why := unlocked(case.chat, case.observed):
        now = case.observed.now
        found.append(condition(case.before, now, generation, Condition.EXPOSED, "True", Reason.WITHOUT_AUTH, why))
    return found


def _newer_status(case: Case) -> Newer | None:
    held = case.observed.held
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
