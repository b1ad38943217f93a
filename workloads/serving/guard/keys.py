"""The API's key."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from workloads.errors import SpecError
from workloads.serving.refusal import Refusal


def of(job: ChatDeployment, environ: Mapping[str, str]) -> str | None:
    """The key that requests need. Raises SpecError where the spec, or a login, asks for one and there is none."""
    key = environ.get(contract.ENV_API_KEY, "").strip() or None  # a Secret made from a file ends in a line break
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise SpecError(
            f"{contract.ENV_API_KEY} has spaces or characters beyond ASCII, which clients cannot send: use letters, digits and signs"
        )
    if key is None and job.spec.auth is not None:
        raise SpecError(
            f"auth.secretName is {job.spec.auth.secret_name} and {contract.ENV_API_KEY} is not set: put the key apiKey into that Secret; "
            "locally set the variable"
        )
    if key is None and (environ.get(contract.ENV_USERNAME) or environ.get(contract.ENV_PASSWORD)):
        raise SpecError(
            f"{contract.ENV_USERNAME} locks the page and {contract.ENV_API_KEY} is not set: the API would be open; set it too"
        )
    return key


def check(key: str | None, header: str | None) -> None:
    """Raises Refusal for a key that is missing or wrong. The comparison takes as long for either, so that its time tells nothing."""
    if key is None:
        return
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Refusal(
            401,
            "You didn't provide an API key: send it in the header Authorization, as Bearer YOUR_KEY.",
            None,
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Refusal(401, "Incorrect API key provided.", "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
