"""What the runs under test are given: a folder with small inputs, and a runtime that publishes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alpaca_operator.api import Resource
from alpaca_operator.api.sources import sources
from tests.workloads import tiny
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.scale import ALONE
from workloads.storage.sources import Input, Inputs

TEMPLATE = "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}Q:{{ m.content }}{% endif %}{% endfor %}"
PLACES = ("pvc://desk/", "pvc://other/")
"""Where the specs under test say that the inputs lie; the same files are in both claims."""


RAW = [
    ("　　白日依山尽，黄河入海流。\0", "登鹳雀楼"),
    ("白日依山尽，黄河入海流。", "又一首"),
    ("写信到 libai@example.com，編號 Ａ１。", "信"),
    ("春眠不觉晓\n春眠不觉晓\n处处闻啼鸟", "春晓"),
    ("关注我们的公众号\n夜来风雨声，花落知多少。", "广告"),
    ("★★★★ ☆☆☆ hello", "符号"),
    ("床前明月光，疑是地上霜。", "静夜思"),
    ("离离原上草，一岁一枯荣。离离原上草，一岁一枯荣。", "草"),
    ("举头望明月，低头思故乡。", "静夜思"),
]


class Reached(Exception):
    """What there was to see has been seen: the rest of the run is not needed."""


@dataclass
class Desk:
    """Small inputs in a folder."""

    folder: Path
    seen: dict[str, Any] = field(default_factory=dict)
    """What the run under test handed to libraries, noted by whoever stands in for them."""

    @classmethod
    def laid_out(cls, folder: Path, sentencepiece: Path) -> Desk:
        """`base` and `other` (models), `adapter`, `rows.json`, `more.json`, `talks.json` (of several turns), `bad.jsonl` (three rows in it are no JSON), `corpus` and `held.jsonl` (text), `template.jinja`,
        `questions.jsonl`, `raw.jsonl` (text with something for every rule and filter), `nearly.jsonl` (a text that is much like one of them), `rules.yaml`, and `sp` (a bare tokenizer.model)."""
        import peft
        from transformers import AutoModelForCausalLM

        for name, seed in (("base", 0), ("other", 1)):
            tiny.write_model(folder / name, hidden=64, seed=seed)
            (folder / name / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        adapted = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder / "base"),
            peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules=["q_proj"]),
        )
        adapted.save_pretrained(str(folder / "adapter"))
        for name, seed in (("rows.json", 0), ("more.json", 9)):
            tiny.write_rows(folder / name, 24, seed=seed)
        talks = [
            {
                "messages": [
                    {"role": ("user", "assistant")[turn % 2], "content": row["output"][:12]}
                    for turn, row in enumerate(tiny.rows(8, seed))
                ]
            }
            for seed in range(8)
        ]
        (folder / "talks.json").write_text(json.dumps(talks, ensure_ascii=False), encoding="utf-8")
        rows = [json.dumps(row | {"text": row["output"]}, ensure_ascii=False) for row in tiny.rows(24, 5)]
        (folder / "bad.jsonl").write_text("\n".join([*rows, *['{"instruction": "问"'] * 3]), encoding="utf-8")
        (folder / "corpus").mkdir()
        for name, part in (("corpus/text.jsonl", tiny.rows(60)), ("held.jsonl", tiny.rows(6, seed=3))):
            lines = [
                json.dumps({"text": row["output"], "other": row["instruction"]}, ensure_ascii=False) for row in part
            ]
            (folder / name).write_text("\n".join(lines), encoding="utf-8")
        (folder / "template.jinja").write_text(TEMPLATE, encoding="utf-8")
        questions = [
            json.dumps({"question": f"第{number}问？", "category": "山水"[number % 2]}, ensure_ascii=False)
            for number in range(6)
        ]
        (folder / "questions.jsonl").write_text("\n".join(questions), encoding="utf-8")
        raw = [json.dumps({"text": text, "other": other}, ensure_ascii=False) for text, other in RAW]
        (folder / "raw.jsonl").write_text("\n".join(raw), encoding="utf-8")
        alike = json.dumps({"text": f"{RAW[-2][0]}野火烧不尽，春风吹又生。"}, ensure_ascii=False)
        (folder / "nearly.jsonl").write_text(alike, encoding="utf-8")
        (folder / "rules.yaml").write_text("- {name: mine, pattern: 山}\n", encoding="utf-8")
        (folder / "tasks").mkdir()
        (folder / "sp").symlink_to(sentencepiece)
        return cls(folder)

    def inputs(self, resource: Resource) -> Inputs:
        """Every source of the spec, found here."""
        found = Inputs()
        for name, source in sources(resource.spec):
            path = str(source.uri)
            for place in PLACES:
                path = path.removeprefix(place)
            digest = hashlib.sha256(path.encode()).hexdigest()
            found[name] = Input(str(source.uri), self.folder / path, f"sha256:{digest}")
        return found

    def runtime(self, resource: Resource, scratch: Path) -> Any:
        """A runtime of one process whose output is thrown away."""

        @contextmanager
        def output(kind: str, metrics: Any) -> Iterator[Path]:
            self.seen["kind"] = kind
            (scratch / "out").mkdir(parents=True, exist_ok=True)
            yield scratch / "out"

        def nothing(*_: Any, **__: Any) -> None:
            return None

        current = SimpleNamespace(stage="Preparing", resolved_policy=None)
        return SimpleNamespace(
            job=resource,
            run_id="run",
            cache=scratch / "cache",
            cache_is_kept=True,
            inputs=self.inputs(resource),
            stop=SimpleNamespace(
                interruptible=lambda *_: nullcontext(), check=nothing, requested=False, listening=nullcontext
            ),
            progress=SimpleNamespace(log=nothing, update=nothing, heartbeat=nothing, current=current),
            distributed=DistributedContext(),
            scale=ALONE,
            checkpoints=SimpleNamespace(own=scratch / "own", newest=nothing, trained_on=nothing),
            resolved=nothing,
            must_have_room=nothing,
            output=output,
        )
