"""Rules of cleaning: each has a sentence and examples that come out, and a file that is none is refused with the entry."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import pytest

from alpaca_operator.api.dataset import CleaningRule, Mask, Preset
from workloads.curation import rules
from workloads.curation.cleaning import Whitespace
from workloads.errors import SpecError

FILES = sorted(rules.FOLDER.glob("*.yaml"))
ALL = [rule for file in FILES for rule in rules.load(file, "the preset")]


def test_navigation_is_known_however_its_signs_are_written() -> None:
    text: str | None = "上一页&raquo;\n&ldquo;白日&rdquo;\n&laquo;返回目录"
    for rule in rules.preset("Web"):
        assert text is not None
        text = rule.apply(text)
    assert text == "“白日”"


def test_every_preset_has_its_file() -> None:
    assert {file.stem for file in FILES} == {name.lower() for name in get_args(Preset)} | {"privacy"}
    assert {rule.name for rule in rules.masks(get_args(Mask))} == set(get_args(Mask))


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_a_rule_says_what_it_does_and_shows_it(rule: rules.Rule) -> None:
    assert rule.sentence.endswith(".")
    assert rule.chinese.endswith("。")
    assert any(before != after for before, after in rule.examples)
    assert rule.broken_example() is None


def test_names_are_told_apart() -> None:
    rules.must_differ(ALL)
    with pytest.raises(SpecError, match="two rules are called spaces"):
        rules.must_differ([ALL[0], *[rule for rule in ALL if rule.name == "spaces"] * 2])


def test_plain_prose_is_left_alone() -> None:
    """By every rule that is not for scanned books, and by the masks."""
    prose = "　　他说：“这件事，谁也不知道。”\n　　二零二六年，北京下了第 1 场雪；A<B 的时候，价格是 3.14 元。\n\n　　“转载”二字，他没有听懂。"
    scans = {rule.name for rule in rules.preset("Scans")}
    for rule in ALL:
        if rule.name not in scans:
            assert rule.apply(prose) == prose, rule.name


def test_a_rule_that_finds_nothing_returns_what_it_was_given() -> None:
    text = "白日依山尽"
    assert rules.Rule("a", "水").apply(text) is text


def test_a_rule_can_be_sent_to_another_process() -> None:
    rule = ALL[0]
    assert rule.found
    assert pickle.loads(pickle.dumps(rule)) == rule


def test_rules_of_a_spec() -> None:
    given = [
        CleaningRule(name="a", pattern="(山)(水)", replacement=r"\2\1"),
        CleaningRule(name="b", pattern="广告", action="DropLine"),
        CleaningRule(name="c", pattern="^废稿$", action="DropDocument"),
    ]
    swap, line, document = rules.given(given)
    assert swap.apply("青山水绿") == "青水山绿"
    assert line.apply("一\n广告\n二") == "一\n二"
    assert document.apply("一\n废稿\n二") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "no YAML", id="no YAML"),
        pytest.param("{a: b}", "holds no list of rules", id="no list"),
        pytest.param("- 5", "rule 1: is 5, and a rule has name and pattern", id="no mapping"),
        pytest.param("- {name: a}", "rule 1: has no pattern", id="no pattern"),
        pytest.param("- {name: a, pattern: b, patern: c}", "patern is no field of a rule", id="a misspelt field"),
        pytest.param("- {name: a, pattern: b, action: Burn}", "action is 'Burn': give one of", id="an action that there is not"),
        pytest.param("- {name: a, pattern: b, action: DropLine, replacement: c}", "only read with action Replace", id="two actions"),
        pytest.param("- {name: a, pattern: '(b'}", "'(b' cannot be used", id="no expression"),
        pytest.param("- {name: a, pattern: b, replacement: '\\1'}", "cannot be used", id="a group that there is not"),
        pytest.param("- {name: a, pattern: b, examples: [{before: b, after: c}]}", "'b' becomes '' instead of 'c'", id="an example that comes out otherwise"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        rules.load(file, "spec.clean.rulesFile")
    assert str(caught.value).startswith(f"spec.clean.rulesFile {file}")
    assert message in str(caught.value)


def test_spaces_become_one_where_that_is_asked_for() -> None:
    text = "\n　　白日 \t 依山尽　\n\n \n\n\u00a0黄河\u2003入海流 \n"
    assert Whitespace().apply(text) == "白日 依山尽\n\n黄河 入海流"
    assert Whitespace().apply("白日 依山尽") == "白日 依山尽"
