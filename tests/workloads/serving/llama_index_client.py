"""LlamaIndex in an environment of its own, for it wants an older client of OpenAI than ours; run by that environment's Python as a script.

Standing alone, it imports nothing of this repository when it runs there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Literal

LLAMA_INDEX = "0.8.1"
"""Of `llama-index-llms-openai-like`, by which it asks servers that speak OpenAI's API."""


def environment() -> Path:
    """Its Python, in a cached environment."""
    from tests.cluster.bed import cache

    def fill(draft: Path) -> None:
        cache.say(f"installing LlamaIndex, llama-index-llms-openai-like {LLAMA_INDEX}")
        python = draft / "bin" / "python"
        cache.run(cache.uv(), "venv", "--relocatable", "--allow-existing", "--python", sys.executable, draft)
        package = f"llama-index-llms-openai-like=={LLAMA_INDEX}"
        cache.run("nice", cache.uv(), "pip", "install", "--python", python, package)

    key = f"{LLAMA_INDEX}-{cache.digest(sys.version)}"
    return cache.built("environments/llama-index", key, fill) / "bin" / "python"


def ask(url: str, key: str) -> dict[str, Any]:
    """What it makes of answers: whole, streamed and awaited, of texts, tools and types, and of a refusal."""
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike
    from pydantic import BaseModel, Field

    class Day(BaseModel):
        """A day's weather."""

        city: Literal["北京", "上海"]
        degrees: int = Field(ge=0, le=40)
        rain: bool

    def weather(city: str) -> str:
        """The weather of a city."""
        return f"{city}：晴"

    def model(name: str, **settings: Any) -> Any:
        given = {"temperature": 0, "max_retries": 0, "is_chat_model": True, "is_function_calling_model": True}
        return OpenAILike(model=name, api_base=url, api_key=key, context_window=16_000, **{**given, **settings})

    question = [ChatMessage(role="user", content="天气？")]
    agent, told = model("agent"), model("told", should_use_structured_outputs=True)
    tool = FunctionTool.from_defaults(weather)
    first = agent.chat_with_tools([tool], chat_history=question)
    (call,) = agent.get_tool_calls_from_response(first)
    result = ChatMessage(
        role="tool", content=weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
    )
    answer = agent.chat_with_tools([tool], chat_history=[*question, first.message, result])
    text = model("told", is_chat_model=False, max_tokens=4)
    try:
        model("nobody").chat(question)
        refused = ""
    except Exception as error:  # noqa: BLE001 - which it is, is the question
        refused = f"{type(error).__name__}: {error}"
    return {
        "whole": agent.chat(question).message.content,
        "streamed": "".join(part.delta or "" for part in agent.stream_chat(question)),
        "awaited": asyncio.run(agent.achat(question)).message.content,
        "call": [call.tool_name, call.tool_kwargs],
        "answer": answer.message.content,
        "typed": told.as_structured_llm(Day).chat(question).raw.model_dump(),
        "completed": text.complete("{").text,
        "completed as a stream": "".join(part.delta or "" for part in text.stream_complete("{")),
        "refused": refused,
    }


if __name__ == "__main__":
    print(json.dumps(ask(*sys.argv[1:]), ensure_ascii=False))
