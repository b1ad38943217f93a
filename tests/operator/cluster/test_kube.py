"""Lists come in pages that bear the size of what is in them, and little is kept of each."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.cluster.http import warning_text
from alpaca_operator.cluster.kube import FIRST_PAGE, LARGEST_PAGE, PAGE_BYTES, Kube
from alpaca_operator.cluster.resources import RESOURCES

SFTJOBS = RESOURCES["SFTJob"]


class Paged(Kube):
    """An API server with ``count`` objects of ``size`` bytes each."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.limits: list[int] = []

    async def call(self, method: str, path: str, *, query: Any = None, size: Any = None, **_: Any) -> dict[str, Any]:
        limit, start = int(query["limit"]), int(query.get("continue", 0))
        self.limits.append(limit)
        end = min(start + limit, self.count)
        size.append((end - start) * self.size)
        items = [{"metadata": metadata(number)} for number in range(start, end)]
        more = {"continue": str(end)} if end < self.count else {}
        return {"metadata": {"resourceVersion": "7", **more}, "items": items}


def metadata(number: int) -> dict[str, Any]:
    known = {"name": f"poet-{number}", "namespace": "team", "uid": f"uid-{number}", "resourceVersion": "5"}
    return {**known, "annotations": {"note": "x" * 1000}, "managedFields": [{}]}


@pytest.mark.parametrize(
    ("size", "largest"),
    [
        pytest.param(1_000, LARGEST_PAGE, id="small ones, by the hundred"),
        pytest.param(330 * 1024, PAGE_BYTES // (330 * 1024), id="large ones, by the dozen"),
        pytest.param(2 * PAGE_BYTES, 1, id="huge ones, one by one"),
    ],
)
async def test_a_page_has_as_many_as_fit(size: int, largest: int) -> None:
    kube = Paged(1200, size)
    names = [obj["metadata"]["name"] async for obj in kube.list(SFTJOBS, None)]
    assert names == [f"poet-{number}" for number in range(1200)]
    assert kube.limits[0] == FIRST_PAGE
    assert set(kube.limits[1:]) == {largest}


async def test_of_a_snapshot_only_what_objects_are_known_by_is_kept() -> None:
    version, [found] = await Paged(1, 100).snapshot(SFTJOBS, None, metadata_only=True)
    assert version == "7"
    assert found == {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": "poet-0", "namespace": "team", "uid": "uid-0", "resourceVersion": "5"},
    }


@pytest.mark.parametrize(
    ("header", "text"),
    [
        pytest.param('299 - "unknown field \\"spec.a\\""', 'unknown field "spec.a"', id="as the API server writes it"),
        pytest.param("something else", "something else", id="as nobody should"),
    ],
)
def test_the_text_of_a_warning(header: str, text: str) -> None:
    assert warning_text(header) == text
