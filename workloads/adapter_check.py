"""The container that looks at an adapter before vLLM is started with it: ``python -m workloads.adapter_check chat.yaml``."""

from __future__ import annotations

import sys

from alpaca_operator.api.chat import ChatDeployment
from workloads.runtime import command


def serve(job: ChatDeployment) -> int:
    """Returns the exit code."""
    from workloads.serving.front import adapters

    return adapters.execute(job)


if __name__ == "__main__":
    sys.exit(command.serve(ChatDeployment, serve, module="adapter_check"))
