"""The operator against a real API server and Job controller, with a played kubelet: what a user of kubectl sees."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from aiohttp import web

from alpaca_operator.api.contract import PROGRESS_PORT, ExitCode, Progress
from alpaca_operator.api.status import Reason
from alpaca_operator.errors import ApiError
from tests.cluster.bed.cache import BedError
from tests.cluster.bed.cluster import until
from tests.operator.kubelet import Outcome
from tests.operator.process import OperatorProcess
from tests.operator.team import SFTJOBS, Object, Team, conditions, ready, sft_job

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("running")]

DONE = Outcome(
    more={
        "step": 30,
        "total_steps": 30,
        "metrics": {"evalLoss": 1.5},
        "output": {"uri": "s3://models/poet", "digest": "sha256:1", "kind": "LoRAAdapter"},
    }
)


async def test_a_job_runs_to_its_end_and_its_pods_last_word_is_the_status(team: Team) -> None:
    team.kubelet.default = DONE
    await team.apply()
    job = await team.state("poet", "Succeeded")
    assert conditions(job) == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "False",
        "Complete": "True",
        "Failed": "False",
        "InputsReady": "True",
    }
    status = job["status"]
    assert status["metrics"] == {"evalLoss": 1.5}
    assert status["output"] == {"uri": "s3://models/poet", "digest": "sha256:1", "kind": "LoRAAdapter", "reused": False}
    assert status["progress"]["display"] == "30/30 100%"
    assert status["observedGeneration"] == 1
    assert await team.events(1) == [("Succeeded", "published s3://models/poet")]
    assert team.kubelet.started == {"poet": 1}


async def test_a_healthy_job_costs_two_writes_until_its_job_exists_and_five_to_its_end(
    team: Team, running: OperatorProcess
) -> None:
    def writes() -> float:
        kinds = (("jobs", "create"), ("sftjobs", "patch"), ("events", "create"))
        names = [f'alpaca_api_writes_total{{resource="{resource}",verb="{verb}"}}' for resource, verb in kinds]
        return sum(running.metric(name) for name in names)

    team.kubelet.starts_others = False
    await team.alone(running)
    before = writes()
    await team.apply()
    await team.state("poet", "Pending")
    assert writes() - before == 2
    team.kubelet.starts_others = True
    team.kubelet.default = DONE
    await team.state("poet", "Succeeded")
    assert writes() - before <= 5


async def test_a_bad_row_fails_the_job_at_once_and_says_what_to_do(team: Team) -> None:
    team.kubelet.default = Outcome(
        ExitCode.DATA, Reason.INVALID_DATA, "train.jsonl row 7: no assistant turn: remove it"
    )
    await team.apply()
    job = await team.state("poet", "InvalidData")
    assert conditions(job)["Failed"] == conditions(job)["Stalled"] == "True"
    assert ready(job)["message"].startswith("train.jsonl row 7: no assistant turn: remove it")
    assert job["status"]["failure"]["class"] == "DataError"
    assert job["status"]["restarts"]["total"] == 0
    assert team.kubelet.started == {"poet": 1}, "the next run would fail alike"
    assert [reason for reason, _ in await team.events(1)] == ["InvalidData"]


async def test_suspended_the_pod_saves_and_goes_and_resumed_the_job_goes_on(team: Team) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    first = await team.child()
    await team.set(suspend=True)
    job = await team.state("poet", "Suspended")
    assert conditions(job)["Suspended"] == "True"
    assert await team.child() is None
    assert await team.pods() == []
    team.kubelet.default = DONE
    await team.set(suspend=False)
    job = await team.state("poet", "Succeeded")
    second = await team.child()
    assert first is not None
    assert second is not None
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert team.kubelet.started == {"poet": 2}
    assert job["status"]["restarts"]["total"] == 0, "nobody's failure"


async def test_nothing_new_starts_next_to_a_pod_that_still_saves(team: Team) -> None:
    team.kubelet.holds_stopping_pods = True
    await team.apply()
    await team.state("poet", "Starting", "Running")
    await team.set(suspend=True)
    await team.state("poet", "Stopping")
    await team.set(suspend=False)
    await team.until("poet", lambda job: job["status"]["observedGeneration"] == 3, "looked at")
    assert ready(await team.job())["reason"] == "Stopping"
    assert len(await team.pods()) == 1
    team.kubelet.holds_stopping_pods = False
    await team.state("poet", "Starting", "Running")
    assert len(await team.pods()) == 1
    assert team.kubelet.started == {"poet": 2}


async def test_created_suspended_it_makes_nothing(team: Team) -> None:
    await team.apply(suspend=True)
    await team.state("poet", "Suspended")
    assert await team.child() is None


async def test_an_ended_job_is_not_undone_by_suspending_it(team: Team) -> None:
    team.kubelet.default = DONE
    await team.apply()
    await team.state("poet", "Succeeded")
    await team.set(suspend=True)
    job = await team.until("poet", lambda job: job["status"]["observedGeneration"] == 2, "looked at")
    assert ready(job)["reason"] == "Succeeded"
    assert await team.child() is not None


async def test_after_its_ttl_the_pods_go_and_nothing_is_trained_again(team: Team) -> None:
    team.kubelet.default = DONE
    await team.apply(ttlSecondsAfterFinished=1)
    await team.state("poet", "Succeeded")
    await team.gone()
    await team.set(ttlSecondsAfterFinished=2)  # one more look
    job = await team.until("poet", lambda job: job["status"]["observedGeneration"] == 2, "looked at")
    assert ready(job)["reason"] == "Succeeded"
    assert await team.child() is None
    assert team.kubelet.started == {"poet": 1}


async def test_a_deadline_may_be_set_later_and_ends_the_job(team: Team) -> None:
    await team.apply(activeDeadlineSeconds=86400)
    await team.state("poet", "Starting", "Running")
    await team.set(activeDeadlineSeconds=1)
    job = await team.state("poet", "DeadlineExceeded")
    assert conditions(job)["Failed"] == "True"


async def test_a_child_deleted_by_someone_is_made_again(team: Team) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    team.plane.kubectl("delete", "job", "poet-sft", "-n", team.namespace, "--wait=false")
    await team.until("poet", lambda _: team.kubelet.started["poet"] == 2, "started again")
    await team.state("poet", "Starting", "Running")


async def test_an_evicted_pod_is_followed_by_another_and_not_counted_as_the_users(team: Team) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    [pod] = await team.pods()
    team.plane.evict(pod["metadata"]["name"], team.namespace)
    await team.until("poet", lambda _: team.kubelet.started["poet"] == 2, "started again")
    team.kubelet.default = DONE
    job = await team.state("poet", "Succeeded")
    assert job["status"]["restarts"] == {"user": 0, "infra": 1, "total": 1}
    assert [attempt["reason"] for attempt in job["status"]["attempts"]] == ["Disrupted"]
    assert team.kubelet.started == {"poet": 2}


async def test_disruptions_are_capped(team: Team) -> None:
    await team.apply(failurePolicy={"maxInfraRestarts": 0})
    await team.state("poet", "Starting", "Running")
    [pod] = await team.pods()
    team.plane.evict(pod["metadata"]["name"], team.namespace)
    job = await team.state("poet", "RestartsExceeded")
    assert conditions(job)["Failed"] == "True"
    await team.quiet()
    child = await team.child()
    assert child is not None, "what has ended stays for its logs"


async def test_a_quota_is_told_and_waited_for(team: Team) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    team.plane.apply(quota, namespace=team.namespace)
    team.plane.wait("resourcequota/tight", "jsonpath={.status.hard}", team.namespace)
    await team.apply()
    job = await team.state("poet", "QuotaExceeded")
    assert "tight" in ready(job)["message"]
    assert conditions(job)["Reconciling"] == "True"
    assert [reason for reason, _ in await team.events(1)] == ["QuotaExceeded"]
    team.plane.kubectl("delete", "resourcequota", "tight", "-n", team.namespace)
    team.kubelet.default = DONE
    await team.state("poet", "Succeeded", seconds=120)


async def test_a_quota_on_pods_which_only_the_job_controller_hears_of_is_told_too(team: Team) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": {"pods": "0"}},
    }
    team.plane.apply(quota, namespace=team.namespace)
    team.plane.wait("resourcequota/tight", "jsonpath={.status.hard}", team.namespace)
    await team.apply()
    job = await team.state("poet", "QuotaExceeded")
    assert "tight" in ready(job)["message"]


def webhook_that_is_down(team: Team, name: str, group: str, resource: str) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": name,
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [
                    {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team.namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


async def test_a_webhook_that_is_down_is_told_once_and_waited_for(team: Team) -> None:
    name = f"down.{team.namespace}.example.org"
    webhook = webhook_that_is_down(team, name, "batch", "jobs")
    team.plane.apply(webhook)
    try:
        await team.apply()
        job = await team.until("poet", lambda job: name in ready(job).get("message", ""), "told of the webhook", 120)
        assert ready(job)["message"] == (
            f"waits for its pod to start; admission webhook {name} does not answer the API server: ask who keeps it; tried again by "
            "itself"
        )
        assert (ready(job)["reason"], conditions(job)["Reconciling"]) == ("APIServerUnavailable", "True")
    finally:
        team.plane.kubectl("delete", "validatingwebhookconfiguration", name)
    team.kubelet.default = DONE
    job = await team.state("poet", "Succeeded", seconds=180)
    assert [reason for reason, _ in await team.events(1)][:1] == ["APIServerUnavailable"]


async def test_a_webhook_for_pods_that_is_down_is_waited_for_too(team: Team) -> None:
    name = f"down.{team.namespace}.example.org"
    team.plane.apply(webhook_that_is_down(team, name, "", "pods"))
    try:
        await team.apply()
        job = await team.state("poet", "APIServerUnavailable", seconds=120)
        assert ready(job)["message"] == (
            f"admission webhook {name} does not answer the API server: ask who keeps it; tried again by itself"
        )
        assert (conditions(job)["Reconciling"], conditions(job)["Stalled"]) == ("True", "False")
    finally:
        team.plane.kubectl("delete", "validatingwebhookconfiguration", name)
    team.kubelet.default = DONE
    await team.state("poet", "Succeeded", seconds=180)


@dataclass(frozen=True)
class Garbled(Outcome):
    """A last word that no status can hold, but for some of it."""

    def told(self) -> str:
        return json.dumps(
            {
                "reason": "Succeeded",
                "step": 2**63,
                "totalSteps": -1,
                "loss": 1e400,
                "metrics": {"evalLoss": 1.5, "perplexity": "low", "huge": 10**400},
                "checkpoint": {"uri": "x" * 1025, "step": 1},
                "resolvedInputs": {"model": {"digest": "sha256:cd"}},
                "resolvedPolicy": {"precision": "bf16", "seed": 10**30},
                "output": {"uri": "s3://models/poet", "digest": "sha256:ab", "kind": "Distillate"},
            }
        )


async def test_what_no_status_can_hold_of_a_last_word_does_not_hold_up_the_rest(team: Team) -> None:
    team.kubelet.default = Garbled()
    await team.apply()
    job = await team.state("poet", "Succeeded")
    assert job["status"]["output"] == {"uri": "s3://models/poet", "digest": "sha256:ab", "reused": False}
    assert job["status"]["metrics"] == {"evalLoss": 1.5}
    assert job["status"]["resolvedPolicy"]["precision"] == "bf16"


@pytest.mark.parametrize("memory", ["16GB", "16 Gi", "-1"])
async def test_a_quantity_that_is_none_is_refused_with_its_field(team: Team, memory: str) -> None:
    with pytest.raises(ApiError, match=r"spec\.pod\.resources\.limits\.memory: Invalid value"):
        await team.apply(pod={"resources": {"limits": {"memory": memory}}})


async def test_a_quantity_that_is_passed_on_is_refused_on_the_job(team: Team) -> None:
    volume = {"name": "x", "mountPath": "/x", "emptyDir": {"sizeLimit": "5 GB"}}
    await team.apply(pod={"volumes": [volume]})
    job = await team.state("poet", "InvalidSpec")
    assert conditions(job)["Stalled"] == "True"
    assert "pod.volumes[0].emptyDir.sizeLimit is '5 GB', which is no quantity" in ready(job)["message"]


async def test_an_admission_policy_is_told_in_its_own_words(team: Team) -> None:
    name = f"no-jobs-{team.namespace}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team.namespace}},
            },
            "validations": [{"expression": "false", "message": "images come from registry.example only"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    team.plane.apply(policy, binding)
    probe = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "probe-"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
    }
    try:
        until(lambda: refused(team, probe), "the policy to hold")
        await team.apply()
        job = await team.state("poet", "AdmissionRefused")
        assert "images come from registry.example only" in ready(job)["message"]
        assert conditions(job)["Stalled"] == "True"
        assert conditions(job)["Failed"] == "False", "the policy may change"
    finally:
        team.plane.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name)


def refused(team: Team, manifest: Object) -> bool:
    try:
        team.plane.create(manifest, namespace=team.namespace, flags=["--dry-run=server"])
    except BedError:
        return True
    return False


async def test_a_job_of_the_childs_name_that_is_not_ours_is_left_alone(team: Team) -> None:
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "poet-sft", "namespace": team.namespace},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
        },
    }
    team.plane.apply(foreign)
    await team.apply()
    job = await team.state("poet", "NameConflict")
    assert "poet-sft" in ready(job)["message"]
    child = await team.child()
    assert child is not None
    assert "ownerReferences" not in child["metadata"]


async def test_deleted_and_applied_again_under_the_same_name_it_is_a_new_job(team: Team) -> None:
    team.kubelet.default = DONE
    await team.apply()
    first = await team.state("poet", "Succeeded")
    team.plane.kubectl("delete", "sftjob", "poet", "-n", team.namespace)
    await team.apply()
    second = await team.state("poet", "Succeeded")
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    child = await team.child()
    assert child is not None
    assert child["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]
    assert team.kubelet.started == {"poet": 2}


async def test_a_job_orphaned_under_the_childs_name_is_told(team: Team) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    team.plane.kubectl("delete", "sftjob", "poet", "-n", team.namespace, "--cascade=orphan")
    await team.apply()
    await team.state("poet", "NameConflict")
    team.plane.kubectl("delete", "job", "poet-sft", "-n", team.namespace)
    team.kubelet.default = DONE
    await team.state("poet", "Succeeded", seconds=120)


async def test_kueues_labels_reach_the_job_and_its_pods(team: Team) -> None:
    job = sft_job(team.namespace, "poet")
    job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    await team.kube.create(SFTJOBS, job)
    await team.state("poet", "Starting", "Running")
    child = await team.child()
    [pod] = await team.pods()
    assert child is not None
    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


async def test_deleting_the_resource_deletes_its_job_and_its_pods(team: Team) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    team.plane.kubectl("delete", "sftjob", "poet", "-n", team.namespace)
    await team.gone()


async def test_with_nothing_new_nothing_is_written(team: Team, running: OperatorProcess) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    before = await team.job()
    # What the workload does not concern: a label on the pod, a look at the resource.
    [pod] = await team.pods()
    team.plane.kubectl("label", "pod", pod["metadata"]["name"], "-n", team.namespace, "looked=at")
    looked = running.metric('alpaca_reconciles_total{kind="SFTJob",outcome="done"}')
    team.plane.kubectl("annotate", "job", "poet-sft", "-n", team.namespace, "looked=at")
    until(lambda: running.metric('alpaca_reconciles_total{kind="SFTJob",outcome="done"}') > looked, "one more look")
    assert (await team.job())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_progress_is_seen_while_the_pod_runs(team: Team) -> None:
    told = Progress(stage="Training", step=3, total_steps=10, loss=2.5, tokens_per_second=900, eta_seconds=65)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=told.to_json())

    app = web.Application()
    app.router.add_get("/progress", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    # A loopback address of its own, for the port is the contract's.
    team.kubelet.pod_address = "127.81.82.83"
    await web.TCPSite(runner, team.kubelet.pod_address, PROGRESS_PORT).start()
    try:
        await team.apply()
        job = await team.state("poet", "Running")
        row = team.plane.kubectl("get", "sftjobs", "-n", team.namespace, "--no-headers").split()
        assert row[:6] == ["poet", "Running", "3/10", "30%", "2.5", "1m"]
        told = told.model_copy(update={"step": 7, "eta_seconds": 20})
        job = await team.until("poet", lambda job: job["status"]["progress"]["step"] == 7, "at step 7")
        assert job["status"]["progress"]["display"] == "7/10 70%"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("pod", "field"),
    [
        pytest.param(
            {"volumes": [{"name": "out", "mountPath": "/out", "persistentVolumeClame": {"claimName": "models"}}]},
            "persistentVolumeClame",
            id="a volume's source",
        ),
        pytest.param(
            {"volumes": [{"name": "out", "mountPath": "/out", "emptyDir": {}, "readonly": True}]},
            "readonly",
            id="a field of a mount",
        ),
        pytest.param({"affinity": {"nodeAfinity": {}}}, "nodeAfinity", id="an affinity"),
        pytest.param(
            {"topologySpreadConstraints": [{"maxSkew": 1, "topology": "zone"}]}, "topology", id="a spread constraint"
        ),
        pytest.param(
            {"env": [{"name": "A", "valueFrom": {"secretRef": {"name": "a", "key": "b"}}}]}, "secretRef", id="a source"
        ),
        pytest.param({"envFrom": [{"secret": {"name": "a"}}]}, "secret", id="a source of many"),
    ],
)
async def test_a_typo_in_what_is_handed_on_is_refused_by_its_name(team: Team, pod: Object, field: str) -> None:
    await team.apply(pod=pod)
    job = await team.state("poet", "InvalidSpec")
    assert conditions(job)["Stalled"] == "True"
    assert field in ready(job)["message"]
    assert await team.child() is None


async def test_what_the_api_server_warns_of_is_an_event_of_the_job(team: Team) -> None:
    """A namespace that warns of what its policy would refuse; kubectl would have shown the warning to who made the Job by hand."""
    team.plane.kubectl("label", "namespace", team.namespace, "pod-security.kubernetes.io/warn=restricted")
    await team.apply(pod={"volumes": [{"name": "node", "mountPath": "/node", "hostPath": {"path": "/srv"}}]})
    [(reason, note)] = await team.events(1)
    assert reason == "ServerWarning"
    assert note.startswith('the API server says of Job poet-sft: would violate PodSecurity "restricted:latest"')
    assert 'volume "node" uses restricted volume type "hostPath"' in note
