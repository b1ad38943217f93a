"""What a deployment serves of what other jobs make: what it takes up, what it keeps, what it holds, and why."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from alpaca_operator.api import ChatDeployment
from alpaca_operator.api.chain import Find, note
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sft import SFTJob
from alpaca_operator.api.status import Reason, ResolvedInput
from alpaca_operator.chats import updates
from alpaca_operator.chats.updates import token
from alpaca_operator.inputs import InputResolution, MissingInput
from tests.operator.jobs.test_inputs import among, producer

Object = dict[str, Any]
MADE = ResolvedInput(uri="pvc://models/base", digest="sha256:b", producer_uid="uid-base", producer="SFTJob base")
BEFORE = MADE.model_copy(update={"digest": "sha256:a", "producer_uid": "uid-before"})
COMPLETE = producer("Ready Complete")


def chat(*, annotations: Object | None = None, status: Object | None = None, **spec: Any) -> ChatDeployment:
    given = {"model": {"from": {"kind": "SFTJob", "name": "base"}}} | spec
    return ChatDeployment.model_validate(
        {
            "kind": "ChatDeployment",
            "metadata": {
                "name": "poet",
                "namespace": "poetry",
                "uid": "uid-poet",
                "generation": 1,
                "annotations": annotations or {},
            },
            "spec": given,
            "status": status,
        }
    )


def child(strategy: str = "RollingUpdate", **inputs: ResolvedInput) -> Object:
    """The Deployment, with what its pods load."""
    return {"metadata": {"name": "poet-chat", "annotations": note(inputs)}, "spec": {"strategy": {"type": strategy}}}


def resolve(chat: ChatDeployment, child: Object | None, find: Find, *labelled: Job) -> InputResolution:
    """``labelled``: the jobs of the namespace that may be selected."""
    return updates.resolve(
        chat, child, find, lambda wanted: [job for job in labelled if wanted.holds(job.metadata.labels)]
    )


def names(reference: str = "base") -> Object:
    return {"model": {"from": {"kind": "SFTJob", "name": reference}}}


def test_at_first_it_takes_what_is_there():
    found = resolve(chat(), None, among(COMPLETE))
    assert (found.inputs, found.missing, found.held) == ({"model": MADE}, None, None)


def test_at_first_it_waits_for_what_is_not_there():
    found = resolve(chat(), None, among(producer("Reconciling")))
    assert (found.inputs, found.missing) == (
        {},
        MissingInput(Reason.NOT_READY, "waits for SFTJob base (model.from) to complete"),
    )


def test_what_was_made_anew_is_taken_up():
    assert resolve(chat(), child(model=BEFORE), among(COMPLETE)).inputs == {"model": MADE}


def test_what_was_made_anew_and_is_the_same_changes_nothing():
    same = MADE.model_copy(update={"producer_uid": "uid-before"})
    assert resolve(chat(), child(model=same), among(COMPLETE)).inputs == {"model": same}


@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param([], id="its producer is gone"),
        pytest.param([producer("Reconciling")], id="its producer runs anew"),
        pytest.param([producer("Stalled Suspended")], id="its producer is held"),
    ],
)
def test_what_is_served_stays_while(jobs):
    found = resolve(chat(), child(model=BEFORE), among(*jobs))
    assert (found.inputs, found.missing, found.held) == ({"model": BEFORE}, None, None)


def test_a_producer_that_failed_is_told_of():
    failed = producer("Stalled Failed", "LossDiverged", "the loss is NaN")
    found = resolve(chat(), child(model=BEFORE), among(failed))
    assert found.inputs == {"model": BEFORE}
    assert found.held is not None
    assert found.held.message.startswith("model.from names SFTJob base, which failed (LossDiverged: the loss is NaN)")


def test_another_producer_in_the_spec_is_waited_for_and_nothing_else_is_made_meanwhile():
    found = resolve(chat(**names("other")), child(model=BEFORE), among(COMPLETE))
    assert found.inputs == {}
    assert found.missing is not None
    assert found.missing.reason is Reason.NOT_FOUND


def test_a_wrong_kind_may_be_corrected_in_place():
    found = resolve(chat(), None, among(producer("Ready Complete", merge=False)))
    assert found.missing == MissingInput(
        Reason.KIND_MISMATCH,
        "model.from names SFTJob base, which makes a LoRAAdapter; model takes FP8Model or GGUFModel or GPTQModel or Model: set merge on it, or put a MergeJob between",
    )


def test_a_model_and_its_adapter_are_exchanged_together():
    adapters = [{"from": {"kind": "SFTJob", "name": "style"}}]
    style = producer("Reconciling", name="style", merge=False)
    served = {"model": BEFORE, "adapters[0]": BEFORE.model_copy(update={"producer": "SFTJob style"})}
    found = resolve(chat(adapters=adapters), child(**served), among(COMPLETE, style))
    assert found.inputs == served, "the new model waits for its adapter"


def test_where_the_deployment_was_deleted_the_status_knows_what_was_served():
    status = {"observedGeneration": 1, "resolvedInputs": {"model": BEFORE.model_dump(by_alias=True)}}
    assert resolve(chat(status=status), None, among()).inputs == {"model": BEFORE}


class TestManual:
    def held(self, accept: str | None = None) -> Any:
        annotations = {"literary-alpaca.io/accept": accept} if accept else {}
        given = chat(updatePolicy="Manual", annotations=annotations)
        return resolve(given, child(model=BEFORE), among(COMPLETE))

    def test_holds_what_was_made_anew(self):
        found = self.held()
        assert found.inputs == {"model": BEFORE}
        assert found.held is not None
        assert found.held.inputs == {"model": MADE}

    def test_takes_up_what_is_accepted_by_its_name(self):
        assert self.held(accept=token({"model": MADE})).inputs == {"model": MADE}

    def test_does_not_take_up_the_next_one_by_the_name_of_the_last(self):
        assert self.held(accept=token({"model": BEFORE})).inputs == {"model": BEFORE}

    def test_takes_the_first_model_and_another_that_the_spec_names_by_itself(self):
        assert resolve(chat(updatePolicy="Manual"), None, among(COMPLETE)).inputs == {"model": MADE}
        other = producer("Ready Complete", name="other")
        found = resolve(chat(updatePolicy="Manual", **names("other")), child(model=BEFORE), among(other))
        assert found.inputs["model"].producer == "SFTJob other"


class TestAGate:
    GATES = ({"from": {"kind": "SFTJob", "name": "exam"}},)
    """Any job may be one."""

    def missing(self, *jobs: Any) -> MissingInput | None:
        return resolve(chat(gates=list(self.GATES)), None, self.among(*jobs)).missing

    def among(self, *jobs: Any) -> Find:
        return among(COMPLETE, *jobs)

    def exam(self, digest: str, uid: str = "uid-before", state: str = "Ready Complete") -> Any:
        made = producer(
            state,
            "GateFailed",
            "stopRate is 0.4, below 0.9",
            name="exam",
            model={"from": {"kind": "SFTJob", "name": "base"}},
        )
        read = {"model": ResolvedInput(uri="pvc://models/base", digest=digest, producer_uid=uid)}
        return made.model_copy(update={"status": made.status.model_copy(update={"resolved_inputs": read})})

    def test_that_passed_for_this_model_lets_it_through(self):
        assert self.missing(self.exam("sha256:b")) is None

    def test_that_passed_for_this_very_job_lets_it_through(self):
        assert self.missing(self.exam("sha256:b", "uid-base")) is None

    def test_that_passed_for_the_model_before_does_not(self):
        assert self.missing(self.exam("sha256:a")) == MissingInput(
            Reason.NOT_READY,
            "gates[0]: SFTJob exam measured sha256:a of SFTJob base, which has made sha256:b since: delete SFTJob exam and create it anew, so "
            "that it measures that",
        )

    def test_that_is_not_there_is_waited_for(self):
        missing = self.missing()
        assert missing is not None
        assert (missing.reason, missing.message) == (
            Reason.NOT_FOUND,
            "gates[0].from names SFTJob exam, which does not exist in namespace poetry: create it",
        )

    def test_that_failed_stops_it(self):
        missing = self.missing(self.exam("sha256:b", state="Stalled Failed"))
        assert missing is not None
        assert missing.reason is Reason.PRODUCER_FAILED
        assert "GateFailed: stopRate is 0.4, below 0.9" in missing.message

    def test_is_asked_when_a_model_is_taken_up_and_not_again(self):
        found = resolve(chat(gates=list(self.GATES)), child(model=MADE), self.among())
        assert (found.inputs, found.held) == ({"model": MADE}, None)

    def test_binds_a_model_of_a_place_too(self):
        place = {"model": {"uri": "hf://me/poet"}}
        assert resolve(chat(gates=list(self.GATES), **place), None, among()).missing is not None
        assert resolve(chat(**place), None, among()).inputs == {"model": ResolvedInput(uri="hf://me/poet")}


class TestWhereOldPodsHaveToGoFirst:
    def status(self, **newer: Any) -> Object:
        stalled = {
            "type": "Stalled",
            "status": "True",
            "reason": "OutOfMemory",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        return {
            "observedGeneration": 1,
            "conditions": [stalled],
            "resolvedInputs": {"model": MADE.model_dump(by_alias=True)},
            "servedInputs": {"model": BEFORE.model_dump(by_alias=True)},
            "failure": {"class": "OutOfMemory", "reason": "OutOfMemory", "message": "it needs 30 GB"},
            **newer,
        }

    def test_an_update_that_does_not_get_ready_gives_its_place_back(self):
        found = resolve(chat(status=self.status()), child("Recreate", model=MADE), among(COMPLETE))
        assert found.inputs == {"model": BEFORE}
        assert found.held is not None
        assert (found.held.message, found.held.failed) == ("it did not become ready: it needs 30 GB", True)

    def test_elsewhere_the_old_pods_are_still_there(self):
        assert resolve(chat(status=self.status()), child(model=MADE), among(COMPLETE)).inputs == {"model": MADE}

    def test_it_is_not_tried_again(self):
        newer = {"update": token({"model": MADE}), "failed": True, "message": "it did not become ready: it needs 30 GB"}
        status = self.status(newer=newer, resolvedInputs={"model": BEFORE.model_dump(by_alias=True)})
        found = resolve(chat(status=status), child("Recreate", model=BEFORE), among(COMPLETE))
        assert found.inputs == {"model": BEFORE}
        assert found.held is not None
        assert found.held.failed

    def test_another_spec_tries_it_again(self):
        newer = {"update": token({"model": MADE}), "failed": True, "message": "it did not become ready"}
        status = self.status(
            newer=newer, observedGeneration=0, resolvedInputs={"model": BEFORE.model_dump(by_alias=True)}
        )
        assert resolve(chat(status=status), child("Recreate", model=BEFORE), among(COMPLETE)).inputs == {"model": MADE}


class TestTheSelector:
    """Which finished jobs have their adapters on the model, by their names."""

    BASE = ResolvedInput(uri="pvc://models/llama", digest="sha256:llama")
    LABELS: ClassVar = {"adapterSelector": {"matchLabels": {"team": "poetry"}}}

    def job(self, name: str, state: str = "Ready Complete", team: str = "poetry", **more: Any) -> SFTJob:
        made = producer(state, name=name, **{"merge": False, **more})
        assert made.status is not None
        labelled = made.metadata.model_copy(update={"labels": {"team": team}})
        read = made.status.model_copy(update={"resolved_inputs": {"model": self.BASE}})
        return made.model_copy(update={"metadata": labelled, "status": read})

    def selected(self, *jobs: SFTJob, served: Object | None = None, **spec: Any) -> InputResolution:
        given = {"model": {"uri": self.BASE.uri}, **self.LABELS, **spec}
        return resolve(chat(**given), served, among(*jobs), *jobs)

    def test_its_adapter_is_taken_by_the_name_of_the_job(self):
        found = self.selected(self.job("haiku"), self.job("ode", team="prose"))
        taken = ResolvedInput(
            uri="pvc://models/base", digest="sha256:b", producer_uid="uid-haiku", producer="SFTJob haiku"
        )
        assert found.inputs == {"model": ResolvedInput(uri=self.BASE.uri), "adapterSelector[haiku]": taken}
        assert found.passed_over == ()

    @pytest.mark.parametrize(
        "job",
        [
            pytest.param({"state": "Reconciling"}, id="is not complete"),
            pytest.param({"state": "Stalled Failed"}, id="failed"),
            pytest.param({"merge": True}, id="makes a model"),
            pytest.param({"team": "prose"}, id="has other labels"),
        ],
    )
    def test_nothing_is_taken_or_told_of_a_job_that(self, job):
        found = self.selected(self.job("haiku", **job))
        assert (list(found.inputs), found.passed_over) == (["model"], ())

    def test_a_deleted_job_takes_its_adapter_along_and_nothing_else(self):
        there = self.selected(self.job("haiku"), self.job("ode")).inputs
        left = self.selected(self.job("ode"), served=child(**there))
        assert list(left.inputs) == ["model", "adapterSelector[ode]"]
        assert left.held is None

    def test_another_base_is_told_of(self):
        other = self.job("haiku")
        assert other.status is not None
        read = {"model": ResolvedInput(uri="pvc://models/mistral", digest="sha256:mistral")}
        other = other.model_copy(update={"status": other.status.model_copy(update={"resolved_inputs": read})})
        found = self.selected(other, self.job("ode"))
        assert list(found.inputs) == ["model", "adapterSelector[ode]"]
        assert found.passed_over == (
            "SFTJob haiku was trained on pvc://models/mistral@sha256:mistral, and pvc://models/llama is served: merge it first",
        )

    def test_the_same_place_with_another_content_is_another_base(self):
        """Which is seen where both digests are known, as of a model that a job has made."""
        base = producer("Ready Complete", name="llama")
        found = self.selected(base, self.job("haiku"), model={"from": {"kind": "SFTJob", "name": "llama"}})
        assert list(found.inputs) == ["model"]
        assert found.passed_over == (
            "SFTJob haiku was trained on pvc://models/llama@sha256:llama, and pvc://models/base@sha256:b is served: merge it first",
        )

    def test_no_two_models_have_one_name(self):
        found = self.selected(
            self.job("poet"), self.job("ode"), adapters=[{"name": "ode", "uri": "pvc://models/another"}]
        )
        assert list(found.inputs) == ["model", "adapters[0]"]
        assert [each.partition(":")[0] for each in found.passed_over] == [
            "SFTJob ode has the name of another model here",
            "SFTJob poet has the name of another model here",
        ]

    def test_not_more_than_pods_can_tell_of(self):
        found = self.selected(*(self.job(f"ode-{number:02}") for number in range(18)))
        assert len(found.inputs) == 1 + 16
        assert found.passed_over == tuple(
            f"SFTJob ode-{number} is one more than the 16 that are taken: narrow adapterSelector" for number in (16, 17)
        )

    def test_it_goes_on_beside_what_is_held(self):
        """A new model waits to be accepted; adapters of the one that is served come and go."""
        given = {"model": {"from": {"kind": "SFTJob", "name": "base"}}, "updatePolicy": "Manual"}
        served = child(model=self.BASE.model_copy(update={"producer": "SFTJob base", "producer_uid": "uid-before"}))
        found = self.selected(COMPLETE, self.job("haiku"), served=served, **given)
        assert list(found.inputs) == ["model", "adapterSelector[haiku]"]
        assert found.held is not None
        assert found.held.inputs == {"model": MADE}
