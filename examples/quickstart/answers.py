"""The same questions put to the base and to what the chain made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from workloads import durable, lineage

LONGEST = 48
"""Tokens after which an answer that does not end is cut."""
KEPT = "answers.json"


def answers(folder: Path, questions: Sequence[str]) -> dict[str, dict[str, str]]:
    """By model (``base``, ``poet``), then by question; the likeliest token is taken at every step.

    Kept in ``folder`` for as long as the model is the same, so that a chain that is reused loads none.
    """
    kept = folder / KEPT
    made = lineage.read(folder / "poet").digest
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["of"] == made:
        return found["answers"]
    given = {name: _asked(folder / name, questions) for name in ("base", "poet")}
    durable.write_text(kept, json.dumps({"of": made, "answers": given}, ensure_ascii=False, indent=1) + "\n")
    return given


def _asked(folder: Path, questions: Sequence[str]) -> dict[str, str]:
    from workloads import model as models

    models.quiet_libraries()

    import torch
    from transformers import AutoModelForCausalLM

    from workloads import templates, tokenizer_files

    tokenizer = tokenizer_files.load_tokenizer(folder)
    template = templates.load("HumanAssistant", None, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = {}
    for question in questions:
        prompt = template.prompt([{"role": "user", "content": question}])
        with torch.inference_mode():
            ids = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=LONGEST,
                do_sample=False,
                top_p=None, top_k=None, temperature=None, repetition_penalty=1.0,
                eos_token_id=template.stop_ids,
                pad_token_id=tokenizer.pad_token_id,
            )
        text = tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
        found[question] = template.clean_answer(text).strip()
    return found
