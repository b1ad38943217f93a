"""How much of each source is trained on, against the others."""

from pydantic import Field

from alpaca_operator.api.model import Spec


class Share(Spec):
    """What one of several sources gives to the training."""

    weight: float = Field(1.0, ge=0.001, le=100)
    """How often its rows are trained on in an epoch: 2 is twice, 0.5 is one of two, drawn by `training.seed`. Copies of a row never share a
    sequence or block."""
    max_rows: int | None = Field(None, ge=1, le=10_000_000_000)
    """Rows (of text: documents) that are taken of it at most, drawn by `training.seed`; `weight` is of those."""
    max_tokens: int | None = Field(None, ge=1, le=1_000_000_000_000_000)
    """Rows are taken of it, in an order drawn by `training.seed`, until they hold so many tokens; of a text the last is cut there."""

    @property
    def is_whole(self) -> bool:
        """Whether each row is trained on once."""
        return self.weight == 1 and self.max_rows is None and self.max_tokens is None
