"""What the page needs to know, from the spec and the environment: whom to ask, who may ask, and how it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from workloads.errors import SpecError
from workloads.storage.uri import local_path
from workloads.system.environment import Environment


@dataclass(frozen=True)
class Api:
    """An OpenAI-compatible API."""

    url: str
    """Its base, with the version."""
    key: str | None = None
    model: str | None = None
    """The only model to offer of those that it lists."""
    pods_url: str | None = None
    """The same of all its pods, ready or not, where these are not the page's own."""


@dataclass(frozen=True)
class Login:
    """Who may see the page."""

    username: str
    password: str


@dataclass(frozen=True)
class Settings:
    """Of one page."""

    title: str
    apis: tuple[Api, ...]
    is_ours: bool = True
    """The engine is this project's; elsewhere fields that OpenAI's API lacks are sent only when a user sets them."""
    compares: bool = False
    """Two models stand side by side to begin with."""
    history_turns: int = 20
    system_prompt: str = ""
    longest_wait_seconds: float = 600
    """How long an answer may take."""
    login: Login | None = None
    votes: Path | None = None
    """Where votes are kept; None asks for none."""

    @classmethod
    def read(cls, job: ChatDeployment, environ: Mapping[str, str]) -> Settings:
        """Raises SpecError for a login that is asked for, or half given, and for votes outside of their claim."""
        spec = job.spec
        return cls(
            title=spec.page.title or job.metadata.name,
            apis=_apis(job, environ),
            is_ours=spec.engine != "External",
            compares=spec.compare_with is not None,
            history_turns=spec.page.history_turns,
            system_prompt=spec.system_prompt or "",
            longest_wait_seconds=float(spec.limits.request_timeout_seconds),
            login=_login(job, environ),
            votes=_votes(job, environ),
        )


def _apis(job: ChatDeployment, environ: Mapping[str, str]) -> tuple[Api, ...]:
    spec = job.spec
    default = f"http://127.0.0.1:{contract.API_PORT}/v1"
    named = spec.endpoint.url if spec.endpoint else default
    first = Api(
        url=environ.get(contract.ENV_ENGINE_URL) or named,
        key=_secret(environ, contract.ENV_API_KEY),
        model=spec.endpoint.model if spec.endpoint else None,
        pods_url=environ.get(contract.ENV_ENGINE_PODS_URL) or None,
    )
    other = spec.compare_with.endpoint if spec.compare_with else None
    if other is None:
        return (first,)
    second = Api(
        url=environ.get(contract.ENV_COMPARE_URL) or other.url,
        key=_secret(environ, contract.ENV_COMPARE_API_KEY),
        model=other.model,
    )
    return (first, second)


def _votes(job: ChatDeployment, environ: Mapping[str, str]) -> Path | None:
    uri = job.spec.page.votes
    return local_path(uri, Environment.read(environ), f"page.votes {uri}") if uri else None


def _login(job: ChatDeployment, environ: Mapping[str, str]) -> Login | None:
    username, password = _secret(environ, contract.ENV_USERNAME), _secret(environ, contract.ENV_PASSWORD)
    if username and password:
        return Login(username, password)
    if username or password:
        missing = contract.ENV_PASSWORD if username else contract.ENV_USERNAME
        raise SpecError(f"{missing} is not set and its counterpart is: a login needs both; set both or neither")
    if job.spec.auth is not None:
        raise SpecError(
            f"auth.secretName is {job.spec.auth.secret_name}, and {contract.ENV_USERNAME} and {contract.ENV_PASSWORD} are not set: put the "
            "keys username and password into that Secret; locally set the variables"
        )
    return None


def _secret(environ: Mapping[str, str], name: str) -> str | None:
    """Without the white space around it: a Secret made from a file ends in a line break, which nobody types and no header takes."""
    return environ.get(name, "").strip() or None
