"""What becomes of a vote: rows that SFTJob reads, and rows that it must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from alpaca_operator.api.conversations import DataSource
from tests.workloads.browser import until
from tests.workloads.serving.page.conftest import Opens, page_process
from tests.workloads.serving.page.shots import shot
from tests.workloads.serving.page.standin import Engine
from tests.workloads.serving.page.steps import POET, answers, ask, idle
from workloads.data.rows import Reading, read
from workloads.errors import DataError
from workloads.serving.page.conversation import Said
from workloads.serving.page.votes import Message, Vote, Votes

PROMPT = [Message(role="system", content="诗人"), Message(role="user", content="静夜思")]
ASKED = [{"role": "system", "content": "诗人"}, {"role": "user", "content": "静夜思"}]
ANSWERS = [Said(model="poet", text="疑是地上霜"), Said(model="base", text="不知道")]
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("疑是地上霜", "不知道"))


def vote(verdict: Any, answers: list[Said]) -> Vote:
    return Vote(id="a-1", messages=PROMPT, answers=answers, verdict=verdict)


def kept(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each kind, without their time."""
    found = {
        kind.name: [json.loads(file.read_text(encoding="utf-8")) for file in kind.iterdir()]
        for kind in folder.iterdir()
    }
    return {
        kind: [{name: value for name, value in row.items() if name != "at"} for row in rows]
        for kind, rows in found.items()
        if rows
    }


LIKED = {"messages": [*ASKED, GOOD], "model": "poet"}
PAIR = {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD], "chosenModel": "poet", "rejectedModel": "base"}


@pytest.mark.parametrize(
    ("verdict", "answers", "rows"),
    [
        pytest.param("up", ANSWERS[:1], {"liked": [LIKED]}, id="a thumb up"),
        pytest.param(
            "down", ANSWERS[1:], {"disliked": [{"prompt": ASKED, "completion": [BAD], "label": False, "model": "base"}]},
            id="a thumb down",
        ),
        pytest.param("first", ANSWERS, {"liked": [LIKED], "preferences": [PAIR]}, id="the better of two"),
        pytest.param("second", ANSWERS[::-1], {"liked": [LIKED], "preferences": [PAIR]}, id="on the other side"),
        pytest.param("none", ANSWERS, {}, id="a vote that is taken back"),
    ],
)  # fmt: skip
def test_a_vote_is_a_row_in_the_place_of_the_one_before(
    verdict: str, answers: list[Said], rows: dict[str, Any], tmp_path: Path
) -> None:
    votes = Votes(tmp_path, print)
    votes.keep(vote("first", ANSWERS))
    votes.keep(vote(verdict, answers))
    assert kept(tmp_path) == rows


def test_sft_reads_what_was_liked_and_refuses_what_was_not(tmp_path: Path) -> None:
    votes = Votes(tmp_path, print)
    votes.keep(vote("first", ANSWERS))
    votes.keep(Vote(id="a-2", messages=PROMPT, answers=ANSWERS[1:], verdict="down"))

    def read_as_sft(kind: str) -> list[tuple[dict[str, str], ...]]:
        return [row.messages for row in read([(DataSource(uri="x"), tmp_path / kind)], Reading())]  # type: ignore[misc]

    [messages] = read_as_sft("liked")
    assert [(each["role"], each["content"]) for each in messages] == [
        ("system", "诗人"), ("user", "静夜思"), ("assistant", "疑是地上霜"),
    ]  # fmt: skip
    for kind in ("preferences", "disliked"):
        with pytest.raises(DataError):
            read_as_sft(kind)


def test_votes_are_kept_where_the_deployment_names_a_place_and_asked_for_nowhere_else(
    tmp_path: Path, opened: Opens
) -> None:
    manifest = POET.replace(
        "page: {title: 诗人}",
        "page: {title: 诗人, votes: pvc://desk/votes}\n  compareWith: {name: base, model: {uri: ./b}}",
    )
    folder = tmp_path / "desk" / "votes"
    with Engine("poet", "base") as engine:
        engine.answer = ["{model}说"]
        environment = {"ALPACA_ENGINE_URL": engine.url, "ALPACA_STORAGE": str(tmp_path)}
        with page_process(manifest, tmp_path, **environment) as served, opened(served.url) as page:
            expect_two(page)
            page.locator("#pane-0 .under .up").click()
            until(lambda: folder.exists() and kept(folder).keys() == {"liked"})
            page.locator("#pane-1 .under .better").click()
            until(lambda: kept(folder).keys() == {"liked", "preferences"})
            shot(page, "beside-light")
            [pair] = kept(folder)["preferences"]
            assert (pair["chosenModel"], pair["rejectedModel"]) == ("base", "poet")
            assert sorted(row["model"] for row in kept(folder)["liked"]) == ["base", "poet"]
            page.reload()
            page.locator("#pane-0 .under .up[aria-pressed=true]").click()
            until(lambda: [row["model"] for row in kept(folder)["liked"]] == ["base"])
        with page_process(POET, tmp_path, **environment) as served, opened(served.url, fails=(404,)) as page:
            ask(page, "一")
            expect(answers(page)).to_have_text("poet说")
            idle(page)
            expect(page.locator(".under .up")).to_have_count(0)
            assert page.request.post(f"{served.url}/votes", data={}).status == 404


def expect_two(page: Page) -> None:
    ask(page, "静夜思")
    for pane, name in enumerate(("poet", "base")):
        expect(answers(page, pane)).to_have_text(f"{name}说")
    idle(page)
