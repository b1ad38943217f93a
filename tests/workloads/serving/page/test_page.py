"""The chat page, in a real browser, against an engine that says what it is told."""

from __future__ import annotations

import re
from functools import partial

import pytest
from playwright.sync_api import Page, Route, expect

from tests.workloads.browser import until
from tests.workloads.serving.page.conftest import PHONE, Opens
from tests.workloads.serving.page.shots import shot
from tests.workloads.serving.page.standin import Engine
from tests.workloads.serving.page.steps import again, answers, ask, begin, focus, from_menu, idle, open_settings


def test_an_answer_grows_on_the_page_and_the_engine_is_asked_with_the_models_own_settings(
    engine: Engine, url: str, opened: Opens
) -> None:
    engine.pause()
    with opened(url) as page:
        expect(page).to_have_title("诗人")
        expect(page.locator("#header .words")).to_have_text("poet")
        expect(page.locator("#temperature input[type=number]")).to_have_value("0.25")
        ask(page, "床前明月光的下一句？")
        expect(answers(page)).to_contain_text("疑是")
        expect(answers(page)).not_to_contain_text("地上霜")
        expect(page.locator("#stop")).to_be_visible()
        engine.go_on()
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
    assert engine.asked == [
        {
            "model": "poet",
            "messages": [{"role": "user", "content": "床前明月光的下一句？"}],
            "temperature": 0.25,
            "top_p": 0.9,
            "max_tokens": 256,
            "top_k": 40,
            "repetition_penalty": 1.3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_stop_keeps_what_is_there_and_tells_the_engine(engine: Engine, url: str, opened: Opens) -> None:
    engine.pause()
    with opened(url) as page:
        for number, press in enumerate((lambda: page.locator("#stop").click(), lambda: page.keyboard.press("Escape"))):
            ask(page, "写一首长诗")
            expect(answers(page).nth(number)).to_contain_text("疑是")
            press()
            expect(answers(page).nth(number)).to_have_text(re.compile(r"疑是\s*已停止"))
            idle(page)
            until(lambda number=number: engine.left == number + 1)


def test_again_puts_another_answer_in_the_place_of_the_last(engine: Engine, url: str, opened: Opens) -> None:
    with opened(url) as page:
        ask(page, "第一问")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        ask(page, "第二问")
        expect(answers(page).nth(1)).to_have_text("疑是地上霜")
        idle(page)
        engine.answer = ["低头", "思故乡"]
        again(page)
        expect(answers(page)).to_have_text(["疑是地上霜", "低头思故乡"])
        idle(page)
    first = [{"role": "user", "content": "第一问"}, {"role": "assistant", "content": "疑是地上霜"}]
    assert engine.asked[1]["messages"] == engine.asked[2]["messages"] == [*first, {"role": "user", "content": "第二问"}]


def test_half_a_character_does_not_end_a_conversation(engine: Engine, url: str, opened: Opens) -> None:
    with opened(url) as page:
        focus(page)
        for number, question in enumerate(("一半\\ud83d", "整个\\ud83d\\udc4d")):
            page.evaluate(f'alpaca.talk.ask("{question}")')
            expect(answers(page).nth(number)).to_have_text("疑是地上霜")
            idle(page)
    said = [message["content"] for message in engine.asked[-1]["messages"] if message["role"] == "user"]
    assert said == ["一半\ufffd", "整个👍"]


def test_a_new_topic_ends_what_is_being_written_and_forgets_what_was_said(
    engine: Engine, url: str, opened: Opens
) -> None:
    engine.pause()
    with opened(url) as page:
        ask(page, "旧话题")
        expect(answers(page)).to_contain_text("疑是")
        begin(page)
        expect(answers(page)).to_have_count(0)
        until(lambda: engine.left == 1)
        engine.go_on()
        expect(page.locator("#question textarea")).to_be_focused()
        ask(page, "新话题")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        expect(page.locator("#shelf .open")).to_have_text(["新话题", "旧话题"])
        page.locator("#shelf .open", has_text="旧话题").click()
        expect(answers(page)).to_have_text(re.compile(r"疑是\s*已停止"))
    assert engine.asked[-1]["messages"] == [{"role": "user", "content": "新话题"}]


def test_changed_settings_are_used_kept_over_a_reload_and_given_up_by_reset(
    engine: Engine, url: str, opened: Opens
) -> None:
    with opened(url) as page:
        expect(page.locator("#temperature input[type=number]")).to_have_value("0.25")
        open_settings(page)
        for name, value in {"temperature": "0", "max_new_tokens": "64", "history_turns": "0"}.items():
            page.locator(f"#{name} input[type=number]").fill(value)
            page.locator(f"#{name} input[type=number]").press("Tab")
        page.locator("#system textarea").fill("只用古文回答。")
        ask(page, "一")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        ask(page, "二")
        expect(answers(page)).to_have_count(2)
        idle(page)
        asked = engine.asked[-1]
        assert (asked["temperature"], asked["max_tokens"]) == (0, 64)
        assert asked["messages"] == [
            {"role": "system", "content": "只用古文回答。"},
            {"role": "user", "content": "二"},
        ]
        page.reload()
        expect(page.locator("#temperature input[type=number]")).to_have_value("0")
        expect(page.locator("#max_new_tokens input[type=number]")).to_have_value("64")
        expect(page.locator("#system textarea")).to_have_value("只用古文回答。")
        open_settings(page)
        page.locator("#reset").click()
        expect(page.locator("#temperature input[type=number]")).to_have_value("0.25")
        expect(page.locator("#max_new_tokens input[type=number]")).to_have_value("256")
        expect(page.locator("#system textarea")).to_have_value("")


def test_the_page_speaks_the_browsers_language_until_another_is_chosen(engine: Engine, url: str, opened: Opens) -> None:
    engine.refusal = (429, {"message": "64 requests are waiting", "code": "queue_full"})
    with opened(url, locale="de-DE") as page:
        expect(page.locator("#send")).to_have_text("Send")
        ask(page, "Hallo")
        expect(answers(page)).to_contain_text("Too many people are asking right now")
        page.locator("#header .language").click()
        expect(page.locator("#send")).to_have_text("发送")
        expect(answers(page)).to_contain_text("现在提问的人太多")
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        page.reload()
        expect(page.locator("#send")).to_have_text("发送")


def test_conversations_stay_in_the_browser_and_can_be_opened_and_deleted(
    engine: Engine, url: str, opened: Opens
) -> None:
    with opened(url) as page:
        for topic in ("李白", "杜甫"):
            ask(page, topic)
            expect(answers(page)).to_have_text("疑是地上霜")
            idle(page)
            begin(page)
            expect(answers(page)).to_have_count(0)
        page.locator("#shelf .open", has_text="李白").click()
        expect(page.locator("#pane-0 .user.message")).to_have_text("李白")
        page.reload()
        expect(page.locator("#pane-0 .user.message")).to_have_text("李白")
        expect(page.locator("#shelf .open")).to_have_count(2)
        page.on("dialog", lambda dialog: dialog.accept())
        from_menu(page, "李白", "remove")
        expect(page.locator("#shelf .open")).to_have_text(["杜甫"])
        expect(answers(page)).to_have_count(0)


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(
    engine: Engine, url: str, opened: Opens
) -> None:
    engine.pause()
    with opened(url) as page:
        ask(page, "李白")
        expect(answers(page)).to_contain_text("疑是")
        page.on("dialog", lambda dialog: dialog.accept())
        from_menu(page, "李白", "remove")
        expect(page.locator("#shelf .none")).to_be_visible()
        expect(page.locator("#pane-0 .user.message")).to_have_count(0)
        until(lambda: engine.left == 1)
        engine.go_on()
        page.reload()
        expect(page.locator("#shelf .none")).to_be_visible()


def test_an_answer_that_was_being_written_when_the_page_was_left_is_there_when_it_is_back(
    engine: Engine, url: str, opened: Opens
) -> None:
    engine.pause()
    with opened(url) as page:
        ask(page, "床前明月光")
        expect(answers(page)).to_contain_text("疑是")
        page.reload()
        expect(answers(page)).to_have_text(re.compile(r"疑是\s*已停止"))
        until(lambda: engine.left == 1)
        idle(page)


def _keep(held: list[Route], route: Route) -> None:
    held.append(route)


def _is_held(held: list[Route], page: Page) -> bool:
    page.wait_for_timeout(50)  # requests are heard of while the browser is waited for
    return bool(held)


def test_the_open_conversation_is_there_again_whichever_part_of_the_page_comes_last(
    engine: Engine, url: str, opened: Opens
) -> None:
    """On a slow line any script may be the last. Each of the parts' is held back in turn, for as long as the rest needs here; a
    machine that is busier tries less by it, and does not fail."""
    with opened(url) as page:
        ask(page, "静夜思")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
        asked: set[str] = set()
        page.on("request", lambda request: asked.add(request.url))
        page.reload()
        expect(answers(page)).to_have_text("疑是地上霜")
        page.wait_for_load_state("networkidle")
        parts = sorted(address for address in asked if re.search(r"/assets/Index-[^/]*\.js$", address))
        assert len(parts) > 5
        for part in parts:
            held: list[Route] = []
            page.route(part, partial(_keep, held))
            page.reload(wait_until="commit")
            until(partial(_is_held, held, page))
            page.wait_for_timeout(1000)
            assert len(held) == 1
            held[0].continue_()
            page.unroute(part)
            expect(answers(page)).to_have_text("疑是地上霜")
            expect(page.locator("#shelf .open")).to_have_text("静夜思")


def test_two_users_have_their_own_streams_at_the_same_time(engine: Engine, url: str, opened: Opens) -> None:
    engine.answer = ["你问：", "{question}"]
    engine.pause()
    with opened(url) as one, opened(url, locale="en-US") as other:
        ask(one, "静夜思是谁写的？")
        ask(other, "Who wrote it?")
        expect(answers(one)).to_contain_text("你问：")
        expect(answers(other)).to_contain_text("你问：")
        engine.go_on()
        expect(answers(one)).to_have_text("你问：静夜思是谁写的？")
        expect(answers(other)).to_have_text("你问：Who wrote it?")
        expect(other.locator("#shelf .open")).to_have_text(["Who wrote it?"])


def test_enter_sends_and_shift_enter_starts_a_new_line(engine: Engine, url: str, opened: Opens) -> None:
    with opened(url) as page:
        focus(page)
        page.keyboard.type("一")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("二")
        page.keyboard.press("Enter")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
    assert [body["messages"][-1]["content"] for body in engine.asked] == ["一\n二"]


def test_the_key_that_chooses_a_word_in_an_input_method_does_not_send(engine: Engine, url: str, opened: Opens) -> None:
    with opened(url) as page:
        focus(page)
        keyboard = page.context.new_cdp_session(page)
        keyboard.send("Input.imeSetComposition", {"text": "shi", "selectionStart": 3, "selectionEnd": 3})
        keyboard.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", "key": "Process", "windowsVirtualKeyCode": 229})
        keyboard.send("Input.insertText", {"text": "诗"})
        expect(page.locator("#question textarea")).to_have_value("诗")
        page.keyboard.press("Enter")
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)
    assert [body["messages"][-1]["content"] for body in engine.asked] == ["诗"]


def test_text_is_shown_and_never_obeyed(engine: Engine, url: str, opened: Opens) -> None:
    attack = (
        '<img src=x onerror="window.hit=1"><script>window.hit=1</script> **b** [x](javascript:window.hit=1)\n\n  `<b>`'
    )
    engine.answer = [attack, "\n\n![p](http://192.0.2.1/p.png) <iframe src=http://192.0.2.1></iframe> `<i>` $$a<b$$"]
    with opened(url) as page:
        ask(page, attack)
        expect(answers(page)).to_contain_text("<iframe src=http://192.0.2.1></iframe> <i>")
        idle(page)
        expect(page.locator("#pane-0 .user.message")).to_have_text(attack, use_inner_text=True)
        expect(answers(page).locator("strong")).to_have_text("b")
        for harmful in ("img[src]", "iframe", "script", "a[href^='javascript']"):
            expect(page.locator(f"#pane-0 .message {harmful}")).to_have_count(0)
        expect(answers(page).locator(".katex")).to_be_visible()
        page.locator("#shelf .open").click()
        page.reload()
        expect(page.locator("#pane-0 .user.message")).to_have_text(attack, use_inner_text=True)
        assert page.evaluate("window.hit") is None


def test_what_gradio_would_draw_as_html_is_text_and_asks_for_nothing(engine: Engine, url: str, opened: Opens) -> None:
    """Diagrams and formulas go into the page as they are; so do tags where Gradio sees no code and we might."""
    hidden = [
        "```mermaid\n<img src=/logout?1>\n```", "- ```mermaid\n  <img src=/logout?2>\n  ```", "$$\n<img src=/logout?3>\n$$",
        r"\(<img src=/logout?4>\) 和 \[<img src=/logout?5>\]", r"\`<img src=/logout?6>\`", "`a\n<div><img src=/logout?7></div>\n`",
        "``` a`b\n<div><img src=/logout?8></div>\n```", "| `a | b` |\n|---|---|\n| `a | <img src=/logout?9>` |",
        "<form action=/logout method=post><button>x</button></form>", "<video src=/logout?10></video>", "[a]:\n```\n<div><img src=/logout?11></div>\n```",
    ]  # fmt: skip
    engine.answer = ["\n\n".join(["$$a<b$$", *hidden]), "\n\n完"]
    asked: list[str] = []
    with opened(url) as page:
        page.on("request", lambda request: asked.append(request.url))
        ask(page, "画")
        expect(answers(page)).to_contain_text("完")
        idle(page)
        expect(answers(page).locator(".katex").first).to_contain_text("a<b")
        for harmful in ("img", "form", "video", ".mermaid", "svg[id^=mermaid]"):
            expect(page.locator(f"#pane-0 .bot.message .prose {harmful}")).to_have_count(0)
    assert not [each for each in asked if "logout" in each]


def test_copying_gives_the_text_as_it_was_written(engine: Engine, url: str, opened: Opens) -> None:
    engine.answer = ["**粗** <b>", " `<i>`"]
    with opened(url, permissions=["clipboard-read", "clipboard-write"]) as page:
        ask(page, "a < b & *c*\n  d")
        expect(answers(page)).to_have_text("粗 <b> <i>")
        idle(page)
        for number, text in enumerate(["a < b & *c*\n  d", "**粗** <b> `<i>`"]):
            page.locator("#pane-0 .message-buttons [aria-label='复制']").nth(number).click()
            until(lambda text=text: pasted(page) == text)


def pasted(page: Page) -> str:
    """What is in the clipboard; a copy is there only a little after its button was pressed."""
    field = page.locator("#question textarea")
    field.fill("")
    field.press("Control+V")
    return field.input_value()


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        pytest.param(
            429, {"message": "64 wait", "code": "queue_full"},
            "现在提问的人太多，排队已满。过一会儿点“重新回答”。 64 wait", id="a full queue",
        ),
        pytest.param(
            503, {"message": "poet is being loaded", "code": "model_loading"},
            "模型还在加载，请稍候再点“重新回答”。 poet is being loaded", id="a model that is being loaded",
        ),
        pytest.param(
            400, {"message": "This server takes at most 2048 tokens of input, and the newest question with the system prompt has 9000: shorten it.",
                  "code": "context_length_exceeded"},
            "内容太长：比模型能读的多 6,952 个词元。请缩短问题，去掉附件，或开始新话题。 This server takes at most 2048 tokens of input, and the newest "
            "question with the system prompt has 9000: shorten it.", id="a question that is too long",
        ),
        pytest.param(
            401, {"message": "Incorrect API key provided.", "code": "invalid_api_key"},
            "模型服务拒绝了页面的密钥：请管理员检查 API key。 Incorrect API key provided.", id="a wrong key",
        ),
        pytest.param(
            500, {"message": "out of memory", "code": "server_error"},
            "模型服务出错了。点“重新回答”再试。 out of memory", id="an engine that fails",
        ),
    ],
)  # fmt: skip
def test_a_refusal_is_told_and_the_question_can_be_put_again(
    status: int, error: dict[str, str], told: str, engine: Engine, url: str, opened: Opens
) -> None:
    engine.refusal = (status, error)
    with opened(url) as page:
        ask(page, "床前明月光")
        expect(answers(page)).to_have_text(told, use_inner_text=True)
        idle(page)
        engine.refusal = None
        again(page)
        expect(answers(page)).to_have_text("疑是地上霜")
        idle(page)


def test_an_answer_that_was_cut_says_so(engine: Engine, url: str, opened: Opens) -> None:
    engine.ending = "length"
    with opened(url) as page:
        ask(page, "写一首长诗")
        expect(answers(page)).to_have_text(re.compile(r"疑是地上霜\s*已达到“最长回答”，到此为止"))


def test_the_header_tells_how_the_model_is(engine: Engine, url: str, opened: Opens) -> None:
    engine.state = "loading"
    with opened(url) as page:
        state = page.locator("#header .words")
        expect(state).to_have_text("模型加载中，请稍候… — poet is being loaded (reading weights)")
        engine.state = "ready"
        expect(state).to_have_text("poet")
        engine.waiting = 3
        expect(state).to_have_text("繁忙：3 个问题在排队")


def test_a_phone_shows_everything_without_scrolling_sideways(engine: Engine, url: str, opened: Opens) -> None:
    engine.answer = [
        "一行很长的代码：\n\n```\n" + "x" * 400 + "\n```\n\n" + "y" * 400,
        "\n\n|a|b|\n|-|-|\n|" + "诗" * 90 + "|2|",
    ]
    with opened(url, **PHONE) as page:
        page.locator("#question textarea").fill("z" * 300)
        page.locator("#send").tap()
        expect(answers(page)).to_contain_text("诗诗诗")
        idle(page)
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner == 390
        for part in ("#question", "#send", "#header .new", "#header .language"):
            expect(page.locator(part)).to_be_in_viewport()
        assert answers(page).bounding_box()["width"] >= 360  # type: ignore[index]
        page.locator("#header .list").tap()
        expect(page.locator("#shelf .open")).to_be_in_viewport()


def test_a_phone_is_not_told_of_keys_that_it_has_not(url: str, opened: Opens) -> None:
    with opened(url, **PHONE) as page:
        expect(page.locator("#question textarea")).to_have_attribute("placeholder", "输入问题")
    with opened(url) as page:
        expect(page.locator("#clip")).to_have_attribute("aria-label", "附上文本文件")
        hint = page.locator("#question textarea").get_attribute("placeholder")
        assert hint == "输入问题，Enter 发送，Shift+Enter 换行"


def test_parts_that_are_put_in_place_late_are_named_then(url: str, opened: Opens) -> None:
    with opened(url) as page:
        expect(page.locator("#clip")).to_have_attribute("aria-label", "附上文本文件")
        page.evaluate(
            """() => {
                const clip = document.querySelector("#clip"), place = clip.parentNode, next = clip.nextSibling;
                clip.remove();
                clip.removeAttribute("aria-label");
                alpaca.label();
                place.insertBefore(clip, next);
            }"""
        )
        expect(page.locator("#clip")).to_have_attribute("aria-label", "附上文本文件")


def test_what_an_answer_is_laid_out_in_can_be_read_on_a_phone(engine: Engine, url: str, opened: Opens) -> None:
    table = "\n".join(("|" + "年份|" * 9, "|" + "-|" * 9, "|" + "1184|" * 9))
    engine.answer = [
        "- 一\n  - 二\n    - 三\n      - 四\n\n",
        f"- [ ] 未\n- [x] 完\n\n{table}\n\n$$ {'x+' * 80} x $$\n",
    ]
    with opened(url, **PHONE) as page:
        ask(page, "问")
        said = answers(page)
        expect(said.locator(".katex-display")).to_be_visible()
        idle(page)
        sizes, shades, heights, formula, pane = said.evaluate(
            """said => {
                const style = (part) => getComputedStyle(part);
                const formula = said.querySelector(".katex-display");
                return [
                    [...said.querySelectorAll("li")].slice(0, 4).map((part) => style(part).fontSize),
                    [...said.querySelectorAll("input")].map((part) => style(part).backgroundColor),
                    [...said.querySelectorAll("td")].map((part) => part.clientHeight / parseFloat(style(part).lineHeight)),
                    [formula.scrollWidth, formula.clientWidth],
                    said.clientWidth,
                ];
            }"""
        )
        assert len(sizes) == 4
        assert len(set(sizes)) == 1  # what stands deeper is as large
        assert len(set(shades)) == 2  # what is done is seen to be
        assert max(heights) < 2  # no number is broken
        assert formula[0] > formula[1] <= pane  # it is moved, and not cut
        shot(page, "layout-phone")


def test_the_page_is_dark_where_the_system_is_until_somebody_says_otherwise(
    engine: Engine, url: str, opened: Opens
) -> None:
    def shade(page: Page) -> float:
        """Brightness of the background, from 0 to 255."""
        red, green, blue = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
        return (int(red) + int(green) + int(blue)) / 3

    with opened(url, color_scheme="dark") as page:
        expect(page.locator("#header .words")).to_have_text("poet")
        until(lambda: shade(page) < 60)
        page.locator("#header .shade").click()
        until(lambda: shade(page) > 200)
        page.reload()
        expect(page.locator("#header .words")).to_have_text("poet")
        until(lambda: shade(page) > 200)
    with opened(url, color_scheme="light") as page:
        expect(page.locator("#header .words")).to_have_text("poet")
        until(lambda: shade(page) > 200)
