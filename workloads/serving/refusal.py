"""A request that gets an error in place of an answer, from the guard before it or from what it asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Refusal(Exception):
    """In OpenAI's statuses and error objects."""

    status: int
    message: str
    """For the user: what was found, and what to do."""
    code: str | None = None
    param: str | None = None
    """The field of the request that is to blame."""
    type: str = "invalid_request_error"
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def cut(text: str, most: int = 80) -> str:
    """What somebody sent, as a message quotes it: it may be megabytes."""
    return text if len(text) <= most else f"{text[:most]}…"
