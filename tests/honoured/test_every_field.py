"""No field is given in vain: to change it changes the plan, what the libraries are called with, the result, or it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alpaca_operator.api import KINDS, Resource
from tests.honoured import everywhere, others, training
from tests.honoured.cases import REFUSED, SPECS, TOGETHER, Case, cases, fields
from tests.honoured.desk import Desk
from tests.honoured.fields import changed
from workloads.errors import WorkloadError

Observer = Callable[[Any], Any]
REFUSAL = "refused: "


def observers(kind: str, desk: Desk, scratch: Path) -> Iterator[Observer]:
    """Ways to see what a resource of this kind is, the cheap ones first."""

    def run(observer: Callable[[Any, Desk, Path], Any]) -> Observer:
        return lambda resource: observer(resource, desk, everywhere.scratch_of(scratch, resource))

    yield from (everywhere.plan, everywhere.waits_for)
    if kind == "ChatDeployment":
        yield from (everywhere.operator_of_chats, others.chat_page, run(others.chat_engine))
        return
    yield from (
        everywhere.operator_of_jobs,
        everywhere.pushing,
        everywhere.watchdog,
        lambda job: everywhere.output(job, desk),
    )
    if kind in ("SFTJob", "PretrainJob"):
        yield from (lambda job: training.settings(job, desk), run(training.reached))
    else:
        runs = {
            "DatasetJob": others.dataset_run,
            "TokenizerJob": others.tokenizer_run,
            "MergeJob": others.merge_run,
            "QuantizeJob": others.quantize_run,
            "EvaluationJob": others.evaluate_run,
        }
        yield run(runs[kind])


def seen(observer: Observer, kind: str, spec: dict[str, Any]) -> str:
    """What an observer says of the spec; a refusal is an answer too."""
    manifest = {"kind": kind, "metadata": {"name": "poet", "namespace": "poetry", "uid": "uid-poet"}, "spec": spec}
    try:
        resource: Resource = KINDS[kind].model_validate(manifest)
        return str(observer(resource))
    except (WorkloadError, ValidationError) as error:
        return f"{REFUSAL}{error}"


ALL = [(kind, path) for kind in KINDS for path in cases(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_looked_at(kind: str) -> None:
    assert sorted(cases(kind)) == sorted(fields(kind))


LIBRARIES = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


@LIBRARIES
@pytest.mark.parametrize(("kind", "path"), ALL)
def test_a_field_that_is_given_is_honoured_or_refused(kind: str, path: str, desk: Desk, tmp_path: Path) -> None:
    assert effect_of(kind, path, cases(kind)[path], desk, tmp_path) == (path in REFUSED.get(kind, ()))


@LIBRARIES
@pytest.mark.parametrize(("kind", "path", "case", "refused"), TOGETHER)
def test_a_field_is_not_made_vain_by_another(
    kind: str, path: str, case: Case, refused: bool, desk: Desk, tmp_path: Path
) -> None:
    assert effect_of(kind, path, case, desk, tmp_path, to_the_end=refused) == refused


def effect_of(kind: str, path: str, case: Case, desk: Desk, scratch: Path, *, to_the_end: bool = False) -> bool:
    """Whether the field is refused; fails where it is neither refused nor seen by anybody. ``to_the_end``: what one observer sees, a later
    one may refuse."""
    before = SPECS[kind]
    for name, value in case.given.items():
        before = changed(before, name, value)
    after = changed(before, path, case.value)
    honoured = False
    for observer in observers(kind, desk, scratch):
        first, second = seen(observer, kind, before), seen(observer, kind, after)
        assert not first.startswith(REFUSAL), first
        if second.startswith(REFUSAL):
            return True
        if first != second and not honoured:
            assert seen(observer, kind, before) == first, "the observer sees the same thing twice alike"
            honoured = True
            if not to_the_end:
                return False
    assert honoured, f"{kind} {path}: {case.value!r} changes nothing"
    return False
