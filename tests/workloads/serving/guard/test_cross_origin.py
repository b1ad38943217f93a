"""What scripts of other pages may read of the API."""

from __future__ import annotations

import httpx
import pytest

from workloads.serving.engine.server import Engine, application
from workloads.serving.guard.addresses import Addresses

KNOWN = Addresses(("app.example.org", "*.poets.org"))


async def asked(method: str, origin: str, addresses: Addresses = KNOWN, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(application(Engine(("poet",), key="sk"), addresses))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        return await client.request(method, "/v1/models", headers={"Origin": origin, **headers})


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        pytest.param("https://app.example.org", True, id="a name"),
        pytest.param("http://app.example.org:3000", True, id="on another port"),
        pytest.param("https://a.poets.org", True, id="below a name"),
        pytest.param("https://poets.org", False, id="above it"),
        pytest.param("https://evil.example", False, id="another"),
        pytest.param("https://app.example.org.evil.example", False, id="one that begins alike"),
        pytest.param("https://evil-app.example.org", False, id="one that ends alike"),
        pytest.param("https://appXexample.org", False, id="a dot is a dot"),
        pytest.param("null", False, id="a file"),
    ],
)
async def test_pages_of_the_names_in_hosts_may_ask_and_read(origin: str, may: bool) -> None:
    leave = await asked("OPTIONS", origin, **{"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"})  # fmt: skip
    assert (leave.status_code == 200, leave.headers.get("access-control-allow-origin") == origin) == (may, may)
    if may:
        assert "authorization" in leave.headers["access-control-allow-headers"]
        assert "POST" in leave.headers["access-control-allow-methods"]
    answer = await asked("GET", origin)  # without a key: a refusal is read too
    assert answer.status_code == 401
    assert (answer.headers.get("access-control-allow-origin") == origin) is may
    assert "access-control-allow-credentials" not in answer.headers


async def test_without_names_no_page_may() -> None:
    for addresses in (Addresses(), Addresses(any_host=True)):
        for method in ("OPTIONS", "GET"):
            answer = await asked(method, "https://app.example.org", addresses)
            assert not [name for name in answer.headers if name.startswith("access-control")]
