"""Likelihoods as OpenAI's API writes them."""

from __future__ import annotations

import pytest

from workloads.serving.engine import logprobs
from workloads.serving.engine.likelihood import Likelihood
from workloads.serving.engine.logprobs import TextLogprobs
from workloads.serving.refusal import Refusal

PIECES = {1: b"<s>", 2: " 床".encode(), 3: b"\xf0\x9f", 4: b"\x91\x8d", 5: b"\n", 6: b"\n"}


class Pieces:
    def of(self, number: int) -> bytes:
        return PIECES[number]


def test_a_text_is_counted_by_whole_characters_and_without_control_tokens() -> None:
    told = TextLogprobs(Pieces(), {1}, unseen=1)  # type: ignore[arg-type]
    first = told.take([(1, None), (2, Likelihood(2, -1.0)), (3, Likelihood(3, -2.0, ((3, -2.0), (4, -3.0))))])
    assert first == {
        "text_offset": [0, 0, 1],
        "token_logprobs": [None, -1.0, -2.0],
        "tokens": ["<s>", " 床", "bytes:\\xf0\\x9f"],
        "top_logprobs": [None, {" 床": -1.0}, {"bytes:\\xf0\\x9f": -2.0, "bytes:\\x91\\x8d": -3.0}],
    }
    assert told.take([(4, Likelihood(4, 0.0)), (5, Likelihood(5, 0.0))])["text_offset"] == [1, 2]


def test_of_tokens_by_one_name_the_likelier_is_told_and_what_has_no_chance_is_a_number() -> None:
    told = TextLogprobs(Pieces(), ())  # type: ignore[arg-type]
    likelihood = Likelihood(6, float("-inf"), ((5, -0.5), (2, -1.5)))
    assert told.take([(6, likelihood)])["top_logprobs"] == [{"\n": -0.5, " 床": -1.5}]
    assert told.take([(6, likelihood)])["token_logprobs"] == [-9999.0]


def test_a_part_of_a_character_in_a_conversation_has_its_bytes() -> None:
    found = logprobs.of_chat([Likelihood(3, -1.0, ((2, -0.5),))], Pieces())  # type: ignore[arg-type]
    assert found["content"] == [
        {
            "token": "\\xf0\\x9f",
            "logprob": -1.0,
            "bytes": [0xF0, 0x9F],
            "top_logprobs": [{"token": " 床", "logprob": -0.5, "bytes": list(" 床".encode())}],
        }
    ]


def test_what_is_no_number_is_never_sent() -> None:
    with pytest.raises(Refusal, match="computed no number"):
        logprobs.of_chat([Likelihood(2, float("nan"))], Pieces())  # type: ignore[arg-type]
