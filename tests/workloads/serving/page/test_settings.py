"""What a page makes of its manifest and its environment."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from workloads.errors import SpecError
from workloads.serving.page.settings import Api, Login, Settings

LOCAL = {"model": {"uri": "./model"}}
SECRET = {"ALPACA_CHAT_USERNAME": "li", "ALPACA_CHAT_PASSWORD": "bai"}


def chat(**spec: Any) -> ChatDeployment:
    return ChatDeployment.model_validate({"kind": "ChatDeployment", "metadata": {"name": "poet"}, "spec": spec})


def test_a_page_asks_the_engine_beside_it_and_is_called_like_its_deployment() -> None:
    assert Settings.read(chat(**LOCAL), {}) == Settings(title="poet", apis=(Api("http://127.0.0.1:8000/v1"),))


def test_what_the_manifest_says_is_how_the_page_begins() -> None:
    spec = {
        "page": {"title": "诗人", "historyTurns": 3},
        "systemPrompt": "用古文",
        "limits": {"requestTimeoutSeconds": 9},
    }
    settings = Settings.read(
        chat(**LOCAL, **spec, compareWith={"model": {"uri": "./b"}}), {"ALPACA_ENGINE_URL": "http://e/v1"}
    )
    assert settings == Settings(
        title="诗人",
        apis=(Api("http://e/v1"),),
        compares=True,
        history_turns=3,
        system_prompt="用古文",
        longest_wait_seconds=9,
    )


def test_an_engine_elsewhere_is_asked_by_its_address_with_its_key() -> None:
    spec = {
        "engine": "External",
        "endpoint": {"url": "http://a/v1", "model": "m"},
        "compareWith": {"endpoint": {"url": "http://b/v1"}},
    }
    settings = Settings.read(chat(**spec), {"ALPACA_API_KEY": "one", "ALPACA_COMPARE_API_KEY": "two"})
    assert settings.apis == (Api("http://a/v1", "one", "m"), Api("http://b/v1", "two"))
    assert not settings.is_ours


def test_a_login_comes_from_the_environment() -> None:
    assert Settings.read(chat(**LOCAL, auth={"secretName": "door"}), SECRET).login == Login("li", "bai")


def test_the_line_break_at_the_end_of_a_secret_is_not_part_of_it() -> None:
    broken = {name: f"{value}\n" for name, value in {**SECRET, "ALPACA_API_KEY": "one"}.items()}
    settings = Settings.read(chat(**LOCAL, auth={"secretName": "door"}), broken)
    assert settings.login == Login("li", "bai")
    assert settings.apis[0].key == "one"


@pytest.mark.parametrize(
    ("spec", "environment", "told"),
    [
        pytest.param(
            {}, {"ALPACA_CHAT_PASSWORD": "bai"},
            "ALPACA_CHAT_USERNAME is not set and its counterpart is: a login needs both; set both or neither",
            id="a password alone",
        ),
        pytest.param(
            {"auth": {"secretName": "door"}}, {},
            "auth.secretName is door, and ALPACA_CHAT_USERNAME and ALPACA_CHAT_PASSWORD are not set: put the keys username and "
            "password into that Secret; locally set the variables",
            id="a lock without a key",
        ),
    ],
)  # fmt: skip
def test_half_a_login_is_refused(spec: dict[str, Any], environment: dict[str, str], told: str) -> None:
    with pytest.raises(SpecError) as refused:
        Settings.read(chat(**LOCAL, **spec), environment)
    assert str(refused.value) == told
