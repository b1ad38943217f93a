"""Of two Secrets that have a key of one name nobody guesses which was meant."""

from __future__ import annotations

import pytest

from alpaca_operator.api import KINDS
from workloads.errors import SpecError
from workloads.runtime.command import serve
from workloads.system.credentials import check

APART = {
    "ALPACA_SECRETS": "hub,bucket",
    "ALPACA_SECRET_0_HF_TOKEN": "hf_a",
    "ALPACA_SECRET_1_AWS_ACCESS_KEY_ID": "AKIA",
}


def test_keys_of_different_names_are_no_question() -> None:
    check(APART)


def test_the_same_key_with_another_value_is_refused_and_not_told() -> None:
    with pytest.raises(SpecError) as caught:
        check(APART | {"ALPACA_SECRET_1_HF_TOKEN": "hf_b"})
    assert str(caught.value) == (
        "HF_TOKEN is in Secret hub and in Secret bucket, which secretRef of two inputs name, with different values: a process has one "
        "HF_TOKEN; leave it out of one of the two, or give both the same value"
    )
    assert caught.value.exit_code == 64


def test_the_same_key_with_the_same_value_is_no_question() -> None:
    check(APART | {"ALPACA_SECRET_1_HF_TOKEN": "hf_a"})


def test_a_command_ends_before_it_reads_its_spec(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in (APART | {"ALPACA_SECRET_1_HF_TOKEN": "hf_b"}).items():
        monkeypatch.setenv(variable, value)
    assert serve(KINDS["SFTJob"], lambda _: 0, ["no-such-file.yaml"]) == 64
    assert "HF_TOKEN is in Secret hub and in Secret bucket" in capsys.readouterr().err
