"""The bodies of OpenAI's requests: what is honoured, what is passed over, and what is refused because it would change the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from workloads.serving.engine.tools.schema import MOST_TOOLS, Choice, ResponseFormat, Tool, ToolCall, ToolChoice
from workloads.serving.refusal import Refusal, cut

MOST_PARTS = 1000
"""Parts of a message."""
PASSED_OVER = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "reasoning_effort", "verbosity", "prediction", "session_id", "request_id", "priority", "cache_salt",
    }
)  # fmt: skip
"""Known to OpenAI's API or to vLLM's, and without a say in what a model of ours answers."""
ASKERS = ("safety_identifier", "user")
"""Of those, the ones by which OpenAI's clients tell their users apart: they take turns."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "echo": (False,), "suffix": ("",), "prompt_logprobs": (),
    "functions": ([],), "function_call": ("none", "auto"),
    "modalities": (["text"],), "audio": (), "web_search_options": (),
    "use_beam_search": (False,), "min_tokens": (0,), "length_penalty": (1, 1.0),
    "early_stopping": (False,), "include_stop_str_in_output": (False,), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "chat_template_kwargs": ({},), "return_token_ids": (False,), "documents": ([],), "bad_words": ([],),
    "return_tokens_as_token_ids": (False,), "mm_processor_kwargs": ({},), "vllm_xargs": ({},), "logits_processors": ([],),
}  # fmt: skip
"""Known to OpenAI's API, FastChat's or vLLM's, and not served here, with the values that ask for nothing."""


MOST_TOP = 20
"""Of the likeliest tokens that are told of a place, as OpenAI and vLLM have it."""
MOST_CHOICES = 128
"""Answers to one prompt."""
MOST_PROMPTS = 2048
"""Of one request."""
MOST_ANSWERS = 2048
"""To one request."""
MOST_BIASES = 1024
"""Tokens that a request makes likelier or less likely."""
MOST_VARIABLES = 64
"""Of a template."""
TAKEN = frozenset(
    {
        "messages", "conversations", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message",
        "return_assistant_tokens_mask", "bos_token", "eos_token", "pad_token", "unk_token",
    }
)  # fmt: skip
"""Variables of a template that are the conversation's or the tokenizer's own."""


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


def refusal_as_text(part: Any, kind: str) -> Any:
    """A part of a message as it is, or of the type ``kind`` where it is what a model said in place of an answer."""
    match part:
        case {"type": "refusal", "refusal": str(said)}:
            return {"type": kind, "text": said}
    return part


class Message(BaseModel):
    """A turn. What else it carries (annotations of an earlier answer) is passed over."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True, max_length=MOST_PARTS)] | None
    """Null only of an assistant: it said nothing."""
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=MOST_TOOLS)] | None = None
    """Of an assistant."""
    tool_call_id: str | None = None
    """Of a tool's message: which call it answers."""

    @model_validator(mode="before")
    @classmethod
    def _as_assistants_speak(cls, message: Any) -> Any:
        """Of an assistant that only calls tools the content may be absent; that it will not answer is something it said."""
        if not isinstance(message, dict) or message.get("role") != "assistant":
            return message
        content = message.get("content")
        if isinstance(content, list):
            return {**message, "content": [refusal_as_text(part, "text") for part in content]}
        return {"content": None, **message} if message.get("tool_calls") else message

    @field_validator("content")
    @classmethod
    def _said(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role") != "assistant":
            raise PydanticCustomError("string_type", "Input should be a valid string")
        return content

    @property
    def text(self) -> str:
        said = self.content or ""
        return said if isinstance(said, str) else "".join(part.text for part in said)

    def plain(self) -> dict[str, Any]:
        """As templates take it, but for calls of tools."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text}


class StreamOptions(BaseModel):
    """How a stream is sent."""

    include_usage: bool = False
    continuous_usage_stats: Literal[False] | None = None
    """vLLM's: figures with every piece, which are not sent here."""


TEXT, TEXTS, TOKENS, LISTS_OF_TOKENS = "a text", "several texts", "a list of tokens", "lists of tokens"
"""What a prompt may be. None is a name that stands in a request: what is wrong is told without them."""
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(fail_fast=True, min_length=1)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Fields(BaseModel):
    """The fields of a request. Absent and null are the same."""

    model_config = ConfigDict(strict=True, extra="allow")
    route: ClassVar[str]
    passed_over: ClassVar[frozenset[str]] = PASSED_OVER
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    @property
    def asker(self) -> str:
        """The user that a client asks for, where it says."""
        extra = self.model_extra or {}
        return next((name for field in ASKERS if isinstance(name := extra.get(field), str)), "")


class Request(Fields):
    """What both kinds of request for an answer have."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    """0, as OpenAI's API has it, leaves the likeliest token alone."""
    top_k: int | None = Field(None, ge=-1, le=100_000)
    """0, or -1 as in vLLM's API, draws from all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """As in vLLM's API: tokens less likely than this share of the likeliest are not drawn."""
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(lambda given: _at_most(MOST_BIASES, given))] | None = None
    """Token ids, written in figures, with what is added to their logits."""
    repetition_penalty: float | None = Field(None, ge=1, le=10)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    """Answers to each prompt."""
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=16)] | None = None
    stop_token_ids: Annotated[list[Token], Field(fail_fast=True, max_length=128)] | None = None
    """As in vLLM's API: further tokens that end an answer."""
    ignore_eos: bool | None = None
    """As in vLLM's API: no token ends the answer but those of `stop_token_ids`. Strings do."""
    chat_template_kwargs: (
        Annotated[dict[str, bool | int | float | str], BeforeValidator(lambda given: _at_most(MOST_VARIABLES, given))]
        | None
    ) = None
    """As in vLLM's API: values for variables of the model's template. One that it does not read changes nothing, as does all of it for a
    text, which has no template."""
    enable_thinking: bool | None = None
    """The variable of that name, as some clients send it."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("logit_bias")
    @classmethod
    def _of_tokens(cls, biases: dict[str, float] | None) -> dict[str, float] | None:
        for name in biases or ():
            if not (name.isascii() and name.isdigit() and len(name) < 10):
                raise PydanticCustomError("value_error", "Keys should be token ids in figures")
        return biases

    @field_validator("chat_template_kwargs")
    @classmethod
    def _of_templates(cls, variables: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in variables or ():
            if name in TAKEN:
                raise _wrong(
                    "chat_template_kwargs", f"{cut(name)} is a part of every conversation's prompt, and not to be set"
                )
        return variables

    @property
    def variables(self) -> dict[str, Any]:
        """Of the template."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**thinking, **(self.chat_template_kwargs or {})}

    @property
    def choices(self) -> int:
        """Answers that a prompt gets."""
        return self.n or 1

    @property
    def candidates(self) -> int:
        """Answers that are written for them."""
        return self.choices

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are told of each place; None tells nothing, not even of the token that stands there."""
        return None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def longest(self) -> int | None:
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Request):
    """`/v1/chat/completions`."""

    route = "/v1/chat/completions"
    neutral = NEUTRAL | {"add_special_tokens": (False,), "include_reasoning": (True,)}

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=10_000)]
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool | None = None
    """Whether the prompt ends with what opens an answer; absent, it does, unless the last message is gone on with."""
    continue_final_message: bool | None = None
    """Whether the answer goes on with the last message, an assistant's, and has what follows it."""
    logprobs: Annotated[bool, BeforeValidator(lambda given: False if _is_zero(given) else given)] | None = None
    """0 asks for none, as in older clients."""
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)

    @property
    def choice(self) -> Choice:
        """Which tools an answer may call."""
        return self.tool_choice or Choice("auto" if self.tools else "none")

    @property
    def format(self) -> ResponseFormat | None:
        """None for any text."""
        return None if self.response_format is None or self.response_format.type == "text" else self.response_format

    @property
    def goes_on(self) -> bool:
        return self.continue_final_message is True

    @property
    def asks(self) -> bool:
        return self.add_generation_prompt is not False

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise _wrong(
                "top_logprobs", f"it is {self.top_logprobs}, and logprobs is not true: set logprobs, or leave it out"
            )
        return self


class CompletionRequest(Request):
    """`/v1/completions`."""

    route = "/v1/completions"
    neutral = NEUTRAL | {"add_special_tokens": (True,)}

    prompt: Annotated[
        Annotated[str, Tag(TEXT)]
        | Annotated[Tokens, Tag(TOKENS)]
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MOST_PROMPTS), Tag(TEXTS)]
        | Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=MOST_PROMPTS), Tag(LISTS_OF_TOKENS)],
        Discriminator(lambda given: _kind_of_prompt(given)),
    ]
    """Texts, or the ids of their tokens."""
    max_tokens: int | None = Field(None, ge=0)
    """0 with `echo`: nothing is written, and the prompt alone comes back."""
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)
    """Answers that are written for each prompt; the `n` likeliest by their average token are sent."""
    echo: bool | None = None
    """The prompt stands before the answer, in text and logprobs."""
    suffix: str | None = None
    """Text behind the gap that the answer fills, the prompt being the text before it. An empty one asks for nothing."""
    logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MOST_TOP)] | None,
        BeforeValidator(lambda given: None if given is False else given),
    ] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(cast("list[str | list[int]]", self.prompt))

    @property
    def candidates(self) -> int:
        return max(self.choices, self.best_of or 1)

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def writes(self) -> bool:
        """Something more than the prompt is asked for."""
        return self.max_tokens != 0

    @model_validator(mode="after")
    def _fits(self) -> CompletionRequest:
        if not self.writes and not self.echo:
            raise _wrong("max_tokens", "it is 0, and without echo that leaves nothing to send: set echo, or at least 1")
        if self.suffix and self.echo:
            raise _wrong(
                "suffix", "the answer stands before it, and echo asks for what stands before the answer: leave one out"
            )
        if self.suffix and not all(isinstance(each, str) for each in self.prompts):
            raise _wrong("suffix", "it is a text, and prompt is a list of tokens: send the prompt as a text")
        if self.best_of is not None and self.best_of < self.choices:
            raise _wrong("best_of", f"it is {self.best_of}, and n asks for {self.choices} of them: raise it")
        if self.candidates > self.choices and self.stream:
            raise _wrong(
                "best_of", "which answer is the best is known at their end, and stream wants them before: leave one out"
            )
        if len(self.prompts) * self.candidates > MOST_ANSWERS:
            raise _wrong(
                "prompt",
                f"{len(self.prompts)} prompts with {self.candidates} answers each are more than {MOST_ANSWERS}: send them in parts",
            )
        return self


def _kind_of_prompt(given: Any) -> str:
    """The tag of what the first of it is."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, list):
        return LISTS_OF_TOKENS
    if isinstance(first, int) and not isinstance(first, bool):
        return TOKENS
    return TEXTS if isinstance(given, list) else TEXT


def _at_most(count: int, given: Any) -> Any:
    """Raises PydanticKnownError for more, before each of them is found wrong: a list stops at its first (fail_fast), an object does not."""
    if isinstance(given, dict) and len(given) > count:
        told = {"field_type": "Dictionary", "max_length": count, "actual_length": len(given)}
        raise PydanticKnownError("too_long", told)
    return given


def _is_zero(given: Any) -> bool:
    return given == 0 and isinstance(given, int)


def _wrong(param: str, why: str) -> Refusal:
    return Refusal(400, f"Invalid value for '{param}': {why}.", "invalid_value", param)
