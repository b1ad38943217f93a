"""Every situation of a deployment: what kubectl shows, which conditions hold, and what is asked of the children."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from alpaca_operator.api import ChatDeployment
from alpaca_operator.api.chain import note
from alpaca_operator.api.contract import LABEL_REVISION, Termination
from alpaca_operator.api.serving import ServingStatus
from alpaca_operator.api.status import Reason, ResolvedInput
from alpaca_operator.chats import status
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.exits import Refused, Waiting
from alpaca_operator.inputs import HeldUpdate, MissingInput
from alpaca_operator.outcomes.conditions import Change, change
from alpaca_operator.outcomes.observed import Observed, Sample
from alpaca_operator.outcomes.verdict import Desired
from tests.operator.cases import ready, true
from tests.operator.pods import START, at

Object = dict[str, Any]
OLD = ResolvedInput(uri="pvc://models/poet", digest="sha256:" + "1" * 64, producer_uid="uid-1", producer="SFTJob poet")
NEW = OLD.model_copy(update={"digest": "sha256:" + "2" * 64, "producer_uid": "uid-2"})
SERVED_OLD = {"model": {"uri": OLD.uri, "digest": OLD.digest, "display": "pvc://models/poet@sha256:111111111111"}}
BAD_ADAPTER = Termination(
    reason=Reason.INVALID_DATA, exit_code=65, message="65,000 rows in the adapter, 32,000 in the base: merge first"
)
NO_ROOM = Waiting(Reason.QUOTA_EXCEEDED, "quota small has no room")


def chat(before: Object | None = None, **spec: Any) -> ChatDeployment:
    return ChatDeployment.model_validate(
        {
            "kind": "ChatDeployment",
            "metadata": {"name": "poet", "namespace": "poetry", "uid": "uid-poet", "generation": 2},
            "spec": {"model": {"from": {"kind": "SFTJob", "name": "poet"}}, **spec},
            "status": {"observedGeneration": 1, "conditions": [], **(before or {})},
        }
    )


def deployment(*, replicas: int = 1, observed: bool = True, condition: Object | None = None) -> Object:
    """The child, of revision `new`."""
    return {
        "kind": "Deployment",
        "metadata": {
            "name": "poet-chat",
            "generation": 4,
            "annotations": {"literary-alpaca.io/engine": "Transformers: no GPU is asked for in pod.resources"},
        },
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {LABEL_REVISION: "new"}}}},
        "status": {
            "observedGeneration": 4 if observed else 3,
            "replicas": replicas,
            "conditions": [condition] if condition else [],
        },
    }


LATE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}


def pod(
    name: str = "poet-chat-a", revision: str = "new", *, answers: bool = True, phase: str = "Running", **container: Any
) -> Object:
    state = {"name": "engine", "ready": answers, "state": {"running": {"startedAt": at(0)}}, **container}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "poetry",
            "uid": f"uid-{name}",
            "creationTimestamp": at(0),
            "labels": {LABEL_REVISION: revision},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "engine", "resources": {}}]},
        "status": {
            "phase": phase,
            "hostIP": "10.0.0.7",
            "containerStatuses": [state],
            "conditions": [{"type": "Ready", "status": str(answers)}],
        },
    }


def crashing(says: Termination | None = None, code: int = 65, name: str = "poet-chat-b") -> Object:
    ended = {"exitCode": code, "reason": "Error", "finishedAt": at(50), "message": says.to_json() if says else ""}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    return pod(name, answers=False, state=state, lastState={"terminated": ended}, restartCount=3)


def before_vllm(**check: Any) -> Object:
    """What looks at the adapter is at it, or has refused it; the others wait for it."""
    made = pod(
        "poet-chat-b", answers=False, phase="Pending", state={"waiting": {"reason": "PodInitializing", "message": ""}}
    )
    first = {"name": "adapter-check", "ready": False, **check}
    return {**made, "status": {**made["status"], "initContainerStatuses": [first]}}


def refused_before_vllm() -> Object:
    ended = {"exitCode": 65, "reason": "Error", "finishedAt": at(50), "message": BAD_ADAPTER.to_json()}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    return before_vllm(state=waiting, lastState={"terminated": ended})


def unpullable() -> Object:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}
    return pod("poet-chat-b", answers=False, phase="Pending", state=waiting, image="registry.example/engine:2")


def held() -> Object:
    """By Kueue, before it is placed."""
    made = pod(answers=False)
    labels = {**made["metadata"]["labels"], "kueue.x-k8s.io/queue-name": "gpus"}
    gates = [{"name": "kueue.x-k8s.io/admission"}]
    return {
        **made,
        "metadata": {**made["metadata"], "labels": labels},
        "spec": {**made["spec"], "nodeName": "", "schedulingGates": gates},
        "status": {"phase": "Pending"},
    }


def old(name: str = "poet-chat-o") -> Object:
    return pod(name, "old")


def gone(which: Object) -> Object:
    return {**which, "metadata": {**which["metadata"], "deletionTimestamp": at(90)}}


SERVICE = {
    "kind": "Service",
    "metadata": {"name": "poet-chat", "namespace": "poetry"},
    "spec": {"type": "ClusterIP", "ports": [{"port": 7860, "nodePort": 30786}, {"port": 8000, "nodePort": 30800}]},
}


ROUTE = {"kind": "HTTPRoute", "metadata": {"name": "poet-chat", "namespace": "poetry"}, "spec": {}}


def observed(*pods: Object, child: Object | None = None, inputs: Object | None = None, **more: Any) -> Observed:
    return Observed(
        now=START + timedelta(seconds=100),
        child=child,
        pods=tuple(map(Pod, pods)),
        inputs={"model": NEW} if inputs is None else inputs,
        other_children=(SERVICE,) if child else (),
        **more,
    )


SITUATIONS = [
    pytest.param(
        observed(inputs={}, missing=MissingInput(Reason.NOT_READY, "waits for SFTJob poet (model.from) to complete")),
        {},
        ("NotReady", {"Reconciling"}, "waits for SFTJob poet (model.from) to complete"),
        id="its model is not there yet",
    ),
    pytest.param(
        observed(inputs={}, missing=MissingInput(Reason.PRODUCER_FAILED, "SFTJob poet failed")),
        {},
        ("ProducerFailed", {"Stalled"}, "SFTJob poet failed"),
        id="its model will not come",
    ),
    pytest.param(
        observed(), {}, ("Pending", {"Reconciling"}, "waits for its pods to start"), id="nothing is there yet"
    ),
    pytest.param(
        observed(held(), child=deployment()),
        {},
        (
            "Queued",
            {"Reconciling"},
            "waits for room in Kueue's queue gpus: kubectl get workloads shows its place",
        ),
        id="Kueue holds its pod back",
    ),
    pytest.param(
        observed(pod(answers=False), child=deployment()),
        {},
        ("Starting", {"Reconciling"}, "pod poet-chat-a on node n1 loads the model"),
        id="the model is being loaded",
    ),
    pytest.param(
        observed(pod(), child=deployment()),
        {},
        ("Serving", {"Ready"}, "serves pvc://models/poet@sha256:222222222222 on 1 of 1 pod"),
        id="it serves",
    ),
    pytest.param(
        observed(pod(), gone(old()), child=deployment()),
        {},
        ("Serving", {"Ready"}, "serves pvc://models/poet@sha256:222222222222 on 1 of 1 pod"),
        id="an old pod ends what it answers",
    ),
    pytest.param(
        observed(pod(), pod("poet-chat-b", answers=False), child=deployment(replicas=2)),
        {},
        (
            "Degraded",
            {"Ready", "Reconciling"},
            "serves pvc://models/poet@sha256:222222222222 on 1 of 2 pods: others start",
        ),
        id="a pod died and another starts",
    ),
    pytest.param(
        observed(old(), pod(answers=False), child=deployment()),
        SERVED_OLD,
        (
            "Updating",
            {"Ready", "Reconciling"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod; 0 of 1 new ones are ready: the old ones answer until they are "
            "ready",
        ),
        id="a new model is being loaded",
    ),
    pytest.param(
        observed(old(), child=deployment(observed=False)),
        SERVED_OLD,
        (
            "Updating",
            {"Ready", "Reconciling"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod; 0 of 1 new ones are ready: the old ones answer until they are "
            "ready",
        ),
        id="the Deployment controller has not seen the new model",
    ),
    pytest.param(
        observed(old(), crashing(BAD_ADAPTER), child=deployment()),
        SERVED_OLD,
        (
            "UpdateFailed",
            {"Ready", "Stalled"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod, of before; the new pods do not become ready: 65,000 rows in the "
            "adapter, 32,000 in the base: merge first (pod poet-chat-b, exit 65)",
        ),
        id="the new model cannot be loaded",
    ),
    pytest.param(
        observed(old(), crashing(code=70), child=deployment()),
        SERVED_OLD,
        (
            "Updating",
            {"Ready", "Reconciling"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod; 0 of 1 new ones are ready: the workload failed: see kubectl logs "
            "-n poetry poet-chat-b (pod poet-chat-b, exit 70)",
        ),
        id="the new pod failed and is tried again",
    ),
    pytest.param(
        observed(old(), unpullable(), child=deployment(condition=LATE)),
        SERVED_OLD,
        (
            "UpdateFailed",
            {"Ready", "Stalled"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod, of before; the new pods do not become ready: image "
            "registry.example/engine:2 cannot be pulled: the registry has no such image: correct pod.image (pod poet-chat-b)",
        ),
        id="the new image is not there",
    ),
    pytest.param(
        observed(crashing(BAD_ADAPTER), child=deployment()),
        {},
        (
            "InvalidData",
            {"Stalled"},
            "65,000 rows in the adapter, 32,000 in the base: merge first (pod poet-chat-b, exit 65)",
        ),
        id="the first model cannot be loaded",
    ),
    pytest.param(
        observed(before_vllm(state={"running": {"startedAt": at(0)}}), child=deployment()),
        {},
        ("Starting", {"Reconciling"}, "pod poet-chat-b on node n1 looks at the adapter before vLLM starts"),
        id="its adapter is looked at",
    ),
    pytest.param(
        observed(refused_before_vllm(), child=deployment()),
        {},
        (
            "InvalidData",
            {"Stalled"},
            "65,000 rows in the adapter, 32,000 in the base: merge first (pod poet-chat-b, exit 65)",
        ),
        id="an adapter is refused before vLLM starts",
    ),
    pytest.param(
        observed(crashing(code=137), child=deployment()),
        {},
        (
            "WorkloadError",
            {"Reconciling"},
            "ended by SIGKILL: it was killed, or did not stop within pod.terminationGracePeriodSeconds (pod poet-chat-b, exit 137)",
        ),
        id="the first pod was killed and is tried again",
    ),
    pytest.param(
        observed(crashing(code=0), child=deployment()),
        {},
        (
            "Hung",
            {"Reconciling"},
            "container engine was stopped by its probes and started again: it had not loaded within startupTimeoutSeconds, or answered no "
            "more (pod poet-chat-b)",
        ),
        id="its probes had it started again",
    ),
    pytest.param(
        observed(pod(answers=False), child=deployment(condition=LATE)),
        {"conditions": []},
        (
            "DeadlineExceeded",
            {"Stalled"},
            "not ready within startupTimeoutSeconds (1800 s): see kubectl logs -n poetry of poet-chat-a, or raise it",
        ),
        id="it loads for longer than it may",
    ),
    pytest.param(
        observed(
            child=deployment(
                condition={
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": 'pods "poet-chat-x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0',
                }
            )
        ),
        {},
        (
            "QuotaExceeded",
            {"Reconciling"},
            "quota small has no room (requested: pods=1, used: pods=0, limited: pods=0): lower pod.resources, wait for other jobs to end, "
            "or ask for a larger quota",
        ),
        id="a quota takes no pod",
    ),
    pytest.param(
        observed(child=deployment(replicas=0)),
        SERVED_OLD,
        (
            "ScaledToZero",
            {"Suspended"},
            "no pods are wanted (spec.replicas is 0): kubectl scale chat poet --replicas=1",
        ),
        id="no pods are wanted",
    ),
    pytest.param(
        observed(
            pod(),
            child=deployment(),
            inputs={"model": OLD},
            held=HeldUpdate({"model": NEW}, "updatePolicy is Manual: kubectl …"),
        ),
        {},
        (
            "UpdateHeld",
            {"Ready"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod; pvc://models/poet@sha256:222222222222 is there and is not served: "
            "updatePolicy is Manual: kubectl …",
        ),
        id="a new model waits to be told",
    ),
    pytest.param(
        observed(pod(), child=deployment(), inputs={"model": OLD}, held=HeldUpdate({}, "SFTJob poet failed")),
        {},
        (
            "UpdateHeld",
            {"Ready"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod; a newer one is not served: SFTJob poet failed",
        ),
        id="a new model was not made",
    ),
    pytest.param(
        observed(
            pod(),
            child=deployment(),
            inputs={},
            missing=MissingInput(Reason.NOT_FOUND, "PretrainJob other does not exist"),
        ),
        SERVED_OLD,
        (
            "Updating",
            {"Ready", "Reconciling"},
            "serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod, of before; PretrainJob other does not exist",
        ),
        id="the spec names what is not there, and the old model goes on",
    ),
]


@pytest.mark.parametrize(("cluster", "before", "expected"), SITUATIONS)
def test_a_situation(cluster, before, expected):
    written = status.compute(chat(before), cluster, None)
    reason, conditions, message = expected
    assert (ready(written)["reason"], true(written), ready(written)["message"]) == (reason, conditions, message)
    again = status.compute(chat(written), cluster, None)
    assert change(written, again, ServingStatus) is Change.NOTHING, "looking twice changes nothing"


@pytest.mark.parametrize(("cluster", "before", "expected"), SITUATIONS)
def test_kstatus_reads_one_thing(cluster, before, expected):
    """Reconciling, Stalled and Suspended exclude each other; Ready goes with any of them, for what was there goes on."""
    assert len(expected[1] & {"Reconciling", "Stalled", "Suspended"}) <= 1
    assert expected[1]


class TestWhatIsRefused:
    def test_of_the_api_server_is_told_while_what_is_there_goes_on(self):
        written = status.compute(chat(SERVED_OLD), observed(old(), child=deployment()), NO_ROOM)
        assert (ready(written)["reason"], true(written)) == ("QuotaExceeded", {"Ready", "Reconciling"})
        assert ready(written)["message"].endswith("on 1 of 1 pod, of before; quota small has no room")

    def test_of_an_update_says_nothing_else_of_what_is_served(self):
        child = deployment()
        child["metadata"]["annotations"] |= note({"model": OLD})
        written = status.compute(chat(SERVED_OLD), observed(pod(), child=child, inputs={"model": NEW}), NO_ROOM)
        assert written["model"] == SERVED_OLD["model"]
        assert {field: written[field]["model"]["digest"] for field in ("resolvedInputs", "servedInputs")} == {
            "resolvedInputs": OLD.digest,
            "servedInputs": OLD.digest,
        }
        assert ready(written)["message"].startswith("serves pvc://models/poet@sha256:111111111111 on 1 of 1 pod")

    def test_that_does_not_pass_needs_a_person(self):
        refusal = Refused(Reason.NAME_CONFLICT, "its child's name is taken")
        written = status.compute(chat(), observed(), refusal)
        assert (ready(written)["reason"], true(written)) == ("NameConflict", {"Stalled"})
        assert written["failure"] == {
            "class": "UserError",
            "reason": "NameConflict",
            "message": "its child's name is taken",
        }


class TestInputsReady:
    def state(self, cluster: Observed, before: Object | None = None) -> tuple[str, str]:
        written = status.compute(chat(before), cluster, None)
        found = next(one for one in written["conditions"] if one["type"] == "InputsReady")
        return found["status"], found["reason"]

    def test_is_false_while_a_job_has_not_made_them(self):
        assert self.state(observed(missing=MissingInput(Reason.NOT_FOUND, "x"))) == ("False", "NotFound")

    def test_is_false_when_the_engine_finds_none(self):
        missing = Termination(reason=Reason.INPUT_NOT_FOUND, exit_code=66, message="no such folder")
        assert self.state(observed(crashing(missing, 66), child=deployment())) == ("False", "InputNotFound")

    def test_is_unknown_while_they_are_loaded(self):
        assert self.state(observed(pod(answers=False), child=deployment())) == ("Unknown", "Pending")

    def test_is_true_once_they_are(self):
        assert self.state(observed(pod(), child=deployment())) == ("True", "Serving")


class TestWhatIsDesired:
    def test_is_that_children_exist(self):
        assert status.desired(chat(), observed()) is Desired.PRESENT

    def test_is_that_nothing_moves_while_an_input_lacks(self):
        assert (
            status.desired(chat(), observed(pod(), child=deployment(), missing=MissingInput(Reason.NOT_FOUND, "x")))
            is Desired.UNCHANGED
        )


class TestWhereItIsReached:
    def url(self, *others: Object, **spec: Any) -> tuple[str, str]:
        cluster = Observed(
            now=START, child=deployment(), pods=(Pod(pod()),), inputs={"model": NEW}, other_children=others
        )
        written = status.compute(chat(**spec), cluster, None)
        return written["url"], written["apiUrl"]

    def test_within_the_cluster(self):
        assert self.url(SERVICE) == ("http://poet-chat.poetry.svc:7860", "http://poet-chat.poetry.svc:8000/v1")

    def test_by_a_port_of_every_node(self):
        service = {**SERVICE, "spec": {**SERVICE["spec"], "type": "NodePort"}}
        assert self.url(service) == ("http://10.0.0.7:30786", "http://10.0.0.7:30800/v1")

    def test_not_by_a_node_that_the_pod_has_left(self):
        service = {**SERVICE, "spec": {**SERVICE["spec"], "type": "NodePort"}}
        left = [gone(pod("poet-chat-1")), pod("poet-chat-2", phase="Failed"), pod("poet-chat-3", answers=False)]
        for node, one in enumerate(left):
            one["status"]["hostIP"] = f"10.0.0.{node}"
        pods = tuple(map(Pod, [*left, pod()]))
        cluster = Observed(now=START, child=deployment(), pods=pods, other_children=(service,))
        assert status.compute(chat(), cluster, None)["url"] == "http://10.0.0.7:30786"
        cluster = replace(cluster, pods=pods[:2])
        assert status.compute(chat(), cluster, None)["url"] == "http://poet-chat.poetry.svc:7860"

    def test_by_a_load_balancer(self):
        service = {**SERVICE, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
        assert self.url(service) == ("http://192.0.2.1:7860", "http://192.0.2.1:8000/v1")

    @pytest.mark.parametrize(
        ("listener", "scheme"),
        [pytest.param(None, "https", id="any listener"), pytest.param("http", "http", id="one without TLS")],
    )
    def test_by_a_route(self, listener, scheme):
        parent = {"name": "web"} | ({"sectionName": listener} if listener else {})
        route = {"parentRefs": [parent], "hostnames": ["chat.example.org"]}
        assert self.url(SERVICE, ROUTE, httpRoute=route) == (
            f"{scheme}://chat.example.org",
            f"{scheme}://chat.example.org/v1",
        )

    def test_not_by_a_route_that_the_cluster_has_no_kind_for(self):
        route = {"parentRefs": [{"name": "web"}], "hostnames": ["chat.example.org"]}
        assert self.url(SERVICE, httpRoute=route)[0] == "http://poet-chat.poetry.svc:7860"

    def test_an_api_elsewhere_is_where_it_is(self):
        spec = {"model": None, "engine": "External", "endpoint": {"url": "https://api.example.org/v1"}}
        cluster = Observed(now=START, child=deployment(), pods=(Pod(pod()),), other_children=(SERVICE,))
        given = ChatDeployment.model_validate(
            {
                "kind": "ChatDeployment",
                "metadata": {"name": "poet", "namespace": "poetry", "uid": "uid-poet", "generation": 2},
                "spec": {name: value for name, value in spec.items() if value},
            }
        )
        written = status.compute(given, cluster, None)
        assert (written["url"], written["apiUrl"]) == ("http://poet-chat.poetry.svc:7860", "https://api.example.org/v1")
        assert written["model"]["display"] == "https://api.example.org/v1"


class TestFigures:
    def test_of_all_pods_together(self):
        samples = (
            (Sample(requests=10, refused=1, running=2, tokens_per_second=30), START),
            (Sample(requests=5, queued=3, tokens_per_second=12.34), START + timedelta(seconds=3)),
        )
        written = status.compute(chat(), observed(pod(), child=deployment(), traffic=samples), None)
        assert written["traffic"] == {
            "requests": 15,
            "refused": 1,
            "running": 2,
            "queued": 3,
            "tokensPerSecond": 42.3,
            "display": "42.3",
            "updatedAt": at(3),
        }

    def test_alone_may_wait_for_their_turn_to_be_written(self):
        before = status.compute(chat(), observed(pod(), child=deployment()), None)
        after = status.compute(
            chat(before), observed(pod(), child=deployment(), traffic=((Sample(requests=1), START),)), None
        )
        assert change(before, after, ServingStatus) is Change.PROGRESS

    @pytest.mark.parametrize(
        ("reported", "digest"),
        [
            pytest.param(["sha256:ab", "sha256:ab"], "sha256:ab", id="all pods say the same"),
            pytest.param(["sha256:ab", "sha256:cd"], None, id="they do not"),
        ],
    )
    def test_what_is_served_is_the_engines_word_where_no_job_made_it(self, reported, digest):
        samples = tuple((Sample(digests={"poet": each}), START) for each in reported)
        cluster = observed(
            pod(), child=deployment(), inputs={"model": ResolvedInput(uri="hf://me/poet")}, traffic=samples
        )
        assert status.compute(chat(), cluster, None)["model"].get("digest") == digest


def test_the_newest_and_its_adapters_are_shown():
    adapter = ResolvedInput(uri="pvc://models/lora")
    cluster = observed(
        pod(), child=deployment(), inputs={"model": ResolvedInput(uri="hf://me/base"), "adapters[0]": adapter}
    )
    assert status.compute(chat(), cluster, None)["model"]["display"] == "hf://me/base + pvc://models/lora"


def test_names_of_a_kilobyte_fit_what_is_shown_of_them():
    model, adapter = (f"pvc://models/{letter * 1011}" for letter in "ma")
    digest = "sha256:" + "1" * 64
    inputs = {
        "model": ResolvedInput(uri=model, digest=digest),
        "adapters[0]": ResolvedInput(uri=adapter, digest=digest),
    }
    shown = status.compute(chat(), observed(pod(), child=deployment(), inputs=inputs), None)["model"]["display"]
    assert len(shown) <= 1024
    assert shown.count("@sha256:111111111111") == 2


OPEN = {"httpRoute": {"parentRefs": [{"name": "web"}]}}


@pytest.mark.parametrize(
    ("spec", "children", "ways"),
    [
        pytest.param(OPEN, (SERVICE, ROUTE), "httpRoute leads", id="by a route"),
        pytest.param(
            {"service": {"type": "LoadBalancer"}}, (SERVICE,), "service.type LoadBalancer leads", id="by a balancer"
        ),
        pytest.param(
            {**OPEN, "service": {"type": "LoadBalancer"}},
            (SERVICE, ROUTE),
            "httpRoute and service.type LoadBalancer lead",
            id="by both",
        ),
        pytest.param(OPEN, (SERVICE,), None, id="not by a route that the cluster has no kind for"),
        pytest.param({**OPEN, "auth": {"secretName": "door"}}, (SERVICE, ROUTE), None, id="not behind a login"),
        pytest.param({}, (SERVICE,), None, id="not within the cluster"),
    ],
)
def test_what_everybody_may_reach_and_ask_is_told(spec: Object, children: tuple[Object, ...], ways: str | None) -> None:
    cluster = Observed(now=START, child=deployment(), pods=(Pod(pod()),), other_children=children)
    found = [one for one in status.compute(chat(**spec), cluster, None)["conditions"] if one["type"] == "Exposed"]
    told = [
        f"{ways} to the page and the API, and whoever reaches them may ask: set auth.secretName, unless something before them asks for a login"
    ]
    assert [one["message"] for one in found] == (told if ways else [])
    assert all((one["status"], one["reason"]) == ("True", "WithoutAuth") for one in found)
