"""An OpenAI-compatible API elsewhere, and the Secret that holds its key."""

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import StringConstraints

from alpaca_operator.api.model import Model, Name, ShortText, Spec

Url = Annotated[str, StringConstraints(min_length=8, max_length=1024, pattern=r"^https?://[^\s/]+(/\S*)?$")]


class KeyReference(Spec):
    """A key of a Secret in the same namespace."""

    name: Name
    """Name of the Secret."""
    key: Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "apiKey"
    """The key that holds the API key."""


class Endpoint(Spec):
    """An OpenAI-compatible API elsewhere."""

    non_semantic: ClassVar = frozenset({"secret_ref"})

    url: Url
    """Its base, with the version, such as `http://vllm.models.svc:8000/v1`."""
    model: ShortText | None = None
    """The model to ask for; absent is the first that it lists."""
    secret_ref: KeyReference | None = None
    """Its API key. Locally `ALPACA_API_KEY` is read from the environment."""


def endpoints(part: object, path: str = "") -> Iterator[tuple[str, Endpoint]]:
    """Every Endpoint below ``part``, with the camelCase path of its field (``judge.endpoint``), in the order of the spec."""
    if isinstance(part, Endpoint):
        yield path, part
    elif isinstance(part, Model):
        for name, field in type(part).model_fields.items():
            yield from endpoints(getattr(part, name), ".".join(filter(None, (path, field.alias or name))))
    elif isinstance(part, list):
        for index, each in enumerate(part):
            yield from endpoints(each, f"{path}[{index}]")


def key_variable(field: str) -> str:
    """The variable that a job finds the key of the endpoint in ``field`` in: of ``models[1].endpoint`` ``ALPACA_MODELS_1_API_KEY``."""
    return f"ALPACA_{re.sub(r'[^A-Z0-9]+', '_', field.removesuffix('.endpoint').upper()).strip('_')}_API_KEY"
