"""The recipes for engines elsewhere: what they show of ours is taken, and leads to what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.plan.chat import plan
from tests.golden import SETTINGS, UID

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "recipes").glob("*.md"))


def test_there_is_a_page_for_each_engine_that_people_are_sent_to() -> None:
    assert [page.stem for page in PAGES] == ["llama-cpp", "lmdeploy", "ollama", "tensorrt-llm"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f"docs/recipes/{page.name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_before_it_is_a_deployment_without_an_engine(page: Path) -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    raw: dict[str, Any] = YAML(typ="safe").load(block)
    raw["metadata"] |= {"namespace": "poetry", "uid": UID, "generation": 1}
    planned = plan(ChatDeployment.model_validate(raw), {}, SETTINGS)
    assert planned.refusal is None
    deployment = next(each for each in planned.manifests if each["kind"] == "Deployment")
    assert [container["name"] for container in deployment["spec"]["template"]["spec"]["containers"]] == ["ui"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_command_is_asked_where_it_listens_and_by_its_name(page: Path) -> None:
    """The port and the name in the manifest are those of the commands above it."""
    text = page.read_text(encoding="utf-8")
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    [port] = re.findall(r"^ +url: http://[^:]+:(\d+)/v1", text, re.MULTILINE)
    [name] = re.findall(r"^ +model: (\w+)$", text, re.MULTILINE)
    assert re.search(rf"-p {port}:{port}\b", commands)
    assert re.search(rf"(?:--alias|--model-name|--served_model_name|ollama create) {name}\b", commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_links_into_our_pages_arrive(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]+\.md)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        found = (page.parent / target).resolve()
        heads = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
        assert not anchor or anchor in anchors, f"{target}#{anchor}"
