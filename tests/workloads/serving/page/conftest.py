"""A browser, and pages in processes of their own."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.workloads.browser import PATIENCE, chromium
from tests.workloads.serving.page.standin import Engine
from tests.workloads.serving.page.steps import POET

START = "the page is at "


@dataclass(frozen=True)
class Served:
    """A page that answers."""

    url: str
    process: subprocess.Popen[str]
    lines: queue.Queue[str | None]

    def said(self) -> list[str]:
        """What else it wrote, once it has ended."""
        return list(iter(self.lines.get, None))


@contextmanager
def page_process(manifest: str, folder: Path, python: str = sys.executable, **environment: str) -> Iterator[Served]:
    """``python -m workloads.chat_ui`` on a free port, as its container runs it."""
    file = folder / "chat.yaml"
    file.write_text(manifest, encoding="utf-8")
    process = subprocess.Popen(
        [python, "-m", "workloads.chat_ui", str(file)],
        env={**os.environ, "ALPACA_PAGE_PORT": "0", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stderr:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        said = ""
        while (line := lines.get(timeout=PATIENCE)) is not None:
            said += line
            if START in line:
                yield Served(line.partition(START)[2].strip(), process, lines)
                break
        else:
            pytest.fail(f"the page ended with {process.wait()}:\n{said}")
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
        reader.join()
        process.stderr.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

Opens = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def opened(browser: Browser) -> Opens:
    """Open a page as a user of their own. What leaves this machine, and what fails in a script, fails the test; `fails` are statuses of
    answers that are meant to come, or words of other errors."""

    @contextmanager
    def open_page(url: str, fails: tuple[int | str, ...] = (), **context: Any) -> Iterator[Page]:
        wrong: list[str] = []
        expected = [each if isinstance(each, str) else f"status of {each} " for each in fails]
        settings = {"locale": "zh-CN", "viewport": {"width": 1280, "height": 800}, **context}
        user = browser.new_context(**settings)
        user.set_default_timeout(PATIENCE * 1000)
        page = user.new_page()
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("request", lambda request: wrong.extend(_elsewhere(request.url)))
        page.on("console", lambda message: wrong.append(message.text) if _is_bad(message, expected) else None)
        try:
            page.goto(url)
            yield page
        except Exception as error:
            shown = page.evaluate(
                "document.documentElement.outerHTML.length + ': ' + document.body.innerText.slice(0, 500)"
            )
            error.add_note(f"the page then, at {page.url}, {shown}")
            for each in wrong:
                error.add_note(each)
            raise
        finally:
            user.close()
        assert wrong == []

    return open_page


def _is_bad(message: ConsoleMessage, expected: list[str]) -> bool:
    """Gradio complains of streams that end because their page is left."""
    if re.match("AbortError|Unexpected error Connection errored out", message.text):
        return False
    return message.type == "error" and not any(each in message.text for each in expected)


def _elsewhere(url: str) -> list[str]:
    return [] if url.startswith(("http://127.0.0.1:", "data:", "blob:")) else [f"request to {url}"]


@pytest.fixture
def engine(shared: tuple[Engine, Served]) -> Engine:
    """As at the beginning."""
    engine, _ = shared
    engine.go_on()
    engine.asked.clear()
    engine.left, engine.waiting, engine.state, engine.refusal = 0, 0, "ready", None
    engine.answer, engine.ending = ["疑是", "地上霜"], "stop"
    return engine


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Served]]:
    with (
        Engine() as engine,
        page_process(POET, tmp_path_factory.mktemp("page"), ALPACA_ENGINE_URL=engine.url) as served,
    ):
        yield engine, served


@pytest.fixture
def url(shared: tuple[Engine, Served]) -> str:
    return shared[1].url
