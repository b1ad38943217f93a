"""What a job reads from other jobs: what is told while it is not there, and what is kept once it was."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from alpaca_operator.api import KINDS, SFTJob
from alpaca_operator.api.chain import Find, note, noted
from alpaca_operator.api.contract import ANNOTATION_INPUTS, Termination
from alpaca_operator.api.sources import JobReference
from alpaca_operator.api.status import Reason, ResolvedInput
from alpaca_operator.diagnosis.text import LINE_LIMIT
from alpaca_operator.inputs import MissingInput
from alpaca_operator.jobs import inputs, status
from alpaca_operator.outcomes.verdict import Desired
from tests.api.minimal import MINIMAL
from tests.operator.cases import DONE, observed, ready, resource, true
from tests.operator.pods import at, ended, job

Object = dict[str, Any]

BASE = {"kind": "SFTJob", "name": "base"}
OUTPUT = {"uri": "pvc://models/base", "digest": "sha256:b", "kind": "Model"}
FOUND = ResolvedInput(uri="pvc://models/base", digest="sha256:b", producer_uid="uid-base")


def reader(name: str = "poet", *, before: Object | None = None, **spec: Any) -> SFTJob:
    """A job that trains on what the job `base` makes."""
    made = resource(before, **{"model": {"from": BASE}, **spec})
    return made.model_copy(update={"metadata": made.metadata.model_copy(update={"name": name})})


def producer(state: str = "", reason: str = "", message: str = "", *, name: str = "base", **more: Any) -> SFTJob:
    """A job that makes a model. ``state``: the conditions that are True."""
    conditions = [
        {
            "type": type_,
            "status": "True" if type_ in state.split() else "False",
            "reason": reason,
            "message": message,
            "lastTransitionTime": at(0),
        }
        for type_ in ("Ready", "Reconciling", "Stalled", "Suspended", "Complete", "Failed")
    ]
    written = {"conditions": conditions, "output": OUTPUT} if "Complete" in state else {"conditions": conditions}
    made = resource(written, **{"merge": True, **more})
    metadata = made.metadata.model_copy(update={"name": name, "uid": f"uid-{name}"})
    return made.model_copy(update={"metadata": metadata})


def among(*jobs: SFTJob) -> Find:
    known = {(each.kind, each.metadata.name): each for each in jobs}

    def find(reference: JobReference) -> SFTJob | None:
        return known.get((reference.kind, reference.name))

    return find


@pytest.mark.parametrize(
    ("wanted", "jobs", "reason", "message"),
    [
        pytest.param(
            reader(),
            [],
            Reason.NOT_FOUND,
            "model.from names SFTJob base, which does not exist in namespace poetry: create it",
            id="nobody has made it yet",
        ),
        pytest.param(
            reader(),
            [producer("Ready Complete", going=True)],
            Reason.NOT_FOUND,
            "model.from names SFTJob base, which is being deleted in namespace poetry: create it",
            id="one that is being deleted is no longer there",
        ),
        pytest.param(
            reader(),
            [producer("Reconciling", "Running")],
            Reason.NOT_READY,
            "waits for SFTJob base (model.from) to complete",
            id="it runs",
        ),
        pytest.param(
            reader(),
            [resource(merge=True).model_copy(update={"metadata": producer().metadata})],
            Reason.NOT_READY,
            "waits for SFTJob base (model.from) to complete",
            id="the operator has not looked at it yet",
        ),
        pytest.param(
            reader(),
            [producer("Suspended", "Suspended", "held by spec.suspend")],
            Reason.NOT_READY,
            "waits for SFTJob base (model.from) to complete, which is suspended: set its spec.suspend to false",
            id="it is held",
        ),
        pytest.param(
            reader(),
            [producer("Stalled", "AdmissionRefused", "policy images refuses the pod")],
            Reason.NOT_READY,
            "waits for SFTJob base (model.from) to complete, which is stuck (AdmissionRefused: policy images refuses the pod)",
            id="somebody must help it first",
        ),
        pytest.param(
            reader(),
            [producer("Stalled Failed", "InvalidData", "poems.jsonl, row 7: no answer")],
            Reason.PRODUCER_FAILED,
            "model.from names SFTJob base, which failed (InvalidData: poems.jsonl, row 7: no answer): delete that job and create it "
            "anew, corrected, under the same name; this one then starts by itself",
            id="it failed",
        ),
        pytest.param(
            reader(),
            [producer("Stalled Failed").model_copy(update={"spec": resource().spec})],
            Reason.KIND_MISMATCH,
            "model.from names SFTJob base, which makes a LoRAAdapter; model takes Model: set merge on it, or put a MergeJob between; "
            "specs are immutable, so in a job of another name",
            id="it would make something else, however it ended",
        ),
        pytest.param(
            reader(dataset={"train": [{"from": BASE}]}, model={"uri": "pvc://models/base"}),
            [producer("Reconciling")],
            Reason.KIND_MISMATCH,
            "dataset.train[0].from names SFTJob base, which makes a Model; dataset.train[0] takes Dataset: name a job that makes one; "
            "specs are immutable, so in a job of another name",
            id="a model is no data set",
        ),
        pytest.param(
            reader("base"),
            [reader("base", merge=True)],
            Reason.CYCLE_DETECTED,
            "waits for itself (base → base): delete one of these jobs, and create it without that from",
            id="it names itself",
        ),
        pytest.param(
            reader("poet"),
            [reader("base", model={"from": {"kind": "SFTJob", "name": "poet"}}, merge=True), reader("poet")],
            Reason.CYCLE_DETECTED,
            "waits for itself (poet → base → poet): delete one of these jobs, and create it without that from",
            id="a circle of two",
        ),
        pytest.param(
            reader(adapter={"from": {"kind": "SFTJob", "name": "lora"}}),
            [],
            Reason.NOT_FOUND,
            "model.from names SFTJob base, which does not exist in namespace poetry: create it; "
            "adapter.from names SFTJob lora, which does not exist in namespace poetry: create it",
            id="all that is missing is told at once",
        ),
        pytest.param(
            reader(adapter={"from": {"kind": "SFTJob", "name": "lora"}}),
            [producer("Stalled Failed", "Hung", "no step")],
            Reason.PRODUCER_FAILED,
            "model.from names SFTJob base, which failed (Hung: no step): delete that job and create it anew, corrected, under the same "
            "name; this one then starts by itself",
            id="what a person must mend comes before what is waited for",
        ),
    ],
)
def test_why_an_input_is_not_there(wanted, jobs, reason, message):
    found, missing = inputs.gather(wanted, None, among(*jobs))
    assert (found, missing) == ({}, MissingInput(reason, message))


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        pytest.param(
            "QuantizeJob",
            {"model": {"from": {"kind": "QuantizeJob", "name": "base"}}},
            "model.from names QuantizeJob base, which makes a GPTQModel; model takes Model: name the job whose model was quantized",
            id="what is quantized already cannot be quantized",
        ),
        pytest.param(
            "EvaluationJob",
            {"models": [{"name": "a", "model": {"from": {"kind": "EvaluationJob", "name": "base"}}}]},
            "models[0].model.from names EvaluationJob base, which makes a Report; models[0].model takes GPTQModel or Model: name a job "
            "that makes one",
            id="a report is no model",
        ),
    ],
)
def test_an_input_of_another_kind_says_what_to_name(kind, spec, message):
    maker, wanted = (
        KINDS[kind].model_validate({"kind": kind, "metadata": {"name": name}, "spec": MINIMAL[kind] | more})
        for name, more in (("base", {}), ("poet", spec))
    )
    said = f"{message}; specs are immutable, so in a job of another name"
    assert inputs.gather(wanted, None, among(maker)) == ({}, MissingInput(Reason.KIND_MISMATCH, said))


def test_a_quantized_model_can_be_measured_and_its_broken_gate_is_told():
    small = KINDS["QuantizeJob"].model_validate(
        {
            "kind": "QuantizeJob",
            "metadata": {"name": "small", "namespace": "poetry", "uid": "uid-small"},
            "spec": MINIMAL["QuantizeJob"],
            "status": producer("Stalled Failed", "GateFailed", "stop rate 0.5, minStopRate 0.9").status,
        }
    )
    spec = {"models": [{"name": "a", "model": {"from": {"kind": "QuantizeJob", "name": "small"}}}]}
    reads = KINDS["EvaluationJob"].model_validate(
        {"kind": "EvaluationJob", "metadata": {"name": "report"}, "spec": MINIMAL["EvaluationJob"] | spec}
    )
    assert inputs.gather(reads, None, among(small))[1] == MissingInput(
        Reason.PRODUCER_FAILED,
        "models[0].model.from names QuantizeJob small, which failed (GateFailed: stop rate 0.5, minStopRate 0.9): delete that job and "
        "create it anew, corrected, under the same name; this one then starts by itself",
    )


def test_a_job_behind_a_circle_waits_and_is_not_part_of_it():
    knot = reader("base", model={"from": BASE}, merge=True)
    assert inputs.gather(reader(), None, among(knot))[1] == MissingInput(
        Reason.NOT_READY, "waits for SFTJob base (model.from) to complete"
    )


def test_what_is_complete_is_found_with_its_digest_and_its_maker():
    assert inputs.gather(reader(), None, among(producer("Ready Complete"))) == ({"model": FOUND}, None)


def test_a_maker_whose_last_word_was_lost_published_where_its_spec_says():
    silent = producer("Ready Complete", output={"uri": "pvc://models/elsewhere"})
    assert silent.status is not None
    silent = silent.model_copy(update={"status": silent.status.model_copy(update={"output": None})})
    expected = ResolvedInput(uri="pvc://models/elsewhere", producer_uid="uid-base")
    assert inputs.gather(reader(), None, among(silent)) == ({"model": expected}, None)


def test_a_job_without_from_asks_for_nothing():
    assert inputs.gather(resource(), None, lambda reference: pytest.fail("asked")) == ({}, None)


def test_a_line_that_tells_of_a_line_stays_a_line():
    missing = inputs.gather(reader(), None, among(producer("Stalled Failed", "InvalidData", "long\n" * 1000)))[1]
    assert missing is not None
    assert len(missing.message) == LINE_LIMIT
    assert "\n" not in missing.message


class TestPinned:
    """From the start on nothing that becomes of the producer changes what is read."""

    CHILD = job(annotations=note({"model": FOUND}))
    TOLD: ClassVar[Object] = {
        "resolvedInputs": {"model": {"uri": "pvc://models/base", "digest": "sha256:b", "producerUID": "uid-base"}}
    }

    @pytest.mark.parametrize(
        "jobs",
        [
            pytest.param([], id="it was deleted"),
            pytest.param([producer("Reconciling").model_copy(update={"spec": resource().spec})], id="it was replaced"),
            pytest.param([producer("Stalled Failed")], id="one of its name failed"),
        ],
    )
    @pytest.mark.parametrize(
        ("before", "child"),
        [
            pytest.param(None, CHILD, id="the status was not written yet"),
            pytest.param(TOLD, None, id="the child was deleted"),
            pytest.param(TOLD, CHILD, id="as usual"),
        ],
    )
    def test_what_became_of_the_producer_does_not_matter(self, before, child, jobs):
        assert inputs.gather(reader(before=before), child, among(*jobs)) == ({"model": FOUND}, None)

    def test_what_only_the_workload_told_is_not_pinned(self):
        recorded = {"resolvedInputs": {"model": {"uri": "pvc://models/base", "digest": "sha256:b"}}}
        found, missing = inputs.gather(reader(before=recorded), None, among())
        assert (found, missing and missing.reason) == ({}, Reason.NOT_FOUND)

    def test_an_annotation_that_somebody_spoilt_is_as_none(self):
        assert noted({ANNOTATION_INPUTS: "{"}) == {}

    def test_nothing_is_noted_where_nothing_was_found(self):
        assert note({}) == {}


class TestStatus:
    NOT_FOUND = MissingInput(Reason.NOT_FOUND, "create it")
    FAILED = MissingInput(Reason.PRODUCER_FAILED, "it failed")

    @staticmethod
    def inputs_ready(written: Object) -> tuple[str, str, str]:
        found = next(one for one in written["conditions"] if one["type"] == "InputsReady")
        return found["status"], found["reason"], found["message"]

    def test_what_may_come_is_waited_for(self):
        written = status.compute(reader(), observed(missing=self.NOT_FOUND), None)
        assert (true(written), ready(written)["reason"]) == ({"Reconciling"}, "NotFound")
        assert self.inputs_ready(written) == ("False", "NotFound", "create it")
        assert "failure" not in written

    def test_what_a_person_must_mend_is_stuck_and_not_given_up(self):
        written = status.compute(reader(), observed(missing=self.FAILED), None)
        assert (true(written), ready(written)["reason"]) == ({"Stalled"}, "ProducerFailed")
        assert self.inputs_ready(written) == ("False", "ProducerFailed", "it failed")
        assert written["failure"] == {"class": "UserError", "reason": "ProducerFailed", "message": "it failed"}
        assert not status.is_final(written)

    def test_held_is_held_and_the_inputs_are_told_beside_it(self):
        written = status.compute(reader(suspend=True), observed(missing=self.NOT_FOUND), None)
        assert (true(written), ready(written)["reason"]) == ({"Suspended"}, "Suspended")
        assert self.inputs_ready(written) == ("False", "NotFound", "create it")

    def test_nothing_is_made_meanwhile(self):
        assert status.desired(reader(), observed(missing=self.NOT_FOUND)) is Desired.UNCHANGED
        assert status.desired(reader(), observed(inputs={"model": FOUND})) is Desired.PRESENT

    def test_inputs_are_told_from_the_start_on(self):
        before_start = status.compute(reader(), observed(inputs={"model": FOUND}), None)
        started = status.compute(reader(), observed(child=job(), inputs={"model": FOUND}), None)
        assert "resolvedInputs" not in before_start, "what a refused start found is looked for anew at the next"
        assert started["resolvedInputs"] == TestPinned.TOLD["resolvedInputs"]

    def test_what_the_workload_read_joins_it(self):
        before = status.compute(reader(), observed(child=job(), inputs={"model": FOUND}), None)
        read = {
            "model": {"uri": "pvc://models/base", "digest": "sha256:b"},
            "dataset.train[0]": {"uri": "pvc://data/poems.jsonl", "digest": "sha256:d"},
        }
        word = Termination.model_validate(DONE.model_dump() | {"resolved_inputs": read})
        written = status.compute(
            reader(before=before), observed(ended(0, says=word), child=job(), inputs={"model": FOUND}), None
        )
        assert written["resolvedInputs"] == read | {"model": {**read["model"], "producerUID": "uid-base"}}
