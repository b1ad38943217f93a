"""The page before the engine that it is made for, with a model that says one thing for ever."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from playwright.sync_api import expect

from tests.workloads import parrot
from tests.workloads.browser import until
from tests.workloads.conftest import llama, sentencepiece_folder  # noqa: F401
from tests.workloads.engine_process import Engine, manifest
from tests.workloads.serving.page.conftest import Opens, page_process
from tests.workloads.serving.page.steps import POET, again, answers, ask, idle


def test_an_engine_that_is_killed_in_the_middle_of_an_answer_is_asked_again_when_it_is_back(
    tmp_path: Path,
    llama,  # type: ignore[no-untyped-def]  # noqa: F811
    opened: Opens,
) -> None:
    line = [llama.convert_tokens_to_ids(piece) for piece in ("▁", "明", "月")]
    last = llama(":", add_special_tokens=False).input_ids[-1]
    parrot.write(tmp_path / "base", llama, [line, [last, *line]], max_position_embeddings=30_000)
    engine = Engine(tmp_path, manifest(generation={"temperature": 0, "maxNewTokens": 20_000}))
    with page_process(POET, tmp_path, ALPACA_ENGINE_URL=engine.url) as served, opened(served.url) as page:
        try:
            expect(page.locator("#header .words")).to_have_text("tiny")
            expect(page.locator("#max_new_tokens input[type=number]")).to_have_value("20000")
            ask(page, "床前")
            expect(answers(page)).to_contain_text("明月")
            page.keyboard.press("Escape")
            expect(answers(page)).to_have_text(re.compile(r"明[明月 ]*\s*已停止\s*$"))
            idle(page)
            until(lambda: engine.metric("alpaca_chat_running") == 0)
            again(page)
            expect(answers(page)).not_to_contain_text("已停止")
            expect(answers(page)).to_contain_text("明月")
            engine.stop(signal.SIGKILL)
            engine.end()
            expect(answers(page)).to_have_text(re.compile("明月.*回答中断：与模型服务的连接断开了", re.DOTALL))
            idle(page)
            port = engine.url.rpartition(":")[2].removesuffix("/v1")
            engine = Engine(
                tmp_path, manifest(generation={"temperature": 0, "maxNewTokens": 6}), ALPACA_ENGINE_PORT=port
            ).ready()
            expect(page.locator("#max_new_tokens input[type=number]")).to_have_value("6")
            again(page)
            expect(answers(page)).to_have_text(re.compile(r"^\s*[明月 ]+\s*已达到“最长回答”，到此为止\s*$"))
        finally:
            engine.close()
