"""Flux's health expressions, evaluated by the CEL of a real API server (the same library that Flux has) on one file per state.

A Python CEL would be one more dependency with bugs of its own; the control plane is there, and evaluates an expression when a
policy's message is one.
"""

from __future__ import annotations

import json
import re

import pytest

from alpaca_operator.api import KINDS, PLURALS
from alpaca_operator.api.resource import Job
from tests.cluster.bed.cache import BedError
from tests.cluster.bed.cluster import until
from tests.manifests.build import MANIFESTS, read

CHECKS = read(MANIFESTS / "flux" / "jobs.yaml")[0]["spec"]["healthCheckExprs"]
STATES = MANIFESTS / "argocd" / "literary-alpaca.io"

EXPECTED = {
    "SFTJob": {
        "changed": "inProgress",
        "fresh": "inProgress",
        "pending": "inProgress",
        "queued": "inProgress",
        "unschedulable": "inProgress",
        "running": "inProgress",
        "restarting": "inProgress",
        "suspended": "inProgress",
        "stuck": "failed",
        "failed": "failed",
        "succeeded": "current",
        "reused": "current",
    },
    "ChatDeployment": {
        "starting": "inProgress",
        "updating": "inProgress",
        "degraded": "inProgress",
        "scaled-to-zero": "inProgress",
        "update-failed": "failed",
        "model-failed": "failed",
        "update-held": "current",
        "serving": "current",
    },
}
"""One kind of job stands for all: their expressions are the same."""


def states(kind: str) -> set[str]:
    return {path.stem for path in (STATES / kind / "testdata").glob("*.yaml")}


def test_every_kind_has_expressions():
    assert {check["kind"] for check in CHECKS} == set(KINDS)
    of_jobs = [{**check, "kind": ""} for check in CHECKS if issubclass(KINDS[check["kind"]], Job)]
    assert len({json.dumps(check) for check in of_jobs}) == 1, "the same for every job"


def test_every_state_that_the_operator_writes_is_expected():
    assert states("SFTJob") - {"new"} == set(EXPECTED["SFTJob"])
    assert states("ChatDeployment") == set(EXPECTED["ChatDeployment"])


@pytest.fixture(scope="module", params=EXPECTED)
def evaluate(installed, request):
    """Says which of the expressions hold for an object, in Flux's order: inProgress, failed, current."""
    kind, names = request.param, ("inProgress", "failed", "current")
    check = next(each for each in CHECKS if each["kind"] == kind)
    rules = [re.sub(r"\b(status|metadata)\.", r"object.\1.", check[name]) for name in names]
    message = " + ' ' + ".join(f"'{name}=' + string({rule})" for name, rule in zip(names, rules, strict=True))
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "flux"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["literary-alpaca.io"],
                        "apiVersions": ["*"],
                        "resources": [f"{PLURALS[kind]}/status"],
                        "operations": ["UPDATE"],
                    }
                ]
            },
            "validations": [{"expression": "false", "messageExpression": message}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "flux"},
        "spec": {"policyName": "flux", "validationActions": ["Deny"]},
    }
    (some,) = read(STATES / kind / "testdata" / f"{next(iter(states(kind) - {'new', 'fresh'}))}.yaml")
    installed.create({**some, "metadata": {"name": "flux", "namespace": "default"}})
    installed.apply(policy, binding)

    def ask(obj: dict) -> dict[str, bool]:
        # The generation that the API server gives is 1; what matters is whether the status speaks of it.
        status = {
            **obj["status"],
            "observedGeneration": 1 if obj["status"]["observedGeneration"] == obj["metadata"]["generation"] else 0,
        }
        patch = json.dumps({"status": status})
        try:
            installed.kubectl(
                "patch",
                kind,
                "flux",
                "-n",
                "default",
                "--subresource=status",
                "--type=merge",
                "--dry-run=server",
                "-p",
                patch,
            )
        except BedError as error:
            return {
                name: value == "true"
                for name, value in re.findall(r"(inProgress|failed|current)=(true|false)", str(error))
            }
        return {}  # the policy is not in force yet

    until(lambda: ask(some), "the policy that evaluates expressions")
    yield kind, ask
    installed.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "flux")
    installed.kubectl("delete", kind, "flux", "-n", "default")


@pytest.mark.controlplane
def test_what_flux_makes_of_each_state(evaluate):
    kind, ask = evaluate
    found = {}
    for state in EXPECTED[kind]:
        (obj,) = read(STATES / kind / "testdata" / f"{state}.yaml")
        holds = ask(obj)
        found[state] = next(name for name in ("inProgress", "failed", "current") if holds[name])
    assert found == EXPECTED[kind]


def test_a_fresh_object_is_in_progress_before_its_conditions_are_asked_for():
    """Also one of a CRD of before, without any: `true || error` is true in CEL, so the first clause must be the one that holds."""
    (fresh,) = read(STATES / "SFTJob" / "testdata" / "fresh.yaml")
    assert CHECKS[0]["inProgress"].startswith("status.observedGeneration != metadata.generation ||")
    assert fresh["status"]["observedGeneration"] != fresh["metadata"]["generation"]
