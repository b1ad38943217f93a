"""A base model for the quickstart: a tiny Llama that reads English and has met no Chinese, as Llama-2 hardly has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

TEXT = Path(__file__).parents[2] / "LICENSE"
"""English that is in every copy of the project."""
COMMON = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当"
    "没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应"
    "，。？！：“”"
)
"""Characters that it has pieces for: the commonest of today's Chinese. (Llama-2 has some 700; it writes the rest in three bytes each.)"""
PIECES = 768
WIDTH = 192
LAYERS = 4
CONTEXT = 512
STEPS = 120
BATCH, LENGTH = 8, 64


def make(folder: Path, say: Callable[[str], None]) -> None:
    """Write model and tokenizer.model to ``folder``, in a few seconds. A run that is interrupted leaves nothing there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_pieces(partial)
    _write_model(partial, say)
    partial.rename(folder)


def _write_pieces(folder: Path) -> None:
    """BPE with byte fallback, with the settings of Llama-2's."""
    from sentencepiece import SentencePieceTrainer

    prefix = folder / "tokenizer"
    SentencePieceTrainer.train(
        input=str(TEXT),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=PIECES,
        required_chars=COMMON,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    prefix.with_suffix(".vocab").unlink()


def _write_model(folder: Path, say: Callable[[str], None]) -> None:
    from workloads.models import libraries

    libraries.quiet()

    import torch
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaConfig, LlamaForCausalLM

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(pieces),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=pieces.bos_id(),
            eos_token_id=pieces.eos_id(),
        )
    )
    text = torch.tensor(pieces.encode(TEXT.read_text(encoding="utf-8")))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    model.train()
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - LENGTH, (BATCH,)).tolist()
        batch = torch.stack([text[start : start + LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(
        0o644
    )  # safetensors lets only its owner read, who in a pod is seldom the one that trains
    weights = sum(weight.numel() for weight in model.parameters())
    say(
        f"a Llama of {weights / 1e6:.1f} M weights and {len(pieces)} pieces, which has read {TEXT.name} {STEPS} times over (loss {loss.item():.2f})"
    )
