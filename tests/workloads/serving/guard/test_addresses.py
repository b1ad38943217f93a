"""Names that are ours and names that are not, in a cluster and on a machine of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads.engine_process import manifest
from workloads.serving.guard import addresses
from workloads.serving.refusal import Refusal


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


def of(in_pod: bool, told: str = "", **spec: Any) -> addresses.Addresses:
    return addresses.of(ChatDeployment.model_validate(manifest(**spec)), {"ALPACA_HOSTS": told}, in_pod)


@pytest.mark.parametrize(
    ("host", "in_pod", "told", "passes"),
    [
        pytest.param("localhost:7860", False, "", True, id="this machine"),
        pytest.param("LOCALHOST.", False, "", True, id="the same, with capitals and a dot"),
        pytest.param("127.0.0.1:7860", False, "", True, id="its address"),
        pytest.param("[::1]:7860", False, "", True, id="its newer address"),
        pytest.param("localhost.evil.example", False, "", False, id="a name that begins as ours"),
        pytest.param("127.0.0.1.evil.example", False, "", False, id="a name that begins as an address"),
        pytest.param("evil.example", False, "", False, id="a name that was pointed here"),
        pytest.param("", False, "", False, id="no name"),
        pytest.param("evil.example", True, "", True, id="a cluster whose names are not known"),
        pytest.param("evil.example", True, "chat.example.org", False, id="a cluster whose names are known"),
        pytest.param("chat.example.org", True, "chat.example.org", True, id="one of them"),
        pytest.param("poet-chat.lit.svc:7860", True, "chat.example.org", True, id="the Service"),
        pytest.param("10.4.0.7:7860", True, "chat.example.org", True, id="a probe of the pod"),
        pytest.param("a.poets.org", True, "*.poets.org", True, id="below a name"),
        pytest.param("poets.org", True, "*.poets.org", False, id="above it"),
        pytest.param("evilpoets.org", True, "*.poets.org", False, id="a name that ends as one of ours"),
    ],
)
def test_hosts(host: str, in_pod: bool, told: str, passes: bool) -> None:
    if passes:
        of(in_pod, told).check_host(scope(host=host))
    else:
        with pytest.raises(Refusal, match=r"use its own address, or put the name into spec.hosts\.") as refused:
            of(in_pod, told).check_host(scope(host=host))
        assert refused.value.status == 421


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        pytest.param({"host": "localhost:7860"}, True, id="a program, which gives none"),
        pytest.param({"host": "localhost:7860", "origin": "http://localhost:7860"}, True, id="our own page"),
        pytest.param({"host": "chat.example", "origin": "https://chat.example"}, True, id="our own page, by HTTPS"),
        pytest.param({"host": "chat.example:443", "origin": "https://chat.example"}, True, id="with a port that goes without saying"),
        pytest.param({"host": "poet-chat.lit.svc", "x_forwarded_host": "chat.example", "origin": "https://chat.example"}, True, id="behind a proxy that says so"),
        pytest.param({"host": "localhost:7860", "origin": "https://api.example.org"}, True, id="a page of a name in the spec"),
        pytest.param({"host": "localhost:7860", "origin": "http://localhost:3000"}, False, id="another page of this machine"),
        pytest.param({"host": "localhost:7860", "origin": "https://evil.example"}, False, id="a page elsewhere"),
        pytest.param({"host": "localhost:7860", "origin": "null"}, False, id="a page that hides where it is from"),
        pytest.param({"host": "localhost:7860", "origin": ""}, False, id="nothing at all"),
        pytest.param({"host": "localhost:7860", "origin": "http://[::1"}, False, id="a bracket that nothing closes"),
        pytest.param({"host": "localhost:7860", "origin": "http://[localhost]"}, False, id="a name in brackets"),
    ],
)  # fmt: skip
def test_origins(headers: dict[str, str], passes: bool) -> None:
    ours = of(False, hosts=["api.example.org"])
    if passes:
        ours.check_origin(scope(**headers))
    else:
        with pytest.raises(Refusal, match="may not ask here: open this server's own page") as refused:
            ours.check_origin(scope(**headers))
        assert refused.value.status == 403
