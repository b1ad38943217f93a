"""Settings come from the environment, and a wrong one is told with its name and what is allowed."""

from __future__ import annotations

from dataclasses import fields

import pytest

from alpaca_operator.settings import SettingError, Settings, describe


def test_each_setting_is_read_from_its_variable() -> None:
    found = Settings.from_environment(
        {
            "ALPACA_NAMESPACES": "team, other,",
            "ALPACA_IMAGE_SFTJOB": "registry.example/train:1",
            "ALPACA_LEASE_SECONDS": "30",
            "ALPACA_WORKERS": "4",
            "ALPACA_PROGRESS_VIA": "APIServer",
            "ALPACA_IDENTITY": "",
        }
    )
    assert found.namespaces == ("team", "other")
    assert found.images == {"SFTJob": "registry.example/train:1"}
    assert (found.lease_seconds, found.workers, found.progress_via) == (30.0, 4, "APIServer")
    assert found.identity, "set but empty is absent"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        pytest.param(
            {"ALPACA_WORKERS": "many"}, "ALPACA_WORKERS is 'many': set it to a whole number", id="not a number"
        ),
        pytest.param({"ALPACA_WORKERS": "0"}, "ALPACA_WORKERS is 0: set it to at least 1", id="too small"),
        pytest.param(
            {"ALPACA_LOG_FORMAT": "xml"},
            "ALPACA_LOG_FORMAT is 'xml': set it to one of Auto, JSON, Text",
            id="no choice",
        ),
        pytest.param(
            {"ALPACA_RENEW_SECONDS": "10"},
            "ALPACA_RENEW_SECONDS is 10: set it above 0 and to at most a third of ALPACA_LEASE_SECONDS (15), so that two "
            "failed renewals do not lose the Lease",
            id="renewed too seldom",
        ),
    ],
)
def test_a_wrong_one_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_environment(environment)
    assert str(caught.value) == message


def test_the_help_has_every_setting_with_its_meaning() -> None:
    told = describe()
    for each in fields(Settings):
        variable = "ALPACA_IMAGE_<KIND>" if each.name == "images" else f"ALPACA_{each.name.upper()}"
        assert f"  {variable}=" in told
    assert "A holder that is silent for so long has lost the Lease." in told
