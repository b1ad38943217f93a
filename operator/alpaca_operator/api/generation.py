"""How a model writes: decoding, as evaluation and chat share it."""

from pydantic import Field

from alpaca_operator.api.model import Spec


class Decoding(Spec):
    """How the next token is chosen."""

    temperature: float = Field(0.3, ge=0, le=2)
    """0 takes the likeliest token each time: the same answer at every run. Higher values draw more freely."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int = Field(50, ge=0, le=100_000)
    """Draw from this many of the likeliest tokens; 0 from all."""
    repetition_penalty: float = Field(1.1, ge=1, le=10)
    """Tokens that were used already become this much less likely (arXiv:1909.05858). 1 is off; models of Literary-Alpaca2's
    family are used with 1.3."""
    max_new_tokens: int = Field(512, ge=1, le=65536)
    """Longest answer, in tokens."""
