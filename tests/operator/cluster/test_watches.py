"""What wakes the operator, and when."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_INDEX
from alpaca_operator.cluster import watches
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.store import Key, Store
from tests.operator import build

OF_SET = {"kind": "JobSet", "name": "poet-sft", "uid": "uid-set", "controller": True}
SET = build.child("JobSet", "poet-sft", uid="uid-set")


@pytest.mark.parametrize(
    ("obj", "at_once"),
    [
        pytest.param(build.job(), True, id="the resource"),
        pytest.param(build.child("Job", "poet-sft"), True, id="its Job"),
        pytest.param(build.child("Pod", "poet-sft-a"), True, id="its pod"),
        pytest.param(
            build.child("Pod", "poet-sft-node-0-3-a", metadata={"labels": {LABEL_INDEX: "3"}}),
            False,
            id="one of several pods",
        ),
        pytest.param(SET, False, id="its set"),
        pytest.param(
            build.child("Job", "poet-sft-node-0", metadata={"ownerReferences": [OF_SET]}),
            False,
            id="the Job of its set, whose pods follow",
        ),
    ],
)
async def test_what_others_follow_is_looked_at_with_them(obj: Any, at_once: bool) -> None:
    store, queue = Store(), Queue[Key]()
    for known in (build.job(), build.child("Job", "poet-sft"), SET):
        store.put(known)
    key = store.put(build.newer(obj))
    assert key == Key("SFTJob", "team", "poet")
    watches.wake(key, store, queue, after=watches.delay(obj))
    assert (len(queue) > 0) is at_once
    watches.wake(key, store, queue)
    assert len(queue) == 1, "whatever else happens is looked at now"
