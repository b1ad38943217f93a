"""What is known of a conversation is used again, and gives way where memory is needed."""

from __future__ import annotations

import pytest
import torch

from workloads.serving.engine.conversations import KEPT, Conversations
from workloads.serving.engine.rows import GROWTH, Row

LAYERS, HEADS, WIDTH = 2, 3, 4


def states(tokens: list[int], layer: int) -> torch.Tensor:
    """(heads, tokens, width): a key of a token is the token and its layer, its value twice that."""
    return torch.tensor(tokens, dtype=torch.float32)[None, :, None].expand(HEADS, -1, WIDTH) + layer


def read(row: Row, tokens: list[int]) -> None:
    """As a pass does with a text."""
    for layer in range(LAYERS):
        new = states(tokens, layer)
        keys, values = row.put(layer, new, 2 * new)
        assert keys.shape == values.shape == (HEADS, row.length + len(tokens), WIDTH)
    row.tokens += tokens


def write(conversations: Conversations, *tokens: int) -> None:
    """As passes do with answers: every row gets these."""
    for token in tokens:
        assert conversations.grow()
        for group in conversations.groups:
            places = group.places(torch.device("cpu"))
            for layer in range(LAYERS):
                new = states([token] * len(group.rows), layer).transpose(0, 1)
                keys, values = group.put(layer, places, new, 2 * new)
                assert keys.shape == values.shape == (len(group.rows), HEADS, group.reach + 1, WIDTH)
            for row in group:
                row.tokens.append(token)


def knows(row: Row) -> bool:
    """Whether all of its keys and values are those of its tokens."""
    keys, values = row.tensors
    expected = [states(row.tokens, layer) for layer in range(LAYERS)]
    return all(
        torch.equal(key[:, : row.length], new) and torch.equal(value[:, : row.length], 2 * new)
        for key, value, new in zip(keys, values, expected, strict=True)
    )


def told(conversations: Conversations, tokens: list[int], most: int = 10**6) -> tuple[Row, int]:
    """A row for a text that was read, and how much of it was known."""
    row = conversations.begin(tokens, most)
    was_known = row.length
    read(row, tokens[was_known:])
    assert row.tokens == tokens
    assert knows(row)
    return row, was_known


FIRST = list(range(100, 130))


@pytest.mark.parametrize(
    ("tokens", "expected", "kept"),
    [
        pytest.param([*FIRST, 7, 8], 30, 0, id="the next question of a conversation, in the memory of the last"),
        pytest.param(FIRST, 29, 0, id="the same again: its last token has to be computed"),
        pytest.param(FIRST[:20], 19, 0, id="less of it, as a question that is answered anew"),
        pytest.param([*FIRST[:10], *range(40)], 10, 1, id="another conversation that begins so: both are kept"),
        pytest.param(FIRST[:7] + [1] * 20, 0, 1, id="too little to be worth it"),
        pytest.param([5, *FIRST], 0, 1, id="another beginning"),
    ],
)
@pytest.mark.parametrize("written", [False, True])
def test_a_text_begins_with_what_is_known_of_it(written: bool, tokens: list[int], expected: int, kept: int) -> None:
    conversations = Conversations(10**6)
    row, _ = told(conversations, FIRST)
    if written:
        conversations.join(row)
    conversations.end(row)
    assert told(conversations, tokens)[1] == expected
    assert len(conversations.over) == kept


def test_a_beginning_is_taken_from_an_answer_in_progress_too_and_stays_there() -> None:
    conversations = Conversations(10**6)
    row, _ = told(conversations, FIRST)
    conversations.join(row)
    other, was_known = told(conversations, [*FIRST[:20], 3, 4])
    assert was_known == 20
    write(conversations, 9)
    assert row.tokens == [*FIRST, 9]
    assert knows(row)
    assert knows(other)


def test_answers_come_and_go_and_every_row_keeps_what_it_knows() -> None:
    """Of many lengths: rows share tensors, are copied into larger ones, take the place of those that left."""
    conversations = Conversations(10**6)
    rows: list[Row] = []
    for number, length in enumerate((10, 30, 500, 12, 450, 90, 11, 1)):
        row, _ = told(conversations, [number, *range(1000 * number, 1000 * number + length - 1)])
        conversations.join(row)
        rows.append(row)
        write(conversations, *range(40))
        if number in (2, 4, 6):
            conversations.end(rows.pop(1))
        assert all(map(knows, [*rows, *conversations.over]))
    assert {len(group.rows) for group in conversations.groups} == {1, 2}
    assert max(group.reach - min(row.length for row in group) for group in conversations.groups) <= 2 * GROWTH
    write(conversations, *range(200))
    while rows:
        conversations.end(rows.pop(0))
        assert all(map(knows, [*rows, *conversations.over]))
    assert not conversations.groups
    assert not conversations.in_use
    assert len(conversations.over) == 8


def test_those_of_about_one_length_are_computed_together_and_others_apart() -> None:
    conversations = Conversations(10**6)
    for number, length in enumerate((20, 3400, 40, 60, 3000)):
        conversations.join(told(conversations, [number, *[9] * (length - 1)])[0])
    assert [[row.length for row in group] for group in conversations.groups] == [[20, 40, 60], [3400, 3000]]


def test_what_was_not_used_for_longest_gives_way() -> None:
    conversations = Conversations(3 * (30 + GROWTH))
    texts = [[number, *range(1000 * number, 1000 * number + 29)] for number in (1, 2, 3, 4)]
    for text in (*texts[:3], texts[0], texts[3]):
        conversations.end(told(conversations, text)[0])
        assert conversations.held <= conversations.positions
    assert [told(conversations, text)[1] for text in (texts[0], texts[1])] == [29, 0]


def test_answers_in_progress_never_give_way() -> None:
    conversations = Conversations(200)
    row, other = told(conversations, FIRST)[0], told(conversations, [1] * 30)[0]
    assert not conversations.has_room(30, 1000)
    for each in (row, other):
        conversations.join(each)
    write(conversations, *range(GROWTH))
    write(conversations, *range(200 // 2 - GROWTH - 30))
    assert not conversations.grow()
    conversations.end(other)
    assert conversations.grow()
    assert not conversations.over
    assert conversations.held <= 200
    assert knows(row)


def test_an_answer_that_is_alone_gets_what_it_needs() -> None:
    conversations = Conversations(50)
    assert conversations.has_room(500, 1000)
    row, _ = told(conversations, list(range(500)))
    conversations.join(row)
    write(conversations, *range(500))
    assert knows(row)


def test_a_row_takes_no_more_than_it_may_come_to() -> None:
    conversations = Conversations(10**6)
    row, _ = told(conversations, FIRST, most=35)
    assert row.capacity == 35
    conversations.join(row)
    write(conversations, 1, 2, 3, 4, 5)
    assert conversations.held == 35
    conversations.end(row)
    long, _ = told(conversations, [1] * 2000)
    conversations.join(long)
    write(conversations, *range(GROWTH), 1)
    assert conversations.in_use == 2000 + GROWTH + (2000 + GROWTH) // 8


def test_a_value_that_is_no_number_does_not_outlive_its_row() -> None:
    conversations = Conversations(10**6)
    rows = [told(conversations, [number] * 10)[0] for number in (1, 2, 3)]
    for row in rows[:2]:
        conversations.join(row)
    conversations.groups[0].keys[0][1] = float("nan")
    conversations.drop(rows[1])
    conversations.join(rows[2])
    assert not conversations.groups[0].keys[0].isnan().any()


def test_so_many_rows_are_kept_and_none_where_nothing_is_remembered() -> None:
    conversations, forgetful = Conversations(10**9), Conversations(10**9, remembers=False)
    for number in range(KEPT + 3):
        conversations.end(told(conversations, [number] * 9)[0])
    assert len(conversations.over) == KEPT
    forgetful.end(told(forgetful, FIRST)[0])
    assert told(forgetful, FIRST)[1] == 0
