"""Pure: the cluster as one reconcile sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from alpaca_operator.api.contract import PAGE_CONTAINER, Progress
from alpaca_operator.cluster.objects import Object, Pod
from alpaca_operator.exits import Exit
from alpaca_operator.inputs import HeldUpdate, Inputs, MissingInput


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of one pod at one time."""

    requests: int = 0
    refused: int = 0
    running: int = 0
    queued: int = 0
    tokens: float = 0
    """Of answers, since the pod started."""
    tokens_per_second: float = 0
    """Since the sample before."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What each model is, by its name in the API, where the engine says so."""

    adapters_refused: Mapping[str, str] = field(default_factory=dict)
    """By their names adapters that are listed and not served, and why."""

    def after(self, before: Sample, seconds: float) -> Sample:
        """With the speed since an earlier sample of the same pod; a pod that started again counts from nothing."""
        made = self.tokens - before.tokens
        return replace(self, tokens_per_second=max(0.0, made / seconds)) if seconds > 0 else self


@dataclass(frozen=True, slots=True)
class QueueWords:
    """What a queueing system says of a child that it holds."""

    known: bool = True
    """Whether it has taken it up."""
    why: str = ""
    """Why there is no room yet, in its own words."""
    evicted: str = ""
    """Why it took the place back."""
    place: int | None = None
    """In its queue, from 1, where that is told."""


@dataclass(frozen=True, slots=True)
class Scout:
    """A Job that finds out whether there is room for more nodes: its pods ask for what those would, and do nothing."""

    raw: Object
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True)
class Pusher:
    """A Job that pushes what its job has made to the places of `publish`."""

    raw: Object
    pods: tuple[Pod, ...] = ()


def holds_page(pod: Pod) -> bool:
    """Whether the chat page runs in it."""
    return any(one.get("name") == PAGE_CONTAINER for one in pod.spec.get("containers") or ())


@dataclass(frozen=True, slots=True)
class PageApart:
    """A Deployment whose pods hold the page of a deployment alone."""

    raw: Object
    pods: tuple[Pod, ...] = ()

    @property
    def live(self) -> tuple[Pod, ...]:
        """Without those on their way out."""
        return tuple(pod for pod in self.pods if not (pod.is_over or pod.deletion_timestamp))

    @property
    def answers(self) -> bool:
        return any(pod.is_ready for pod in self.live)


@dataclass(frozen=True, slots=True)
class Observed:
    """The cluster as one reconcile sees it."""

    now: datetime
    child: Object | None = None
    jobs: tuple[Object, ...] = ()
    """Jobs that belong to the child, where it is none itself."""
    family: frozenset[str] = frozenset()
    """UIDs of all that has ever belonged to the child and makes pods; of what is gone too."""
    pods: tuple[Pod, ...] = ()
    """Oldest first."""
    scout: Scout | None = None
    """What looks for room for more nodes."""
    pusher: Pusher | None = None
    """What pushes the output."""
    page: PageApart | None = None
    """The page of a deployment, where it has pods of its own; not one that is being deleted."""
    gates: Mapping[int, MissingInput] = field(default_factory=dict)
    """By the number of a place of `publish`, why nothing is pushed there yet."""
    progress: Progress | None = None
    """What the running pod last told."""
    progress_at: datetime | None = None
    answers_foul: bool = False
    """Whether a running pod answers what no workload does."""
    refusal: Exit | None = None
    """Why the child has no pod, where its controller was refused one."""
    queue: QueueWords | None = None
    """What the queue says that holds the child, where it was asked."""
    inputs: Inputs = field(default_factory=dict)
    """Those that other jobs make: as they were at the start, or as they are now before it."""
    missing: MissingInput | None = None
    """Why not all of those are there."""
    held: HeldUpdate | None = None
    """What a deployment could serve of them, and does not."""
    passed_over: tuple[str, ...] = ()
    """Jobs that a selector of a deployment takes nothing from, and why."""
    other_children: tuple[Object, ...] = ()
    """Children that make no pods."""
    traffic: tuple[tuple[Sample, datetime], ...] = ()
    """What the pods of a deployment last told."""
