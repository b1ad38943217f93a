"""Objects as the API server sends them, and how they are read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

Object = dict[str, Any]


def child_condition(child: Object | None, kind: str) -> Object | None:
    conditions: list[Object] = (child or {}).get("status", {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind and one.get("status") == "True"), None)


def parse_time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
