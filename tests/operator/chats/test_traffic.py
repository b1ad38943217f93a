"""What an engine answered is read from its /metrics, ours or vLLM's."""

from __future__ import annotations

import pytest

from alpaca_operator.chats.traffic import parse
from alpaca_operator.outcomes.observed import Sample
from workloads.serving.engine.metrics import Metrics

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="poet"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="poet"} 1.0
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="poet"} 512.0
vllm:generation_tokens_created{engine="0",model_name="poet"} 1.79e+09
# TYPE vllm:request_success counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="poet"} 7.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="poet"} 3.0
"""


def test_of_our_engine():
    metrics = Metrics()
    metrics.watch(queued=lambda: 3, running=lambda: 2)
    metrics.loaded("poet", "Model", "sha256:ab")
    for outcome in ("answered", "answered", "cancelled", "busy", "invalid", "failed"):
        metrics.ended(outcome)
    metrics.prompt_tokens(1000)
    metrics.completion_tokens(40)
    assert parse(metrics.text()) == Sample(
        requests=3, refused=3, running=2, queued=3, tokens=40, digests={"poet": "sha256:ab"}
    )


def test_of_vllm():
    assert parse(VLLM) == Sample(requests=10, running=2, queued=1, tokens=512)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>no</html>", id="another server's page"),
        pytest.param(b"# TYPE up gauge\nup 1.0\n", id="somebody else's"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"vllm:num_requests_running 1e30\n", id="more than can be counted"),
        pytest.param(b"vllm:num_requests_running +Inf\n", id="more than there is"),
        pytest.param(b"vllm:num_requests_running NaN\n", id="no number"),
        pytest.param(b"alpaca_chat_running -1\n", id="fewer than none"),
    ],
)
def test_anything_else_is_refused(answer):
    with pytest.raises(ValueError, match=r"."):
        parse(answer)


def test_figures_that_no_engine_has_so_many_of_are_not_read():
    line = 'alpaca_chat_requests_total{outcome="answered",extra="%d"} 1\n'
    with pytest.raises(ValueError, match="longer than 16384 characters"):
        parse("".join(line % number for number in range(1000)).encode())
