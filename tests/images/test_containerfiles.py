"""The Containerfiles, as text: building them takes gigabytes, and that they agree with what is around them does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alpaca_operator.settings import Settings
from tests.cluster.bed import images
from tests.manifests.build import MANIFESTS

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent.name for path in (ROOT / "images").glob("*/Containerfile"))
ONLY_WITH_A_GPU = {"--group cuda"}


def text(role: str) -> str:
    return (ROOT / "images" / role / "Containerfile").read_text(encoding="utf-8")


def chosen(role: str) -> list[set[str]]:
    """What each `uv sync` installs: `--extra train`."""
    lines = re.findall(r"^RUN uv sync (.*)$", text(role), re.MULTILINE)
    return [set(re.findall(r"--(?:extra|group) \S+", line)) for line in lines]


def stanza(role: str, first: str, last: str) -> str:
    """From a line to another, without comments."""
    lines = [line for line in text(role).splitlines() if not line.startswith("#")]
    start = lines.index(first)
    return "\n".join(lines[start : lines.index(last, start)])


@pytest.mark.parametrize("role", FOLDERS)
class TestEveryContainerfile:
    def test_both_syncs_install_the_same(self, role):
        first, second = chosen(role)
        assert first == second

    def test_it_starts_from_the_same_base_by_the_same_means(self, role):
        """One base to move, one place where certificates come from."""
        start, end = "FROM ${BASE} AS build", "COPY pyproject.toml uv.lock ./"
        assert stanza(role, start, end) == stanza("operator", start, end)
        arguments = [line for line in text("operator").splitlines() if line.startswith("ARG ")]
        assert [line for line in text(role).splitlines() if line.startswith("ARG ")] == arguments

    def test_it_runs_as_a_user_that_is_a_number(self, role):
        config = images.last_stage(text(role))
        assert config["User"] == "65532:65532"
        assert {"HOME=/tmp", "USER=alpaca"} <= set(config["Env"])

    def test_what_it_copies_is_sent_to_the_builder(self, role):
        sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
        copied = [
            name
            for line in re.findall(r"^COPY (?!--from)(.*)$", text(role), re.MULTILINE)
            for name in line.split()[:-1]
        ]
        assert copied
        assert [name for name in copied if name not in sent] == []

    def test_it_is_told_of_and_built(self, role):
        assert f"`{role}/Containerfile`" in (ROOT / "images" / "README.md").read_text(encoding="utf-8")
        (listed,) = re.findall(r"for image in (.*); do", (ROOT / "Makefile").read_text(encoding="utf-8"))
        assert role in listed.split()


def test_uv_is_the_one_that_make_installs():
    (version,) = re.findall(r"^UV_VERSION := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"ARG UV_VERSION={version}" in text("operator").splitlines()


@pytest.mark.parametrize("role", images.EXTRAS)
def test_the_bed_has_what_the_containerfile_installs(role):
    assert {f"--extra {extra}" for extra in images.EXTRAS[role]} == chosen(role)[0] - ONLY_WITH_A_GPU


def test_every_kind_runs_in_one_of_them():
    lines = (MANIFESTS / "operator" / "settings.env").read_text(encoding="utf-8").splitlines()
    environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    found = Settings.from_environment(environment).images
    assert found
    assert {
        image.removeprefix("registry.invalid/literary-alpaca/").partition(":")[0] for image in found.values()
    } <= set(FOLDERS)
