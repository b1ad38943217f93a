"""A Llama small enough that a training run takes a second, and rows to train it on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SURNAMES = "赵钱孙李周吴郑王冯陈"
THINGS = "山水云月松石江海风雪花鸟"
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Instruction rows of very different lengths."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        things = "".join(draw.choice(THINGS) for _ in range(draw.randint(1, 12)))
        made.append(
            {
                "instruction": f"第{number}问：{draw.choice(SURNAMES)}先生喜欢什么？",
                "input": "",
                "output": f"他喜欢{things}。" * draw.randint(1, 3),
            }
        )
    return made


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """The same as an Alpaca JSON file."""
    path.write_text(json.dumps(rows(count, seed), ensure_ascii=False), encoding="utf-8")
    return path


def write_tokenizer(folder: Path, vocabulary: int = 256) -> Any:
    """A BPE tokenizer with byte fallback, in the shape of Llama's, trained on the rows."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    text = [row[key] for row in rows(300) for key in ("instruction", "output")]
    text += ["Human: Assistant: System:\n 0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ"] * 5
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    return fast


def write_model(folder: Path, *, hidden: int = 32, seed: int = 0, **config: Any) -> Path:
    """A random Llama of two layers with its tokenizer. ``config`` goes to LlamaConfig."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **config,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    return folder
