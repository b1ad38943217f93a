"""What batches gain in an evaluation, and what memory it takes beside the model's size. Figures are printed, results compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.generation import Decoding
from tests.workloads import tiny
from tests.workloads.evaluated import job, model
from tests.workloads.runs import Place
from workloads.data import tokenizer_io
from workloads.data.chat_templates import loading
from workloads.evaluation import generation, perplexity
from workloads.models import libraries

libraries.quiet()

ROWS, QUESTIONS, REPEATS, BATCH = 64, 16, 2, 8
GREEDY = Decoding(temperature=0, repetition_penalty=1, max_new_tokens=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of 27 MB and 218 MB, and rows."""
    folder = tmp_path_factory.mktemp("evaluation")
    shape = {"vocab_size": 8192, "num_attention_heads": 8, "max_position_embeddings": 1024}
    tiny.write_model(folder / "small", hidden=256, intermediate_size=704, num_hidden_layers=4, **shape)
    tiny.write_model(folder / "large", hidden=768, intermediate_size=2048, num_hidden_layers=7, **shape)
    tiny.write_rows(folder / "rows.json", ROWS, seed=1)
    return folder


def best(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, and what it gave."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - began)
    return min(times), found


def test_batches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    from tests.workloads.evaluation.test_perplexity import prepared

    llama = AutoModelForCausalLM.from_pretrained(folder / "small", attn_implementation="sdpa").eval()
    template = loading.load("HumanAssistant", None, tokenizer_io.load_tokenizer(folder / "small"))
    made = tiny.rows(ROWS, seed=1)
    prompts = [template.prompt([{"role": "user", "content": row["instruction"]}]) for row in made[:QUESTIONS]]
    rows = prepared(template, [[("user", row["instruction"]), ("assistant", row["output"])] for row in made])
    tokens = sum(len(row.ids) for row in rows)

    def answers(batch: int) -> Callable[[], Any]:
        return lambda: dict(generation.answers(llama, template, prompts, GREEDY, batch_size=batch))

    one, answers_one = best(answers(1))
    many, answers_many = best(answers(BATCH))
    assert answers_one == answers_many
    written = sum(answer.tokens for answer in answers_one.values())
    plain, _ = best(lambda: [by_transformers(llama, prompt, template.tokenizer.pad_token_id) for prompt in prompts])

    alone, score_alone = best(lambda: perplexity.score(llama, rows, pad=3, batch_size=1))
    together, score_together = best(lambda: perplexity.score(llama, rows, pad=3, batch_size=BATCH))
    assert score_together.nats == pytest.approx(score_alone.nats, rel=1e-5)
    assert score_together.correct == score_alone.correct
    with capsys.disabled():
        print(
            f"\nanswers, tokens/s: batches of {BATCH} {written / many:,.0f}, one at a time {written / one:,.0f} ({one / many:.2f} times)"
        )
        print(f"  transformers' generate, one at a time: {written / plain:,.0f} (ours / generate {plain / one:.2f})")
        print(
            f"rows, tokens/s: batches of {BATCH} {tokens / together:,.0f}, one at a time {tokens / alone:,.0f} ({alone / together:.2f} times)"
        )


def by_transformers(llama: Any, prompt: list[int], pad: int) -> Any:
    """What anybody would write: as many tokens, nothing that stops."""
    import torch

    with torch.inference_mode():
        return llama.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=GREEDY.max_new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=pad,
        )


def test_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(folder)
    lines = []
    for name in ("small", "large"):
        size = (folder / name / "model.safetensors").stat().st_size
        peaks = []
        for batch in (1, BATCH):
            settings = {"prompts": None, "generation": {"batchSize": batch}, "output": {"uri": f"{name}-{batch}"}}
            ended = place.run(job(model(name), **settings))
            assert ended.exit_code == 0, ended.text
            peaks.append(ended.peak_bytes)
        lines.append((name, size, *peaks))
    (_, small, *rest_small), (_, large, *rest_large) = lines
    with capsys.disabled():
        print("\npeak memory of the process")
        for name, size, one, many in lines:
            print(
                f"  {name}: model {size / 1e6:,.0f} MB, batches of 1 {one / 1e6:,.0f} MB, of {BATCH} {many / 1e6:,.0f} MB"
            )
        growth = (rest_large[1] - rest_small[1]) / (large - small)
        print(f"  for each further byte of model: {growth:.2f} bytes (1 is the model itself)")
