"""From a spec to models that answer: what is loaded, by which settings, and what is refused before anything large is read."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads import tiny
from tests.workloads.engine_process import manifest
from workloads.errors import DataError, InputError, SpecError
from workloads.serving.engine import loading
from workloads.serving.engine.metrics import Metrics
from workloads.serving.engine.model_specs import model_specs
from workloads.serving.engine.schema import ChatRequest
from workloads.serving.engine.served_model import ServedModel
from workloads.serving.refusal import Refusal
from workloads.system import memory
from workloads.system.environment import Environment

# PEFT asks transformers by a name that is going to be removed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
QUESTION = [{"role": "user", "content": "第7问：赵先生喜欢什么？"}]
Load = Callable[..., ServedModel]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers are wide enough for blocks of 64 weights; not to be written to."""
    return tiny.write_model(tmp_path_factory.mktemp("wide") / "base", hidden=64)


@pytest.fixture
def load(wide: Path, tmp_path: Path) -> Iterator[Load]:
    """Loads a spec over `base`; the first model. What was said is `load.said`."""
    (tmp_path / "base").symlink_to(wide)
    opened: list[ServedModel] = []

    def loaded(**spec: Any) -> ServedModel:
        for source in (spec.get("model"), *spec.get("adapters", []), spec.get("compareWith", {}).get("model")):
            if source:
                source["uri"] = str(tmp_path / source["uri"])
        job = ChatDeployment.model_validate(manifest(**{"model": {"uri": str(tmp_path / "base")}, **spec}))
        environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "cache")})
        served = loading.load(job, environment, Metrics(), loaded.said.append)  # type: ignore[attr-defined]
        opened.extend(served.values())
        return next(iter(served.values()))

    loaded.said, loaded.opened = [], opened  # type: ignore[attr-defined]
    yield loaded
    for served in opened:
        served.scheduler.close()


def answer(served: ServedModel) -> str:
    return asyncio.run(asked(served))


async def asked(served: ServedModel) -> str:
    (one,) = served.ask(
        ChatRequest(model="tiny", messages=QUESTION, temperature=0, repetition_penalty=1, max_tokens=16)
    )
    return await served.scheduler.submit(one.answer).whole()


def generated(model: Any, served: ServedModel) -> str:
    """What plain `generate` of ``model`` answers."""
    ids = served.template.prompt(QUESTION)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=0,
        )
    text = served.template.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    return served.template.clean_answer(text)


def adapter(base: Path, folder: Path, rank: int = 4, **settings: Any) -> Path:
    """A LoRA adapter that changes what the model says."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made = peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=rank, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **settings
        ),
    )
    made.save_pretrained(folder)
    return folder


def test_an_adapter_answers_as_peft_answers_with_it(load: Load, wide: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    folder = adapter(wide, tmp_path / "adapter")
    served = load(adapters=[{"uri": "adapter"}])
    base = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32)
    assert served.kind == "LoRAAdapter"
    assert answer(served) == generated(peft.PeftModel.from_pretrained(base, folder), served) != answer(load())


def test_two_adapters_answer_together(load: Load, wide: Path, tmp_path: Path) -> None:
    first, _ = adapter(wide, tmp_path / "first"), shutil.copytree(tmp_path / "first", tmp_path / "second")
    assert first.exists()
    assert answer(load(adapters=[{"uri": "first"}, {"uri": "second"}])) != answer(load(adapters=[{"uri": "first"}]))


def test_adapters_with_names_are_models_of_their_own_that_answer_at_the_same_time(
    load: Load, wide: Path, tmp_path: Path
) -> None:
    """Also where all of a conversation's beginning is known: what one adapter has read, another reads anew."""
    import peft
    from transformers import AutoModelForCausalLM

    folders = [
        adapter(wide, tmp_path / "first"),
        adapter(wide, tmp_path / "second", use_dora=True, lora_alpha=32),
    ]
    base = load(adapters=[{"uri": "first", "name": "poet"}, {"uri": "second", "name": "sage"}])
    served = {each.name: each for each in load.opened}  # type: ignore[attr-defined]
    assert [(each.name, each.kind) for each in served.values()] == [
        ("tiny", "Model"),
        ("poet", "LoRAAdapter"),
        ("sage", "LoRAAdapter"),
    ]
    assert served["poet"].scheduler is served["sage"].scheduler is base.scheduler
    plain = [AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32) for _ in range(3)]
    alone = [plain[0], *(peft.PeftModel.from_pretrained(*each) for each in zip(plain[1:], folders, strict=True))]
    expected = [generated(model, each) for model, each in zip(alone, served.values(), strict=True)]
    assert len(set(expected)) == 3

    async def together() -> list[str]:
        return list(await asyncio.gather(*(asked(each) for each in [*served.values()] * 2)))

    for _ in range(2):
        assert asyncio.run(together()) == expected * 2


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        pytest.param({"modules_to_save": ["lm_head"]}, 256, id="a head of its own"),
        pytest.param({"modules_to_save": ["embed_tokens", "lm_head"]}, 320, id="an extended vocabulary"),
        pytest.param({"bias": "all"}, 256, id="a bias of its own"),
    ],
)
def test_an_adapter_that_is_more_than_a_lora_cannot_stand_beside_others(
    settings: dict[str, Any], size: int, load: Load, tmp_path: Path
) -> None:
    other = tiny.write_model(tmp_path / "other", hidden=64, vocab_size=size, attention_bias="bias" in settings)
    adapter(other, tmp_path / "adapter", **settings)
    with pytest.raises(SpecError) as refused:
        load(adapters=[{"uri": "adapter", "name": "poet"}])
    assert str(refused.value) == (
        f"spec.adapters[0] {tmp_path / 'adapter'} brings embeddings or other weights of its own, as with an extended vocabulary, and cannot "
        "stand beside others on one base: merge first, with a MergeJob, and serve what it makes"
    )


def test_no_two_models_have_one_name(load: Load, wide: Path, tmp_path: Path) -> None:
    adapter(wide, tmp_path / "first")
    with pytest.raises(SpecError) as refused:
        load(adapters=[{"uri": "first", "name": "tiny"}])
    assert str(refused.value) == (
        "adapters[0].name tiny is the name of the deployment, which the model alone has: give it another"
    )
    with pytest.raises(SpecError) as refused:
        load(
            adapters=[{"uri": "first", "name": "poet"}],
            compareWith={"name": "poet", "model": {"uri": "base"}},
        )
    assert str(refused.value) == "compareWith.name poet is the name of an adapter: give it another"


def test_an_adapter_with_another_vocabulary_is_refused_with_both_numbers(load: Load, tmp_path: Path) -> None:
    other = tiny.write_model(tmp_path / "other", hidden=64, vocab_size=320)
    adapter(other, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(DataError) as refused:
        load(adapters=[{"uri": "adapter"}])
    assert str(refused.value) == (
        f"spec.adapters[0] {tmp_path / 'adapter'} has a vocabulary of 320 rows and the base {tmp_path / 'base'} one of 256: name the base "
        "that the adapter was made from, or merge the two with a MergeJob, which makes the base's embeddings grow"
    )


@pytest.mark.parametrize(("bits", "dtype"), [(8, "int8"), (4, "nf4")])
def test_weights_are_held_in_fewer_bits(load: Load, bits: int, dtype: str) -> None:
    served = load(load={"bits": bits})
    assert any(f"weights={dtype}" in told for told in load.said)  # type: ignore[attr-defined]
    assert answer(served) == generated(served.scheduler._model, served)


def test_a_quantized_model_is_not_quantized_again(load: Load, wide: Path, tmp_path: Path) -> None:
    shutil.copytree(wide, tmp_path / "quantized")
    config = json.loads((wide / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "gptq", "bits": 4}
    }
    (tmp_path / "quantized" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match=r"load\.bits is 8 and .* is quantized already \(gptq, 4 bits\): remove load"):
        load(model={"uri": "quantized"}, load={"bits": 8})


def test_a_model_without_a_chat_template_is_refused_until_one_is_named(load: Load) -> None:
    with pytest.raises(SpecError, match="the model's tokenizer has no chat template: set template to HumanAssistant"):
        load(template="FromModel")
    assert load(template="HumanAssistant").template.name == "HumanAssistant"


def test_a_template_that_training_cannot_mask_is_enough_to_answer(load: Load, wide: Path, tmp_path: Path) -> None:
    shutil.copytree(wide, tmp_path / "own")
    source = "{% for m in messages %}<s>{{ m.role }}| {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant|{% endif %}"
    (tmp_path / "own" / "chat_template.jinja").write_text(source)
    served = load(model={"uri": "own"}, template="FromModel")
    assert served.ends == {1, 2}
    assert answer(served) == generated(served.scheduler._model, served).removeprefix(" ")


def test_the_second_model_is_looked_at_before_the_first_is_read(load: Load, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="hollow"):
        load(compareWith={"model": {"uri": "hollow"}})
    assert not any(told.startswith("loading ") for told in load.said)  # type: ignore[attr-defined]


def test_settings_are_the_specs_then_the_models_then_ours(load: Load, wide: Path, tmp_path: Path) -> None:
    shutil.copytree(wide, tmp_path / "own")
    own = {"temperature": 0.6, "top_p": 0.8, "repetition_penalty": 1.3, "eos_token_id": [2, 9]}
    (tmp_path / "own" / "generation_config.json").write_text(json.dumps(own))
    served = load(model={"uri": "own"}, generation={"temperature": 0.2})
    found = served.defaults
    assert (found.temperature, found.top_p, found.top_k, found.repetition_penalty, found.max_new_tokens) == (
        0.2,
        0.8,
        50,
        1.3,
        512,
    )
    assert served.ends == {1, 2, 9}


def test_a_model_that_is_not_meant_to_be_sampled_is_not(load: Load, wide: Path, tmp_path: Path) -> None:
    shutil.copytree(wide, tmp_path / "own")
    (tmp_path / "own" / "generation_config.json").write_text('{"do_sample": false}')
    assert load(model={"uri": "own"}).defaults.temperature == 0.0


def test_questions_longer_than_the_model_reaches_cannot_be_allowed(load: Load) -> None:
    with pytest.raises(SpecError) as refused:
        load(limits={"maxInputTokens": 512})
    assert str(refused.value) == (
        "limits.maxInputTokens is 512 and tiny has 512 positions for question and answer together: lower it to 511 or less, or set "
        "model.ropeScaling"
    )
    served = load(limits={"maxInputTokens": 600}, model={"uri": "base", "ropeScaling": {"factor": 2}})
    assert (served.context, served.max_input_tokens) == (1024, 600)


def test_little_memory_makes_conversations_shorter_and_none_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * 100 * 256)
    served = load()
    assert (served.context, served.max_input_tokens) == (100, 50)
    assert "tiny: memory is left for 100 of the model's 512 positions" in load.said  # type: ignore[attr-defined]
    monkeypatch.setattr(memory, "available", lambda: 300)
    with pytest.raises(SpecError, match="tiny: the weights leave room for 0 tokens of conversation"):
        load()


def test_auto_says_what_answers_and_why(load: Load) -> None:
    load()
    told = "engine Auto: Transformers answers, as vLLM comes from an image of its own, which only the operator starts"
    assert load.said[0] == told  # type: ignore[attr-defined]


LENGTHS = (900, 600, 800)
"""Tokens of texts beyond the 512 positions that the model has without a stretch."""


def test_a_stretch_that_depends_on_the_length_is_that_of_the_text_and_not_of_the_one_before(load: Load) -> None:
    from workloads.serving.engine.schema import CompletionRequest

    served = load(
        model={"uri": "base", "ropeScaling": {"type": "dynamic", "factor": 2}}, limits={"maxInputTokens": 1000}
    )
    assert served.context == 1024

    async def ask(text: str) -> str:
        (asked,) = served.ask(
            CompletionRequest(model="tiny", prompt=text, temperature=0, repetition_penalty=1, max_tokens=8)
        )
        assert len(asked.prompt.ids) > 512
        return await served.scheduler.submit(asked.answer).whole()

    async def together() -> list[str]:
        return await asyncio.gather(*(ask("山水" * count) for count in LENGTHS))

    alone = [asyncio.run(ask("山水" * count)) for count in LENGTHS]
    assert asyncio.run(together()) == alone
    stretched_to = int(served.scheduler._model.model.rotary_emb.max_seq_len_cached)
    assert LENGTHS[2] <= stretched_to <= LENGTHS[2] + 8, "and not to the length of the first"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"engine": "vLLM", "template": "FromModel"}, "engine vLLM runs from its own image in a cluster: set engine to Auto or Transformers here, or start vLLM yourself and name it with engine External and endpoint.url"),
        ({"engine": "External", "model": None, "template": "FromModel", "endpoint": {"url": "http://a/v1"}}, "engine External loads no model: run the page alone (python -m workloads.chat_ui)"),
        ({"compareWith": {"name": "tiny", "model": {"uri": "base"}}}, "compareWith.name tiny is the name of the deployment: give it another"),
    ],
)  # fmt: skip
def test_what_this_process_has_no_part_in_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        model_specs(ChatDeployment.model_validate(manifest(**spec)))
    assert str(refused.value) == message


def test_a_request_sets_variables_that_the_template_reads(load: Load, tmp_path: Path) -> None:
    source = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:"
    source += "{% if enable_thinking is defined and not enable_thinking %} no{% endif %}{% if style %} {{ style }}{% endif %}{% endif %}"
    (tmp_path / "own.jinja").write_text(source)
    served = load(template="FromModel", templateFile={"uri": str(tmp_path / "own.jinja")})

    def read(**fields: Any) -> str:
        (asked,) = served.ask(ChatRequest(model="tiny", messages=QUESTION, **fields))
        return str(served.template.tokenizer.decode(asked.prompt.ids))

    plain = read()
    assert read(enable_thinking=True) == read(chat_template_kwargs={"budget": 5}) == plain
    assert read(enable_thinking=False) == f"{plain} no"
    assert read(chat_template_kwargs={"enable_thinking": False, "style": "x"}) == f"{plain} no x"
    with pytest.raises(Refusal, match="style spells a control token of the model"):
        read(chat_template_kwargs={"style": "</s>"})
