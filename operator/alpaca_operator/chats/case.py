"""Pure: a deployment, what was observed of it, and what follows from both: read by every verdict."""

from __future__ import annotations

from dataclasses import dataclass

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import LABEL_REVISION
from alpaca_operator.api.serving import ServedModel, ServingStatus
from alpaca_operator.api.status import ResolvedInput
from alpaca_operator.api.text import fitted
from alpaca_operator.chats.crash import crash
from alpaca_operator.chats.updates import served_inputs
from alpaca_operator.cluster.objects import Object, Pod, condition
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.exits import Exit
from alpaca_operator.inputs import Inputs, short
from alpaca_operator.outcomes.observed import Observed

DISPLAY_LIMIT = 1024
"""Characters of what kubectl shows of a model: a name may have as many itself, and there may be several."""


@dataclass(frozen=True, slots=True)
class Case:
    """A deployment, what was observed of it, and what follows from both: read by every verdict."""

    chat: ChatDeployment
    observed: Observed
    exit: Exit | None
    before: ServingStatus
    new: tuple[Pod, ...]
    """Pods of the newest spec and model that are not on their way out."""
    old: tuple[Pod, ...]
    """Pods of an earlier one."""
    trouble: Diagnosis | None
    """Why a new pod does not answer."""

    @property
    def child(self) -> Object:
        return self.observed.child or {}

    @property
    def wanted(self) -> int:
        replicas = self.child.get("spec", {}).get("replicas")
        return self.chat.spec.replicas if replicas is None else int(replicas)

    @property
    def ready(self) -> int:
        """Pods that answer, new or old."""
        return count_ready((*self.new, *self.old))

    @property
    def inputs(self) -> Inputs:
        """Of the newest pods. What was refused was not written: they are still of what the child says."""
        return self.observed.inputs if self.exit is None else served_inputs(self.chat, self.observed.child)

    @property
    def deadline_exceeded(self) -> bool:
        """The Deployment controller has seen nothing become ready for longer than a pod may take."""
        return condition(self.child, "Progressing").reason == "ProgressDeadlineExceeded"

    @property
    def hopeless(self) -> bool:
        """Whether only a person can help the new pods."""
        ended = self.trouble is not None and self.trouble.ended
        return self.deadline_exceeded or (ended and self.trouble is not None and not self.trouble.retried)

    @property
    def serves(self) -> str:
        model = model_of(self)
        what = (model and model.display) or "the model"
        return f"serves {what} on {self.ready} of {_pods(self.wanted)}"


def case_of(chat: ChatDeployment, observed: Observed, exit: Exit | None) -> Case:
    labels = (observed.child or {}).get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
    revision = labels.get(LABEL_REVISION)
    live = [pod for pod in observed.pods if not pod.is_over and not pod.deletion_timestamp]
    new = tuple(pod for pod in live if pod.labels.get(LABEL_REVISION) == revision)
    waiting = [pod for pod in new if not pod.is_ready]
    troubles = (crash(pod, observed.now) or diagnose(pod, observed.now) for pod in waiting)
    return Case(
        chat=chat,
        observed=observed,
        exit=exit,
        before=chat.status or ServingStatus(),
        new=new,
        old=tuple(pod for pod in live if pod not in new),
        trouble=next((one for one in troubles if one), None),
    )


def model_of(case: Case) -> ServedModel | None:
    """Of the newest pods that answer. While only old ones do, what they were said to serve."""
    if case.observed.child is None or not count_ready(case.new):
        return case.before.model
    if case.chat.spec.endpoint is not None:
        url = case.chat.spec.endpoint.url
        return ServedModel(uri=url, display=url)
    inputs = case.inputs
    model = inputs.get("model")
    if model is None:
        return case.before.model
    adapters = [one for field, one in inputs.items() if field.startswith("adapters[")]
    return ServedModel(
        uri=model.uri,
        digest=model.digest or _reported_digest(case),
        display=fitted(" + ".join(display(one) for one in (model, *adapters)), DISPLAY_LIMIT),
    )


def _reported_digest(case: Case) -> str | None:
    """Of a model that no job made, by the engines' own word, where they are of one mind."""
    reported = {one.digests.get(case.chat.metadata.name) for one, _ in case.observed.traffic}
    return reported.pop() if len(reported) == 1 else None


def display(one: ResolvedInput) -> str:
    return f"{one.uri}@{short(one.digest)}" if one.digest else one.uri


def is_unseen(child: Object) -> bool:
    """Whether the Deployment controller has not seen the newest spec yet."""
    return int(child.get("status", {}).get("observedGeneration", 0)) < int(child["metadata"].get("generation", 0))


def count_ready(pods: tuple[Pod, ...]) -> int:
    return sum(pod.is_ready for pod in pods)


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"
