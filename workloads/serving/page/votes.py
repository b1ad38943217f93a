"""Votes on answers, kept as rows on the user's storage where the deployment names a place (`page.votes`).

`liked` has conversations that end in an answer which somebody liked or preferred: SFTJob reads them as they are (`messages`). `preferences`
has pairs of answers to one prompt (`prompt`, `chosen`, `rejected`), and `disliked` answers with `label: false`: for tuning by preferences;
SFTJob refuses them, for it would train bad answers as good ones. Each vote is a file of its own, so that it can be changed and taken back, by any
replica.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from alpaca_operator.api.contract import Wire
from workloads.serving.page.conversation import Said, first_error

KINDS = ("liked", "disliked", "preferences")

Row = dict[str, Any]


class Message(Wire):
    """What was said."""

    role: Literal["system", "user", "assistant"]
    content: str


class Vote(Wire):
    """What somebody thinks of the answers to a question."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,80}$")]
    """Of the answer, or of the pair: a second vote takes the place of the first."""
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    """The prompt."""
    answers: list[Said] = Field(min_length=1, max_length=2, fail_fast=True)
    verdict: Literal["up", "down", "first", "second", "none"]
    """`up` and `down` are about one answer, `first` and `second` say which of two is better; `none` takes a vote back."""

    def rows(self, at: str) -> dict[str, Row]:
        """The rows that it makes, by their kind."""
        prompt = [message.model_dump() for message in self.messages]
        if self.verdict == "none":
            return {}
        if self.verdict == "down":
            said = self.answers[0]
            return {
                "disliked": {"prompt": prompt, "completion": _said(said), "label": False, "model": said.model, "at": at}
            }
        good, *bad = self.answers if self.verdict in ("up", "first") else reversed(self.answers)
        made = {"liked": {"messages": [*prompt, *_said(good)], "model": good.model, "at": at}}
        if self.verdict != "up" and bad:
            made["preferences"] = {
                "prompt": prompt, "chosen": _said(good), "rejected": _said(bad[0]),
                "chosenModel": good.model, "rejectedModel": bad[0].model, "at": at,
            }  # fmt: skip
        return made


def _said(said: Said) -> list[Row]:
    return [{"role": "assistant", "content": said.text}]


class Votes:
    """Keeps votes below a folder."""

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder, self._log = folder, log

    async def take(self, request: Request) -> Response:
        """204 once it is on the volume."""
        try:
            vote = Vote.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"detail": first_error(error)}, 400)
        try:
            await asyncio.to_thread(self.keep, vote)
        except OSError as error:
            self._log(
                f"page.votes: a vote could not be kept in {self._folder}: {error.strerror}: make it writable, or make room"
            )
            return JSONResponse({"detail": f"The vote could not be kept: {error.strerror}."}, 507)
        return Response(status_code=204)

    def keep(self, vote: Vote) -> None:
        """Raises OSError."""
        rows = vote.rows(datetime.now(UTC).isoformat(timespec="seconds"))
        for kind in KINDS:
            file = self._folder / kind / f"{vote.id}.jsonl"
            if kind not in rows:
                file.unlink(missing_ok=True)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(f".{os.getpid()}.draft")
            draft.write_text(json.dumps(rows[kind], ensure_ascii=False) + "\n", encoding="utf-8")
            draft.replace(file)
