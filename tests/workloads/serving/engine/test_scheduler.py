"""Answers for many at once are the answers that each would get alone; the queue, those who leave, and steps that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.workloads.serving.engine.answers import CONTROLS, LONGEST, Held, answer, generated, ids, started
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.refusal import Refusal


@pytest.fixture
def scheduler(model: Any) -> Iterator[Scheduler]:
    made = started(model)
    yield made
    made.close()


@pytest.mark.parametrize("name", CONTROLS)
async def test_eight_at_once_are_answered_as_generate_answers_each_alone(
    name: str, scheduler: Scheduler, model: Any, prompts: list[list[int]]
) -> None:
    controls = CONTROLS[name]
    asked = [answer(prompt, seed=number, **controls) for number, prompt in enumerate(prompts)]
    together = await asyncio.gather(*(ids(scheduler, each) for each in asked))
    assert together == [generated(model, prompt, number, **controls) for number, prompt in enumerate(prompts)]


async def test_those_with_controls_of_their_own_are_answered_as_alone_too(
    scheduler: Scheduler, model: Any, prompts: list[list[int]]
) -> None:
    cases = list(zip(prompts, [*CONTROLS.values(), *CONTROLS.values()], strict=False))
    asked = [answer(prompt, seed=number, **controls) for number, (prompt, controls) in enumerate(cases)]
    together = await asyncio.gather(*(ids(scheduler, each) for each in asked))
    assert together == [generated(model, prompt, number, **controls) for number, (prompt, controls) in enumerate(cases)]


async def test_those_who_come_and_go_disturb_nobody(model: Any, prompts: list[list[int]]) -> None:
    """Fewer rows than answers, lengths of their own, prompts read in small pieces: rows join and leave all the time."""
    scheduler = started(model, max_batch=3, piece=16)
    lengths = [3, LONGEST, 1, 17, 30, 5, 40, 2]
    asked = [answer(prompt, max_tokens=length) for prompt, length in zip(prompts, lengths, strict=True)]
    together = await asyncio.gather(*(ids(scheduler, each) for each in asked))
    scheduler.close()
    assert together == [generated(model, prompt, 0)[:length] for prompt, length in zip(prompts, lengths, strict=True)]


async def test_an_answer_ends_at_its_end_token_its_stop_string_or_its_length(
    scheduler: Scheduler, model: Any, prompts: list[list[int]]
) -> None:
    whole = generated(model, prompts[0], 0)
    at = next(at for at, number in enumerate(whole) if at and number not in whole[:at])
    for asked, tokens, shown, reason in (
        (answer(prompts[0], ends=frozenset({whole[at]})), at + 1, whole[:at], "stop"),
        (answer(prompts[0], stop=f" {whole[at]} "), at + 1, whole[:at], "stop"),
        (answer(prompts[0], max_tokens=2), 2, whole[:2], "length"),
    ):
        stream = scheduler.submit(asked)
        assert [int(number) for number in (await stream.whole()).split()] == shown
        assert (stream.ending.reason, stream.ending.tokens) == (reason, tokens)


async def test_frequency_and_presence_penalties_are_openais(scheduler: Scheduler, prompts: list[list[int]]) -> None:
    plain = await ids(scheduler, answer(prompts[0]))
    punished = await ids(scheduler, answer(prompts[0], frequency_penalty=2.0, presence_penalty=2.0))
    assert len(set(punished)) > len(set(plain))


async def test_a_seed_gives_the_same_answer_and_none_another(scheduler: Scheduler, prompts: list[list[int]]) -> None:
    first, same, other = [await ids(scheduler, answer(prompts[0], temperature=1.5, seed=seed)) for seed in (7, 7, 8)]
    assert first == same != other
    free = [await ids(scheduler, answer(prompts[0], temperature=1.5)) for _ in range(2)]
    assert free[0] != free[1]


async def test_rows_of_the_head_without_a_token_are_never_chosen(model: Any, prompts: list[list[int]]) -> None:
    plain = generated(model, prompts[0], 0)
    scheduler = started(model, vocabulary_size=max(plain))
    assert max(await ids(scheduler, answer(prompts[0]))) < max(plain)
    scheduler.close()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(model: Any, prompts: list[list[int]]) -> None:
    held = Held(model)
    scheduler = started(held, max_batch=1, max_queue=2)
    streams = [scheduler.submit(answer(prompts[0], max_tokens=2)) for _ in range(3)]
    for refusing in (lambda: scheduler.submit(answer(prompts[0])), scheduler.refuse_when_full):
        with pytest.raises(Refusal) as refused:
            refusing()
    held.gate.set()
    assert [len((await stream.whole()).split()) for stream in streams] == [2, 2, 2]
    scheduler.close()
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert int(refused.value.headers["Retry-After"]) >= 1


async def test_one_who_leaves_makes_room_at_once(model: Any, prompts: list[list[int]]) -> None:
    held = Held(model)
    scheduler = started(held, max_batch=1)
    gone = answer(prompts[0], max_tokens=LONGEST)
    scheduler.submit(gone)
    waiting = scheduler.submit(answer(prompts[2], max_tokens=1))
    gone.cancelled = True
    held.gate.set()
    assert await waiting.whole() == f"{generated(model, prompts[2], 0)[0]} "
    assert held.steps <= 3
    scheduler.close()


async def test_an_answer_that_takes_too_long_is_cut_off_and_told(model: Any, prompts: list[list[int]]) -> None:
    held = Held(model)
    scheduler = started(held)
    stream = scheduler.submit(answer(prompts[0], timeout=0.0))
    held.gate.set()
    with pytest.raises(Refusal) as refused:
        await stream.whole()
    scheduler.close()
    assert refused.value.status == 408
    assert refused.value.message == (
        "the answer took longer than limits.requestTimeoutSeconds, 0 s: ask for fewer max_tokens, or raise the limit"
    )


async def test_memory_for_few_positions_lets_answers_wait_instead_of_failing(
    model: Any, prompts: list[list[int]]
) -> None:
    held = Held(model)
    held.gate.set()
    scheduler = started(held, positions=2 * (len(prompts[0]) + LONGEST))
    seen = []
    streams = [scheduler.submit(answer(prompts[0])) for _ in range(4)]

    async def watch() -> None:
        while scheduler.running or scheduler.queued:
            seen.append(scheduler.running)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    texts = [await stream.whole() for stream in streams]
    await watching
    scheduler.close()
    assert len(set(texts)) == 1
    assert max(seen) == 2


class Weighed(Held):
    """A model that looks at every step how much the rows of its scheduler hold."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.gate.set()
        self.scheduler: Scheduler | None = None
        self.most = 0
        """Bytes."""
        self.together = 0
        """Answers in one step."""

    def __call__(self, **inputs: Any) -> Any:
        out = super().__call__(**inputs)
        assert self.scheduler is not None
        rows = self.scheduler._rows
        tensors = [tensor for part in (*rows.living, *rows.groups, *rows.over) for tensor in (*part.keys, *part.values)]
        stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        self.most = max(self.most, sum(stored.values()))
        self.together = max(self.together, len(inputs["logits_to_keep"]))
        return out


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([(30, 20)] * 9, id="one more than rows come by doubling"),
        pytest.param([(300, 30)] + [(10, 10)] * 15, id="a long one that ends among short ones, and more of these"),
        pytest.param([(10, 60)] * 8 + [(350, 30)] * 3, id="many short ones, and then long ones"),
        pytest.param([(129, 130), (20, 250), (257, 5), (5, 5), (380, 60), (5, 300), (128, 128)] * 2, id="of all lengths"),
    ],
)  # fmt: skip
async def test_the_cache_holds_no_more_bytes_than_answers_were_let_in_for(
    model: Any, lengths: list[tuple[int, int]]
) -> None:
    from workloads.models.inference import LoadedModel

    positions = 2 * max(prompt + answer for prompt, answer in lengths)
    weighed = Weighed(model)
    scheduler = weighed.scheduler = Scheduler(weighed, max_batch=16, max_queue=64, positions=positions, piece=64)
    scheduler.start()
    asked = [answer([1, *[5] * (prompt - 1)], max_tokens=tokens) for prompt, tokens in lengths]
    together = await asyncio.gather(*(ids(scheduler, each) for each in asked))
    scheduler.close()
    a_position = LoadedModel(model, None, 512, "Model", {}).bytes_per_position  # type: ignore[arg-type]
    assert weighed.most <= positions * a_position
    assert weighed.together >= 2
    alone = dict(zip(lengths, together, strict=True))
    assert [alone[each] for each in lengths] == together


class Failing(Held):
    """A model whose next steps fail."""

    def __init__(self, model: Any, error: Exception, times: int) -> None:
        super().__init__(model)
        self.gate.set()
        self.error, self.times = error, times
        self.look: Callable[[], int] = lambda: 0
        self.in_use = 0

    def __call__(self, **inputs: Any) -> Any:
        if self.times:
            self.times -= 1
            self.in_use = self.look()
            raise self.error
        return super().__call__(**inputs)


async def test_a_step_that_fails_is_told_and_the_next_is_tried(model: Any, prompts: list[list[int]]) -> None:
    scheduler = started(Failing(model, ValueError("broken"), times=1))
    with pytest.raises(Refusal, match=r"^$|.*") as refused:
        await scheduler.submit(answer(prompts[0])).whole()
    assert (refused.value.status, refused.value.message) == (500, "the engine failed (ValueError): its log says more")
    assert await ids(scheduler, answer(prompts[0])) == generated(model, prompts[0], 0)
    assert not scheduler.is_dead
    scheduler.close()


async def test_an_engine_whose_every_step_fails_is_dead(model: Any, prompts: list[list[int]]) -> None:
    scheduler = started(Failing(model, RuntimeError("device lost"), times=10**6))
    for _ in range(3):
        with pytest.raises(Refusal):
            await scheduler.submit(answer(prompts[0])).whole()
    assert scheduler.is_dead
    scheduler.close()


async def test_out_of_memory_makes_fewer_answers_be_written_at_a_time(model: Any, prompts: list[list[int]]) -> None:
    failing = Failing(model, torch.OutOfMemoryError("CUDA out of memory"), times=0)
    scheduler = started(failing, positions=10**6)
    failing.look = lambda: scheduler._rows.in_use
    held = [scheduler.submit(answer(prompts[0], max_tokens=400)) for _ in range(3)]
    await anext(held[2].texts())
    failing.times = 1
    for stream in held:
        with pytest.raises(Refusal) as refused:
            await stream.whole()
        assert (refused.value.status, refused.value.code) == (503, "out_of_memory")
    assert scheduler._rows.positions == failing.in_use * 2 // 3 > len(prompts[0])
    scheduler.close()


async def test_no_number_from_the_model_ends_that_answer_with_the_reason(model: Any, prompts: list[list[int]]) -> None:
    class Broken(Held):
        def __call__(self, **inputs: Any) -> Any:
            logits = torch.full((1, len(inputs["logits_to_keep"]), 300), float("nan"))
            self._model(**inputs)
            return SimpleNamespace(logits=logits)

    scheduler = started(Broken(model))
    with pytest.raises(Refusal) as refused:
        await scheduler.submit(answer(prompts[0], temperature=1.0)).whole()
    scheduler.close()
    assert refused.value.message == (
        "the model computed no number (NaN): its weights are damaged, or too large for float16; load it in another precision"
    )


async def test_a_closed_engine_gives_up_what_is_there_and_takes_nothing(model: Any, prompts: list[list[int]]) -> None:
    held = Held(model)
    scheduler = started(held, max_batch=1)
    streams = [scheduler.submit(answer(prompts[0])) for _ in range(2)]
    closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
    held.gate.set()
    for stream in streams:
        with pytest.raises(Refusal) as refused:
            await stream.whole()
        assert refused.value.code == "shutting_down"
    await closing
    with pytest.raises(Refusal):
        scheduler.submit(answer(prompts[0]))
