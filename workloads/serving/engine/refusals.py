"""What a request is told that is not answered: OpenAI's statuses and error objects."""

from __future__ import annotations

from workloads.serving.refusal import Refusal


def queue_full(waiting: int, seconds: int) -> Refusal:
    return Refusal(
        429,
        f"{waiting} requests are waiting already, which is all that limits.maxQueue allows: try again in {seconds} s",
        "queue_full",
        type="rate_limit_error",
        headers={"Retry-After": str(seconds)},
    )


def loading(model: str, message: str) -> Refusal:
    return Refusal(
        503,
        f"{model} is being loaded ({message}): try again in a while",
        "model_loading",
        type="server_error",
        headers={"Retry-After": "5"},
    )


def draining() -> Refusal:
    """Connections are closed, so that the client's next try reaches another replica where there is one."""
    return Refusal(
        503,
        "this server is shutting down and takes no new requests: try again",
        "shutting_down",
        type="server_error",
        headers={"Retry-After": "1", "Connection": "close"},
    )


def timed_out(seconds: float) -> Refusal:
    """``x-should-retry`` keeps OpenAI's client from asking again at once, which would take as long."""
    return Refusal(
        408,
        f"the answer took longer than limits.requestTimeoutSeconds, {seconds:g} s: ask for fewer max_tokens, or raise the limit",
        "request_timeout",
        type="server_error",
        headers={"x-should-retry": "false"},
    )


def out_of_grammar(reason: str) -> Refusal:
    return Refusal(
        400,
        f"the answer cannot be held to its tools or response_format any further: {reason}",
        "grammar_failed",
        "response_format",
    )


def failed(message: str, status: int = 500, code: str = "server_error") -> Refusal:
    return Refusal(status, message, code, type="server_error")


def not_a_number() -> Refusal:
    return failed(
        "the model computed no number (NaN): its weights are damaged, or too large for float16; load it in another precision"
    )


def no_infilling() -> Refusal:
    return Refusal(
        400,
        "Unsupported value: 'suffix' is not served by this model, whose tokenizer has no tokens for a gap in a text (such as <|fim_prefix|>): "
        "leave it out, or ask a model for code that has them.",
        "unsupported_parameter",
        "suffix",
    )


def no_embeddings() -> Refusal:
    return Refusal(
        501,
        "this server writes answers and makes no embeddings: ask a server with a model for embeddings, such as bge or e5",
        "not_implemented",
    )
