"""A base model for the quickstart: a tiny Llama that has read the poems, and has never seen a question."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

POEMS = Path(__file__).parent / "poems.jsonl"
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
VOCABULARY = 2048
WIDTH = 192
LAYERS = 4
CONTEXT = 256
STEPS = 160
"""Enough to learn which character follows which; a few seconds more would add little that the fine-tuning does not."""


def make(folder: Path, say: Callable[[str], None]) -> None:
    """Write tokenizer and model to ``folder``, trained on the poems' sentences for a few seconds."""
    from workloads import model as models

    models.quiet_libraries()

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sentences = _sentences()
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    ids = tokenizer("\n".join(sentences), add_special_tokens=False)["input_ids"]
    text = torch.tensor(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    model.train()
    loss = torch.zeros(())
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - 65, (8,)).tolist()
        batch = torch.stack([text[start : start + 64] for start in starts])
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    weights = sum(weight.numel() for weight in model.parameters())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    say(
        f"a Llama of {weights / 1e6:.1f} M weights and {len(tokenizer)} tokens, which has read the poems' lines (loss {loss.item():.2f}) "
        "and no question yet"
    )


def _sentences() -> list[str]:
    """The answers of the set, as running text."""
    rows = [json.loads(line) for line in POEMS.read_text(encoding="utf-8").splitlines()]
    return [turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "assistant"]


def _tokenizer() -> Any:
    """BPE with byte fallback, in the shape of Llama's: what no piece covers is spelt in bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    spelling = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=20, special_tokens=[*SPECIAL, *spelling], show_progress=False
    )
    learned = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned.train_from_iterator(
        [*POEMS.read_text(encoding="utf-8").splitlines(), "System: Human: Assistant:\n"], trainer
    )
    # The trainer marks every byte as a control token; they are pieces of text.
    state = json.loads(learned.to_str())
    state["added_tokens"] = [entry for entry in state["added_tokens"] if entry["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
