"""The answers of a base model with and without an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

LONGEST = 48
"""Tokens after which an answer that does not end is cut."""


def compare(base: Path, adapter: Path, questions: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each question with its answer before and after, the likeliest token taken at every step."""
    from workloads import model as models

    models.quiet_libraries()

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workloads import templates, tokenizer_files

    tokenizer = tokenizer_files.load_tokenizer(adapter)
    template = templates.load("HumanAssistant", None, tokenizer)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()

    def answer(question: str) -> str:
        prompt = template.prompt([{"role": "user", "content": question}])
        with torch.inference_mode():
            ids = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=LONGEST,
                do_sample=False,
                eos_token_id=template.stop_ids,
                pad_token_id=tokenizer.pad_token_id,
            )
        text = tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
        return template.clean_answer(text).strip()

    for question in questions:
        with model.disable_adapter():
            before = answer(question)
        yield question, before, answer(question)
