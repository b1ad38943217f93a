"""Counts and examples, and that neither depends on how the work was shared out."""

from __future__ import annotations

import json
import random

from workloads.curation.ledger import EXAMPLES, EXCERPTS, Amount, Ledger, excerpts_of

TEXTS = [f"第{number}篇，山水之间。" for number in range(200)]


def filled(numbers: list[int]) -> Ledger:
    ledger = Ledger(seed=3)
    for number in numbers:
        text = TEXTS[number]
        ledger.count("诗", "read", "", text)
        if number % 2:
            ledger.dropped("诗", "short", f"诗/{number}", text)
        else:
            ledger.changed("诗", "water", f"诗/{number}", text, text.replace("水", ""))
    return ledger


def test_parts_together_are_the_whole_in_any_order() -> None:
    numbers = list(range(200))
    whole = filled(numbers)
    random.Random(0).shuffle(numbers)
    together = Ledger(seed=3)
    for start in range(0, 200, 30):
        part = json.loads(json.dumps(filled(numbers[start : start + 30]).as_json()))
        together.merge(Ledger.of_json(part))
    assert together.as_json() == whole.as_json()


def test_documents_characters_and_bytes_are_counted() -> None:
    ledger = filled([0, 1])
    length, size = len(TEXTS[0]), len(TEXTS[0].encode())
    assert ledger.total("read") == Amount(2, 2 * length, 2 * size)
    assert ledger.total("dropped", "short") == Amount(1, length, size)
    assert ledger.total("changed") == Amount(1, 1, 3)
    assert ledger.total("dropped", "long") == Amount()


def test_examples_are_few_and_drawn_by_the_seed() -> None:
    ledger = filled(list(range(200)))
    drawn = [example["document"] for _, example in ledger.samples["dropped", "short"]]
    assert len(drawn) == EXAMPLES
    other = Ledger(seed=4)
    for number in range(1, 200, 2):
        other.dropped("诗", "short", f"诗/{number}", TEXTS[number])
    assert drawn != [example["document"] for _, example in other.samples["dropped", "short"]]


def test_an_example_of_a_change_shows_what_was_there_and_what_is_there_now() -> None:
    ledger = Ledger()
    ledger.changed("诗", "water", "诗/1", "青山绿水长流", "青山绿长流")
    ((_, example),) = ledger.samples["changed", "water"]
    assert example == {"document": "诗/1", "before": "青山绿", "removed": "水", "added": "", "after": "长流"}


def test_a_rule_that_adds_takes_out_less_than_nothing() -> None:
    ledger = Ledger()
    ledger.changed("诗", "mask", "诗/1", "a@b.c", "[电子邮箱]")
    assert ledger.total("changed") == Amount(1, -1, -9)


def test_excerpts_of_many_shares_are_as_many_as_those_of_one() -> None:
    assert excerpts_of([{"诗", "网"}, {"网"}]) == {"诗": EXCERPTS, "网": EXCERPTS}
    most = excerpts_of([{"诗"}] * 40)
    assert most == {"诗": EXCERPTS // 10}
    assert sum(excerpts_of([{f"集{number}"} for number in range(150)]).values()) < 9 * EXCERPTS
    together, whole = Ledger(), Ledger()
    for share in range(40):
        part = Ledger(most=most)
        for number in range(50):
            part.excerpt("诗", "read", f"{share}/{number}", f"第{share}-{number}首")
            whole.excerpt("诗", "read", f"{share}/{number}", f"第{share}-{number}首")
        assert len(part.excerpts["诗", "read"]) == 50
        together.merge(part)
    assert together.excerpts == whole.excerpts
    assert len(whole.excerpts["诗", "read"]) == EXCERPTS
    part = Ledger(most=most)
    for number in range(EXCERPTS):
        part.excerpt("诗", "read", f"{number}", "山")
    assert len(part.excerpts["诗", "read"]) == EXCERPTS // 10
