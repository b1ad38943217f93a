"""Positions are stretched once, and an adapter goes only where they are as it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import contract
from alpaca_operator.api.sources import RopeScaling
from workloads.errors import SpecError
from workloads.models import configuration, inspect, libraries, rope

libraries.quiet()

LINEAR = RopeScaling(type="linear", factor=2)
YARN = RopeScaling(type="yarn", factor=4)
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
FIELD = "spec.model.ropeScaling"


def base(**config: Any) -> inspect.Base:
    return inspect.Base(Path("base"), {"max_position_embeddings": 512, **config}, {})


@pytest.mark.parametrize(
    ("config", "described"),
    [
        pytest.param({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}}, "llama3 by 8", id="the new name"),
        pytest.param({"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5}, "llama3 by 8", id="the old name"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear by 2", id="the oldest form, the same scaling"),
        pytest.param({"rope_scaling": {"type": "su"}}, "su", id="without a factor"),
        pytest.param({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}, "sliding_attention": {"rope_type": "default"}}}, "yarn by 4", id="for one kind of layers"),
    ],
)  # fmt: skip
def test_a_scaling_of_the_base_is_not_replaced(config: dict[str, Any], described: str) -> None:
    with pytest.raises(SpecError) as caught:
        rope.stretched(base(**config), LINEAR, FIELD)
    assert str(caught.value) == (
        f"spec.model.ropeScaling is ropeScaling linear by 2, and config.json of base has a rope scaling of its own ({described}), which would "
        "be lost: remove spec.model.ropeScaling to keep the base's own, or name a base without one"
    )


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"rope_scaling": None}, id="null"),
        pytest.param({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, id="the default"),
    ],
)
def test_a_base_without_one_takes_what_the_spec_asks_for(config: dict[str, Any]) -> None:
    assert rope.stretched(base(**config), LINEAR, FIELD).rope_scaling == LINEAR
    assert rope.stretched(base(**config), None, FIELD).rope_scaling is None


def test_what_an_adapter_was_trained_with_is_taken_over() -> None:
    found = rope.stretched(base(), None, FIELD, [rope.Trained("adapter", LINEAR)])
    assert found.rope_scaling == LINEAR
    assert rope.taken_over(found, None) == ["ropeScaling linear by 2, as the adapter was trained with it"]
    assert rope.stretched(base(), LINEAR, FIELD, [rope.Trained("adapter", LINEAR)]).rope_scaling == LINEAR


def test_a_base_that_was_saved_with_the_adapters_scaling_has_it() -> None:
    saved = base(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    assert rope.stretched(saved, None, FIELD, [rope.Trained("adapter", LINEAR)]).rope_scaling is None


@pytest.mark.parametrize(
    ("asked", "config", "trained", "message"),
    [
        pytest.param(
            YARN, {}, [rope.Trained("adapter", LINEAR)],
            "adapter was trained with ropeScaling linear by 2, and spec.model.ropeScaling is ropeScaling yarn by 4: set "
            "spec.model.ropeScaling to what the adapter was trained with",
            id="the spec says something else",
        ),
        pytest.param(
            LINEAR, {}, [rope.Trained("adapter", None)],
            "adapter was trained with no ropeScaling, and spec.model.ropeScaling is ropeScaling linear by 2: set "
            "spec.model.ropeScaling to what the adapter was trained with",
            id="the adapter knows of none",
        ),
        pytest.param(
            None, {}, [rope.Trained("one", LINEAR), rope.Trained("two", None)],
            "two was trained with no ropeScaling, and one with ropeScaling linear by 2: adapters of one kind of positions go together",
            id="two adapters differ",
        ),
        pytest.param(
            None, {"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, [rope.Trained("adapter", LINEAR)],
            "adapter was trained with ropeScaling linear by 2, and config.json of base has a rope scaling of its own (llama3 by 8), which "
            "would be lost: name the base that the adapter was made from, or name a base without one",
            id="another base",
        ),
    ],
)  # fmt: skip
def test_a_difference_is_refused(
    asked: RopeScaling | None, config: dict[str, Any], trained: list[rope.Trained], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        rope.stretched(base(**config), asked, FIELD, trained)
    assert str(caught.value) == message


def test_a_base_that_had_a_scaling_of_its_own_must_still_have_it() -> None:
    trained = base(rope_scaling={"rope_type": "llama3", **LLAMA3}, rope_theta=5e5)
    record = rope.recorded(trained)["ropeScaling"]
    assert record == {"type": "llama3", **LLAMA3}
    adapter = rope.Trained("adapter", None, record)
    same = base(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3})
    assert rope.stretched(same, None, FIELD, [adapter]) == same
    with pytest.raises(SpecError) as caught:
        rope.stretched(base(), None, FIELD, [adapter])
    assert str(caught.value) == (
        "adapter was trained with a rope scaling of llama3 by 8, and base has none: name the base that the adapter was made from"
    )
    with pytest.raises(SpecError, match="of llama3 by 8, and base has llama3 by 32: name the base"):
        rope.stretched(base(rope_scaling={"rope_type": "llama3", **LLAMA3, "factor": 32.0}), None, FIELD, [adapter])


def test_what_a_spec_has_put_on_a_base_is_recorded_too() -> None:
    made = rope.stretched(base(), YARN, FIELD)
    assert rope.recorded(made) == {"ropeScaling": {"type": "yarn", "factor": 4.0}}
    assert rope.recorded(base()) == {}
    saved = base(rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512})
    assert rope.stretched(saved, None, FIELD, [rope.Trained("adapter", YARN, {"type": "yarn", "factor": 4.0})]) == saved


def artifact(folder: Path, spec: dict[str, Any], **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    made = contract.Artifact.model_validate(
        {"kind": "LoRAAdapter", "digest": "sha256:b", "spec_digest": "sha256:c", "spec": spec, **fields}
    )
    (folder / contract.ARTIFACT_FILE).write_text(made.model_dump_json(by_alias=True))
    return folder


def test_an_adapter_of_ours_says_what_it_was_trained_with(tmp_path: Path) -> None:
    mine = artifact(tmp_path / "mine", {"model": {"digest": "sha256:a", "ropeScaling": {"factor": 2.0}}})
    plain = artifact(tmp_path / "plain", {"model": {"digest": "sha256:a"}})
    later = artifact(
        tmp_path / "later",
        {"model": {"digest": "sha256:a"}},
        inputs={"adapter": {"uri": "pvc://out/mine", "digest": "sha256:m"}},
        ancestors={
            "sha256:m": {
                "kind": "LoRAAdapter",
                "spec_digest": "sha256:d",
                "spec": {"model": {"ropeScaling": {"factor": 2.0}}},
            }
        },
    )
    (tmp_path / "another").mkdir()
    found = rope.trained_with([("mine", mine), ("plain", plain), ("later", later), ("another", tmp_path / "another")])
    assert found == [rope.Trained("mine", LINEAR), rope.Trained("plain", None), rope.Trained("later", LINEAR)]


def test_the_adapter_beside_a_merged_model_is_known_by_the_two(tmp_path: Path) -> None:
    out = artifact(
        tmp_path / "out",
        {"model": {"ropeScaling": {"type": "yarn", "factor": 4.0}}},
        files=[{"path": "adapter/adapter_config.json", "size": 1, "sha256": "0"}],
    )
    (out / "adapter").mkdir()
    (out / "other").mkdir()
    assert rope.trained_with([("a", out / "adapter"), ("b", out / "other")]) == [rope.Trained("a", YARN)]


def test_the_scaling_reaches_the_configuration(shelf: Path) -> None:
    looked = inspect.inspect_model(shelf / "base", "spec.model.uri", "base")
    made = configuration.configuration(rope.stretched(looked, YARN, FIELD), "base")
    assert made.max_position_embeddings == 2048
    assert made.rope_parameters["rope_type"] == "yarn"
    assert made.rope_parameters["factor"] == 4.0
    assert made.rope_parameters["original_max_position_embeddings"] == 512
    before = json.loads((shelf / "base" / "config.json").read_text())["rope_parameters"]
    assert made.rope_parameters["rope_theta"] == before["rope_theta"]
