"""What texts and conversations are in tokens, as vLLM's `/tokenize` and `/detokenize` say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from workloads.serving.engine.schema import Fields, Message, Tokens
from workloads.serving.refusal import Refusal

if TYPE_CHECKING:  # it brings torch: the port is open before that is imported
    from workloads.serving.engine.served_model import ServedModel


class TokenizeRequest(Fields):
    """`/tokenize`: of a text or of a conversation, the ids that the model would read."""

    route = "/tokenize"

    model: str | None = None
    """Absent, the first."""
    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=10_000)] | None = None
    add_special_tokens: bool | None = None
    """The token that texts begin with goes before. Absent, it does before a text; a conversation has from its template what it needs."""
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _names_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise Refusal(
                400, "Send either 'prompt' or 'messages': one of them is what is tokenized.", "invalid_value", "prompt"
            )
        return self


class DetokenizeRequest(Fields):
    """`/detokenize`: the text of ids."""

    route = "/detokenize"

    model: str | None = None
    """Absent, the first."""
    tokens: Tokens


def tokenize(served: ServedModel, request: TokenizeRequest) -> dict[str, Any]:
    """Raises Refusal for a text that is far too long to be asked."""
    ids = served.tokens_of(request.prompt, request.messages, request.add_special_tokens)
    strings = served.template.tokenizer.convert_ids_to_tokens(ids) if request.return_token_strs else None
    return {"count": len(ids), "max_model_len": served.context, "tokens": ids, "token_strs": strings}


def detokenize(served: ServedModel, request: DetokenizeRequest) -> dict[str, Any]:
    """Raises Refusal for what is no token."""
    served.check_tokens(request.tokens, "tokens")
    return {"prompt": served.template.tokenizer.decode(request.tokens)}
