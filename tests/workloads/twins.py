"""Models so small that a training takes a second, of the architecture and with the kind of tokenizer that published ones have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workloads import tiny

GPT_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT, QWEN_SPLIT = GPT_SPLIT % r"\p{N}{1,3}", GPT_SPLIT % r"\p{N}"
LLAMA3_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
    "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN3_WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Family:
    """What tells one kind of published models from another."""

    kind: str
    """`model_type` of its config.json."""
    config: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    """How a byte-level tokenizer cuts text before merges; empty for sentencepiece's."""
    tokens: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = ""
    ends: tuple[str, ...] = ()
    """Tokens at which its makers let an answer end (generation_config.json)."""
    template: str = ""
    """Of trl's copies of published templates."""


def _llama3(template: str, factor: float, **config: Any) -> Family:
    return Family(
        kind="llama",
        config={"rope_parameters": {**STRETCHED, "factor": factor}, **config},
        split=LLAMA3_SPLIT,
        tokens=LLAMA3_TOKENS,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        template=template,
    )


def _qwen(kind: str, template: str, words: tuple[str, ...] = (), **config: Any) -> Family:
    ends = ("<|im_end|>", "<|endoftext|>")
    return Family(kind, config, QWEN_SPLIT, QWEN_TOKENS, words, eos="<|im_end|>", ends=ends, template=template)


FAMILIES = {
    "Llama-3.1": _llama3("llama3_1", 8.0),
    "Llama-3.2": _llama3("llama3_2", 32.0, tie_word_embeddings=True),
    "Llama-3.3": _llama3("llama3_1", 8.0),
    "Qwen2.5": _qwen("qwen2", "qwen2_5", rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "Qwen3": _qwen("qwen3", "qwen3", QWEN3_WORDS, head_dim=32),
    "CodeLlama": Family("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def write(folder: Path, name: str, sentencepiece_folder: Path) -> Path:
    """A random model of the family ``name`` with its tokenizer. ``sentencepiece_folder`` has the tokenizer of those with Llama-2's kind."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    from workloads.data import tokenizer_io

    family = FAMILIES[name]
    folder.mkdir(parents=True)
    if family.split:
        _write_byte_level(folder, family)
    else:
        shutil.copyfile(sentencepiece_folder / "tokenizer.model", folder / "tokenizer.model")
    tokenizer = tokenizer_io.load_tokenizer(folder)
    ends = tokenizer.convert_tokens_to_ids(list(family.ends)) or [tokenizer.eos_token_id]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends}
    torch.manual_seed(0)
    # A multiple of 64, as published ones are padded: rows that no token has.
    rows = -(-len(tokenizer) // 64) * 64
    config = AutoConfig.for_model(family.kind, vocab_size=rows, **{**SHAPE, **ids, **family.config})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    return folder


def _write_byte_level(folder: Path, family: Family) -> None:
    import trl
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE(ignore_merges=family.bos is not None))
    if family.bos is None:
        tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(family.split), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    text = [row[key] for row in tiny.rows(300) for key in ("instruction", "output")]
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in family.tokens])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in family.words])
    if family.bos is not None:
        first = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[first])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = Path(trl.__file__).parent / "chat_templates" / f"{family.template}.jinja"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family.bos,
        "eos_token": family.eos,
        "chat_template": template.read_text(encoding="utf-8"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
