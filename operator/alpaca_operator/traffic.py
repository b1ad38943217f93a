"""Pure: what a pod that serves answers, read from its /metrics: ours, or vLLM's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from alpaca_operator.api.serving import Traffic
from alpaca_operator.conditions import stamp

ANSWERED = frozenset({"answered", "cancelled"})
"""Outcomes of questions that were answered, as far as somebody listened; all others got none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of one pod at one time."""

    requests: int = 0
    refused: int = 0
    running: int = 0
    queued: int = 0
    tokens: float = 0
    """Of answers, since the pod started."""
    tokens_per_second: float = 0
    """Since the sample before."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What each model is, by its name in the API, where the engine says so."""

    def after(self, before: Sample, seconds: float) -> Sample:
        """With the speed since an earlier sample of the same pod; a pod that started again counts from nothing."""
        made = self.tokens - before.tokens
        return replace(self, tokens_per_second=max(0.0, made / seconds)) if seconds > 0 else self


def parse(answer: bytes) -> Sample:
    """Raises ValueError for what is no text of Prometheus, or is of neither engine."""
    found = Sample()
    known = False
    for family in text_string_to_metric_families(answer.decode()):
        for one in family.samples:
            known = known or one.name.startswith(("alpaca_chat_", "vllm:"))
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
                case "alpaca_chat_running" | "vllm:num_requests_running":
                    found = replace(found, running=found.running + int(one.value))
                case "alpaca_chat_queued" | "vllm:num_requests_waiting":
                    found = replace(found, queued=found.queued + int(one.value))
    if not known:
        raise ValueError("its /metrics are those of no engine")
    return found


def told(samples: Sequence[tuple[Sample, datetime]]) -> Traffic | None:
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
