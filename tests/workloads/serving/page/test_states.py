"""What people do with a conversation, and how each state of the page looks: pictures in build/screens/."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.workloads.browser import until
from tests.workloads.serving.page.conftest import PHONE, Opens, Served
from tests.workloads.serving.page.shots import shot
from tests.workloads.serving.page.standin import Engine
from tests.workloads.serving.page.steps import again, answers, ask, begin, from_menu, idle, open_settings

RICH = [
    "<think>\n先看题目：要一张表和一个公式。\n</think>\n\n能量与质量的关系是 $E = mc^2$，由 **爱因斯坦** 在 1905 年提出。\n\n",
    "| 量 | 符号 | 数值 |\n|:---|:---:|---:|\n| 光速 | `c` | 299792458 |\n| 普朗克常数 | `h` | 6.626 |\n\n",
    "$$\n\\int_0^1 x^2 \\, dx = \\frac{1}{3}\n$$\n\n```python\nprint('静夜思')  # $5 不是公式\n```\n\n1. 先行\n2. 后续\n",
]


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.1 A and AA, with the places."""
    tags = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = Axe().run(page, options={**tags, "resultTypes": ["violations"]}).response["violations"]
    return [f"{each['id']}: {each['help']}: {[node['target'] for node in each['nodes']]}" for each in found]


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_every_state_is_within_wcag_and_keeps_its_picture(shade: str, engine: Engine, url: str, opened: Opens) -> None:
    wrong: dict[str, list[str]] = {}

    def keep(page: Page, state: str) -> None:
        shot(page, f"{state}-{shade}")
        wrong[state] = violations(page)

    with opened(url, color_scheme=shade) as page:
        expect(page.locator("#header .words")).to_have_text("poet")
        expect(page.locator(".example")).to_have_count(4)
        keep(page, "empty")
        engine.answer = RICH
        ask(page, "质能方程是什么？\n请给一张表。")
        expect(answers(page).last).to_contain_text("后续")
        idle(page)
        expect(answers(page).locator(".katex").first).to_be_visible()
        page.locator(".thought-group [role=button]").click()
        engine.pause()
        engine.answer = ["疑是", "地上霜"]
        ask(page, "再写一首诗")
        expect(answers(page).last).to_contain_text("疑是")
        keep(page, "writing")
        page.locator("#stop").click()
        idle(page)
        engine.go_on()
        again(page)
        expect(answers(page).last).to_have_text("疑是地上霜")
        idle(page)
        expect(page.locator(".under .figures").last).to_contain_text("42 词元")
        keep(page, "answered")
        engine.refusal = (429, {"message": "64 requests are waiting", "code": "queue_full"})
        ask(page, "再来一首")
        expect(answers(page).last).to_contain_text("排队已满")
        keep(page, "refused")
        open_settings(page)
        expect(page.locator("#temperature input[type=number]")).to_be_editable()
        keep(page, "settings")
        page.locator("#header .gear").click()
        page.locator("#shelf li").first.hover()
        page.locator("#shelf summary").first.click()
        keep(page, "menu")
    assert {state: found for state, found in wrong.items() if found} == {}


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_a_phone_gives_the_text_its_whole_width(shade: str, engine: Engine, url: str, opened: Opens) -> None:
    engine.answer = RICH
    with opened(url, color_scheme=shade, **PHONE) as page:
        expect(page.locator(".example")).to_have_count(4)
        shot(page, f"phone-empty-{shade}")
        page.locator(".example").first.tap()
        expect(answers(page).last).to_contain_text("后续")
        idle(page)
        shot(page, f"phone-answered-{shade}")
        assert violations(page) == []
        page.locator("#header .list").tap()
        expect(page.locator("#shelf .open")).to_be_in_viewport()
        shot(page, f"phone-conversations-{shade}")
        page.locator("#shelf .open").tap()
        expect(page.locator("#question textarea")).to_be_in_viewport()
        page.locator("#header .gear").tap()
        expect(page.locator("#temperature")).to_be_in_viewport()
        shot(page, f"phone-settings-{shade}")
        assert violations(page) == []
    assert engine.asked[0]["messages"][-1]["content"] == "用三句话解释什么是大语言模型。"


def test_thoughts_are_folded_formulas_set_and_tables_aligned(engine: Engine, url: str, opened: Opens) -> None:
    engine.answer = RICH
    with opened(url) as page:
        ask(page, "质能方程")
        expect(answers(page).last).to_contain_text("后续")
        idle(page)
        fold = page.locator(".thought-group [role=button]")
        expect(fold).to_contain_text(re.compile(r"思考过程\s*\([\d.]+s\)"))
        expect(page.get_by_text("先看题目")).to_have_count(0)
        fold.press("Enter")
        expect(page.get_by_text("先看题目")).to_be_visible()
        expect(answers(page).last.locator(".katex")).to_have_count(2)
        expect(answers(page).last.locator("code", has_text="$5 不是公式")).to_be_visible()
        cells = answers(page).last.locator("tbody tr").first.locator("td")
        expect(cells.nth(1).locator("code")).to_have_text("c")
        for number, side in enumerate(("left", "center", "right")):
            expect(cells.nth(number)).to_have_css("text-align", re.compile(side if side != "left" else "left|start"))
        ask(page, "续")
        expect(answers(page).last).to_contain_text("后续")
        idle(page)
    given_back = engine.asked[-1]["messages"][1]["content"]
    assert given_back.startswith("能量与质量的关系是")


def test_stop_is_in_effect_whatever_the_network_does(
    engine: Engine, shared: tuple[Engine, Served], url: str, opened: Opens
) -> None:
    """The page's process is held: nothing can come from it."""
    process = shared[1].process
    engine.pause()
    with opened(url) as page:
        expect(page.locator("#header .words")).to_have_text("poet")
        try:
            process.send_signal(signal.SIGSTOP)
            ask(page, "写一首长诗")
            expect(page.locator("#stop")).to_be_visible()
            process.send_signal(signal.SIGCONT)
            expect(answers(page)).to_contain_text("疑是")
            process.send_signal(signal.SIGSTOP)
            page.locator("#stop").click()
            expect(answers(page)).to_have_text(re.compile(r"疑是\s*已停止"))
            idle(page)
        finally:
            process.send_signal(signal.SIGCONT)
        until(lambda: engine.left == 1)


def test_only_what_is_new_and_what_a_model_can_read_travels(engine: Engine, url: str, opened: Opens) -> None:
    turns = [
        {"question": f"第 {number} 问", "answers": [{"model": "poet", "text": "床前明月光。" * 500, "state": "done"}]}
        for number in range(200)
    ]
    kept = {"id": "long", "title": "长", "updatedAt": 1, "turns": turns}
    with opened(url) as page:
        page.evaluate("(kept) => localStorage.setItem('literary-alpaca/conversation/long', JSON.stringify(kept))", kept)
        page.reload()
        page.locator("#shelf .open").click()
        expect(page.locator("#pane-0 .user.message")).to_have_count(200)
        expect(page.locator("#header .words")).to_have_text("poet")
        sent: list[int] = []
        page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")))
        ask(page, "最新的一问")
        expect(answers(page).last).to_have_text(re.compile("疑是地上霜\\s*对话太长，最早的 20 条消息模型没有读到"))
        idle(page)
        expect(page.get_by_text("最新的一问")).to_be_in_viewport()
    said = sum(len(turn["answers"][0]["text"].encode()) for turn in turns)  # type: ignore[index]
    assert said > 1_500_000
    assert 0 < sum(sent) < 120_000
    assert engine.asked[0]["messages"][0]["content"] == "第 190 问"


def test_another_answer_is_a_variant_and_a_question_put_otherwise_a_branch(
    engine: Engine, url: str, opened: Opens
) -> None:
    with opened(url) as page:
        ask(page, "一")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        engine.answer = ["低头", "思故乡"]
        again(page)
        expect(answers(page)).to_have_text("低头思故乡")
        idle(page)
        expect(page.locator(".variants")).to_contain_text("2 / 2")
        page.get_by_label("上一个回答").click()
        expect(answers(page)).to_have_text("疑是地上霜")
        ask(page, "二")
        expect(answers(page).nth(1)).to_have_text("低头思故乡")
        idle(page)
        assert [each["content"] for each in engine.asked[-1]["messages"]] == ["一", "疑是地上霜", "二"]
        page.get_by_label("修改问题，另开分支").nth(1).click()
        expect(page.locator("#question textarea")).to_have_value("二")
        shot(page, "editing")
        ask(page, "三")
        expect(page.locator("#pane-0 .user.message")).to_have_text(["一", "三"])
        idle(page)
        assert [each["content"] for each in engine.asked[-1]["messages"]] == ["一", "疑是地上霜", "三"]
        expect(page.locator("#shelf .open")).to_have_count(2)
        page.locator("#shelf .open").nth(1).click()
        expect(page.locator("#pane-0 .user.message")).to_have_text(["一", "二"])
        page.reload()
        page.get_by_label("下一个回答").click()
        expect(answers(page).first).to_have_text("低头思故乡")


def test_an_answer_that_was_cut_goes_on_from_where_it_was(engine: Engine, url: str, opened: Opens) -> None:
    engine.ending = "length"
    with opened(url) as page:
        ask(page, "静夜思")
        expect(answers(page)).to_have_text(re.compile("疑是地上霜.*到此为止", re.DOTALL))
        idle(page)
        engine.answer, engine.ending = ["，举头", "望明月"], "stop"
        shot(page, "cut")
        page.get_by_role("button", name="继续写").click()
        expect(answers(page)).to_have_text("疑是地上霜，举头望明月")
        idle(page)
        expect(page.locator(".under .figures").last).to_contain_text("84 词元")
    asked = engine.asked[-1]
    assert asked["messages"][-1] == {"role": "assistant", "content": "疑是地上霜"}
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)


def test_text_files_go_along_and_are_counted(engine: Engine, url: str, opened: Opens, tmp_path: Path) -> None:
    (tmp_path / "诗.txt").write_bytes("床前明月光".encode("gb18030"))
    (tmp_path / "b.md").write_text("```\n标题\n```", encoding="utf-8")
    (tmp_path / "x.bin").write_bytes(b"\0\1\2\xff")
    with opened(url) as page:
        page.locator("#ask .input").set_input_files([tmp_path / "诗.txt", tmp_path / "b.md", tmp_path / "x.bin"])
        expect(page.locator("#ask .files li")).to_have_text([re.compile("诗.txt · 5 字"), re.compile("b.md · 10 字")])
        expect(page.locator("#ask .trouble")).to_have_text("x.bin: 不是文本文件：请另存为 UTF-8 或 GB18030 的文本。")
        shot(page, "files")
        ask(page, "谁写的？")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        expect(page.locator("#pane-0 .user.message")).to_have_text(re.compile("📎 诗.txt\\s*📎 b.md\\s*谁写的？"))
        expect(page.locator("#ask .files li")).to_have_count(0)
    assert engine.asked[0]["messages"][-1]["content"] == (
        "诗.txt\n```\n床前明月光\n```\n\nb.md\n````\n```\n标题\n```\n````\n\n谁写的？"
    )


def test_conversations_are_searched_renamed_and_exported(engine: Engine, url: str, opened: Opens) -> None:
    with opened(url) as page:
        for topic, answer in (("李白", "将进酒"), ("杜甫", "春望")):
            engine.answer = [answer]
            ask(page, topic)
            expect(answers(page)).to_have_text(answer)
            idle(page)
            begin(page)
        shelf = page.locator("#shelf .open")
        expect(shelf).to_have_text(["杜甫", "李白"])
        page.locator("#shelf .search").fill("进酒")
        expect(shelf).to_have_text(["李白"])
        from_menu(page, "李白", "rename")
        page.locator("#shelf .name").fill("诗仙")
        page.locator("#shelf .name").press("Enter")
        expect(shelf).to_have_text(["诗仙"])
        page.locator("#shelf .search").fill("没有的词")
        expect(page.locator("#shelf .none")).to_have_text("没有找到")
        page.locator("#shelf .search").fill("")
        for kind, name in (("markdown", "诗仙.md"), ("json", "诗仙.json")):
            with page.expect_download() as download:
                from_menu(page, "诗仙", kind)
            assert download.value.suggested_filename == name
            text = Path(download.value.path()).read_text(encoding="utf-8")
            if kind == "markdown":
                assert text == "# 诗仙\n\n## 问题\n\n李白\n\n## poet\n\n将进酒\n"
            else:
                assert json.loads(text)["turns"][0]["variants"][0][0]["text"] == "将进酒"


def test_settings_belong_to_the_conversation_in_which_they_were_chosen(engine: Engine, url: str, opened: Opens) -> None:
    def temperature(page: Page) -> Any:
        return page.locator("#temperature input[type=number]")

    with opened(url) as page:
        ask(page, "一")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        begin(page)
        open_settings(page)
        temperature(page).fill("0.8")
        temperature(page).press("Tab")
        ask(page, "二")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        page.locator("#shelf .open", has_text="一").click()
        expect(temperature(page)).to_have_value("0.25")
        page.locator("#shelf .open", has_text="二").click()
        expect(temperature(page)).to_have_value("0.8")
        begin(page)
        expect(temperature(page)).to_have_value("0.8")
    assert [asked["temperature"] for asked in engine.asked] == [0.25, 0.8]
