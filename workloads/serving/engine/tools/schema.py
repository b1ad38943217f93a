"""Of a request to OpenAI's API what concerns tools and the format of an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from workloads.serving.engine.surrogates import whole
from workloads.serving.refusal import Refusal

MOST_TOOLS = 128
Name = Annotated[str, Field(pattern=r"^[\w.:-]{1,128}$")]


class Function(BaseModel):
    """A function that may be called."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments; absent, it has none."""
    strict: bool | None = None
    """Whether arguments keep to the schema to the letter; else as far as it is understood."""


class Tool(BaseModel):
    """A tool. Of OpenAI's kinds functions alone are something that a model of ours was trained on."""

    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """As templates take it."""
        function = {"name": self.function.name, "description": self.function.description or ""}
        parameters = self.function.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": {**function, "parameters": parameters}}


class CalledFunction(BaseModel):
    name: Name
    arguments: str


class ToolCall(BaseModel):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self, place: str) -> dict[str, Any]:
        """As templates take it, with the arguments as an object. Raises Refusal for what is none."""
        try:
            arguments = whole(json.loads(self.function.arguments or "{}"))
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise Refusal(
                400,
                f"Invalid value for '{place}.function.arguments': arguments are the text of a JSON object.",
                "invalid_value",
                f"{place}.function.arguments",
            )
        called = {"type": "function", "function": {"name": self.function.name, "arguments": arguments}}
        return called if self.id is None else {"id": self.id, **called}


@dataclass(frozen=True)
class Choice:
    """Which tools an answer may call, and whether it must."""

    mode: Literal["none", "auto", "required"]
    names: tuple[str, ...] | None = None
    """None for all."""
    is_named: bool = False
    """One function was named, which then is called."""


def choice(given: Any) -> Choice:
    """`tool_choice`. Raises PydanticCustomError for what is none."""
    match given:
        case "none" | "auto" | "required":
            return Choice(given)
        case {"type": "function", "function": {"name": str(name)}}:
            return Choice("required", (name,), is_named=True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*tools]}}:
            names = tuple(tool["function"]["name"] for tool in tools if _is_named(tool))
            if len(names) == len(tools):
                return Choice(mode, names)
    raise PydanticCustomError("tool_choice", "Input should be 'none', 'auto', 'required' or a function that is named")


def _is_named(tool: Any) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
    )


ToolChoice = Annotated[Choice, BeforeValidator(choice)]


class JsonSchema(BaseModel):
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """In what form an answer is: text, any object of JSON, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("no_schema", "Input should have json_schema, as its type is json_schema")
        return self

    @property
    def schema_(self) -> dict[str, Any] | bool | None:
        return self.json_schema.schema_ if self.json_schema and self.type == "json_schema" else None

    @property
    def strict(self) -> bool:
        return self.json_schema is not None and bool(self.json_schema.strict)

    @property
    def name(self) -> str:
        return self.json_schema.name if self.json_schema else "json_object"
