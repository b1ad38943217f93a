"""The page in pods of its own, without a browser: who is nobody, and how long answers have when it stops."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from workloads.serving.page.models import Models
from workloads.serving.page.service import linger_seconds
from workloads.serving.page.settings import Api, Settings


async def test_a_name_that_nobody_has_is_nobody() -> None:
    """As the DNS of a cluster says of a Service without an address that has no pods."""
    api = Api(
        "http://poet-chat.poetry.svc.invalid:8000/v1", pods_url="http://poet-chat-pods.poetry.svc.invalid:8000/v1"
    )
    models = Models(Settings(title="poet", apis=(api,)))
    assert (await models.look()).condition == "away"
    await models.close()


@pytest.mark.parametrize(
    ("environment", "grace", "in_pod", "seconds"),
    [
        pytest.param({}, 600, True, 3, id="the engine stops with it"),
        pytest.param({"ALPACA_ENGINE_PODS_URL": "http://pods/v1"}, 600, True, 535, id="the engine goes on"),
        pytest.param({"ALPACA_ENGINE_PODS_URL": "http://pods/v1"}, 5, True, 3, id="the time is short"),
        pytest.param({"ALPACA_ENGINE_PODS_URL": "http://pods/v1"}, 600, False, 3, id="somebody waits at a terminal"),
    ],
)
def test_answers_have_the_grace_period_where_their_engine_goes_on(
    environment: dict[str, str], grace: int, in_pod: bool, seconds: int
) -> None:
    spec: dict[str, Any] = {"model": {"uri": "./model"}, "pod": {"terminationGracePeriodSeconds": grace}}
    job = ChatDeployment.model_validate({"kind": "ChatDeployment", "metadata": {"name": "poet"}, "spec": spec})
    assert linger_seconds(job, Settings.read(job, environment), in_pod) == seconds
