"""The container before vLLM: ``python -m workloads.chat_api chat.yaml``."""

from __future__ import annotations

import sys

from alpaca_operator.api.chat import ChatDeployment
from workloads.runtime import command


def serve(job: ChatDeployment) -> int:
    """Until a signal comes; returns the exit code."""
    from workloads.serving.front import service

    return service.execute(job)


if __name__ == "__main__":
    sys.exit(command.serve(ChatDeployment, serve, module="chat_api"))
