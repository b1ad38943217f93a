"""A crowd: conversations that go on, long prompts beside short ones, memory that is short, and those who ask more than others."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workloads.serving.engine.answers import CONTROLS, LONGEST, Held, answer, generated, ids, started
from workloads.errors import SpecError
from workloads.serving.engine import attention, turns
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.engine.turns import Piece, shares

LONG = [1, *(3 + number % 100 for number in range(150))]


@pytest.fixture
def watched(model: Any) -> Iterator[tuple[Held, Scheduler]]:
    held = Held(model)
    scheduler = started(held, piece=32)
    yield held, scheduler
    held.gate.set()
    scheduler.close()


@pytest.mark.parametrize("name", CONTROLS)
async def test_a_conversation_costs_its_new_turn_only_and_is_answered_as_anew(
    name: str, watched: tuple[Held, Scheduler], model: Any
) -> None:
    held, scheduler = watched
    held.gate.set()
    controls = CONTROLS[name]
    said = list(LONG)
    for turn, question in enumerate(([5, 6, 7], [9, 8], [30, 31, 32, 33])):
        said += question
        asked = answer(said, seed=turn, **controls)
        held.sizes.clear()
        written = await ids(scheduler, asked)
        assert written == generated(model, said, turn, **controls)
        if turn:
            assert asked.reused == len(said) - len(question) - 1  # the last token of an answer was never read
            assert sum(held.sizes) == len(question) + LONGEST
        said += written


async def test_what_is_asked_again_or_otherwise_costs_what_differs(watched: tuple[Held, Scheduler], model: Any) -> None:
    held, scheduler = watched
    held.gate.set()
    for prompt, known in ((LONG, 0), (LONG, 150), ([*LONG[:100], *range(3, 60)], 100), ([*LONG, 5, 6], 100)):
        asked = answer(prompt)
        assert await ids(scheduler, asked) == generated(model, prompt, 0)
        assert asked.reused == known


async def test_eight_who_begin_alike_are_answered_as_alone(watched: tuple[Held, Scheduler], model: Any) -> None:
    held, scheduler = watched
    held.gate.set()
    first = scheduler.submit(answer([*LONG, 3]))
    await anext(first.texts())
    questions = [[*LONG, 3 + number, 4] for number in range(8)]
    asked = [answer(question, seed=number, temperature=0.9) for number, question in enumerate(questions)]
    together = await asyncio.gather(*(ids(scheduler, each) for each in asked))
    assert together == [
        generated(model, question, number, temperature=0.9) for number, question in enumerate(questions)
    ]
    assert all(each.reused >= len(LONG) for each in asked)


async def test_several_prompts_are_read_in_one_pass(watched: tuple[Held, Scheduler]) -> None:
    held, scheduler = watched
    streams = [scheduler.submit(answer([1, number, number, 4], max_tokens=1)) for number in range(5, 11)]
    held.gate.set()
    for stream in streams:
        await stream.whole()
    assert held.sizes in ([24], [4, 20])  # the first may have been let in before the others came


async def test_a_short_question_beside_a_long_prompt_waits_for_no_more_than_a_piece(
    watched: tuple[Held, Scheduler], model: Any
) -> None:
    held, scheduler = watched
    held.gate.set()
    long = answer(LONG * 5)
    stream = scheduler.submit(long)
    await asyncio.to_thread(held.begun.wait, 60)
    held.gate.clear()
    short = answer([1, 5, 6, 7, 8], max_tokens=3)
    asked = asyncio.create_task(ids(scheduler, short))
    await asyncio.sleep(0)
    begun = len(held.sizes)
    held.gate.set()
    written, passes, is_begun = await asked, len(held.sizes) - begun, bool(long.written)
    assert written == generated(model, short.prompt, 0)[:3]
    assert passes <= 5
    assert max(held.sizes) <= 33
    assert not is_begun
    await stream.whole()
    assert long.written == generated(model, long.prompt, 0)


@pytest.mark.parametrize(
    ("unseen", "counts"),
    [
        pytest.param([500], [32], id="a prompt alone gets the whole piece"),
        pytest.param([500, 10], [22, 10], id="a short one beside it is read at once"),
        pytest.param([500, 60, 40], [8, 0, 24], id="one that came first gets its part always"),
        pytest.param([3, 4, 5, 6, 500], [3, 4, 5, 6, 14], id="several short ones together"),
        pytest.param([], [], id="nobody"),
    ],
)
def test_a_pass_is_shared(unseen: list[int], counts: list[int]) -> None:
    assert shares(unseen, 32) == counts


def test_a_piece_is_large_where_nobody_is_kept_waiting_by_it() -> None:
    piece = Piece(32, 128)
    for expected in (32, 64, 128, 128):
        assert piece.size([3000], alone=True) == expected
        assert piece.size([3000, 10], alone=False) == 32
        piece.note(expected, 0.01)
    assert piece.size([60, 60], alone=False) == 128  # all that is unread
    piece.note(20, 0.01)
    piece.note(128, 0.2)
    assert piece.size([3000], alone=True) == 64
    piece.note(64, 0.08)
    assert piece.size([3000], alone=True) == 64
    for _ in range(3):
        piece.note(64, 9.0)
    assert piece.size([3000], alone=True) == 32


@pytest.mark.parametrize(
    ("unnoticed", "sizes"),
    [
        pytest.param(1e9, [32, 64, 128, 128, 128, 120], id="passes that are quick"),
        pytest.param(0.0, [32] * 18 + [24], id="passes that take long"),
    ],
)
async def test_a_prompt_that_is_alone_is_read_in_few_passes_where_they_are_quick(
    unnoticed: float, sizes: list[int], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "UNNOTICED_SECONDS", unnoticed)
    held = Held(model)
    held.gate.set()
    scheduler = started(held)
    asked = answer((LONG * 4)[:600], max_tokens=1)
    assert await ids(scheduler, asked) == generated(model, asked.prompt, 0)[:1]
    assert held.sizes == sizes
    scheduler.close()


async def test_a_row_pays_for_about_its_own_length(
    watched: tuple[Held, Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import sdpa_attention

    held, scheduler = watched
    held.gate.set()
    long = scheduler.submit(answer(LONG, max_tokens=100))
    await anext(long.texts())
    seen: list[tuple[int, int]] = []
    plain = sdpa_attention.sdpa_attention_forward

    def counting(module: Any, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> Any:
        seen.append((key.shape[0], key.shape[2]))
        return plain(module, query, key, *rest, **options)

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", counting)
    held.gate.clear()
    asked = [answer([1, 5 + number, *[6] * (2 * number)], max_tokens=20) for number in range(4)]
    together = asyncio.gather(*(ids(scheduler, each) for each in asked))
    await asyncio.sleep(0)
    held.gate.set()
    await together
    assert {rows for rows, length in seen if length > 150} == {1}
    assert (4, 8 + 19) in seen  # the four together, as long as the longest of them
    assert max(length for rows, length in seen if length <= 150) <= 8 + 20
    await long.whole()


async def test_those_who_have_to_make_room_go_on_where_they_were(model: Any) -> None:
    """Memory for two of four: what they were let in for is less than what they come to need."""
    cases = [([1, 5 + number, 6], list(CONTROLS.values())[number + 1]) for number in range(4)]
    alone = started(model, max_batch=1)
    expected = [await ids(alone, answer(prompt, max_tokens=100, seed=7, **controls)) for prompt, controls in cases]
    alone.close()
    scheduler = started(model, positions=290)
    put_back: list[Answer] = []
    plain = scheduler._put_back

    def noting(gone: Answer) -> None:
        put_back.append(gone)
        plain(gone)

    scheduler._put_back = noting  # type: ignore[method-assign]
    asked = [answer(prompt, max_tokens=100, seed=7, **controls) for prompt, controls in cases]
    together = await asyncio.gather(*(ids(scheduler, each) for each in asked))
    scheduler.close()
    assert put_back
    assert together == expected


async def test_whoever_asks_much_does_not_keep_others_waiting(model: Any) -> None:
    held = Held(model)
    scheduler = started(held, max_batch=2)
    order: list[str] = []

    async def ask(key: str, number: int) -> None:
        asked = answer([1, number, 5], max_tokens=2)
        asked.key = key
        await scheduler.submit(asked).whole()
        order.append(key)

    asking = [asyncio.create_task(ask("much", number)) for number in range(5, 15)]
    await asyncio.sleep(0)
    asking.append(asyncio.create_task(ask("once", 20)))
    await asyncio.sleep(0)
    held.gate.set()
    await asyncio.gather(*asking)
    scheduler.close()
    assert order.index("once") <= 3


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        pytest.param("Llama", {"num_key_value_heads": 2}, id="heads that share keys"),
        pytest.param("Mistral", {"num_key_value_heads": 2, "sliding_window": 16}, id="a window that slides"),
        pytest.param(
            "Qwen2",
            {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
            id="windows in some layers",
        ),
    ],
)
async def test_other_shapes_of_attention_are_answered_as_by_generate(kind: str, shape: dict[str, Any]) -> None:
    import transformers

    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 300,
    }
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**size, **shape)
    other = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    expected = [generated(other, prompt, 0) for prompt in (LONG[:90], LONG[:5])]
    attention.check(config, "tiny")
    attention.prepare(other)
    assert generated(other, LONG[:90], 0) == expected[0]  # whoever else computes with the model
    scheduler = started(other, piece=24)
    together = await asyncio.gather(*(ids(scheduler, answer(prompt)) for prompt in (LONG[:90], LONG[:5])))
    scheduler.close()
    assert together == expected


async def test_a_model_whose_layers_lie_apart_is_answered_as_in_one_place(model: Any, tmp_path: Path) -> None:
    """As accelerate hands a pass from device to device; the second here is a disk, whose layers it brings for each pass."""
    import accelerate

    expected = [generated(model, prompt, 0) for prompt in (LONG[:90], LONG[:5])]
    apart = copy.deepcopy(model)
    layers = {f"model.layers.{number}": "cpu" for number in range(model.config.num_hidden_layers - 1)}
    last = {f"model.layers.{model.config.num_hidden_layers - 1}": "disk"}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    apart = accelerate.dispatch_model(apart, {**rest, **layers, **last}, offload_dir=str(tmp_path))
    assert {weight.device.type for weight in apart.parameters()} == {"cpu", "meta"}
    scheduler = started(apart, piece=24)
    together = await asyncio.gather(*(ids(scheduler, answer(prompt)) for prompt in (LONG[:90], LONG[:5])))
    scheduler.close()
    assert together == expected


@pytest.mark.parametrize(
    ("config", "named"),
    [
        pytest.param("MambaConfig", "mamba (linear_attention)", id="no attention"),
        pytest.param("GptOssConfig", "gpt_oss", id="an attention of its own"),
        pytest.param("Qwen3NextConfig", "qwen3_next (linear_attention)", id="layers of another kind"),
    ],
)
def test_a_model_with_other_layers_is_refused(config: str, named: str) -> None:
    import transformers

    with pytest.raises(SpecError) as refused:
        attention.check(getattr(transformers, config)(), "poet")
    assert str(refused.value) == (
        f"poet: the engine Transformers computes models whose layers all attend by sdpa, and {named} has others: set engine to vLLM, or to "
        "External"
    )
