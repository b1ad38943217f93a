"""The routes that there are: what is not listed is not reached, whatever a framework would answer on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from starlette.types import Scope

from workloads.serving.refusal import Refusal, cut

SMALL = 64 * 1024


@dataclass(frozen=True)
class Allowed:
    """A route that is answered."""

    method: str
    path: str
    """`*` stands for the rest of it. It is also how the log calls the route: a path may tell what was asked."""
    largest_body: int = SMALL
    """Bytes."""
    is_open: bool = False
    """Also without key or login."""
    is_quiet: bool = False
    """Told in the log only when it fails: probes, and what a page asks for by itself."""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.path).replace(r"\*", ".*"))

    def fits(self, path: str) -> bool:
        return self._pattern.fullmatch(path) is not None and ".." not in path.split("/")


def find(routes: Sequence[Allowed], scope: Scope) -> Allowed:
    """The route of a request. Raises Refusal where there is none, or none by that method."""
    method, path = scope["method"], scope["path"]
    fitting = [route for route in routes if route.fits(path)]
    found = next((route for route in fitting if route.method == method), None)
    if found is not None:
        return found
    if fitting:
        methods = ", ".join(sorted({route.method for route in fitting}))
        raise Refusal(405, f"Not allowed to {cut(method)} on {cut(path)}", headers={"Allow": methods})
    *others, last = dict.fromkeys(route.path for route in routes if "*" not in route.path)
    raise Refusal(404, f"Invalid URL ({cut(method)} {cut(path)}): here are {', '.join(others)} and {last}")
