"""Text out of tokens: whole characters, no control tokens, nothing beyond a stop, whatever the tokens are cut into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.data.chat_templates.template import Template
from workloads.serving.engine.text import Pieces, Writer

RARE = "你好，世界！𠮷野家 👨‍👩‍👧‍👦 naïve — ᚠᛇᚻ \t末"


class Letters:
    """Pieces that are the bytes of a text one by one: the worst that a tokenizer can do."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()

    def of(self, number: int) -> bytes:
        return self._bytes[number : number + 1]


def written(text: str, **options) -> tuple[str, list[str]]:
    """What comes out, whole and by pieces, when ``text`` comes in byte by byte."""
    writer = Writer(Letters(text), **options)
    parts = []
    for number in range(len(text.encode())):
        parts.append(writer.feed(number))
        if writer.stopped:
            break
    parts.append(writer.end())
    return "".join(parts), parts


@pytest.mark.parametrize("kind", ["llama", "byte_level", "not_legacy"])
def test_the_pieces_of_a_text_are_its_bytes(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    pieces = Pieces(tokenizer)
    ids = tokenizer(RARE, add_special_tokens=False).input_ids
    assert b"".join(map(pieces.of, ids)).decode().removeprefix(" ") == RARE


def test_the_pieces_of_another_kind_of_tokenizer_are_those_that_it_decodes() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "hum": 2, "##an": 3, "being": 4}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=words))
    assert b"".join(map(pieces.of, words.encode("human being").ids)) == b" human being"


def test_an_id_beyond_the_vocabulary_is_nothing(llama) -> None:
    assert Pieces(llama).of(10**6) == b""


def test_a_character_comes_when_it_is_whole() -> None:
    assert written("好")[1] == ["", "", "好", ""]


@pytest.mark.parametrize(
    ("broken", "shown"),
    [
        pytest.param("好".encode()[:2], "", id="half a character at the end is dropped"),
        pytest.param("好".encode()[:2] + b"a", "a", id="half a character before another is dropped"),
        pytest.param(b"\xff\xfe" + "好".encode(), "好", id="bytes that begin no character are dropped"),
    ],
)
def test_half_a_character_is_never_shown(broken: bytes, shown: str) -> None:
    class Broken:
        def of(self, number: int) -> bytes:
            return broken[number : number + 1]

    writer = Writer(Broken())
    assert "".join(writer.feed(number) for number in range(len(broken))) + writer.end() == shown


@given(st.text(alphabet="ab \n好👍", max_size=30))
def test_a_text_without_marks_comes_out_as_it_went_in(text: str) -> None:
    assert written(text)[0] == text


MARKS = ["aab", "b\n", "好a"]


@given(st.text(alphabet="ab\n好", max_size=30))
def test_a_stop_ends_the_text_as_soon_as_it_is_complete(text: str) -> None:
    complete = [text.find(mark) + len(mark) for mark in MARKS if mark in text]
    shown = written(text, stops=MARKS)[0]
    if not complete:
        assert shown == text
    else:
        until = text[: min(complete)]
        assert shown == until[: min(until.find(mark) for mark in MARKS if mark in until)]


@given(st.text(alphabet="<s>/a", max_size=40))
def test_a_hidden_string_is_nowhere_in_what_is_shown(text: str) -> None:
    shown = written(text, hidden=["<s>", "</s>"])[0]
    assert "<s>" not in shown
    assert "</s>" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(" 好的。\n", "好的。", id="the format's space and line break are not part of the answer"),
        pytest.param("好的。\n", "好的。", id="an answer without the space is whole"),
        pytest.param(" 一\n\n二\n", "一\n\n二", id="line breaks within an answer stay"),
        pytest.param(" ", "", id="an answer of a space is empty"),
        pytest.param(" 好的。\nHuman: 再来", "好的。", id="the user's turn ends an answer"),
        pytest.param(" Human: 我问", "", id="also at its start"),
        pytest.param(" 一个 Human 说", "一个 Human 说", id="the word alone is a word"),
    ],
)
def test_the_frame_of_an_answer_is_cut_off(text: str, shown: str) -> None:
    assert written(text, frame=(" ", "\n"), stops=["Human:"])[0] == shown


def test_nothing_is_cut_off_a_text_without_a_frame() -> None:
    assert written(" 好的。\n")[0] == " 好的。\n"


def test_what_may_become_a_stop_is_held_back_and_the_rest_is_not() -> None:
    assert written("xHumor", stops=["Human:"])[1] == ["x", "", "", "", "Humo", "r", ""]


def test_control_tokens_are_not_shown(llama) -> None:
    template = Template("HumanAssistant", "{{ messages }}", llama)
    writer = Writer(Pieces(llama), frozenset(template.control.values()))
    ids = [*template.control.values(), *llama("好", add_special_tokens=False).input_ids]
    assert ("".join(map(writer.feed, ids)) + writer.end()).strip() == "好"
