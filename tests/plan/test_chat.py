"""What a ChatDeployment becomes beyond the golden file: the engine that is chosen, what starts new pods and what does not, who gets which key."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from alpaca_operator.api import ChatDeployment
from alpaca_operator.api.contract import (
    ANNOTATION_ADAPTERS,
    ANNOTATION_CONFIG,
    ANNOTATION_ENGINE,
    ANNOTATION_INPUTS,
    LABEL_REVISION,
)
from alpaca_operator.api.status import ResolvedInput
from alpaca_operator.plan import PLANNERS, Manifest, Plan
from alpaca_operator.settings import Settings

SETTINGS = Settings(images={"ChatDeployment": "registry.example/engine:1"}, image_page="registry.example/page:1")
WITH_VLLM = replace(SETTINGS, image_vllm="registry.example/vllm:1")
GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
ELSEWHERE = {"model": None, "engine": "External", "endpoint": {"url": "https://api.example.org/v1"}}


def chat(**spec: Any) -> ChatDeployment:
    given = {"model": {"uri": "pvc://models/poet"}} | spec
    return ChatDeployment.model_validate(
        {
            "kind": "ChatDeployment",
            "metadata": {"name": "poet", "namespace": "poetry", "uid": "uid-poet"},
            "spec": {name: value for name, value in given.items() if value is not None},
        }
    )


def planned(settings: Settings = SETTINGS, **spec: Any) -> Plan:
    return PLANNERS["ChatDeployment"](chat(**spec), {}, settings)


def made(kind: str, settings: Settings = SETTINGS, **spec: Any) -> Manifest:
    plan = planned(settings, **spec)
    assert plan.refusal is None
    return next(one for one in plan.manifests if one["kind"] == kind)


def containers(settings: Settings = SETTINGS, **spec: Any) -> dict[str, Manifest]:
    pod = made("Deployment", settings, **spec)["spec"]["template"]["spec"]
    return {one["name"]: one for one in pod["containers"]}


def environment(container: Manifest) -> dict[str, Any]:
    told = {one["name"]: one.get("value") or one["valueFrom"].get("secretKeyRef") for one in container["env"]}
    return {
        name: value
        for name, value in told.items()
        if name.startswith(("ALPACA_CHAT", "ALPACA_API", "ALPACA_E", "ALPACA_CO", "ALPACA_H", "VLLM_A"))
    }


class TestTheEngine:
    @pytest.mark.parametrize(
        ("settings", "spec", "chosen"),
        [
            pytest.param(WITH_VLLM, {}, "Transformers: no GPU is asked for in pod.resources", id="on CPUs"),
            pytest.param(
                SETTINGS,
                {"pod": GPU},
                "Transformers: the operator has no image of vLLM (ALPACA_IMAGE_VLLM)",
                id="without an image of vLLM",
            ),
            pytest.param(
                WITH_VLLM, {"pod": GPU}, "vLLM: a GPU is asked for, and vLLM can serve the spec", id="on a GPU"
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}},
                "vLLM: a GPU is asked for, and vLLM can serve the spec",
                id="on a GPU by a claim",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": {"resources": {"limits": {"hugepages-2Mi": "4Gi", "ephemeral-storage": "1Gi"}}}},
                "Transformers: no GPU is asked for in pod.resources",
                id="huge pages are no GPU",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU | {"image": "registry.example/own:1"}},
                "Transformers: pod.image is given; with an image of vLLM, set engine to vLLM",
                id="an image of one's own",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU, "load": {"bits": 4}},
                "Transformers: vLLM serves one model with at most one adapter that has no name, in the bits that it was saved in",
                id="what vLLM cannot",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU, "adapters": [{"uri": "pvc://models/one"}, {"uri": "pvc://models/two"}]},
                "Transformers: vLLM serves one model with at most one adapter that has no name, in the bits that it was saved in",
                id="two adapters for all",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU, "adapters": [{"uri": "pvc://models/one", "name": "sage"}]},
                "vLLM: a GPU is asked for, and vLLM can serve the spec",
                id="an adapter beside the model",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU, "adapterSelector": {}},
                "vLLM: a GPU is asked for, and vLLM can serve the spec",
                id="adapters by their labels",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU, "adapters": [{"uri": "s3://models/one", "name": "sage"}]},
                "Transformers: vLLM reads pvc:// and hf:// alone, and adapters[0] is s3://models/one",
                id="an adapter where vLLM cannot read",
            ),
            pytest.param(
                WITH_VLLM,
                {"pod": GPU, "model": {"uri": "s3://models/poet"}},
                "Transformers: vLLM reads pvc:// and hf:// alone, and model is s3://models/poet",
                id="where vLLM cannot read",
            ),
            pytest.param(SETTINGS, {"engine": "Transformers"}, "Transformers: spec.engine says so", id="named"),
            pytest.param(SETTINGS, {"engine": "LlamaCpp"}, "LlamaCpp: spec.engine says so", id="llama.cpp"),
        ],
    )
    def test_is_chosen_and_says_why(self, settings, spec, chosen):
        assert made("Deployment", settings, **spec)["metadata"]["annotations"][ANNOTATION_ENGINE] == chosen

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            pytest.param(
                {"engine": "vLLM"},
                "pod.image is not set, and the operator has no image of the engine: set it, or the operator's ALPACA_IMAGE_VLLM",
                id="vLLM without an image",
            ),
            pytest.param(
                {"engine": "vLLM", "pod": {"image": "vllm:1"}, "model": {"uri": "s3://models/poet"}},
                "vLLM reads pvc:// and hf:// alone, and model is s3://models/poet: set engine to Transformers",
                id="a place that vLLM cannot read",
            ),
            pytest.param(
                {
                    "engine": "vLLM",
                    "pod": {"image": "vllm:1"},
                    "model": {"uri": "hf://org/base", "secretRef": {"name": "hub"}},
                    "adapters": [{"uri": "pvc://models/poet", "secretRef": {"name": "store"}}],
                },
                "vLLM takes the credentials of one Secret, and its sources name hub and store: set engine to Transformers",
                id="two Secrets, whose keys nobody could tell apart",
            ),
            pytest.param(
                {"engine": "LlamaCpp", "pod": GPU},
                "engine LlamaCpp runs on CPUs, and pod.resources asks for a GPU: remove it, or set engine to Transformers and name the model "
                "that the file was made of",
                id="a GPU that llama.cpp would not use",
            ),
            pytest.param(
                {"engine": "LlamaCpp", "model": {"uri": "hf://org/poet-gguf"}},
                "model is hf://org/poet-gguf, and a repository of a hub holds a GGUF file for each type: download the one that you want to a "
                "volume, and name its folder",
                id="files of a hub",
            ),
            pytest.param(
                {"engine": "LlamaCpp", "model": {"uri": "ms://org/poet-gguf"}},
                "model is ms://org/poet-gguf, and a repository of a hub holds a GGUF file for each type: download the one that you want to a "
                "volume, and name its folder",
                id="files of ModelScope",
            ),
            pytest.param(
                {"pod": {"volumes": [{"name": "scratch"}]}},
                "pod.volumes[0] has no mountPath: a volume needs name and mountPath besides its source",
                id="a volume without a place",
            ),
        ],
    )
    def test_is_refused(self, spec, message):
        plan = planned(**spec)
        assert plan.manifests == ()
        assert plan.refusal is not None
        assert (plan.refusal.reason, plan.refusal.message) == ("InvalidSpec", message)

    def test_a_page_that_hangs_is_started_anew_and_one_that_is_slow_keeps_the_api_where_it_is(self):
        page = containers()["ui"]
        answers = {name: page[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert answers == {"startupProbe": "/", "readinessProbe": "/livez", "livenessProbe": "/livez"}
        patience = [
            page[name]["failureThreshold"] * page[name]["periodSeconds"] for name in ("readinessProbe", "livenessProbe")
        ]
        assert patience == [30, 60]

    def test_elsewhere_needs_no_container_and_no_port(self):
        assert set(containers(**ELSEWHERE)) == {"ui"}
        assert [port["port"] for port in made("Service", **ELSEWHERE)["spec"]["ports"]] == [7860]
        assert environment(containers(**ELSEWHERE)["ui"]) == {"ALPACA_ENGINE_URL": "https://api.example.org/v1"}

    def test_loads_for_as_long_as_it_may_before_it_counts_as_dead(self):
        engine = containers(startupTimeoutSeconds=3600)["engine"]
        startup = engine["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] == 3600
        assert (startup["httpGet"]["path"], engine["livenessProbe"]["httpGet"]["path"]) == ("/health", "/livez")
        assert made("Deployment", startupTimeoutSeconds=3600)["spec"]["progressDeadlineSeconds"] > 3600


class TestVllm:
    def command(self, **spec: Any) -> list[str]:
        return containers(WITH_VLLM, engine="vLLM", pod=GPU, **spec)["engine"]["command"]

    def test_a_model_of_a_hub_with_its_revision(self):
        words = self.command(model={"uri": "hf://me/poet@v2"})
        assert words[:3] == ["vllm", "serve", "me/poet"]
        assert words[words.index("--revision") + 1] == "v2"

    def test_an_adapter_has_the_name_that_is_asked_for(self):
        words = self.command(adapters=[{"uri": "pvc://models/lora"}])
        assert words[words.index("--served-model-name") + 1] == "poet-base"
        assert words[words.index("--lora-modules") + 1] == "poet=/mnt/models/lora"

    def test_an_adapter_is_looked_at_before_vllm_starts(self):
        spec = {
            "model": {"uri": "hf://org/base", "secretRef": {"name": "hub"}},
            "adapters": [{"uri": "pvc://models/lora"}],
        }
        pod = made("Deployment", WITH_VLLM, engine="vLLM", pod=GPU, **spec)["spec"]["template"]["spec"]
        (check,) = pod["initContainers"]
        assert (check["image"], check["command"][2]) == ("registry.example/engine:1", "workloads.adapter_check")
        assert check["envFrom"] == [{"secretRef": {"name": "hub"}}]
        assert "/mnt/models" in {mount["mountPath"] for mount in check["volumeMounts"]}
        alone = made("Deployment", WITH_VLLM, engine="vLLM", pod=GPU)["spec"]["template"]["spec"]
        assert "initContainers" not in alone

    def test_an_adapter_for_all_is_on_its_command_line(self):
        words = self.command(adapters=[{"uri": "pvc://models/lora"}])
        assert words[words.index("--enable-lora") :] == [
            "--enable-lora", "--max-lora-rank", "256", "--lora-modules", "poet=/mnt/models/lora",
        ]  # fmt: skip
        engine = containers(WITH_VLLM, engine="vLLM", pod=GPU, adapters=[{"uri": "pvc://models/lora"}])["engine"]
        assert environment(engine) == {}, "nobody loads another"

    def test_everything_that_the_spec_says(self):
        words = self.command(
            model={"uri": "pvc://models/poet", "ropeScaling": {"type": "linear", "factor": 4}},
            generation={"temperature": 0.5, "maxNewTokens": 100},
            limits={"maxBatch": 8, "maxInputTokens": 900},
        )
        told = {words[place]: words[place + 1] for place in range(3, len(words)) if words[place].startswith("--")}
        assert told == {
            "--host": "127.0.0.1",
            "--port": "8001",
            "--served-model-name": "poet",
            "--max-num-seqs": "8",
            "--max-model-len": "1000",
            "--override-generation-config": '{"temperature": 0.5, "max_new_tokens": 100}',
            "--hf-overrides": '{"rope_parameters": {"rope_type": "linear", "factor": 4.0}}',
        }

    @pytest.mark.parametrize(
        ("spec", "parser"),
        [
            pytest.param({"model": {"uri": "hf://Qwen/Qwen2.5-7B-Instruct"}}, "hermes", id="Qwen2.5"),
            pytest.param({"model": {"uri": "hf://Qwen/Qwen3-8B@main"}}, "hermes", id="Qwen3, with its revision"),
            pytest.param({"model": {"uri": "hf://Qwen/Qwen2.5-Coder-7B-Instruct"}}, None, id="Qwen2.5-Coder, which writes them otherwise"),
            pytest.param({"model": {"uri": "hf://Qwen/Qwen3-Coder-30B-A3B-Instruct"}}, "qwen3_xml", id="Qwen3-Coder"),
            pytest.param({"model": {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct"}}, "llama3_json", id="Llama-3.1"),
            pytest.param({"model": {"uri": "hf://meta-llama/Llama-3.1-8B"}}, None, id="its base, which knows no tools"),
            pytest.param({"model": {"uri": "hf://mistralai/Mistral-7B-Instruct-v0.3"}}, "mistral", id="Mistral"),
            pytest.param({"model": {"uri": "hf://mistralai/Mistral-7B-Instruct-v0.2"}}, None, id="an earlier one, without tools"),
            pytest.param({"model": {"uri": "hf://me/poet"}}, None, id="a name that tells nothing"),
            pytest.param({"model": {"uri": "pvc://models/Qwen3-8B"}}, None, id="a folder, whose name is its owner's"),
            pytest.param({"vllm": {"toolCallParser": "xlam"}}, "xlam", id="as the spec says"),
            pytest.param({"model": {"uri": "hf://Qwen/Qwen3-8B"}, "vllm": {"toolCallParser": "None"}}, None, id="none, as the spec says"),
        ],
    )  # fmt: skip
    def test_calls_of_tools_are_found_by_what_is_known_of_the_model(self, spec: dict[str, Any], parser: str | None):
        words = self.command(**spec)
        assert ("--enable-auto-tool-choice" in words) == (parser is not None)
        assert (words[words.index("--tool-call-parser") + 1] if parser else None) == parser
        pod = made("Deployment", WITH_VLLM, engine="vLLM", pod=GPU, **spec)["spec"]["template"]
        told = json.loads(pod["metadata"]["annotations"][ANNOTATION_CONFIG])
        assert told["spec"]["vllm"] == {"toolCallParser": parser or "None"}, "what stands before vLLM is told too"

    def test_several_gpus_share_a_model(self):
        pod = {"resources": {"limits": {"amd.com/gpu": "4"}}}
        words = containers(WITH_VLLM, engine="vLLM", pod=pod)["engine"]["command"]
        assert words[words.index("--tensor-parallel-size") + 1] == "4"

    def test_is_asked_by_what_stands_before_it_alone_which_wants_the_key(self):
        found = containers(WITH_VLLM, engine="vLLM", pod=GPU, auth={"secretName": "keys"})
        assert list(found) == ["engine", "api", "ui"]
        assert environment(found["engine"]) == {}
        assert environment(found["api"]) == {"ALPACA_API_KEY": {"name": "keys", "key": "apiKey"}}
        assert "ports" not in found["engine"]
        assert [port["containerPort"] for port in found["api"]["ports"]] == [8000]
        probes = [found["engine"][name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
        assert all("127.0.0.1:8001/health" in probe["exec"]["command"][-1] for probe in probes), (
            "the kubelet reaches no port of it"
        )
        assert found["api"]["image"] == "registry.example/page:1"

    def test_stops_when_what_stands_before_it_has_no_answer_left(self):
        found = containers(WITH_VLLM, engine="vLLM", pod=GPU)
        told = found["engine"]["lifecycle"]["preStop"]["exec"]["command"]
        assert told[:2] == ["python3", "-c"]
        compile(told[2], "preStop", "exec")
        assert "('127.0.0.1', 8000)" in told[2]
        assert found["api"]["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}

    def test_hung_does_not_wait_for_what_stands_before_it_and_stays(self):
        engine = containers(WITH_VLLM, engine="vLLM", pod=GPU)["engine"]
        probes = ("startupProbe", "readinessProbe", "livenessProbe")
        waits = [engine[name].get("terminationGracePeriodSeconds") for name in probes]
        assert waits == [30, None, 30], "the API server refuses one of a readiness probe"
        ours = containers()["engine"]
        assert not any("terminationGracePeriodSeconds" in ours[name] for name in probes)

    def test_reads_of_the_models_folder_what_it_says_of_answers_and_writes_nothing(self):
        found = containers(WITH_VLLM, engine="vLLM", pod=GPU, cache={"claimName": "cache"})
        mounted = {mount["mountPath"]: mount.get("readOnly", False) for mount in found["api"]["volumeMounts"]}
        assert mounted == {"/etc/alpaca": True, "/mnt/models": True, "/mnt/cache": True, "/tmp": False}

    def test_a_system_prompt_and_a_bound_on_the_queue_are_for_what_stands_before_it(self):
        spec = {"pod": GPU, "systemPrompt": "你是诗人。", "limits": {"maxQueue": 3}}
        annotations = made("Deployment", WITH_VLLM, **spec)["metadata"]["annotations"]
        assert annotations[ANNOTATION_ENGINE] == "vLLM: a GPU is asked for, and vLLM can serve the spec"


class TestKeys:
    def test_lock_page_and_api_together(self):
        found = containers(auth={"secretName": "keys"})
        key = {"name": "keys", "key": "apiKey"}
        assert environment(found["engine"]) == {"ALPACA_API_KEY": key}
        assert environment(found["ui"]) == {
            "ALPACA_ENGINE_URL": "http://127.0.0.1:8000/v1",
            "ALPACA_API_KEY": key,
            "ALPACA_CHAT_USERNAME": {"name": "keys", "key": "username"},
            "ALPACA_CHAT_PASSWORD": {"name": "keys", "key": "password"},
        }

    def test_of_two_apis_elsewhere_are_two(self):
        first = {"url": "https://a.example.org/v1", "secretRef": {"name": "a"}}
        second = {"url": "https://b.example.org/v1", "secretRef": {"name": "b", "key": "token"}}
        found = containers(
            **ELSEWHERE | {"endpoint": first, "compareWith": {"endpoint": second}, "auth": {"secretName": "keys"}}
        )
        assert environment(found["ui"]) == {
            "ALPACA_ENGINE_URL": "https://a.example.org/v1",
            "ALPACA_API_KEY": {"name": "a", "key": "apiKey"},
            "ALPACA_COMPARE_URL": "https://b.example.org/v1",
            "ALPACA_COMPARE_API_KEY": {"name": "b", "key": "token"},
            "ALPACA_CHAT_USERNAME": {"name": "keys", "key": "username"},
            "ALPACA_CHAT_PASSWORD": {"name": "keys", "key": "password"},
        }


class TestTheDeployment:
    def revision(self, **spec: Any) -> str:
        return made("Deployment", **spec)["spec"]["template"]["metadata"]["labels"][LABEL_REVISION]

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"replicas": 5}, id="more pods"),
            pytest.param({"updatePolicy": "Manual"}, id="another policy"),
            pytest.param({"gates": [{"from": {"kind": "EvaluationJob", "name": "exam"}}]}, id="a gate"),
            pytest.param({"service": {"type": "NodePort"}}, id="another Service"),
            pytest.param({"httpRoute": {"parentRefs": [{"name": "web"}]}}, id="a route"),
            pytest.param({"podDisruptionBudget": {"minAvailable": 1}}, id="a budget"),
        ],
    )
    def test_starts_no_pods_for(self, spec):
        assert self.revision(**spec) == self.revision()

    def test_pods_are_told_the_names_of_their_route_which_browsers_give(self):
        route = {"parentRefs": [{"name": "web"}], "hostnames": ["chat.example.org", "*.poets.org"]}
        for container in containers(httpRoute=route).values():
            assert environment(container)["ALPACA_HOSTS"] == "chat.example.org *.poets.org"
        assert "ALPACA_HOSTS" not in environment(containers()["ui"])

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"systemPrompt": "你是诗人。"}, id="another system prompt"),
            pytest.param({"model": {"uri": "pvc://models/other"}}, id="another model"),
            pytest.param({"pod": {"labels": {"team": "poetry"}}}, id="a label of the pods"),
            pytest.param({"page": {"title": "诗"}}, id="another title"),
        ],
    )
    def test_starts_pods_anew_for(self, spec):
        assert self.revision(**spec) != self.revision()

    def test_starts_pods_anew_for_another_model_at_the_same_place(self):
        def of(digest: str) -> Manifest:
            found = ResolvedInput(uri="pvc://models/poet", digest=digest, producer_uid="uid", producer="SFTJob poet")
            spec = chat(model={"from": {"kind": "SFTJob", "name": "poet"}})
            return PLANNERS["ChatDeployment"](spec, {"model": found}, SETTINGS).manifests[0]

        first, second = of("sha256:1"), of("sha256:2")
        read = json.loads(first["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONFIG])
        assert read["spec"]["model"] == {"uri": "pvc://models/poet"}
        assert read["metadata"]["annotations"][ANNOTATION_INPUTS] == first["metadata"]["annotations"][ANNOTATION_INPUTS]
        labels = [each["spec"]["template"]["metadata"]["labels"][LABEL_REVISION] for each in (first, second)]
        assert labels[0] != labels[1]

    def test_replaces_a_pod_before_it_starts_the_next_only_where_both_want_a_gpu(self):
        assert made("Deployment")["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }
        assert made("Deployment", pod=GPU)["spec"]["strategy"] == {"type": "Recreate"}

    def test_takes_over_as_the_spec_says(self):
        surging = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        assert made("Deployment", pod=GPU, updateStrategy="Surge")["spec"]["strategy"] == surging
        assert made("Deployment", updateStrategy="Recreate")["spec"]["strategy"] == {"type": "Recreate"}
        labels = [
            made("Deployment", **given)["spec"]["template"]["metadata"]["labels"][LABEL_REVISION]
            for given in ({}, {"updateStrategy": "Recreate"})
        ]
        assert labels[0] == labels[1], "which starts no new pods"

    @pytest.mark.parametrize(("grace", "seconds"), [(600, 5), (5, 4), (1, 0)])
    def test_a_short_grace_period_leaves_time_to_stop(self, grace, seconds):
        engine = containers(pod={"terminationGracePeriodSeconds": grace})["engine"]
        assert engine["lifecycle"] == {"preStop": {"sleep": {"seconds": seconds}}}


def test_users_stay_with_their_pod_where_there_are_several():
    for replicas in (1, 2):  # an autoscaler makes several pods of one, and does not ask the spec
        assert made("Service", replicas=replicas)["spec"]["sessionAffinity"] == "ClientIP"


def test_a_route_leads_to_page_and_api():
    wanted = {
        "parentRefs": [{"name": "web", "namespace": "infra", "sectionName": "https"}],
        "hostnames": ["chat.example.org"],
    }
    spec = made("HTTPRoute", httpRoute=wanted, limits={"requestTimeoutSeconds": 90})["spec"]
    assert spec == {
        "parentRefs": [{"name": "web", "namespace": "infra", "sectionName": "https"}],
        "hostnames": ["chat.example.org"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                "backendRefs": [{"name": "poet-chat", "port": 8000}],
                "timeouts": {"request": "90s"},
            },
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "poet-chat", "port": 7860}],
                "timeouts": {"request": "0s"},
            },
        ],
    }


def test_a_budget_finds_the_pods():
    budget = made("PodDisruptionBudget", podDisruptionBudget={"maxUnavailable": "50%"})["spec"]
    assert budget["maxUnavailable"] == "50%"
    assert budget["selector"] == made("Deployment")["spec"]["selector"]
    labels = made("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("votes", "spec", "mounted"),
    [
        pytest.param("pvc://desk/votes", {}, {"/mnt/models": True}, id="a claim of their own"),
        pytest.param("pvc://models/votes", {}, {"/mnt/models": True}, id="beside the model"),
        pytest.param(
            "pvc://models/votes",
            {"cache": {"claimName": "models"}},
            {"/mnt/models": False},
            id="where the cache is too",
        ),
    ],
)
def test_the_engine_writes_no_votes(votes: str, spec: dict[str, Any], mounted: dict[str, bool]) -> None:
    found = containers(page={"votes": votes}, **spec)["engine"]["volumeMounts"]
    claims = [mount for mount in found if mount["name"].startswith("alpaca-claim-")]
    assert {mount["mountPath"]: mount["readOnly"] for mount in claims} == mounted


def test_the_page_mounts_the_claim_for_votes_and_no_other() -> None:
    kept = containers(page={"votes": "pvc://desk/votes"})["ui"]["volumeMounts"]
    assert [(mount["mountPath"], mount.get("readOnly", False)) for mount in kept] == [
        ("/etc/alpaca", True), ("/tmp", False), ("/mnt/desk", False),
    ]  # fmt: skip
    assert len(containers()["ui"]["volumeMounts"]) == 2


class TestAdaptersWithNames:
    """They are listed in an annotation, which pods follow: another list is no reason for new pods."""

    ONE: ClassVar = {"uri": "s3://models/one", "name": "poet"}
    TWO: ClassVar = {"uri": "pvc://models/two", "name": "sage"}

    def listed(self, manifest: Manifest) -> list[dict[str, Any]]:
        return list(json.loads(manifest["metadata"]["annotations"][ANNOTATION_ADAPTERS])["adapters"])

    def revision(self, inputs: dict[str, ResolvedInput] | None = None, **spec: Any) -> str:
        plan = PLANNERS["ChatDeployment"](chat(**spec), inputs or {}, SETTINGS)
        return str(plan.manifests[0]["spec"]["template"]["metadata"]["labels"][LABEL_REVISION])

    def test_pods_follow_the_list_and_their_configuration_has_none(self):
        deployed = made("Deployment", adapters=[self.ONE, self.TWO])
        template = deployed["spec"]["template"]
        assert (
            self.listed(deployed)
            == self.listed(template)
            == [
                {"name": "poet", "uri": "s3://models/one"},
                {"name": "sage", "uri": "pvc://models/two"},
            ]
        )
        assert "adapters" not in json.loads(template["metadata"]["annotations"][ANNOTATION_CONFIG])["spec"]
        [config] = [one for one in template["spec"]["volumes"] if one["name"] == "alpaca-config"]
        assert config["downwardAPI"]["items"][1] == {
            "path": "adapters.json",
            "fieldRef": {"fieldPath": "metadata.annotations['literary-alpaca.io/adapters']"},
        }
        engine, *_ = template["spec"]["containers"]
        assert {"name": "ALPACA_ADAPTERS", "value": "/etc/alpaca/adapters.json"} in engine["env"]

    def test_what_a_job_made_is_listed_with_its_digest(self):
        source = {"from": {"kind": "SFTJob", "name": "ode"}, "name": "poet"}
        ode = ResolvedInput(uri="pvc://models/ode", digest="sha256:1", producer_uid="uid-ode", producer="SFTJob ode")
        inputs = {"model": ResolvedInput(uri="pvc://models/poet"), "adapters[0]": ode, "adapterSelector[haiku]": ode}
        plan = PLANNERS["ChatDeployment"](chat(adapters=[source], adapterSelector={}), inputs, SETTINGS)
        assert self.listed(plan.manifests[0]) == [
            {"name": "poet", "uri": "pvc://models/ode", "digest": "sha256:1"},
            {"name": "haiku", "uri": "pvc://models/ode", "digest": "sha256:1"},
        ]
        told = json.loads(plan.manifests[0]["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONFIG])
        assert "annotations" not in told["metadata"], "its digest may change while the pod serves"
        assert "adapterSelector" not in told["spec"]

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"adapters": [ONE]}, id="the first"),
            pytest.param({"adapters": [ONE, TWO]}, id="one on a claim that the model lies on"),
            pytest.param({"adapterSelector": {"matchLabels": {"team": "poetry"}}}, id="a selector"),
        ],
    )
    def test_the_same_pods_serve(self, spec):
        assert self.revision(**spec) == self.revision()

    def test_the_same_pods_serve_what_a_selector_takes(self):
        taken = {"adapterSelector[haiku]": ResolvedInput(uri="pvc://models/haiku", digest="sha256:1")}
        assert self.revision(taken, adapterSelector={}) == self.revision()

    @pytest.mark.parametrize(
        "adapter",
        [
            pytest.param({"uri": "pvc://others/one", "name": "poet"}, id="on another claim"),
            pytest.param({**ONE, "secretRef": {"name": "store"}}, id="with a Secret"),
            pytest.param({"uri": "pvc://models/one"}, id="without a name"),
        ],
    )
    def test_new_pods_serve_one(self, adapter):
        assert self.revision(adapters=[adapter]) != self.revision()

    ON_VLLM: ClassVar = {"engine": "vLLM", "pod": GPU}

    def revision_on_vllm(self, inputs: dict[str, ResolvedInput] | None = None, **spec: Any) -> str:
        plan = PLANNERS["ChatDeployment"](chat(**self.ON_VLLM, **spec), inputs or {}, WITH_VLLM)
        return str(plan.manifests[0]["spec"]["template"]["metadata"]["labels"][LABEL_REVISION])

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"adapters": [{"uri": "pvc://models/two", "name": "sage"}]}, id="by name"),
            pytest.param({"adapterSelector": {}}, id="by label, before there are any"),
        ],
    )
    def test_vllm_is_told_of_them_by_what_stands_before_it(self, spec):
        deployed = made("Deployment", WITH_VLLM, **self.ON_VLLM, **spec)
        template = deployed["spec"]["template"]
        engine, api, _ = template["spec"]["containers"]
        assert self.listed(deployed) == self.listed(template)
        assert [each["name"] for each in self.listed(deployed)] == [each["name"] for each in spec.get("adapters", [])]
        words = engine["command"]
        assert words[words.index("--served-model-name") + 1] == "poet"
        assert "--lora-modules" not in words
        assert words[words.index("--enable-lora") :] == [
            "--enable-lora", "--max-lora-rank", "256", "--max-loras", "2", "--max-cpu-loras", "64",
        ]  # fmt: skip
        assert environment(engine) == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        assert {"name": "ALPACA_ADAPTERS", "value": "/etc/alpaca/adapters.json"} in api["env"]
        assert "ALPACA_ADAPTERS" not in {each["name"] for each in engine["env"]}
        assert "initContainers" not in template["spec"], (
            "one that does not fit must not keep the others from being served"
        )
        assert "adapters" not in json.loads(template["metadata"]["annotations"][ANNOTATION_CONFIG])["spec"]

    def test_what_stands_before_vllm_can_look_at_them(self):
        model = {"uri": "hf://org/base", "secretRef": {"name": "hub"}}
        adapters = [{"uri": "pvc://models/two", "name": "sage"}]
        found = containers(WITH_VLLM, **self.ON_VLLM, model=model, adapters=adapters, cache={"claimName": "cache"})[
            "api"
        ]
        assert found["image"] == "registry.example/engine:1", "the page's has no torch"
        assert found["envFrom"] == [{"secretRef": {"name": "hub"}}]
        assert found["resources"] == {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
        mounted = {mount["mountPath"]: mount.get("readOnly", False) for mount in found["volumeMounts"]}
        assert mounted == {"/etc/alpaca": True, "/mnt/models": True, "/mnt/cache": False, "/tmp": False}
        without = PLANNERS["ChatDeployment"](
            chat(**self.ON_VLLM, adapters=adapters), {}, replace(WITH_VLLM, images={})
        ).refusal
        assert without is not None
        assert "the operator has no image that does: set its ALPACA_IMAGE_CHATDEPLOYMENT" in without.message

    def test_the_same_pods_of_vllm_serve_another_list(self):
        one = {"uri": "pvc://models/one", "name": "poet-two"}
        two = {"uri": "pvc://models/two", "name": "sage"}
        taken = {"adapterSelector[haiku]": ResolvedInput(uri="pvc://models/haiku", digest="sha256:1")}
        assert self.revision_on_vllm(adapters=[one]) == self.revision_on_vllm(adapters=[one, two])
        assert self.revision_on_vllm(taken, adapterSelector={}) == self.revision_on_vllm(adapterSelector={})
        assert self.revision_on_vllm(adapters=[one]) != self.revision_on_vllm(), "vLLM sets memory aside for them"
        elsewhere = {"uri": "pvc://others/two", "name": "sage"}
        assert self.revision_on_vllm(adapters=[one]) != self.revision_on_vllm(adapters=[one, elsewhere])

    def test_one_that_a_selector_takes_from_where_vllm_cannot_read_keeps_no_other_from_being_served(self):
        taken = {"adapterSelector[haiku]": ResolvedInput(uri="s3://models/haiku", digest="sha256:1")}
        plan = PLANNERS["ChatDeployment"](chat(**self.ON_VLLM, adapterSelector={}), taken, WITH_VLLM)
        assert plan.refusal is None
        assert [each["uri"] for each in self.listed(plan.manifests[0])] == ["s3://models/haiku"]

    def test_a_claim_more_leaves_the_names_of_the_others(self):
        page = {"votes": "pvc://votes/chat"}
        before, after = (
            made("Deployment", page=page, adapters=each)["spec"]["template"]["spec"]["volumes"]
            for each in ([], [{"uri": "pvc://another/one", "name": "poet"}])
        )
        assert [one for one in after if one not in before] == [
            {"name": "alpaca-claim-2", "persistentVolumeClaim": {"claimName": "another"}}
        ]
