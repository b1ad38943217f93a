"""Which kinds live alike. There is no ``if kind ==`` elsewhere."""

from __future__ import annotations

from alpaca_operator.api import KINDS
from alpaca_operator.api.resource import Job
from alpaca_operator.chats.lifecycle import CHATS
from alpaca_operator.jobs.lifecycle import JOBS
from alpaca_operator.outcomes.lifecycle import Lifecycle

LIFECYCLES: dict[str, Lifecycle] = {name: JOBS if issubclass(kind, Job) else CHATS for name, kind in KINDS.items()}
