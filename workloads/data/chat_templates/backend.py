"""The tokenizer beneath a chat template: it adds nothing to a text by itself, as the template writes all that there is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Backend:
    """A tokenizer as the library `tokenizers` has it; taken once, as a vocabulary of 128,000 takes a while to read."""

    state: str
    """The tokenizer (tokenizer.json)."""
    added_tokens: tuple[dict[str, Any], ...]
    """Of that, those beside the vocabulary: ``content``, ``id``, ``special``."""
    plain: Tokenizer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Backend:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Special tokens come from the template alone, and a byte-level post-processor would cut spaces off the offsets.
        backend |= {"post_processor": None, "truncation": None, "padding": None}
        state = json.dumps(backend)
        return cls(state, tuple(backend["added_tokens"]), Tokenizer.from_str(state))
