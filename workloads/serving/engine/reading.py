"""From the bytes of a body to a request, or to a refusal that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from workloads.serving.engine.schema import Fields
from workloads.serving.engine.surrogates import whole
from workloads.serving.refusal import Refusal, cut

Body = TypeVar("Body", bound=Fields)


def content_of(body: bytes) -> dict[str, Any]:
    """The object that a body is, without what is null. Raises Refusal."""
    try:
        content = whole(json.loads(body, parse_constant=_no_number))
    except ValueError as error:
        raise Refusal(400, f"We could not parse the JSON body of your request: {error}", "invalid_json") from error
    except RecursionError as error:
        raise Refusal(
            400, "We could not parse the JSON body of your request: it is nested too deeply", "invalid_json"
        ) from error
    if not isinstance(content, dict):
        raise Refusal(400, f"The body of a request is a JSON object, not {_called(content)}.", "invalid_json")
    return {key: value for key, value in content.items() if value is not None}


def read(kind: type[Body], body: bytes) -> Body:
    """The request in ``body``. Raises Refusal that names the field."""
    return checked(kind, content_of(body))


def checked(kind: type[Body], content: Mapping[str, Any]) -> Body:
    """The request that ``content`` is. Raises Refusal that names the field."""
    # Before they are made fields of an object, which a hundred thousand of them would take half a second for.
    known = {*kind.model_fields, *kind.passed_over, *kind.neutral}
    if (unknown := next((name for name in content if name not in known), None)) is not None:
        raise Refusal(400, f"Unknown parameter: '{cut(unknown)}'.", "unknown_parameter", cut(unknown))
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        raise _refused(error) from error
    for name, value in (request.model_extra or {}).items():
        if name in kind.passed_over:
            continue
        if not any(value == neutral and type(value) is type(neutral) for neutral in kind.neutral[name]):
            raise Refusal(
                400,
                f"Unsupported value: '{name}' is not served by this model; leave it out.",
                "unsupported_parameter",
                name,
            )
    return request


QUOTING = json.JSONEncoder(ensure_ascii=False, default=str, indent=None, check_circular=False)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _refused(error: ValidationError) -> Refusal:
    """The first thing that is wrong, as OpenAI says it. Of the alternatives of a field the one that got furthest speaks."""
    problems = error.errors(include_url=False)
    of_field = [each for each in problems if each["loc"][0] == problems[0]["loc"][0]]
    problem = max(of_field, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    names = [part for part in problem["loc"] if isinstance(part, int) or part.isidentifier()]
    names = [part for part in names if part not in ("str", "int", "bool", "float", "TextPart")]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names).removeprefix(".")
    if problem["type"] == "missing":
        return Refusal(400, f"Missing required parameter: '{param}'.", "missing_required_parameter", param)
    wrong_type = problem["type"].endswith(("_type", "_parsing"))
    return Refusal(
        400,
        f"Invalid {'type' if wrong_type else 'value'} for '{param}': {_lower(problem['msg'])}, got {_called(problem['input'])}.",
        "invalid_type" if wrong_type else "invalid_value",
        param,
    )


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _called(value: Any) -> str:
    """The beginning of a value as JSON, written no further than it is shown."""
    parts: list[str] = []
    for part in QUOTING.iterencode(cut(value) if isinstance(value, str) else value):
        parts.append(part)
        if sum(map(len, parts)) > 80:
            break
    return cut("".join(parts))
