"""The page with two models, behind a login, and through the death of its engine: each a process of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.cluster.bed import cache, images
from tests.workloads.browser import PATIENCE
from tests.workloads.serving.page.conftest import Opens, page_process
from tests.workloads.serving.page.shots import shot
from tests.workloads.serving.page.standin import Engine
from tests.workloads.serving.page.steps import POET, again, answers, ask, idle
from tests.workloads.serving.page.test_states import violations

BESIDE = POET + "  compareWith: {name: base, model: {uri: ./base}}\n"


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    """Two models, and the address of their page."""
    with (
        Engine("poet", "base") as engine,
        page_process(BESIDE, tmp_path_factory.mktemp("beside"), ALPACA_ENGINE_URL=engine.url) as served,
    ):
        yield engine, served.url


def test_two_models_answer_side_by_side_each_with_its_own_history(beside: tuple[Engine, str], opened: Opens) -> None:
    engine, url = beside
    with opened(url) as page:
        expect(page.locator("#pane-1")).to_be_visible()
        engine.answer = ["{model}说：", "{question}"]
        ask(page, "一")
        for pane, name in enumerate(("poet", "base")):
            expect(answers(page, pane)).to_have_text(f"{name}说：一")
        idle(page)
        ask(page, "二")
        for pane, name in enumerate(("poet", "base")):
            expect(answers(page, pane).nth(1)).to_have_text(f"{name}说：二")
        idle(page)
        last = {body["model"]: body["messages"][1]["content"] for body in engine.asked[2:]}
        assert last == {"poet": "poet说：一", "base": "base说：一"}
        page.locator("#header .model").select_option("base")
        expect(page.locator("#pane-1")).to_be_hidden()
        expect(answers(page, 0)).to_have_text(["base说：一", "base说：二"])
        ask(page, "三")
        expect(answers(page, 0).nth(2)).to_have_text("base说：三")
        page.reload()
        expect(answers(page, 0)).to_have_text(["base说：一", "base说：二", "base说：三"])
        expect(page.locator("#pane-1")).to_be_hidden()


def test_one_model_that_fails_leaves_the_other_its_answer(beside: tuple[Engine, str], opened: Opens) -> None:
    engine, url = beside
    with opened(url) as page:
        engine.answer, engine.refuses = ["疑是地上霜"], "base"
        engine.refusal = (500, {"message": "out of memory", "code": "server_error"})
        ask(page, "一")
        expect(answers(page, 0)).to_have_text("疑是地上霜")
        expect(answers(page, 1)).to_contain_text("模型服务出错了")
        idle(page)


def test_a_killed_engine_breaks_the_answer_off_and_is_asked_again_when_it_is_back(
    tmp_path: Path, opened: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine() as engine, page_process(POET, tmp_path, ALPACA_ENGINE_URL=engine.url) as served:
        engine.pause()
        with opened(served.url) as page:
            ask(page, "床前明月光")
            expect(answers(page)).to_contain_text("疑是")
            with caplog.at_level(logging.CRITICAL, "uvicorn.error"):  # which tells that a stream was broken off
                engine.die()
            expect(answers(page)).to_have_text(
                re.compile(r"疑是\s*回答中断：与模型服务的连接断开了。点“重新回答”再试。\s*$")
            )
            idle(page)
            expect(page.locator("#header .words")).to_have_text("连不上模型服务，正在重试…")
            again(page)
            expect(answers(page)).to_have_text("连不上模型服务：它可能正在重启。稍后点“重新回答”。")
            idle(page)
            with Engine(port=engine.port):
                expect(page.locator("#header .words")).to_have_text("poet")
                again(page)
                expect(answers(page)).to_have_text("疑是地上霜")
                idle(page)


def a_port() -> int:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.drill
def test_an_engine_that_is_away_loads_and_answers_is_told_apart(tmp_path: Path, opened: Opens) -> None:
    """Its Service, which leads nowhere but to pods that are ready, and the name of all its pods are two ports here."""
    service, pods = a_port(), a_port()
    urls = {
        "ALPACA_ENGINE_URL": f"http://127.0.0.1:{service}/v1",
        "ALPACA_ENGINE_PODS_URL": f"http://127.0.0.1:{pods}/v1",
    }
    with page_process(POET, tmp_path, **urls) as served, opened(served.url) as page:
        words = page.locator("#header .words")
        expect(words).to_have_text("模型没有在运行，等它启动…")
        ask(page, "床前明月光")
        expect(answers(page)).to_have_text("模型没有在运行。等它启动后点“重新回答”。")
        idle(page)
        shot(page, "away")
        assert violations(page) == []
        with Engine(port=pods) as loading:
            loading.state = "loading"
            expect(words).to_have_text("模型加载中，请稍候… — poet is being loaded (reading weights)")
            again(page)
            expect(answers(page)).to_have_text(re.compile("^模型还在加载，请稍候再点“重新回答”。"))
            idle(page)
            loading.state = "ready"
            expect(words).to_have_text("模型加载中，请稍候…")  # its Service does not know yet
            with Engine(port=service) as engine:
                expect(words).to_have_text("poet")
                again(page)
                expect(answers(page)).to_have_text("疑是地上霜")
                idle(page)
                assert len(engine.asked) == 1
            assert loading.asked == [], "which is looked at, and asked nothing"
            expect(words).to_have_text("模型加载中，请稍候…")
        expect(words).to_have_text("模型没有在运行，等它启动…")


def test_a_page_opened_before_its_engine_has_the_models_settings_once_it_is_there(
    tmp_path: Path, opened: Opens
) -> None:
    with Engine() as engine:
        port = engine.port
    with (
        page_process(POET, tmp_path, ALPACA_ENGINE_URL=f"http://127.0.0.1:{port}/v1") as served,
        opened(served.url) as page,
    ):
        expect(page.locator("#header .words")).to_have_text("连不上模型服务，正在重试…")
        with Engine(port=port):
            expect(page.locator("#temperature input[type=number]")).to_have_value("0.25")
            ask(page, "床前明月光")
            expect(answers(page)).to_have_text("疑是地上霜")
            idle(page)


def test_a_login_is_asked_for_and_nothing_is_told_without_it(tmp_path: Path, opened: Opens) -> None:
    secret = {"ALPACA_CHAT_USERNAME": "li", "ALPACA_CHAT_PASSWORD": "床前明月光", "ALPACA_API_KEY": "key"}
    with Engine() as engine, page_process(POET, tmp_path, ALPACA_ENGINE_URL=engine.url, **secret) as served:

        def enter(page: Page, name: str, password: str) -> None:
            page.get_by_label(re.compile("用户名|username")).fill(name)
            page.get_by_label(re.compile("密码|password")).fill(password)
            page.get_by_role("button").first.click()

        with opened(served.url, fails=(400, 401)) as page:
            enter(page, "li", "疑是地上霜")
            expect(page.locator("#question textarea")).to_have_count(0)
            assert "poet" not in page.content()
            enter(page, "li", "床前明月光")
            ask(page, "床前明月光")
            expect(answers(page)).to_have_text("疑是地上霜")
            idle(page)
            page.get_by_role("button", name="退出登录").click()
            expect(page.get_by_label("密码")).to_be_visible()
            page.goto(served.url)
            expect(page.get_by_label("密码")).to_be_visible()
        with opened(served.url, fails=(401,)) as stranger:
            answer = stranger.request.post(
                f"{served.url}/gradio_api/component_server",
                data={"data": None, "component_id": 1, "fn_name": "look", "session_hash": "x"},
            )
            assert answer.status == 401
            assert stranger.request.get(f"{served.url}/livez").status == 200
    assert engine.keys == {"Bearer key"}


def test_a_session_that_ends_under_an_open_page_leads_to_the_login(tmp_path: Path, opened: Opens) -> None:
    secret = {"ALPACA_CHAT_USERNAME": "li", "ALPACA_CHAT_PASSWORD": "月", "ALPACA_API_KEY": "key"}
    with (
        Engine() as engine,
        page_process(POET, tmp_path, ALPACA_ENGINE_URL=engine.url, **secret) as served,
        opened(served.url, fails=(401,)) as page,
    ):
        page.get_by_label("用户名").fill("li")
        page.get_by_label("密码").fill("月")
        page.get_by_role("button").click()
        expect(page.locator("#header .words")).to_have_text("poet")
        page.context.clear_cookies()
        expect(page.get_by_label("密码")).to_be_visible()


@pytest.mark.parametrize(
    ("environment", "code", "told"),
    [
        pytest.param(
            {"ALPACA_PAGE_PORT": "http"}, 64, "InvalidSpec: ALPACA_PAGE_PORT is 'http': give a port, or 0 for a free one",
            id="a port that is none",
        ),
        pytest.param(
            {"ALPACA_CHAT_USERNAME": "li"}, 64,
            "InvalidSpec: ALPACA_CHAT_PASSWORD is not set and its counterpart is: a login needs both; set both or neither",
            id="half a login",
        ),
    ],
)  # fmt: skip
def test_a_page_that_cannot_be_served_says_why(
    environment: dict[str, str], code: int, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text(POET, encoding="utf-8")
    log = tmp_path / "termination"
    ended = subprocess.run(
        [sys.executable, "-m", "workloads.chat_ui", str(file)],
        env={**os.environ, "ALPACA_TERMINATION_LOG": str(log), **environment},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.strip()) == (code, told)
    assert told.partition(": ")[2] in log.read_text(encoding="utf-8")


def test_the_page_takes_little_memory_and_leaves_at_once_when_asked(tmp_path: Path, opened: Opens) -> None:
    """With the packages of its image: beside others pandas imports pyarrow, which has 50 MB."""
    python = images.environment("chat") / "opt/venv/bin/python"
    source = {"PYTHONPATH": os.pathsep.join((str(cache.CHECKOUT / "operator"), str(cache.CHECKOUT)))}
    with (
        Engine() as engine,
        page_process(POET, tmp_path, str(python), ALPACA_ENGINE_URL=engine.url, **source) as served,
    ):
        with opened(served.url) as one, opened(served.url) as other:
            for page in (one, other):
                ask(page, "床前明月光")
                expect(answers(page)).to_have_text("疑是地上霜")
        process = Path("/proc") / str(served.process.pid)
        resident = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text(encoding="utf-8"))
        assert resident is not None
        assert "torch" not in (process / "maps").read_text(encoding="utf-8")
        assert int(resident.group(1)) / 1024 < 200
        served.process.terminate()
        assert served.process.wait(timeout=PATIENCE) == 0


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def test_a_page_that_is_started_anew_under_an_open_tab_goes_on(tmp_path: Path, opened: Opens) -> None:
    port = free_port()
    with Engine() as engine:
        environment = {"ALPACA_ENGINE_URL": engine.url, "ALPACA_PAGE_PORT": port}
        with contextlib.ExitStack() as tab:
            with page_process(POET, tmp_path, **environment) as served:
                page = tab.enter_context(opened(served.url, fails=("net::ERR_",)))
                ask(page, "床前明月光")
                expect(answers(page)).to_have_text("疑是地上霜")
                idle(page)
            expect(page.locator("#header .words")).to_have_text("与页面服务器的连接断开，正在重试…")
            ask(page, "还在吗？")
            expect(answers(page).last).to_have_text(re.compile("问题没有送到"))
            idle(page)
            shot(page, "offline-light")
            with page_process(POET, tmp_path, **environment):
                expect(page.locator("#header .words")).to_have_text("poet")
                again(page)
                expect(answers(page)).to_have_text(["疑是地上霜", "疑是地上霜"])
                idle(page)
    assert len(engine.asked) == 2


def test_a_page_that_is_started_anew_with_another_password_asks_for_it_and_goes_on(
    tmp_path: Path, opened: Opens
) -> None:
    port = free_port()

    def enter(page: Page, password: str) -> None:
        page.get_by_label("用户名").fill("li")
        page.get_by_label("密码").fill(password)
        page.get_by_role("button").click()

    with Engine() as engine, contextlib.ExitStack() as tab:
        environment = {"ALPACA_ENGINE_URL": engine.url, "ALPACA_PAGE_PORT": port, "ALPACA_API_KEY": "key"}
        environment["ALPACA_CHAT_USERNAME"] = "li"
        with page_process(POET, tmp_path, **environment, ALPACA_CHAT_PASSWORD="明") as served:
            page = tab.enter_context(opened(served.url, fails=("net::ERR_", "status of 401 ")))
            shot(page, "login-light")
            enter(page, "明")
            ask(page, "床前明月光")
            expect(answers(page)).to_have_text("疑是地上霜")
            idle(page)
            page.locator("#question textarea").fill("写了一半")
        with page_process(POET, tmp_path, **environment, ALPACA_CHAT_PASSWORD="月"):
            expect(page.get_by_label("密码")).to_be_visible()
            enter(page, "月")
            expect(answers(page)).to_have_text("疑是地上霜")
            expect(page.locator("#question textarea")).to_have_value("写了一半")
