"""What the operator knows of the cluster: trimmed objects, found by key and by the resource they belong to.

Fed by watches, by the answers to our own writes, and by resyncs, in any order: an older state never replaces a newer one, and
what was deleted stays so.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from alpaca_operator.api import KINDS, Resource, tolerant
from alpaca_operator.api.contract import (
    ANNOTATION_CONFIG,
    CONTAINERS,
    LABEL_KIND,
    LABEL_NAME,
    LABEL_PAGE,
    LABEL_PUSHER,
    LABEL_SCOUT,
)
from alpaca_operator.api.status import Status, is_told
from alpaca_operator.cluster.objects import Object, Pod, controller_of

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
POD_SPEC = ("nodeName", "volumes", "schedulingGates", "terminationGracePeriodSeconds", "activeDeadlineSeconds")
DEPTH = 3
"""Steps from a pod to its resource: by a ReplicaSet and a Deployment. What is further away, or goes in a circle, is nobody's."""
TOMBSTONES = 8192
"""UIDs of deleted objects that are remembered: more than can be under way in late answers."""
SELECTOR = "adapterSelector"
SELECTABLE = frozenset({"SFTJob"})
"""Kinds of jobs that make adapters."""
WHOLE = frozenset({"Deployment"})
"""Children that are held against their plan in every field; there are few."""
SHARED_LENGTH = 64
"""Longer strings are messages and URIs, of which there is one each."""
DELETED_PODS = 2048
"""Ended pods kept per resource after their deletion, until its status has their end: all of a job of many nodes, and those before."""


class Key(NamedTuple):
    """Names an object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Owner(NamedTuple):
    """Names whom an object belongs to. With the namespace: owner references do not reach beyond their own."""

    namespace: str
    uid: str


def as_first_asked_to_stop(pod: Object, known: Object) -> Object:
    """``pod``, with the request to stop as it was ``known`` before.

    The last delete of a pod is the kubelet's. It has no grace, and writes its own time over that of the request: seconds after the
    containers ended, so that a pod which did as it was told would look like one that failed by itself and was cleared away.
    """
    now, before = pod["metadata"], known["metadata"]
    if (
        now["uid"] != before["uid"]
        or now.get("deletionGracePeriodSeconds")
        or not before.get("deletionGracePeriodSeconds")
    ):
        return pod
    kept = {name: before[name] for name in ("deletionTimestamp", "deletionGracePeriodSeconds")}
    return {**pod, "metadata": {**now, **kept}}


class Store:
    """Every lookup is one or two steps in a dict, however many objects there are."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._resources: dict[str, Key] = {}
        self._consumers: dict[Key, set[Key]] = {}
        self._selecting: dict[str, set[Key]] = {}
        """By namespace the resources that select jobs by their labels."""
        self._selectable: dict[str, set[Key]] = {}
        """By namespace the jobs that may be selected."""
        self._owned: dict[Owner, set[Key]] = {}
        self._parents: dict[str, Owner] = {}
        """By UID, whom each object but pods belongs to. Of children that are gone too, as long as there is their resource: they may
        have left pods."""
        self._offspring: dict[str, set[str]] = {}
        self._deleted_pods: dict[Owner, OrderedDict[str, Object]] = {}
        self._running: set[Key] = set()
        self._tombstones: OrderedDict[str, None] = OrderedDict()

    # In.

    def put(self, obj: Object) -> Key | None:
        """Takes a state of an object. The key of the resource to look at, or None when nothing is new."""
        key, metadata = key_of(obj), obj["metadata"]
        if metadata["uid"] in self._tombstones:
            return None
        known = self._objects.get(key)
        if known is not None:
            if not is_newer(version(obj), version(known)):
                return None
            if known["metadata"]["uid"] != metadata["uid"]:
                self.remove(known)
        trimmed = trim(obj) if known is None else as_first_asked_to_stop(trim(obj), known)
        self._objects[key] = trimmed
        if key.kind in KINDS:
            self._resources[metadata["uid"]] = key
            for producer in producers(trimmed):
                self._consumers.setdefault(producer, set()).add(key)
            if selects(trimmed):
                self._selecting.setdefault(key.namespace, set()).add(key)
            if key.kind in SELECTABLE:
                self._selectable.setdefault(key.namespace, set()).add(key)
            return key
        owner = owner_of(obj)
        if known is not None and owner_of(known) != owner:
            self._disown(key, owner_of(known))
        self._owned.setdefault(owner, set()).add(key)
        if key.kind == "Pod":
            pod = Pod(trimmed)
            tells = pod.is_running and pod.index == 0 and not is_aside(trimmed)
            (self._running.add if tells else self._running.discard)(key)
        elif owner.uid:
            self._parents[metadata["uid"]] = owner
            self._offspring.setdefault(owner.uid, set()).add(metadata["uid"])
        return self._root(owner)

    def remove(self, obj: Object) -> Key | None:
        """Takes the end of an object, with its last state. The key of the resource to look at, or None when nothing is new."""
        key, uid = key_of(obj), obj["metadata"]["uid"]
        self._tombstones[uid] = None
        if len(self._tombstones) > TOMBSTONES:
            self._tombstones.popitem(last=False)
        known = self._objects.get(key)
        if known is None or known["metadata"]["uid"] != uid:
            return None
        del self._objects[key]
        if key.kind in KINDS:
            self._resources.pop(uid, None)
            self._deleted_pods.pop(Owner(key.namespace, uid), None)
            for child in self._descendants(uid):
                self._forget(child)
            for producer in producers(known):
                consumers = self._consumers.get(producer, set())
                consumers.discard(key)
                if not consumers:
                    self._consumers.pop(producer, None)
            for by_namespace in (self._selecting, self._selectable):
                if (there := by_namespace.get(key.namespace)) is not None:
                    there.discard(key)
                    if not there:
                        del by_namespace[key.namespace]
            return key
        owner = owner_of(known)
        self._disown(key, owner)
        self._running.discard(key)
        resource = self._root(owner)
        if key.kind != "Pod":
            if resource is None:
                self._forget(uid)
        elif resource is not None:
            last = as_first_asked_to_stop(trim(obj), known) if is_newer(version(obj), version(known)) else known
            self._remember(resource, last)
        return resource or self._successor(known)

    def replace(self, kind: str, uid: str, found: list[Object]) -> None:
        """Takes all that a resource owns of one kind, read just now: what is not among it is gone."""
        present = {obj["metadata"]["uid"] for obj in found}
        for obj in self.owned(kind, uid):
            if obj["metadata"]["uid"] not in present:
                self.remove(obj)
        for obj in found:
            self.put(obj)

    def _root(self, owner: Owner) -> Key | None:
        """The resource that an object belongs to, by owner references all the way. A child is none by its labels: those are copied."""
        for _ in range(DEPTH):
            if key := self._resources.get(owner.uid):
                return key if key.namespace == owner.namespace else None
            parent = self._parents.get(owner.uid)
            if parent is None or parent.namespace != owner.namespace:
                return None
            owner = parent
        return None

    def _descendants(self, uid: str) -> list[str]:
        """UIDs of what belongs to it and is no pod, near ones first."""
        found: list[str] = []
        level = {uid}
        for _ in range(DEPTH):
            level = {each for one in level for each in self._offspring.get(one, ())}
            found += level
        return found

    def _disown(self, key: Key, owner: Owner) -> None:
        siblings = self._owned[owner]
        siblings.discard(key)
        if not siblings:
            del self._owned[owner]

    def _forget(self, uid: str) -> None:
        """That this object belonged to anybody, or anything to it."""
        self._offspring.pop(uid, None)
        parent = self._parents.pop(uid, None)
        if parent is not None and (siblings := self._offspring.get(parent.uid)):
            siblings.discard(uid)
            if not siblings:
                del self._offspring[parent.uid]

    def _successor(self, child: Object) -> Key | None:
        """The resource that has taken the name of the child's own: it waits for the child's name to be free."""
        labels = child["metadata"].get("labels") or {}
        key = Key(labels.get(LABEL_KIND, ""), child["metadata"]["namespace"], labels.get(LABEL_NAME, ""))
        return key if key in self._objects else None

    def _remember(self, resource: Key, pod: Object) -> None:
        if is_aside(pod) or not has_ended(Pod(pod)):
            return
        owner = Owner(resource.namespace, self._objects[resource]["metadata"]["uid"])
        departed = self._deleted_pods.setdefault(owner, OrderedDict())
        departed[pod["metadata"]["uid"]] = pod
        if len(departed) > DELETED_PODS:
            departed.popitem(last=False)

    # Out.

    def raw(self, key: Key) -> Object | None:
        """The object as the API server sent it, trimmed. Not to be changed."""
        return self._objects.get(key)

    def is_deleted(self, obj: Object) -> bool:
        """Whether the object is known to have been deleted."""
        return obj["metadata"]["uid"] in self._tombstones

    def resource(self, key: Key) -> Resource | None:
        """The typed resource, as ``read`` gives it."""
        return self.read(key)[0]

    def read(self, key: Key) -> tuple[Resource | None, tuple[tolerant.Path, ...]]:
        """The typed resource, without fields that another version has, and without what cannot be read of its status; and which these are.
        Raises pydantic's ValidationError when the API server holds what our models refuse.

        Read anew each time: that takes a tenth of a millisecond, and to keep it as much memory as all else that is kept of it.
        """
        raw = self._objects.get(key)
        return (None, ()) if raw is None else tolerant.read(KINDS[key.kind], raw, _is_of_another_version)

    def consumers(self, key: Key) -> list[Key]:
        """The resources that read what this one makes, or may select it; it need not exist yet."""
        selecting = self._selecting.get(key.namespace, ()) if key.kind in SELECTABLE else ()
        return list(self._consumers.get(key, set()).union(selecting))

    def selectable(self, namespace: str) -> list[Key]:
        """The jobs there that a selector may take."""
        return list(self._selectable.get(namespace, ()))

    def resources(self) -> Iterator[Key]:
        return iter(tuple(self._resources.values()))

    def is_new(self, key: Key) -> bool:
        """Whether nobody has looked at the resource yet: nothing is told of it, and it has nothing of its own."""
        raw = self._objects.get(key)
        if raw is None or key.kind not in KINDS or is_told(raw.get("status") or {}):
            return False
        return Owner(key.namespace, raw["metadata"]["uid"]) not in self._owned

    def keys(self, kind: str) -> list[Key]:
        return [key for key in self._objects if key.kind == kind]

    def children(self, resource: Resource) -> list[Object]:
        """Objects other than pods that belong to the resource."""
        return [self._objects[key] for key in self._owned.get(_owner(resource), ()) if key.kind != "Pod"]

    def pods(self, resource: Resource) -> list[Object]:
        """Its pods, oldest first: those in the cluster, and those deleted after they had ended, in their last state, until the
        status has them."""
        owner = _owner(resource)
        live = self.owned("Pod", owner.uid)
        departed = self._deleted_pods.get(owner)
        if departed:
            attempts = resource.status.attempts if isinstance(resource.status, Status) else ()
            told = {attempt.uid for attempt in attempts}
            for uid, pod in list(departed.items()):
                if uid in told or Pod(pod).controller_uid in told:  # of several pods the attempt is their Job's
                    del departed[uid]
            live += departed.values()
        return sorted(live, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))

    def of(self, kind: str, parent: Object) -> list[Object]:
        """What belongs to an object itself."""
        owner = Owner(parent["metadata"]["namespace"], parent["metadata"]["uid"])
        return [self._objects[key] for key in self._owned.get(owner, ()) if key.kind == kind]

    def family(self, child: Object) -> frozenset[str]:
        """UIDs of all that belongs to a child and is no pod; of what is gone too, as long as there is its resource."""
        return frozenset(self._descendants(child["metadata"]["uid"]))

    def owned(self, kind: str, uid: str) -> list[Object]:
        """All of one kind that belongs to the resource with this UID, near or far."""
        resource = self._resources.get(uid)
        if resource is None:
            return []
        owners = [uid, *self._descendants(uid)]
        keys = [key for one in owners for key in self._owned.get(Owner(resource.namespace, one), ())]
        return [self._objects[key] for key in keys if key.kind == kind]

    def running(self) -> Iterator[tuple[Key, Object]]:
        """Pods that run, of several that work together the first node's, each with the resource it belongs to."""
        for key in tuple(self._running):
            pod = self._objects[key]
            resource = self._root(owner_of(pod))
            if resource is not None:
                yield resource, pod


def _is_of_another_version(kind: str, path: tolerant.Path) -> bool:
    return kind == "extra_forbidden" or path[:1] == ("status",)


def key_of(obj: Object) -> Key:
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def version(obj: Object) -> str:
    return str(obj["metadata"]["resourceVersion"])


def is_newer(one: str, other: str) -> bool:
    """Orders the states of an object by their resourceVersion. Kubernetes says of its own that they are decimal numbers that grow; of
    an API server that has others nothing is known but that another state is another."""
    if one.isdecimal() and other.isdecimal():
        return int(one) > int(other)
    return one != other


def owner_of(obj: Object) -> Owner:
    """Whom an object says that it belongs to: its controller, which the API server and its garbage collector go by. A child of a resource
    bears the name that its resource gives it: a copy under another name has the same owner and was not made for it."""
    metadata = obj["metadata"]
    owner = controller_of(obj)
    if owner is None or (owner["kind"] in KINDS and not _is_named_by(owner, obj)):
        return Owner(metadata["namespace"], "")
    return Owner(metadata["namespace"], owner["uid"])


def _is_named_by(resource: Object, child: Object) -> bool:
    """``resource``: the reference to it. No pod is made by one itself."""
    name = f"{resource.get('name')}-{KINDS[resource['kind']].workload}"
    named: tuple[str, ...] = (name,)
    if is_scout(child):
        named = (f"{name}-scout",)
    elif is_pusher(child):
        named = (f"{name}-pub",)
    elif is_of_page(child):
        named = (f"{name}-page", f"{name}-pods")
    return child["kind"] != "Pod" and str(child["metadata"]["name"]) in named


def is_scout(obj: Object) -> bool:
    """Whether it only looks for room."""
    return LABEL_SCOUT in (obj["metadata"].get("labels") or {})


def is_pusher(obj: Object) -> bool:
    """Whether it only pushes what its job has made."""
    return LABEL_PUSHER in (obj["metadata"].get("labels") or {})


def is_of_page(obj: Object) -> bool:
    """Whether it belongs to a page in pods of its own."""
    return LABEL_PAGE in (obj["metadata"].get("labels") or {})


def is_aside(obj: Object) -> bool:
    """Whether it does something else than the work of its job, or of its engine."""
    return is_scout(obj) or is_pusher(obj) or is_of_page(obj)


def producers(resource: Object) -> Iterator[Key]:
    """Every job that a ``from`` of the resource names. Found by its shape alone: what is no ``from`` wakes somebody for nothing."""
    yield from _named(resource.get("spec"), resource["metadata"]["namespace"])


def _named(part: Any, namespace: str) -> Iterator[Key]:
    if isinstance(part, list):
        for each in part:
            yield from _named(each, namespace)
    elif isinstance(part, dict):
        named = part.get("from")
        if isinstance(named, dict) and named.keys() >= {"kind", "name"}:
            yield Key(named["kind"], namespace, named["name"])
        for each in part.values():
            yield from _named(each, namespace)


def selects(resource: Object) -> bool:
    """Whether it takes jobs by their labels. One that does no more is woken for nothing."""
    return SELECTOR in (resource.get("spec") or {})


def has_ended(pod: Pod) -> bool:
    """A drained pod may be gone before its phase is written; its container has ended then."""
    return pod.is_over or any(one.name in CONTAINERS and one.terminated for one in pod.containers)


def trim(obj: Object) -> Object:
    """The object without what nobody here reads, and with equal strings held once: a quarter of its memory."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    if annotations := metadata.get("annotations"):
        dropped = (LAST_APPLIED, ANNOTATION_CONFIG)
        metadata["annotations"] = {name: value for name, value in annotations.items() if name not in dropped}
    trimmed = {**obj, "metadata": metadata}
    spec = obj.get("spec", {})
    if obj["kind"] == "Pod":
        trimmed["spec"] = {name: spec[name] for name in POD_SPEC if name in spec}
        trimmed["spec"]["containers"] = [
            {name: container[name] for name in ("name", "image", "resources") if name in container}
            for container in spec.get("containers", ())
        ]
    elif obj["kind"] not in KINDS and obj["kind"] not in WHOLE:
        trimmed["spec"] = {name: value for name, value in spec.items() if name != "template"}
        if sets := spec.get("replicatedJobs"):
            trimmed["spec"]["replicatedJobs"] = [_without_pod(one) for one in sets]
    shared: Object = _shared(trimmed)
    return shared


def _without_pod(replicated: Object) -> Object:
    """A Job of a JobSet."""
    spec = {name: value for name, value in replicated["template"]["spec"].items() if name != "template"}
    return {**replicated, "template": {"spec": spec}}


def _shared(value: Any) -> Any:
    """Each answer of the API server brings its own copies of the same names and values."""
    if isinstance(value, dict):
        return {sys.intern(name): _shared(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shared(each) for each in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= SHARED_LENGTH else value


def _owner(resource: Resource) -> Owner:
    return Owner(resource.metadata.namespace or "", resource.metadata.uid or "")
