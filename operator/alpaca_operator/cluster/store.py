"""What the operator knows of the cluster: trimmed objects, found by key and by the resource they belong to.

Fed by watches, by the answers to our own writes, and by resyncs, in any order: an older state never replaces a newer one, and
what was deleted stays so.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.contract import ANNOTATION_CONFIG, LABEL_KIND, LABEL_NAME, LABEL_UID
from alpaca_operator.api.status import Status
from alpaca_operator.cluster.objects import Object, Pod, controller_of

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
POD_SPEC = ("nodeName", "volumes", "schedulingGates", "terminationGracePeriodSeconds")
TOMBSTONES = 8192
"""UIDs of deleted objects that are remembered: more than can be under way in late answers."""
WHOLE = frozenset({"Deployment"})
"""Children that are held against their plan in every field; there are few."""
SHARED_LENGTH = 64
"""Longer strings are messages and URIs, of which there is one each."""
DELETED_PODS = 32
"""Ended pods kept per resource after their deletion, until its status has their end."""


class Key(NamedTuple):
    """Names an object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Owner(NamedTuple):
    """Names whom a child belongs to. With the namespace: a label alone could claim a resource of another one."""

    namespace: str
    uid: str


class Store:
    """Every lookup is one or two steps in a dict, however many objects there are."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._resources: dict[str, Key] = {}
        self._consumers: dict[Key, set[Key]] = {}
        self._owned: dict[Owner, set[Key]] = {}
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
        trimmed = trim(obj)
        self._objects[key] = trimmed
        if key.kind in KINDS:
            self._resources[metadata["uid"]] = key
            for producer in producers(trimmed):
                self._consumers.setdefault(producer, set()).add(key)
            return key
        owner = owner_of(obj)
        self._owned.setdefault(owner, set()).add(key)
        if key.kind == "Pod":
            (self._running.add if Pod(trimmed).is_running else self._running.discard)(key)
        return self._resources.get(owner.uid)

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
            for producer in producers(known):
                consumers = self._consumers.get(producer, set())
                consumers.discard(key)
                if not consumers:
                    self._consumers.pop(producer, None)
            return key
        owner = owner_of(known)
        siblings = self._owned[owner]
        siblings.discard(key)
        if not siblings:
            del self._owned[owner]
        self._running.discard(key)
        if key.kind == "Pod" and owner.uid in self._resources:
            self._remember(owner, trim(obj) if is_newer(version(obj), version(known)) else known)
        return self._resources.get(owner.uid) or self._successor(known)

    def replace(self, kind: str, namespace: str, uid: str, found: list[Object]) -> None:
        """Takes all that a resource owns of one kind, read just now: what is not among it is gone."""
        present = {obj["metadata"]["uid"] for obj in found}
        for key in [key for key in self._owned.get(Owner(namespace, uid), ()) if key.kind == kind]:
            if self._objects[key]["metadata"]["uid"] not in present:
                self.remove(self._objects[key])
        for obj in found:
            self.put(obj)

    def _successor(self, child: Object) -> Key | None:
        """The resource that has taken the name of the child's own: it waits for the child's name to be free."""
        labels = child["metadata"].get("labels") or {}
        key = Key(labels.get(LABEL_KIND, ""), child["metadata"]["namespace"], labels.get(LABEL_NAME, ""))
        return key if key in self._objects else None

    def _remember(self, owner: Owner, pod: Object) -> None:
        if not has_ended(Pod(pod)):
            return
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
        """The typed resource. Raises pydantic's ValidationError when the API server holds what our models refuse.

        Read anew each time: that takes a tenth of a millisecond, and to keep it as much memory as all else that is kept of it.
        """
        raw = self._objects.get(key)
        return None if raw is None else KINDS[key.kind].model_validate(raw)

    def consumers(self, key: Key) -> list[Key]:
        """The resources that read what this one makes; it need not exist yet."""
        return list(self._consumers.get(key, ()))

    def resources(self) -> Iterator[Key]:
        return iter(tuple(self._resources.values()))

    def is_new(self, key: Key) -> bool:
        """Whether nobody has looked at the resource yet: it has no status, and nothing of its own."""
        raw = self._objects.get(key)
        if raw is None or key.kind not in KINDS or "conditions" in (raw.get("status") or {}):
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
        live = [self._objects[key] for key in self._owned.get(owner, ()) if key.kind == "Pod"]
        departed = self._deleted_pods.get(owner)
        if departed:
            for attempt in resource.status.attempts if isinstance(resource.status, Status) else ():
                departed.pop(attempt.uid, None)
            live += departed.values()
        return sorted(live, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))

    def running(self) -> Iterator[tuple[Key, Object]]:
        """Pods that run, each with the resource it belongs to."""
        for key in tuple(self._running):
            pod = self._objects[key]
            resource = self._resources.get(owner_of(pod).uid)
            if resource is not None:
                yield resource, pod


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
    """Whom an object belongs to. A child says so in its owner reference, which the API server and its garbage collector go by: a label
    is easily copied. Pods are two steps away from us, and not all that is between is watched; they go by the label of their template."""
    metadata = obj["metadata"]
    if obj["kind"] == "Pod":
        return Owner(metadata["namespace"], (metadata.get("labels") or {}).get(LABEL_UID, ""))
    owner = controller_of(obj)
    return Owner(metadata["namespace"], owner["uid"] if owner and owner["kind"] in KINDS else "")


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


def has_ended(pod: Pod) -> bool:
    """A drained pod may be gone before its phase is written; its container has ended then."""
    return pod.is_over or bool(pod.terminated)


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
    shared: Object = _shared(trimmed)
    return shared


def _shared(value: Any) -> Any:
    """Each answer of the API server brings its own copies of the same names and values."""
    if isinstance(value, dict):
        return {sys.intern(name): _shared(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shared(each) for each in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= SHARED_LENGTH else value


def _owner(resource: Resource) -> Owner:
    return Owner(resource.metadata.namespace or "", resource.metadata.uid or "")
