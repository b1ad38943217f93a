"""Where the page of a deployment is, and which way it moves when the spec changes its mind: the place that it leaves is kept until the other
one answers."""

from __future__ import annotations

from enum import Enum, auto

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import PAGE_CONTAINER
from alpaca_operator.outcomes.observed import Observed, holds_page


class PageAt(Enum):
    """Where pods have the page."""

    WITHIN = auto()
    """In the engine's."""
    APART = auto()
    """In some of its own."""
    MOVING_OUT = auto()
    """In the engine's still, where people are led, and in some of its own, which do not answer yet."""
    MOVING_IN = auto()
    """In some of its own still, where people are led, and in the engine's, which do not answer yet."""

    @property
    def is_within(self) -> bool:
        return self is not PageAt.APART

    @property
    def is_apart(self) -> bool:
        return self is not PageAt.WITHIN

    @property
    def is_led_apart(self) -> bool:
        """Whether people are led to pods of its own."""
        return self in (PageAt.APART, PageAt.MOVING_IN)


def page_at(chat: ChatDeployment, observed: Observed | None) -> PageAt:
    """``observed``: None of a deployment that nobody has looked at, which has nothing to move."""
    wanted_apart = chat.spec.page.replicas is not None
    if observed is None:
        return PageAt.APART if wanted_apart else PageAt.WITHIN
    within = answers_within(observed)
    child = (observed.child or {}).get("spec", {})
    if wanted_apart:
        # Once the engine's plan has lost the page it does not come back because pods of the page fail: that would start the engine anew.
        containers = child.get("template", {}).get("spec", {}).get("containers", ())
        planned_within = any(one.get("name") == PAGE_CONTAINER for one in containers)
        answers_apart = observed.page is not None and observed.page.answers
        leaves = planned_within and within and not answers_apart
        return PageAt.MOVING_OUT if leaves else PageAt.APART
    # Where no pod of the engine is wanted there is none to wait for.
    comes = observed.page is not None and child.get("replicas", chat.spec.replicas) > 0 and not within
    return PageAt.MOVING_IN if comes else PageAt.WITHIN


def answers_within(observed: Observed | None) -> bool:
    """Whether a pod of the engine has the page, and is ready. Also once the plan has lost it: those of before stay until others have loaded."""
    pods = observed.pods if observed else ()
    return any(pod.is_ready and holds_page(pod) for pod in pods if not (pod.is_over or pod.deletion_timestamp))
