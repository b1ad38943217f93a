"""The Secrets that the sources of a job name. A process has one variable of a name, and two Secrets may each have a key of that name:
which of them it is must not be left to their order."""

from __future__ import annotations

from collections.abc import Mapping

from alpaca_operator.api import contract
from workloads.errors import SpecError


def check(environ: Mapping[str, str]) -> None:
    """Raises SpecError for a key that two Secrets have with different values. The operator, which reads no Secrets, gives the keys of
    each a second time under a prefix of its own."""
    found: dict[str, tuple[str, str]] = {}
    for number, secret in enumerate(filter(None, environ.get(contract.ENV_SECRETS, "").split(","))):
        prefix = contract.secret_prefix(number)
        for variable, value in environ.items():
            if not variable.startswith(prefix):
                continue
            key = variable.removeprefix(prefix)
            other, known = found.setdefault(key, (secret, value))
            if known != value:
                raise SpecError(
                    f"{key} is in Secret {other} and in Secret {secret}, which secretRef of two inputs name, with different values: "
                    f"a process has one {key}; leave it out of one of the two, or give both the same value"
                )
