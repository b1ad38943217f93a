"""A tiny model that was tuned to answer, rows for it, and runs of `workloads.quantize` in this process."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import tiny
from tests.workloads.runs import merged

ENVIRONMENT = {"ALPACA_CACHE": "cache", "ALPACA_TERMINATION_LOG": "termination"}


@dataclass
class Ended:
    """A run that is over."""

    exit_code: int
    lines: list[dict[str, Any]]
    text: str
    """Its last words on standard error."""
    termination: dict[str, Any]

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines if "message" in line]


def job(**spec: Any) -> dict[str, Any]:
    """A QuantizeJob of `tuned` by `rows.json`; ``spec`` adds to it and overrides it, field by field."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "QuantizeJob",
        "metadata": {"name": "tiny"},
        "spec": merged(
            {
                "model": {"uri": "tuned"},
                "groupSize": 32,
                "template": "HumanAssistant",
                "calibration": {"train": [{"uri": "rows.json"}], "samples": 64, "sequenceLength": 128},
                "evaluation": {"answers": 4, "maxNewTokens": 48},
                "output": {"uri": "out"},
            },
            spec,
        ),
    }


def run(folder: Path, manifest: dict[str, Any], *arguments: str) -> Ended:
    """As `python -m workloads.quantize job.json` in ``folder``, without another 8 seconds of imports."""
    from alpaca_operator.api.quantize import QuantizeJob
    from workloads import quantize
    from workloads.runtime import command

    (folder / "job.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    out, errors = io.StringIO(), io.StringIO()
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, str(folder / value))
        os.chdir(folder)
        try:
            with redirect_stdout(out), redirect_stderr(errors):
                code = command.main(QuantizeJob, quantize.run, ["job.json", *arguments])
        finally:
            os.chdir(before)
    last = folder / "termination"
    return Ended(
        exit_code=code,
        lines=[json.loads(line) for line in out.getvalue().splitlines()],
        text=errors.getvalue(),
        termination=json.loads(last.read_text(encoding="utf-8")) if last.exists() else {},
    )


def tune(folder: Path, count: int = 192, **config: Any) -> Path:
    """A Llama of two layers that answers the first ``count`` questions of `tiny.rows`, and ends its answers."""
    tiny.write_model(folder, hidden=64, **config)
    return teach(folder, count)


def teach(folder: Path, count: int = 192) -> Path:
    """The model in ``folder`` learns these questions, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from workloads.data.chat_templates import loading
    from workloads.data.collator import Collator
    from workloads.data.tokenizer_io import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = load_tokenizer(folder)
    template = loading.load("HumanAssistant", None, tokenizer)
    rows = []
    for row in tiny.rows(count, seed=5):
        encoded = template.encode(
            [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        )
        rows.append(
            {
                "input_ids": encoded.ids,
                "labels": [
                    int(token) if trained else -100
                    for token, trained in zip(encoded.ids, encoded.loss_mask, strict=True)
                ],
                "seq_lengths": [len(encoded.ids)],
            }
        )
    collate = Collator(tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for step in range(120):
        batch = collate(rows[step * 32 % count :][:32])
        logits = model(input_ids=batch["input_ids"]).logits[batch["logits_to_keep"]]
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tuned` (a model), `rows.json`, and what a QuantizeJob made of them: `out`. Not to be written to."""
    folder = tmp_path_factory.mktemp("quantized")
    tune(folder / "tuned")
    tiny.write_rows(folder / "rows.json", 200)
    ended = run(folder, job())
    assert ended.exit_code == 0, ended.text
    (folder / "lines.json").write_text(json.dumps(ended.lines), encoding="utf-8")
    return folder


@pytest.fixture
def bench(made: Path, tmp_path: Path) -> Path:
    """A folder of a test's own, with the model and the rows."""
    for name in ("tuned", "rows.json"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path
