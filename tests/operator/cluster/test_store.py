"""The store finds everything by key or by owner, and cannot be led back in time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from alpaca_operator.api.contract import ANNOTATION_CONFIG, LABEL_INDEX, LABEL_KIND, LABEL_NAME, LABEL_SCOUT, LABEL_UID
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.cluster.store import LAST_APPLIED, Key, Store, trim
from tests.operator import build

POET = Key("SFTJob", "team", "poet")


@pytest.fixture
def store() -> Store:
    store = Store()
    store.put(build.job())
    return store


@pytest.fixture
def with_child(store: Store) -> Store:
    store.put(build.child("Job", "poet-sft"))
    return store


def names(objects: list[build.Object]) -> list[str]:
    return [each["metadata"]["name"] for each in objects]


def pods(store: Store) -> list[str]:
    resource = store.resource(POET)
    assert resource is not None
    return names(store.pods(resource))


def test_a_child_wakes_the_resource_it_belongs_to(store: Store) -> None:
    child = build.child("Job", "poet-sft")
    assert store.put(child) == POET
    assert store.put(build.child("Pod", "poet-sft-x")) == POET
    resource = store.resource(POET)
    assert resource is not None
    assert names(store.children(resource)) == ["poet-sft"]
    assert pods(store) == ["poet-sft-x"]
    assert store.remove(child) == POET
    assert store.children(resource) == []


def test_a_child_that_comes_before_its_resource_is_found_by_it() -> None:
    store = Store()
    assert store.put(build.child("Pod", "poet-sft-x")) is None
    assert store.put(build.child("Job", "poet-sft")) is None
    assert store.put(build.job()) == POET
    assert pods(store) == ["poet-sft-x"]


@pytest.mark.parametrize(
    ("changes", "is_a_child"),
    [
        pytest.param({}, True, id="owned"),
        pytest.param({"ownerReferences": []}, False, id="only labelled, as a copy is"),
        pytest.param({"labels": {}}, True, id="owned, and its label was taken away"),
    ],
)
def test_a_child_is_known_by_its_owner_reference(store: Store, changes: dict[str, Any], is_a_child: bool) -> None:
    store.put(build.job())
    store.put(build.child("Job", "poet-sft", metadata=changes))
    resource = store.resource(POET)
    assert resource is not None
    assert bool(store.children(resource)) is is_a_child


REPLICA_SET = {"kind": "ReplicaSet", "name": "poet-chat-abc", "uid": "uid-rs", "controller": True}


@pytest.mark.parametrize(
    ("changes", "is_ours"),
    [
        pytest.param({}, True, id="made by the child"),
        pytest.param({"labels": {}}, True, id="made by the child, and its labels were taken away"),
        pytest.param({"labels": {LABEL_UID: "uid-other"}}, True, id="made by the child, and labelled as another's"),
        pytest.param({"ownerReferences": []}, False, id="labelled only"),
        pytest.param(
            {"ownerReferences": [{**REPLICA_SET, "controller": False}]}, False, id="owned by nobody's controller"
        ),
        pytest.param(
            {"ownerReferences": [{"kind": "Job", "name": "poet-sft", "uid": "uid-of-another", "controller": True}]},
            False,
            id="of a Job of the child's name",
        ),
        pytest.param(
            {
                "name": "poet-sft",
                "ownerReferences": [{"kind": "SFTJob", "name": "poet", "uid": "uid-poet", "controller": True}],
            },
            False,
            id="naming the resource itself as its owner",
        ),
        pytest.param({"namespace": "elsewhere"}, False, id="in another namespace"),
    ],
)
def test_a_pod_is_known_by_owner_references_alone(with_child: Store, changes: dict[str, Any], is_ours: bool) -> None:
    pod = build.child("Pod", "poet-sft-x", metadata=changes, status={"phase": "Running"})
    assert (with_child.put(pod) == POET) is is_ours
    assert bool(pods(with_child)) is is_ours
    assert bool(list(with_child.running())) is is_ours


def test_a_copy_of_the_child_is_none_and_neither_are_its_pods(with_child: Store) -> None:
    assert with_child.put(build.child("Job", "poet-sft-copy", uid="uid-copy")) is None
    owner = {"kind": "Job", "name": "poet-sft-copy", "uid": "uid-copy", "controller": True}
    assert with_child.put(build.child("Pod", "forged", metadata={"ownerReferences": [owner]})) is None
    resource = with_child.resource(POET)
    assert resource is not None
    assert names(with_child.children(resource)) == ["poet-sft"]
    assert pods(with_child) == []


def test_pods_that_a_deleted_child_has_left_are_still_known(with_child: Store) -> None:
    with_child.put(build.child("Pod", "poet-sft-x"))
    with_child.remove(build.child("Job", "poet-sft"))
    assert pods(with_child) == ["poet-sft-x"]
    assert with_child.put(build.child("Pod", "poet-sft-y")) == POET


def test_nothing_is_kept_of_who_owned_what_when_the_resource_is_gone(with_child: Store) -> None:
    pod, job = build.child("Pod", "poet-sft-x"), build.child("Job", "poet-sft")
    with_child.put(pod)
    with_child.remove(build.job())
    with_child.put(build.newer(job))
    with_child.remove(build.newer(job))
    with_child.remove(pod)
    assert (with_child._parents, with_child._offspring, with_child._owned) == ({}, {}, {})


def test_the_pods_of_a_deployment_are_known_by_its_replica_set() -> None:
    store = Store()
    chat = {**build.job(uid="uid-chat"), "kind": "ChatDeployment"}
    deployment = {"kind": "ChatDeployment", "name": "poet", "uid": "uid-chat", "controller": True}
    store.put(chat)
    store.put(build.child("Deployment", "poet-chat", uid="uid-d", metadata={"ownerReferences": [deployment]}))
    of_it = {"kind": "Deployment", "name": "poet-chat", "uid": "uid-d", "controller": True}
    store.put(build.child("ReplicaSet", "poet-chat-abc", uid="uid-rs", metadata={"ownerReferences": [of_it]}))
    pod = build.child("Pod", "poet-chat-abc-x", metadata={"ownerReferences": [REPLICA_SET]})
    assert store.put(pod) == Key("ChatDeployment", "team", "poet")
    assert names(store.owned("Pod", "uid-chat")) == ["poet-chat-abc-x"]


def test_owners_that_own_each_other_own_nothing_of_ours(store: Store) -> None:
    def of(uid: str) -> dict[str, Any]:
        return {"ownerReferences": [{"kind": "Job", "name": "x", "uid": uid, "controller": True}]}

    assert store.put(build.child("Job", "a", uid="a", metadata=of("b"))) is None
    assert store.put(build.child("Job", "b", uid="b", metadata=of("a"))) is None
    assert store.put(build.child("Pod", "x", metadata=of("a"))) is None


def test_a_state_that_is_known_wakes_nobody(with_child: Store) -> None:
    pod = build.child("Pod", "poet-sft-x")
    assert with_child.put(pod) == POET
    assert with_child.put(pod) is None


def test_an_older_state_does_not_replace_a_newer_one(with_child: Store) -> None:
    old = build.child("Pod", "poet-sft-x", status={"phase": "Pending"})
    new = build.newer(old, status={"phase": "Running"})
    with_child.put(new)
    assert with_child.put(old) is None
    assert [pod["status"]["phase"] for _, pod in with_child.running()] == ["Running"]


def test_a_late_answer_does_not_bring_a_deleted_object_back(with_child: Store) -> None:
    pod = build.child("Pod", "poet-sft-x")
    with_child.put(pod)
    with_child.remove(pod)
    assert with_child.put(build.newer(pod)) is None
    assert pods(with_child) == []


def test_a_new_object_of_the_same_name_is_another_one(store: Store) -> None:
    store.put(build.child("Job", "poet-sft", uid="first"))
    store.put(build.child("Job", "poet-sft", uid="second"))
    assert store.remove(build.child("Job", "poet-sft", uid="first")) is None
    live = store.raw(Key("Job", "team", "poet-sft"))
    assert live is not None
    assert live["metadata"]["uid"] == "second"


def test_a_recreated_resource_has_none_of_its_predecessors_children(with_child: Store) -> None:
    with_child.put(build.child("Pod", "poet-sft-x"))
    with_child.put(build.job(uid="uid-new"))
    assert pods(with_child) == []


def test_the_typed_resource_follows_the_newest_state(store: Store) -> None:
    first = store.resource(POET)
    assert first is not None
    raw = store.raw(POET)
    assert raw is not None
    store.put(build.newer(raw, spec={**raw["spec"], "suspend": True}))
    second = store.resource(POET)
    assert second is not None
    assert (first.spec.suspend, second.spec.suspend) == (False, True)


def test_a_pod_deleted_after_its_end_is_kept_until_the_status_has_it(with_child: Store) -> None:
    pod = build.child("Pod", "poet-sft-x", status={"phase": "Running"})
    with_child.put(pod)
    assert with_child.remove(build.newer(pod, status={"phase": "Failed"})) == POET
    assert pods(with_child) == ["poet-sft-x"]
    attempt = {"pod": "poet-sft-x", "uid": "uid-poet-sft-x", "reason": "Disrupted"}
    raw = with_child.raw(POET)
    assert raw is not None
    with_child.put(build.newer(raw, status={"attempts": [attempt]}))
    assert pods(with_child) == []


def test_a_pod_deleted_before_its_end_is_forgotten(with_child: Store) -> None:
    pod = build.child("Pod", "poet-sft-x", status={"phase": "Pending"})
    with_child.put(pod)
    with_child.remove(pod)
    assert pods(with_child) == []


def test_only_running_pods_are_asked_for_progress(with_child: Store) -> None:
    running = build.child("Pod", "running", status={"phase": "Running"})
    leaving = build.child("Pod", "leaving", status={"phase": "Running"})
    with_child.put(running)
    with_child.put(leaving)
    with_child.put(build.child("Pod", "pending", status={"phase": "Pending"}))
    second = {"labels": {LABEL_INDEX: "1"}}
    with_child.put(build.child("Pod", "second", metadata=second, status={"phase": "Running"}))
    with_child.put(build.newer(leaving, metadata={"deletionTimestamp": "2026-01-01T00:01:00Z"}))
    assert [(key, pod["metadata"]["name"]) for key, pod in with_child.running()] == [(POET, "running")]


def test_what_looks_for_room_is_known_and_does_no_work(with_child: Store) -> None:
    marked = {LABEL_SCOUT: "true"}
    scout = build.child("Job", "poet-sft-scout", metadata={"labels": marked})
    assert with_child.put(scout) == POET
    owner = {"kind": "Job", "name": "poet-sft-scout", "uid": "uid-poet-sft-scout", "controller": True}
    pod = build.child(
        "Pod", "looks", metadata={"labels": marked, "ownerReferences": [owner]}, status={"phase": "Running"}
    )
    assert with_child.put(pod) == POET, "where it finds a place is news"
    assert list(with_child.running()) == [], "it is not asked for progress"
    assert with_child.of("Pod", scout) != []
    over = build.newer(pod, status={"phase": "Failed"})
    with_child.put(over)
    with_child.remove(build.newer(over))
    assert with_child.pods(with_child.resource(POET)) == [], "how it ended is nobody's attempt"


def test_a_live_list_takes_away_what_is_not_in_it(with_child: Store) -> None:
    kept = build.child("Pod", "kept")
    with_child.put(kept)
    with_child.put(build.child("Pod", "ghost"))
    with_child.replace("Pod", "uid-poet", [build.newer(kept), build.child("Pod", "missed")])
    assert pods(with_child) == ["kept", "missed"]


def test_the_end_of_its_predecessors_child_wakes_a_resource_that_waits_for_the_name(store: Store) -> None:
    labels = {LABEL_UID: "uid-of-an-earlier-one", LABEL_KIND: "SFTJob", LABEL_NAME: "poet"}
    left = build.child("Job", "poet-sft", uid="uid-left", of="uid-of-an-earlier-one", metadata={"labels": labels})
    assert store.put(left) is None
    assert store.remove(left) == POET


class TestConsumers:
    BASE = Key("SFTJob", "team", "base")

    def reader(self, name: str = "poet", **more: Any) -> build.Object:
        return build.job(name, uid=f"uid-{name}", spec={"model": {"from": {"kind": "SFTJob", "name": "base"}}, **more})

    def test_who_reads_what_a_job_makes_is_known_before_that_job_is(self) -> None:
        store = Store()
        store.put(self.reader())
        assert store.consumers(self.BASE) == [POET]
        assert store.consumers(POET) == []

    def test_in_every_part_of_a_spec(self) -> None:
        store = Store()
        listed = {"adapters": [{"weight": 1}, {"from": {"kind": "SFTJob", "name": "lora"}}]}
        store.put(self.reader(**listed))
        assert store.consumers(Key("SFTJob", "team", "lora")) == [POET]

    def test_not_across_namespaces(self) -> None:
        store = Store()
        store.put(self.reader())
        assert store.consumers(Key("SFTJob", "elsewhere", "base")) == []

    def test_a_deleted_one_is_woken_no_more(self) -> None:
        store = Store()
        first, second = self.reader(), self.reader("sage")
        store.put(first)
        store.put(second)
        store.remove(first)
        assert store.consumers(self.BASE) == [Key("SFTJob", "team", "sage")]
        store.remove(second)
        assert store.consumers(self.BASE) == []

    def test_who_selects_jobs_is_woken_by_all_that_may_be_selected(self) -> None:
        store = Store()
        chat = build.job(spec={"adapterSelector": {}}) | {"kind": "ChatDeployment"}
        store.put(chat)
        lora = Key("SFTJob", "team", "lora")
        assert store.consumers(lora) == [Key("ChatDeployment", "team", "poet")]
        assert store.consumers(Key("MergeJob", "team", "lora")) == []
        assert store.consumers(Key("SFTJob", "elsewhere", "lora")) == []
        assert store.selectable("team") == []
        store.put(made := build.job("lora", uid="uid-lora"))
        assert (store.selectable("team"), store.selectable("elsewhere")) == ([lora], [])
        store.remove(made)
        store.remove(chat)
        assert (store.selectable("team"), store.consumers(lora)) == ([], [])

    def test_another_of_its_name_may_read_something_else(self) -> None:
        store = Store()
        store.put(self.reader())
        store.put(build.job(uid="uid-new"))
        assert store.consumers(self.BASE) == []


def test_what_nobody_reads_is_not_kept() -> None:
    pod = build.child(
        "Pod",
        "poet-sft-x",
        metadata={"managedFields": [1], "annotations": {ANNOTATION_CONFIG: "{}", LAST_APPLIED: "{}", "kept": "yes"}},
        spec={
            "nodeName": "a",
            "containers": [{"name": "workload", "image": "i", "command": ["x"]}],
            "tolerations": [1],
        },
    )
    trimmed = trim(pod)
    assert trimmed["spec"] == {"nodeName": "a", "containers": [{"name": "workload", "image": "i"}]}
    assert trimmed["metadata"]["annotations"] == {"kept": "yes"}
    assert "managedFields" not in trimmed["metadata"]
    assert "managedFields" in pod["metadata"], "the original is left alone"
    child = build.child("Job", "poet-sft", spec={"backoffLimit": 3, "template": {}})
    assert trim(child)["spec"] == {"backoffLimit": 3}


def test_a_resource_is_new_until_it_has_a_child_or_a_status(store: Store) -> None:
    assert store.is_new(POET)
    child = build.child("Job", "poet-sft")
    store.put(child)
    assert not store.is_new(POET)
    assert not store.is_new(Key("Job", "team", "poet-sft"))
    store.remove(child)
    raw = store.raw(POET)
    assert raw is not None
    store.put(build.newer(raw, status={"observedGeneration": 1}))
    assert not store.is_new(POET)


def test_when_a_pod_was_told_to_stop_is_not_overwritten_by_its_last_delete(store: Store) -> None:
    """The kubelet's, without grace and with a time of its own; of another pod of that name nothing is known."""
    told = {"deletionTimestamp": "2026-01-01T00:10:30Z", "deletionGracePeriodSeconds": 30}
    last = {"deletionTimestamp": "2026-01-01T00:10:02Z", "deletionGracePeriodSeconds": 0}
    pod = build.child("Pod", "poet-sft-x", metadata=told, status={"phase": "Running"})
    store.put(build.child("Job", "poet-sft"))
    store.put(pod)
    store.put(build.newer(pod, metadata=last, status={"phase": "Failed"}))
    kept = store.raw(Key("Pod", "team", "poet-sft-x"))
    assert kept is not None
    assert Pod(kept).told_to_stop_at == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert kept["status"] == {"phase": "Failed"}
    store.put(build.child("Pod", "poet-sft-x", uid="another", metadata=last))
    other = store.raw(Key("Pod", "team", "poet-sft-x"))
    assert other is not None
    assert other["metadata"]["deletionGracePeriodSeconds"] == 0
