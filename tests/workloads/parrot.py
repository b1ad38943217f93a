"""A Llama that says what a test wants: after each token comes the one that the test names, whatever was asked.

Its embedding is the identity and its layers add nothing, so the head sees the last token alone and names its successor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(folder: Path, tokenizer: Any, lines: Sequence[Sequence[int]], **config: Any) -> Path:
    """A model that goes through the ids of each line, one after the other; behind a line's end it begins that line anew.

    An id has one successor: where it stands in several places, the first line that has it counts.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(tokenizer)
    width = -(-size // 8) * 8
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
            **{"max_position_embeddings": 4096, **config},
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size, width))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        known = set()
        for line in lines:
            for before, after in zip(line, [*line[1:], line[0]], strict=True):
                if before not in known:
                    known.add(before)
                    model.lm_head.weight[after, before] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
