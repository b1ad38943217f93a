"""The route by which a browser asks: one request, whose answer grows line by line.

Any replica can answer it, and one that was started a moment ago: all that it takes is in the request. Who closes the connection, by
pressing stop or by leaving, ends the answer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from workloads.serving.page.answering import Answer, Inquiry, Run
from workloads.serving.page.conversation import MODELS, Asked, Chosen, first_error
from workloads.serving.page.models import Controls, EngineStatus, Model, Models
from workloads.serving.page.settings import Settings

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""A proxy that gathers an answer before it passes it on would show it at its end only."""


class Asking:
    """Answers what browsers ask."""

    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings, self._models = settings, models

    async def answer(self, request: Request) -> Response:
        """Lines of JSON: of each answer by its number what is new of it."""
        try:
            asked = Asked.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"detail": first_error(error)}, 400)
        return StreamingResponse(self._lines(asked), media_type="application/x-ndjson", headers=HEADERS)

    async def _lines(self, asked: Asked) -> AsyncIterator[str]:
        status = await self._models.look()
        names = names_of(status, asked.models, self._settings.compares)
        models = [model for name in names if (model := status.find(name))]
        if not models:
            problem = (
                status.condition if status.condition in ("loading", "away", "refused", "unreachable") else "missing"
            )
            failed = [Answer(name, state="failed", problem=problem, detail=status.detail) for name in names or [""]]
            yield _line([answer.news(None) for answer in failed])
            return
        known: list[Answer | None] = [None] * len(models)
        run = Run([self._inquiry(model, asked) for model in models])
        async with contextlib.aclosing(run.growing()) as growing:
            async for answers in growing:
                yield _line([answer.news(before) for answer, before in zip(answers, known, strict=True)])
                known = list(answers)

    def _inquiry(self, model: Model, asked: Asked) -> Inquiry:
        system = self._system(model, asked.chosen)
        controls = controls_of(model, asked.chosen)
        begun = bool(asked.begun(model.name))
        return Inquiry(model, asked.messages(model.name, system), controls, self._settings.is_ours, continues=begun)

    def _system(self, model: Model, chosen: Chosen) -> str | None:
        """The system prompt to send; None leaves it to the engine. One that was cleared is sent empty, for the engine would put its own."""
        written = chosen.system if chosen.system is not None else self._settings.system_prompt
        if written.strip():
            return written
        return "" if chosen.system is not None and model.system_prompt else None


def controls_of(model: Model, chosen: Chosen) -> Controls:
    """The model's own settings, but for those that the user chose."""
    changes = {name: value for name in Controls.model_fields if (value := getattr(chosen, name)) is not None}
    return model.defaults.model_copy(update=changes)


def names_of(status: EngineStatus, wanted: list[str], compares: bool) -> list[str]:
    """Of the wanted models those that there are, at least one if there is any."""
    known = [model.name for model in status.models]
    found = [name for name in dict.fromkeys(wanted) if name in known]
    return (found or known[: MODELS if compares else 1])[:MODELS]


def _line(news: list[dict[str, Any]]) -> str:
    return json.dumps(news, ensure_ascii=False, separators=(",", ":")) + "\n"
