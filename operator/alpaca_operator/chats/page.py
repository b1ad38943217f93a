"""Pure: whether the page of a deployment answers in pods of its own, and why not."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import LABEL_REVISION
from alpaca_operator.api.status import Reason
from alpaca_operator.chats.adapters import State
from alpaca_operator.chats.crash import crash
from alpaca_operator.cluster.objects import Pod, condition, true_condition
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.refusals import exit_of_report
from alpaca_operator.outcomes.observed import Observed, PageApart, holds_page


def available(chat: ChatDeployment, observed: Observed) -> State | None:
    """What the condition says of it; None where the spec has the page in the engine's pods."""
    if chat.spec.page.replicas is None:
        return None
    page = observed.page
    if page is None:
        return "False", Reason.PENDING, "waits for its pods to start"
    labels = page.raw["spec"].get("template", {}).get("metadata", {}).get("labels", {})
    new = [pod for pod in page.live if pod.labels.get(LABEL_REVISION) == labels.get(LABEL_REVISION)]
    wanted, ready = int(page.raw["spec"]["replicas"]), sum(pod.is_ready for pod in page.live)
    answers = f"the page answers on {ready} of {wanted} {'pod' if wanted == 1 else 'pods'}"
    if sum(pod.is_ready for pod in new) >= max(wanted, 1):
        return "True", Reason.SERVING, answers
    reason, why = _hindrance(page, observed, new)
    if ready:
        return "True", Reason.DEGRADED, f"{answers}: {why or 'others start'}"
    meanwhile = any(pod.is_ready and holds_page(pod) for pod in observed.pods)
    why = why or "waits for its pods to start"
    return "False", reason, f"{why}; until then the engine's pods have the page" if meanwhile else why


def _hindrance(page: PageApart, observed: Observed, new: list[Pod]) -> tuple[Reason, str]:
    """What keeps new pods from answering; an empty line where nothing does."""
    troubles = (crash(pod, observed.now) or diagnose(pod, observed.now) for pod in new if not pod.is_ready)
    if (trouble := next((one for one in troubles if one), None)) is not None:
        return trouble.reason, _by_its_fields(trouble.message)
    failed = true_condition(page.raw, "ReplicaFailure")
    if failed is not None and (refusal := exit_of_report(failed.message, again="")) is not None:
        return refusal.reason, _by_its_fields(refusal.message)
    if condition(page.raw, "Progressing").reason == "ProgressDeadlineExceeded":
        names = ", ".join(pod.name for pod in new if not pod.is_ready) or "no pod"
        namespace = page.raw["metadata"]["namespace"]
        return Reason.DEADLINE_EXCEEDED, f"not ready for ten minutes: see kubectl logs -n {namespace} of {names}"
    return Reason.PENDING, ""


ITS_FIELDS = {
    "pod.nodeSelector or pod.affinity": "page.nodeSelector",
    "pod.tolerations": "page.tolerations",
    "pod.resources": "page.resources",
    "pod.image ": "page.image ",
}
"""What has to be changed is named as of every pod, and the page has fields of its own for these."""


def _by_its_fields(message: str) -> str:
    for field, its in ITS_FIELDS.items():
        message = message.replace(field, its)
    return message
