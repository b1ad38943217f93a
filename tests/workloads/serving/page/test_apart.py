"""The page in pods of its own, without a browser: who is nobody, and how long answers have when it stops."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads.serving.page.standin import Engine
from workloads.serving.page.models import EngineStatus, Models
from workloads.serving.page.service import linger_seconds
from workloads.serving.page.settings import Api, Settings

NOBODY = "http://poet-chat.poetry.svc.invalid:8000/v1"


async def test_a_name_that_nobody_has_is_nobody() -> None:
    """As the DNS of a cluster says of a Service without an address that has no pods."""
    api = Api(
        "http://poet-chat.poetry.svc.invalid:8000/v1", pods_url="http://poet-chat-pods.poetry.svc.invalid:8000/v1"
    )
    models = Models(Settings(title="poet", apis=(api,)))
    assert (await models.look()).condition == "away"
    await models.close()


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        pytest.param("loading", "poet is being loaded (reading weights)", id="it says how far it is"),
        pytest.param("ready", "", id="it has loaded, and its Service does not know yet"),
    ],
)
async def test_a_pod_that_is_not_ready_loads(state: str, detail: str) -> None:
    """Nobody answers at the Service, which leads to pods that are ready alone."""
    with Engine() as engine:
        engine.state = state
        models = Models(Settings(title="poet", apis=(Api(NOBODY, pods_url=engine.url),)))
        assert await models.look() == EngineStatus("loading", detail=detail)
        await models.close()


async def test_whoever_answers_at_the_service_is_asked_and_no_other() -> None:
    with Engine() as engine:
        models = Models(Settings(title="poet", apis=(Api(engine.url, pods_url=NOBODY),)))
        found = await models.look()
        assert (found.condition, [model.name for model in found.models]) == ("ready", ["poet"])
        assert str(found.models[0].client.base_url) == f"{engine.url}/"
        await models.close()


@pytest.mark.parametrize(
    ("grace", "in_pod", "seconds"),
    [
        pytest.param(600, True, 535, id="whoever writes them goes on as long"),
        pytest.param(5, True, 3, id="the time is short"),
        pytest.param(600, False, 3, id="somebody waits at a terminal"),
    ],
)
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"model": {"uri": "./model"}}, id="an engine beside it, or in pods of its own"),
        pytest.param({"engine": "External", "endpoint": {"url": "http://elsewhere/v1"}}, id="an API elsewhere"),
    ],
)
def test_answers_have_the_grace_period(spec: dict[str, Any], grace: int, in_pod: bool, seconds: int) -> None:
    spec = {**spec, "pod": {"terminationGracePeriodSeconds": grace}}
    job = ChatDeployment.model_validate({"kind": "ChatDeployment", "metadata": {"name": "poet"}, "spec": spec})
    assert linger_seconds(job, in_pod) == seconds
