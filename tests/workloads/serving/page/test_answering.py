"""What of an answer is sent, and what is made of refusals."""

from __future__ import annotations

import pytest

from workloads.serving.page.answering import Answer, excess


def test_of_an_answer_only_what_is_new_is_told() -> None:
    begun = Answer("poet")
    assert begun.news(None)["model"] == "poet"
    grown = Answer("poet", "疑是")
    assert grown.news(begun) == {"more": "疑是"}
    assert Answer("poet", "疑是地上霜", "done", tokens=5).news(grown) == {
        "state": "done",
        "tokens": 5,
        "more": "地上霜",
    }
    assert grown.news(grown) == {}


@pytest.mark.parametrize(
    ("message", "over"),
    [
        ("This server takes at most 2048 tokens of input, and the prompt has 9000: shorten it.", 6952),
        ("This server takes at most 16 tokens of input, and the newest question with the system prompt has at least 17: shorten it.", 1),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4488 in the messages, 512 in the "
            "completion). Please reduce the length of the messages or completion.",
            904,
        ),
        (
            "This model's maximum context length is 4096 tokens. However, your request has 4200 input tokens. Please reduce the length of "
            "the input messages.",
            104,
        ),
        ("The decoder prompt (length 4200) is longer than the maximum model length of 4096.", 104),
        ("out of memory", 0),
        ("temperature has to be at most 2, and is 3", 0),
    ],
)  # fmt: skip
def test_by_how_much_a_question_is_too_long_is_read_from_what_servers_say(message: str, over: int) -> None:
    assert excess(message) == over
