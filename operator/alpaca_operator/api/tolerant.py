"""Reading what another version wrote, or what a pod said: without what cannot be read.

A person's own manifest is read strictly, where it comes in: by the API server, and on a laptop.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)

Step = str | int
Path = tuple[Step, ...]
Forgiven = Callable[[str, Path], bool]
"""(pydantic's type of an error, where it is) -> whether that part may be left out."""

ROUNDS = 8
"""What holds a part that was left out may then lack it, and is left out in turn."""


def anything(_kind: str, _path: Path) -> bool:
    return True


def read(
    model: type[M], value: Any, forgiven: Forgiven = anything, *, strict: bool | None = None
) -> tuple[M, tuple[Path, ...]]:
    """``value`` as a ``model``, and the parts that were left out. Raises ValidationError for what is not forgiven."""
    left_out: list[Path] = []
    for _ in range(ROUNDS):
        try:
            return model.model_validate(value, strict=strict), tuple(left_out)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            if not isinstance(value, dict) or not all(forgiven(one["type"], one["loc"]) for one in errors):
                raise
            # The last of a list first, so that those before keep their places.
            cuts = sorted({_existing(value, one["loc"]) for one in errors}, key=_order, reverse=True)
            if () in cuts:
                raise
            for path in cuts:
                value = _without(value, path)
            left_out += cuts
    return model.model_validate(value, strict=strict), tuple(left_out)


def _existing(value: Any, path: Path) -> Path:
    """As far as the path leads in ``value``: of a part that is missing, what lacks it; a union's arms are no steps."""
    for number, step in enumerate(path):
        within = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
        if not within:
            return path[:number]
        value = value[step]
    return path


def _without(value: Any, path: Path) -> Any:
    """A copy that lacks what lies at ``path``; the rest is shared."""
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        if step not in value:  # what held it is left out already
            return value
        return {
            name: _without(each, rest) if name == step else each for name, each in value.items() if rest or name != step
        }
    return [
        _without(each, rest) if number == step else each for number, each in enumerate(value) if rest or number != step
    ]


def _order(path: Path) -> tuple[tuple[bool, int, str], ...]:
    return tuple((isinstance(step, int), step if isinstance(step, int) else 0, str(step)) for step in path)
