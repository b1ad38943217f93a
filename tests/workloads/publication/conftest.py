from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.workloads.publication.pushing import Death


@pytest.fixture
def death(monkeypatch: pytest.MonkeyPatch) -> Iterator[Death]:
    """Of who makes its requests by an `httpx2.Client` of its own."""
    coming = Death()

    class Mortal(httpx2.Client):
        def send(self, request: httpx2.Request, **options: bool) -> httpx2.Response:
            coming.passes("sent")
            answer = super().send(request, **options)
            coming.passes("answered")
            return answer

    with monkeypatch.context() as patched:
        patched.setattr(httpx2, "Client", Mortal)
        yield coming
