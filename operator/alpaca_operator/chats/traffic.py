"""Pure: what a pod that serves answers, read from its /metrics: ours, or vLLM's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from alpaca_operator.api.serving import Traffic
from alpaca_operator.outcomes.conditions import stamp
from alpaca_operator.outcomes.observed import Sample

ANSWERED = frozenset({"answered", "cancelled"})
"""Outcomes of questions that were answered, as far as somebody listened; all others got none."""


ENGINES = ("alpaca_chat_", "vllm:")
"""What the names of each engine's own figures begin with."""
MOST = 2.0**53
"""Beyond it a float counts no more, and the API server takes no whole number of it."""
READ = (
    "alpaca_chat_requests_total",
    "alpaca_chat_tokens_total",
    "alpaca_chat_model_info",
    "alpaca_chat_adapter_refused",
    "alpaca_chat_running",
    "alpaca_chat_queued",
    "vllm:request_success_total",
    "vllm:generation_tokens_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)
READ_LIMIT = 16 * 1024
"""Characters of what is read of them; an engine's own have two thousand."""


def parse(answer: bytes) -> Sample:
    """Raises ValueError for what is no text of Prometheus, is of neither engine, or counts what nobody can."""
    lines = answer.decode().splitlines()
    if not any(line.startswith(ENGINES) for line in lines):
        raise ValueError("its /metrics are those of no engine")
    found = Sample()
    # vLLM's have a thousand lines, of which four are read here. To read them takes a second a megabyte, in which nothing else is done.
    figures = "\n".join(line for line in lines if line.startswith(READ))
    if len(figures) > READ_LIMIT:
        raise ValueError(f"its figures are longer than {READ_LIMIT} characters")
    for family in text_string_to_metric_families(figures):
        for one in family.samples:
            if not 0 <= one.value <= MOST:
                raise ValueError(f"{one.name} is {one.value}")
            match one.name:
                case "alpaca_chat_requests_total" if one.labels.get("outcome") not in ANSWERED:
                    found = replace(found, refused=found.refused + int(one.value))
                case "alpaca_chat_requests_total" | "vllm:request_success_total":
                    found = replace(found, requests=found.requests + int(one.value))
                case "alpaca_chat_tokens_total" if one.labels.get("kind") != "completion":
                    pass
                case "alpaca_chat_tokens_total" | "vllm:generation_tokens_total":
                    found = replace(found, tokens=found.tokens + one.value)
                case "alpaca_chat_model_info":
                    found = replace(found, digests={**found.digests, one.labels["model"]: one.labels["digest"]})
                case "alpaca_chat_adapter_refused":
                    told = {one.labels["model"]: one.labels["why"]}
                    found = replace(found, adapters_refused={**found.adapters_refused, **told})
                case "alpaca_chat_running" | "vllm:num_requests_running":
                    found = replace(found, running=found.running + int(one.value))
                case "alpaca_chat_queued" | "vllm:num_requests_waiting":
                    found = replace(found, queued=found.queued + int(one.value))
    return found


def total(samples: Sequence[tuple[Sample, datetime]]) -> Traffic | None:
    """Of all pods together."""
    if not samples:
        return None
    speed = round(_sum(one.tokens_per_second for one, _ in samples), 1)
    return Traffic(
        requests=int(_sum(one.requests for one, _ in samples)),
        refused=int(_sum(one.refused for one, _ in samples)),
        running=int(_sum(one.running for one, _ in samples)),
        queued=int(_sum(one.queued for one, _ in samples)),
        tokens_per_second=speed,
        display=f"{speed:g}",
        updated_at=stamp(max(at for _, at in samples)),
    )


def _sum(values: Iterable[float]) -> float:
    return sum(values)
