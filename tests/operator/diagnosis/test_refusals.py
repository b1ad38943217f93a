"""What the API server refuses, with the line that users read."""

from __future__ import annotations

import pytest

from alpaca_operator.api.status import Reason
from alpaca_operator.diagnosis import refusals
from alpaca_operator.exits import Refused, Waiting

REFUSED = [
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, '
        "limited: requests.nvidia.com/gpu=4",
        Waiting(
            Reason.QUOTA_EXCEEDED,
            "quota gpus has no room (requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: "
            "requests.nvidia.com/gpu=4): lower pod.resources, wait for other jobs to end, or ask for a larger quota",
        ),
        id="a quota without room",
    ),
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: failed quota: memory: must specify limits.memory for: workload',
        Waiting(Reason.QUOTA_EXCEEDED, "quota memory counts limits.memory for: workload: set them in pod.resources"),
        id="a quota that wants a limit",
    ),
    pytest.param(
        422,
        "Error creating: pods \"poet-sft-x\" is forbidden: ValidatingAdmissionPolicy 'images' with binding 'all' denied request: images "
        "must come from registry.example",
        Refused(
            Reason.ADMISSION_REFUSED,
            "admission policy images refuses the pod: images must come from registry.example: change pod in a job of another name, or ask "
            "who set the policy",
        ),
        id="an admission policy",
    ),
    pytest.param(
        400,
        'admission webhook "check.example" denied the request: no',
        Refused(
            Reason.ADMISSION_REFUSED,
            "admission policy check.example refuses the pod: no: change pod in a job of another name, or ask who set the policy",
        ),
        id="a webhook",
    ),
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: violates PodSecurity "restricted:latest": restricted volume types (volume "data" uses restricted '
        'volume type "hostPath")',
        Refused(
            Reason.ADMISSION_REFUSED,
            'PodSecurity refuses the pod: "restricted:latest": restricted volume types (volume "data" uses restricted volume type '
            '"hostPath"): change pod in a job of another name, or ask who set the policy',
        ),
        id="Pod Security",
    ),
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: no PriorityClass with name high was found',
        Refused(
            Reason.ADMISSION_REFUSED,
            'the API server refuses the pod: pods "poet-sft-x" is forbidden: no PriorityClass with name high was found: make what it asks '
            "for, or change pod in a job of another name",
        ),
        id="something that the pod names and nobody made",
    ),
    pytest.param(
        403,
        'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs" in API group "batch" in the namespace "c"',
        Refused(
            Reason.ADMISSION_REFUSED,
            'the operator has no right to create it (jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource '
            '"jobs" in API group "batch" in the namespace "c"): apply manifests/rbac',
        ),
        id="rights that the operator lacks",
    ),
    pytest.param(
        422,
        'Job.batch "poet-sft" is invalid: spec.template.spec.volumes[5].name: Duplicate value: "disk"',
        Refused(
            Reason.INVALID_SPEC,
            'the API server refuses the pod: Job.batch "poet-sft" is invalid: spec.template.spec.volumes[5].name: Duplicate value: "disk": '
            "correct pod in a job of another name",
        ),
        id="a piece of pod spec that is no piece of pod spec",
    ),
    pytest.param(
        409,
        'jobs.batch "poet-sft" already exists',
        Refused(
            Reason.NAME_CONFLICT,
            'its child\'s name is taken (jobs.batch "poet-sft" already exists, and belongs to something else): delete that, or use a job '
            "of another name",
        ),
        id="a name that is taken",
    ),
]


@pytest.mark.parametrize(("code", "message", "refusal"), REFUSED)
def test_a_refusal(code, message, refusal):
    assert refusals.refusal(code, message) == refusal


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(409, "the object has been modified", id="a write that crossed another"),
        pytest.param(429, "too many requests", id="an API server that is busy"),
        pytest.param(500, "etcdserver: leader changed", id="an outage"),
        pytest.param(
            403,
            "unable to create new content in namespace c because it is being terminated",
            id="a namespace that is going",
        ),
    ],
)
def test_what_is_not_for_the_user_to_mend(code, message):
    assert refusals.refusal(code, message) is None


DOWN = 'Internal error occurred: failed calling webhook "pods.down.example": failed to call webhook: Post "https://nope.t2.svc:443/?timeout=2s": '
AWAY = "admission webhook pods.down.example (Service nope of namespace t2) does not answer the API server: ask who keeps it; tried again by itself"
FORBIDDEN = 'Error creating: pods "poet-sft-x" is forbidden: '


@pytest.mark.parametrize(
    ("words", "exit"),
    [
        pytest.param(
            f'Error creating: {DOWN}service "nope" not found',
            Waiting(Reason.API_SERVER_UNAVAILABLE, AWAY),
            id="a webhook whose service is gone",
        ),
        pytest.param(
            f"Error creating: {DOWN}context deadline exceeded",
            Waiting(Reason.API_SERVER_UNAVAILABLE, AWAY),
            id="a webhook that is slow",
        ),
        pytest.param(
            f"{FORBIDDEN}status unknown for quota: small, resources: pods",
            Waiting(Reason.QUOTA_EXCEEDED, "quota small has not been counted yet: tried again by itself"),
            id="a quota that is new",
        ),
        pytest.param(
            "Error creating: etcdserver: request timed out",
            Waiting(
                Reason.API_SERVER_UNAVAILABLE,
                "the API server does not take the pod now (Error creating: etcdserver: request timed out): tried again by itself",
            ),
            id="an outage",
        ),
        pytest.param(
            f"{FORBIDDEN}no PriorityClass with name high was found",
            Refused(
                Reason.ADMISSION_REFUSED,
                f"the API server refuses the pod: {FORBIDDEN}no PriorityClass with name high was found: make what it asks for, or change "
                "pod in a job of another name",
            ),
            id="something that nobody made",
        ),
        pytest.param(
            'Error creating: Pod "poet-sft-x" is invalid: spec.volumes[0]: Forbidden: no',
            Refused(
                Reason.INVALID_SPEC,
                'the API server refuses the pod: Error creating: Pod "poet-sft-x" is invalid: spec.volumes[0]: Forbidden: no: correct pod '
                "in a job of another name",
            ),
            id="a pod that is none",
        ),
        pytest.param(
            'Error creating: admission webhook "check.example" denied the request: no',
            Refused(
                Reason.ADMISSION_REFUSED,
                "admission policy check.example refuses the pod: no: change pod in a job of another name, or ask who set the policy",
            ),
            id="a webhook that says no",
        ),
        pytest.param(
            f"{FORBIDDEN}unable to create new content in namespace c because it is being terminated",
            None,
            id="a namespace that is going",
        ),
    ],
)
def test_what_a_controller_passes_on_is_stalled_only_where_a_person_must_mend_it(words, exit):
    assert refusals.exit_of_report(words) == exit


def test_only_a_quota_passes_by_itself():
    found = [case.values[2] for case in REFUSED]
    assert {each.reason for each in found if each.transient} == {Reason.QUOTA_EXCEEDED}
    assert {each.reason for each in found if not each.transient} == {
        Reason.ADMISSION_REFUSED,
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
    }
