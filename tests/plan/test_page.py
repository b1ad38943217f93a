"""The page of a ChatDeployment in pods of its own, beyond the golden file: who finds which pods, what starts them anew, and how the page
moves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alpaca_operator.api.contract import (
    ANNOTATION_CONFIG,
    ANNOTATION_REPLICAS,
    LABEL_PAGE,
    LABEL_REVISION,
)
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.outcomes.observed import Observed, PageApart
from alpaca_operator.plan import PLANNERS, Manifest
from tests.operator.pods import START
from tests.plan.test_chat import ELSEWHERE, GPU, SETTINGS, WITH_VLLM, chat, environment

ROUTED = {"httpRoute": {"parentRefs": [{"name": "web"}], "hostnames": ["chat.example.org"]}}
LABELS = {"literary-alpaca.io/kind": "ChatDeployment", "literary-alpaca.io/name": "poet"}


def planned(observed: Observed | None = None, *, settings: Any = SETTINGS, **spec: Any) -> dict[str, Manifest]:
    """By kind and the end of the name."""
    plan = PLANNERS["ChatDeployment"](chat(**{"page": {"replicas": 2}} | spec), {}, settings, observed)
    assert plan.refusal is None
    return {one["kind"] + one["metadata"]["name"].removeprefix("poet-chat"): one for one in plan.manifests}


def template(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["template"]
    return found


def read(manifest: Manifest) -> Manifest:
    """What its pods are told of the spec."""
    spec: Manifest = json.loads(template(manifest)["metadata"]["annotations"][ANNOTATION_CONFIG])["spec"]
    return spec


def holds(manifest: Manifest) -> list[str]:
    return [one["name"] for one in template(manifest)["spec"]["containers"]]


def backends(manifest: Manifest) -> dict[str, str]:
    """Where a route leads, by the path."""
    return {
        rule["matches"][0]["path"]["value"]: f"{rule['backendRefs'][0]['name']}:{rule['backendRefs'][0]['port']}"
        for rule in manifest["spec"]["rules"]
    }


def ports(manifest: Manifest) -> list[int]:
    return [one["port"] for one in manifest["spec"]["ports"]]


class TestPodsOfItsOwn:
    def test_are_found_by_no_selector_of_the_engine_and_the_other_way_round(self):
        made = planned(podDisruptionBudget={"minAvailable": 1}, pod={"labels": {"team": "poetry", **LABELS}})
        page, engine = (template(made[name])["metadata"]["labels"] for name in ("Deployment-page", "Deployment"))
        of_engine = [
            made["Deployment"]["spec"]["selector"]["matchLabels"],
            made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            made["Service"]["spec"]["selector"],
            made["Service-pods"]["spec"]["selector"],
        ]
        of_page = [
            made["Deployment-page"]["spec"]["selector"]["matchLabels"],
            made["Service-page"]["spec"]["selector"],
        ]
        assert all(each.items() <= engine.items() and not each.items() <= page.items() for each in of_engine)
        assert all(each.items() <= page.items() and not each.items() <= engine.items() for each in of_page)
        assert page["team"] == engine["team"] == "poetry"
        assert not LABELS.keys() & page.keys(), "a label of ours that the spec gives would make it one of the engine's"

    def test_have_the_page_and_the_engines_have_none(self):
        made = planned()
        assert (holds(made["Deployment-page"]), holds(made["Deployment"])) == (["ui"], ["engine"])
        assert (ports(made["Service-page"]), ports(made["Service"]), ports(made["Service-pods"])) == (
            [7860],
            [8000],
            [8000],
        )
        assert holds(planned(settings=WITH_VLLM, engine="vLLM", pod=GPU)["Deployment"]) == ["engine", "api"]

    def test_ask_the_engine_by_its_service_with_the_key_of_both(self):
        page = template(planned(auth={"secretName": "keys"}, **ROUTED)["Deployment-page"])["spec"]["containers"][0]
        assert environment(page) == {
            "ALPACA_ENGINE_URL": "http://poet-chat.poetry.svc:8000/v1",
            "ALPACA_ENGINE_PODS_URL": "http://poet-chat-pods.poetry.svc:8000/v1",
            "ALPACA_API_KEY": {"name": "keys", "key": "apiKey"},
            "ALPACA_CHAT_USERNAME": {"name": "keys", "key": "username"},
            "ALPACA_CHAT_PASSWORD": {"name": "keys", "key": "password"},
            "ALPACA_HOSTS": "chat.example.org",
        }

    def test_any_engine_answers_them_and_users_stay_with_their_page(self):
        made = planned()
        affinity = {name: made[name]["spec"].get("sessionAffinity") for name in ("Service", "Service-page")}
        assert affinity == {"Service": "None", "Service-page": "ClientIP"}

    def test_see_pods_that_are_not_ready(self):
        spec = planned()["Service-pods"]["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)

    def test_both_services_are_led_to_as_the_spec_says(self):
        made = planned(service={"type": "LoadBalancer", "annotations": {"example.org/internal": "true"}})
        for name in ("Service", "Service-page"):
            assert made[name]["spec"]["type"] == "LoadBalancer"
            assert made[name]["metadata"]["annotations"] == {"example.org/internal": "true"}
        assert made["Service-pods"]["spec"]["type"] == "ClusterIP"
        assert backends(planned(**ROUTED)["HTTPRoute"]) == {"/v1": "poet-chat:8000", "/": "poet-chat-page:7860"}

    def test_are_replaced_one_by_one_and_kept_at_their_number(self):
        made = planned()["Deployment-page"]
        assert made["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }
        assert (made["spec"]["replicas"], made["metadata"]["annotations"][ANNOTATION_REPLICAS]) == (2, "2")

    def test_run_where_the_scheduler_wants_and_as_the_pods_of_the_engine_else(self):
        place = {
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "runtimeClassName": "nvidia",
            "schedulerName": "volcano",
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
            "volumes": [{"name": "scratch", "mountPath": "/scratch", "emptyDir": {}}],
        }
        kept = {
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "serving",
            "serviceAccountName": "poets",
            "terminationGracePeriodSeconds": 90,
        }
        spec = template(planned(pod={**place, **kept, "annotations": {"mesh": "on"}})["Deployment-page"])
        assert spec["metadata"]["annotations"]["mesh"] == "on"
        assert {name: spec["spec"][name] for name in kept} == kept
        assert not place.keys() & spec["spec"].keys() - {"volumes"}
        own = {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "web", "operator": "Exists"}]}
        placed = template(planned(pod={**place, **kept}, page={"replicas": 1, **own})["Deployment-page"])["spec"]
        assert {name: placed[name] for name in own} == own
        assert [one["name"] for one in spec["spec"]["volumes"]] == ["alpaca-config", "alpaca-page-tmp"]

    def test_pass_the_restricted_profile(self):
        spec = template(planned()["Deployment-page"])["spec"]
        assert (spec["securityContext"]["runAsNonRoot"], spec["automountServiceAccountToken"]) == (True, False)
        security = spec["containers"][0]["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})

    def test_mount_the_claim_for_votes_which_the_engine_does_not(self):
        made = planned(page={"replicas": 1, "votes": "pvc://desk/votes"})

        def claims(name: str) -> list[str]:
            volumes = template(made[name])["spec"]["volumes"]
            return [one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one]

        assert (claims("Deployment-page"), claims("Deployment")) == (["desk"], ["models"])
        mounts = template(made["Deployment-page"])["spec"]["containers"][0]["volumeMounts"]
        assert [one["mountPath"] for one in mounts] == ["/etc/alpaca", "/tmp", "/mnt/desk"]

    def test_are_told_what_a_page_reads(self):
        told = read(
            planned(
                page={"replicas": 3, "title": "诗"},
                model={"uri": "pvc://models/poet", "secretRef": {"name": "store"}},
                compareWith={"name": "base", "model": {"uri": "pvc://models/base"}, "load": {"bits": 4}},
                limits={"requestTimeoutSeconds": 9, "maxQueue": 3},
                systemPrompt="你是诗人。",
                hosts=["chat.example.org"],
                pod={"terminationGracePeriodSeconds": 60, "env": [{"name": "A", "value": "b"}]},
            )["Deployment-page"]
        )
        assert told == {
            "model": {"uri": "pvc://models/poet"},
            "compareWith": {"model": {"uri": "pvc://models/base"}},
            "limits": {"requestTimeoutSeconds": 9},
            "systemPrompt": "你是诗人。",
            "page": {"title": "诗"},
            "hosts": ["chat.example.org"],
            "pod": {"terminationGracePeriodSeconds": 60},
        }
        chat(**told)  # which a page can read


@pytest.mark.parametrize(
    ("spec", "anew"),
    [
        pytest.param({"page": {"replicas": 5}}, set(), id="another number of pages"),
        pytest.param({"replicas": 5}, set(), id="another number of engines"),
        pytest.param({"page": {"replicas": 2, "title": "诗"}}, {"-page"}, id="another title"),
        pytest.param({"page": {"replicas": 2, "image": "mine:2"}}, {"-page"}, id="another image of the page"),
        pytest.param({"page": {"replicas": 2, "nodeSelector": {"disk": "ssd"}}}, {"-page"}, id="another place"),
        pytest.param({"page": {"replicas": 2, "votes": "pvc://desk/v"}}, {"-page"}, id="votes"),
        pytest.param({"generation": {"temperature": 0}}, {""}, id="other answers"),
        pytest.param({"adapters": [{"uri": "pvc://models/one"}]}, {""}, id="an adapter"),
        pytest.param({"pod": {"image": "mine:2"}}, {""}, id="another image of the engine"),
        pytest.param({"systemPrompt": "你是诗人。"}, {"", "-page"}, id="a system prompt"),
        pytest.param({"auth": {"secretName": "keys"}}, {"", "-page"}, id="a login"),
    ],
)
def test_new_pods_start_where_something_is_new_to_them(spec: dict[str, Any], anew: set[str]) -> None:
    before, after = planned(), planned(**spec)

    def revision(made: dict[str, Manifest], name: str) -> str:
        return str(template(made[f"Deployment{name}"])["metadata"]["labels"][LABEL_REVISION])

    assert {name for name in ("", "-page") if revision(before, name) != revision(after, name)} == anew


def test_without_the_field_nothing_is_apart() -> None:
    made = planned(page=None)
    assert set(made) == {"Deployment", "Service"}
    assert LABEL_PAGE not in made["Deployment"]["metadata"]["labels"]


class TestMoving:
    """The place that the page leaves is kept until the other one answers."""

    def pod(self, name: str, *containers: str, ready: bool = True, going: bool = False) -> Pod:
        metadata: dict[str, Any] = {"name": name, "namespace": "poetry", "uid": f"uid-{name}"}
        if going:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        conditions = [{"type": "Ready", "status": str(ready)}]
        return Pod(
            {
                "kind": "Pod",
                "metadata": metadata,
                "spec": {"containers": [{"name": one} for one in containers]},
                "status": {"phase": "Running", "conditions": conditions},
            }
        )

    def seen(
        self,
        *pods: Pod,
        plan: tuple[str, ...] | None = ("engine",),
        pages: tuple[Pod, ...] | None = None,
        replicas: int = 1,
    ) -> Observed:
        """``plan``: the containers of the engine's Deployment; None where there is none."""
        template = {"spec": {"containers": [{"name": one} for one in plan or ()]}}
        child = {"spec": {"replicas": replicas, "template": template}} if plan is not None else None
        page = PageApart({"spec": {"replicas": 4}}, pages) if pages is not None else None
        return Observed(now=START, child=child, pods=pods, page=page)

    BOTH = ("engine", "ui")

    def test_out_the_engines_keep_it_until_one_of_its_own_answers(self):
        old = self.pod("old", *self.BOTH)
        for pages in (None, (), (self.pod("p", "ui", ready=False),), (self.pod("p", "ui", going=True),)):
            made = planned(self.seen(old, plan=self.BOTH, pages=pages), **ROUTED)
            assert holds(made["Deployment"]) == ["engine", "ui"]
            assert template(made["Deployment"]) == template(planned(page=None, **ROUTED)["Deployment"])
            assert ports(made["Service"]) == [7860, 8000]
            assert made["Service"]["spec"]["sessionAffinity"] == "ClientIP"
            assert backends(made["HTTPRoute"])["/"] == "poet-chat:7860"
            assert holds(made["Deployment-page"]) == ["ui"]
        made = planned(self.seen(old, plan=self.BOTH, pages=(self.pod("p", "ui"),)), **ROUTED)
        assert (holds(made["Deployment"]), ports(made["Service"])) == (["engine"], [7860, 8000]), "until it goes"
        assert backends(made["HTTPRoute"])["/"] == "poet-chat-page:7860"
        new, going = self.pod("new", "engine"), self.pod("old", *self.BOTH, going=True)
        assert ports(planned(self.seen(new, going, pages=(self.pod("p", "ui"),)))["Service"]) == [8000]

    @pytest.mark.parametrize(
        ("pods", "plan"),
        [
            pytest.param((), None, id="nothing is there yet"),
            pytest.param((), BOTH, id="the engine is scaled to zero"),
            pytest.param(("loading",), BOTH, id="the model loads, and nobody reaches the page within"),
            pytest.param(("old",), ("engine",), id="it was on its way, and the pages fail"),
        ],
    )
    def test_out_nothing_is_waited_for_where_nobody_loses_a_page(self, pods, plan):
        known = {"loading": self.pod("loading", *self.BOTH, ready=False), "old": self.pod("old", *self.BOTH)}
        made = planned(self.seen(*(known[name] for name in pods), plan=plan, pages=None))
        assert holds(made["Deployment"]) == ["engine"]

    def test_in_those_of_its_own_stay_until_one_of_the_engines_answers(self):
        pages = (self.pod("p", "ui"),)
        without, loading = self.pod("old", "engine"), self.pod("new", *self.BOTH, ready=False)
        going = self.pod("gone", *self.BOTH, going=True)
        for pods in ((), (without,), (without, loading), (loading, going)):
            made = planned(self.seen(*pods, pages=pages), page=None, **ROUTED)
            assert holds(made["Deployment"]) == ["engine", "ui"]
            assert ports(made["Service"]) == [7860, 8000]
            assert backends(made["HTTPRoute"])["/"] == "poet-chat-page:7860"
            assert made["Deployment-page"]["spec"]["replicas"] == 4, "as many as there are"
            assert template(made["Deployment-page"]) == template(planned(**ROUTED)["Deployment-page"])
        made = planned(self.seen(self.pod("new", *self.BOTH), pages=pages), page=None, **ROUTED)
        assert set(made) == {"Deployment", "Service", "HTTPRoute"}
        assert backends(made["HTTPRoute"])["/"] == "poet-chat:7860"

    def test_in_nothing_is_waited_for_where_no_engine_is_wanted(self):
        made = planned(self.seen(pages=(self.pod("p", "ui"),), replicas=0), page=None, replicas=0)
        assert set(made) == {"Deployment", "Service"}

    def test_in_before_an_api_elsewhere_the_pages_ask_that(self):
        seen = self.seen(self.pod("old", "engine"), pages=(self.pod("p", "ui"),))
        made = planned(seen, **ELSEWHERE, page=None)
        assert holds(made["Deployment"]) == ["ui"]
        page = template(made["Deployment-page"])["spec"]["containers"][0]
        assert environment(page) == {"ALPACA_ENGINE_URL": "https://api.example.org/v1"}
        assert read(made["Deployment-page"]) == {
            "engine": "External",
            "endpoint": {"url": "https://api.example.org/v1"},
        }
