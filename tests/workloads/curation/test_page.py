"""The report's page in a real browser: what documents hold stays text, nothing is loaded, and examples are found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.browser import chromium
from tests.workloads.curation.corpora import Made, make

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"> $body </article>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "broken.jsonl").write_text('{"text": "半"\n', encoding="utf-8")
    texts = [f"第{number}篇，白日依山尽，黄河入海流。欲穷千里目，更上一层楼。" for number in range(30)]
    return make(
        folder,
        {
            "诗": [*texts, texts[0], f"{HOSTILE} 短"],
            "<b>网": ["关注我们的公众号\n床前明月光，疑是地上霜。", HOSTILE * 9],
        },
        clean={"presets": ["Characters", "Advertisements"]},
        filters={"minChineseShare": 0.5},
        split={"validationDocuments": 3},
        deduplicate={"near": {"threshold": 0.7}},
        sources=[{"uri": str(folder / "broken.jsonl")}],
        onBadRow="Skip",
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def page(browser: Any, made: Made, seen: list[str]) -> Any:
    context = browser.new_context(locale="zh-CN")
    context.on("request", lambda request: seen.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto((made.folder / "report.html").as_uri())
    return page


def test_what_documents_hold_is_shown_and_runs_nothing(page: Any, made: Made, seen: list[str]) -> None:
    assert page.title() == "poems"
    assert seen == [(made.folder / "report.html").as_uri()], "nothing is asked for but the page"
    assert page.locator("img, iframe, object, link, b").count() == 0
    assert HOSTILE[:60] in page.locator("article", has_text="汉字比例太低").first.inner_text()


def test_the_numbers_of_the_report_are_on_the_page(page: Any, made: Made) -> None:
    total = made.report["total"]
    heading = page.get_by_role("heading", level=2).first.inner_text()
    assert f"{total['read']['documents']} 篇中留下 {total['kept']['documents']} 篇" in heading
    picture = page.locator("svg.flow")
    assert f"诗 {made.report['sources']['诗']['read']['documents']}" in picture.text_content()
    assert picture.locator("text", has_text=f"验证 {made.metrics['validationDocuments']}").is_visible()
    assert not picture.locator("text", has_text="validation").is_visible()


def test_examples_are_found_with_the_changed_part_marked(page: Any) -> None:
    page.get_by_role("button", name="follow-us").click()
    shown = page.locator("article:visible")
    assert shown.count() == 1
    assert shown.locator("del").inner_text() == "关注我们的公众号⏎\n"
    page.get_by_role("button", name="全部").click()
    page.get_by_role("button", name="近似的组").click()
    assert shown.count() == 1
    assert "✓ 诗/诗.jsonl" in shown.inner_text()


def test_the_mixture_and_what_is_frequent_are_shown_in_both_languages(page: Any, made: Made) -> None:
    mixture = page.locator("section", has=page.get_by_role("heading", name="训练部分的配比"))
    row = mixture.locator("tr", has_text="<b>网")
    assert f"{100 * made.report['mixture']['<b>网']['share']:.1f} %" in row.inner_text()
    frequent = page.locator("section", has=page.get_by_role("heading", name="最常见的四字片段"))
    frequent.get_by_text("诗", exact=True).click()
    shown = frequent.locator("details[open]").inner_text()
    run, count = made.report["sources"]["诗"]["frequentRuns"]["read"]["runs"][0]
    assert f"{run}\t{count}" in shown
    assert "读入时\t32 篇中\t留下的" in shown
    assert "as read" not in shown


def test_what_rules_do_is_said_in_the_language_of_the_page(page: Any) -> None:
    rules = page.locator("section", has=page.get_by_role("heading", name="规则做了什么"))
    assert "去掉请人关注账号、扫码或加群的行。" in rules.inner_text()
    assert "Lines that ask" not in rules.inner_text()
    page.get_by_role("button", name="English").click()
    assert (
        "Lines that ask to follow an account" in page.locator("section", has_text="What rules did").first.inner_text()
    )


def test_what_was_passed_over_is_said_with_its_place(page: Any) -> None:
    notes = page.locator("section", has=page.get_by_role("heading", name="修正或跳过的内容"))
    assert "跳过的无法使用的行" in notes.inner_text()
    assert "broken.jsonl, line 1: not JSON" in notes.inner_text()
    assert "passed over" not in notes.inner_text()


def test_it_fits_a_phone(browser: Any, made: Made, tmp_path: Path) -> None:
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    page.goto((made.folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
