"""The report's page in a real browser: what a model wrote stays text, nothing is loaded, and it can be read on a phone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.evaluation import Gate
from tests.workloads.browser import chromium, expect, until
from workloads.evaluation.gates import Verdict
from workloads.evaluation.intervals import Interval, wilson
from workloads.evaluation.report import Report
from workloads.evaluation.report_files import write

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"><!-- </article> --> | `code` $body ${title}"
MODELS = ("base", "tuned", "tuned-4bit")
JUDGEMENTS = [
    {"outcome": outcome, "first": HOSTILE, "second": "[[B]]"} for outcome in ("win", "loss", "tie", None, "win", "win")
]


def answer(text: str, ending: str = "Stopped", repetition: float = 0.0) -> dict[str, Any]:
    return {"text": text, "tokens": len(text), "ending": ending, "chineseShare": 1.0, "repetition": repetition}


def report(answers: list[str]) -> Report:
    """Questions of two categories, each answered by three models."""
    metrics = {
        "base": {"perplexity": 40.5, "stopRate": 0.0, "peakMemoryBytes": 2.0**31},
        "tuned": {"perplexity": 4.25, "stopRate": 1.0, "peakMemoryBytes": 2.0**31},
        "tuned-4bit": {"perplexity": 4.5, "stopRate": 0.75, "peakMemoryBytes": 2.0**30},
    }
    figures = {"stopRate": 0.5, "repetitionRate": 0.0, "chineseShare": None, "answerTokens": 9.0}
    content = {
        "name": "poets",
        "models": [
            {
                "name": name,
                "uri": f"pvc://models/{name}",
                "digest": "sha256:" + "0" * 64,
                "kind": "Model",
                "adapters": [],
                "template": "HumanAssistant",
                "weights": "float32",
                "metrics": metrics[name],
                "measuredOn": {"rows": 200, "rowTokens": 12345, "answers": 16},
                "categories": {"文学": figures, HOSTILE: figures},
                "notMeasured": [
                    {"metrics": ["bitsPerByte"], "why": "it is <served> elsewhere", "whyInChinese": "在别处"}
                ]
                if name == "base"
                else [],
                "categoryIntervals": {"文学": {"stopRate": [0.15, 0.85]}, HOSTILE: {}},
            }
            for name in MODELS
        ],
        "gates": [],
        "heldOut": {"lines": ["200 conversations read"], "leftOut": 0},
        "systemPrompt": HOSTILE,
        "generation": {"temperature": 0.0, "maxNewTokens": 64, "seed": 42},
        "judge": {"uri": "http://judge/v1 (<judge>)", "against": "base", "sameInBothOrders": {"tuned": 0.75}},
        "questions": [
            {
                "category": ["文学", HOSTILE][number % 2],
                "question": f"第{number}问？{'长' * 200 if number == 2 else ''}",
                "before": [{"role": "system", "content": HOSTILE}] if number == 1 else [],
                "reference": HOSTILE,
                "answers": {
                    name: answer(text, ("Cut", "Stopped", "TookTheTurn")[number % 3], 0.4)
                    | ({"scores": {"exactMatch": 0.0, "tokenF1": 0.5, "chrF": 0.25}} if number == 1 else {})
                    | ({} if name == "base" else {"judgement": JUDGEMENTS[number]})
                    for name in MODELS
                },
            }
            for number, text in enumerate(answers)
        ],
    }
    gates = [Gate(metric="perplexity", model="tuned-4bit", max=5), Gate(metric="stopRate", model="base", min=0.5)]
    intervals = {name: {"stopRate": Interval(*wilson(metrics[name]["stopRate"], 16), 16, "answers")} for name in MODELS}
    intervals["tuned-4bit"]["perplexity"] = Interval(4.125, 5.25, 200, "rows")
    verdicts = [
        Verdict(gate, metrics[gate.model][gate.metric], intervals[gate.model].get(gate.metric)) for gate in gates
    ]
    return Report(content, metrics, verdicts, intervals, {"tuned": ['{"task": "likes"}']})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(report(["床前明月光", HOSTILE, "=1+1", "", "不停" * 300, "@SUM(A1)"]), folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def seen() -> list[str]:
    """What the page said, and asked for."""
    return []


def opened(browser: Any, folder: Path, seen: list[str], **settings: Any) -> Any:
    context = browser.new_context(**settings)
    context.on("request", lambda request: seen.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    return page


def test_what_a_model_wrote_is_shown_and_runs_nothing(browser: Any, folder: Path, seen: list[str]) -> None:
    page = opened(browser, folder, seen)
    assert page.title() == "poets"
    assert page.locator("article").nth(1).locator(".answer p").first.inner_text() == HOSTILE
    assert page.locator("img, iframe, object, link").count() == 0
    assert page.locator("article .empty").count() == 3, "an empty answer is told"
    page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'document.title = 1'; document.body.append(script) }"
    )
    assert page.title() == "poets", "the policy lets no other script run"
    (told,) = [text for text in seen if text != (folder / "report.html").as_uri()]
    assert "Content Security Policy" in told, "nothing was asked for but the page, and nothing went wrong but this"


def test_questions_are_found_by_category_and_by_words(browser: Any, folder: Path, seen: list[str]) -> None:
    page = opened(browser, folder, seen, locale="en-GB")
    shown = page.locator("article:visible")
    assert shown.count() == 6
    page.get_by_role("button", name="文学").click()
    assert shown.count() == 3
    assert page.locator("#count").inner_text() == "3 / 6"
    page.get_by_role("button", name="All").click()
    page.get_by_role("searchbox").fill("明月")
    assert shown.count() == 1
    page.get_by_role("searchbox").fill("")
    page.get_by_text("Figures by category").click()
    assert page.get_by_role("cell", name="repetitionRate").first.is_visible()
    row = page.get_by_role("row", name="文学 stopRate")
    assert row.locator("small").all_inner_texts() == ["15.0 % – 85.0 %"] * 3, "as sure as one category lets it be"


def test_the_language_is_the_readers_and_both_switches_are_kept(browser: Any, folder: Path, seen: list[str]) -> None:
    page = opened(browser, folder, seen, locale="zh-CN", color_scheme="light")
    expect(page.get_by_role("heading", name="模型对比")).to_be_visible()
    assert page.get_by_text("2 道关卡中有 1 道未通过：结果没有发布").is_visible()
    assert page.get_by_text("200 个样本还不足以判定").is_visible()
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.locator("#theme").click()
    assert page.evaluate(background) != light
    dark = page.evaluate(background)
    page.locator("#language").click()
    expect(page.get_by_role("heading", name="Models side by side")).to_be_visible()

    def english_again() -> bool:
        """A browser puts what a page keeps away in another process, in its own time: a reload may come before that."""
        page.reload()
        return page.get_by_role("heading", name="Models side by side").is_visible()

    until(english_again)
    assert page.evaluate(background) == dark
    assert not page.get_by_role("heading", name="模型对比").is_visible()


def test_it_fits_a_phone(browser: Any, folder: Path, seen: list[str]) -> None:
    page = opened(browser, folder, seen, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    boxes = [page.locator("article").first.locator(".answer").nth(number).bounding_box() for number in range(3)]
    assert boxes[0]["x"] == boxes[1]["x"], "answers stand one below the other"
    wide = opened(browser, folder, seen, viewport={"width": 1100, "height": 800})
    boxes = [wide.locator("article").first.locator(".answer").nth(number).bounding_box() for number in range(3)]
    assert boxes[0]["y"] == boxes[1]["y"] == boxes[2]["y"], "side by side where there is room"
    names = wide.locator("article").first.locator("h4")
    assert max(names.nth(number).bounding_box()["height"] for number in range(3)) < 30, "a name stands in one line"


def test_scores_judgements_and_what_was_not_measured_are_there_in_both_languages(
    browser: Any, folder: Path, seen: list[str]
) -> None:
    page = opened(browser, folder, seen, locale="en-GB")
    tuned = [page.locator("article").nth(number).locator(".answer").nth(1) for number in range(4)]
    for card, words in zip(tuned, ("judged better", "judged worse", "judged equal", "no verdict"), strict=True):
        assert card.get_by_text(words).is_visible()
    assert tuned[1].get_by_text("exactMatch 0.0 % · tokenF1 50.0 % · chrF 25.0 %").is_visible()
    tuned[1].get_by_text("What the judge said").click()
    assert tuned[1].locator("details p").all_inner_texts() == [HOSTILE, "[[B]]"]
    assert page.get_by_text("base: not measured: bitsPerByte: it is <served> elsewhere").is_visible()
    assert page.get_by_text("by http://judge/v1 (<judge>), each pair in both orders").is_visible()
    assert page.get_by_text("samples/tuned.jsonl").is_visible()
    assert (folder / "samples" / "tuned.jsonl").read_text() == '{"task": "likes"}\n'
    page.locator("#language").click()
    assert tuned[0].get_by_text("评判：更好").is_visible()
    assert page.get_by_text("base：没有测量 bitsPerByte：在别处").is_visible()
    assert page.get_by_text("每一对都按两种顺序评判").is_visible()
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "- base: not measured: bitsPerByte: it is &lt;served&gt; elsewhere\n" in markdown
    assert "| ended by itself, judged worse, exactMatch 0.0 %, tokenF1 50.0 %, chrF 25.0 % |" in markdown


def test_a_spreadsheet_computes_nothing_of_what_a_model_wrote(folder: Path) -> None:
    with (folder / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["base"] for row in rows][2:6] == ["'=1+1", "", "不停" * 300, "'@SUM(A1)"]
    assert rows[1]["tuned: ending"] == "ended by itself"


def test_markdown_shows_it_as_text_in_its_cell(folder: Path) -> None:
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "<img" not in markdown
    line = next(line for line in markdown.splitlines() if line.startswith("| base | &lt;script&gt;"))
    assert line.replace("\\|", "").count("|") == 5
    assert "| **4.25** |" in markdown, "the best is marked"
    assert "| 文学 | stopRate | 50.0 % (15.0 % – 85.0 %) |" in markdown
    json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_how_sure_a_figure_is_stands_beside_it(browser: Any, folder: Path, seen: list[str]) -> None:
    page = opened(browser, folder, seen, locale="en-US")
    row = page.get_by_role("row", name="stopRate").first
    assert row.locator("small").all_inner_texts()[-3:] == ["0.0 % – 19.4 %", "80.6 % – 100.0 %", "50.5 % – 89.8 %"]
    undecided = "200 rows do not decide perplexity of tuned-4bit: it is 4.5 on them, and of all it may be 4.125 to 5.25 (95 %), max 5 among it"
    assert page.get_by_text(undecided).is_visible()
    assert page.get_by_text("200 rows · 12,345 tokens of answers in them · 16 answers").first.is_visible()
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert f"- {undecided}: measure more\n" in markdown
    assert "**100.0 %** (80.6 % – 100.0 %)" in markdown
    assert "200 rows, 12,345 tokens of answers in them, 16 answers" in markdown
