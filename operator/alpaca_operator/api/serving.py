"""The status of what serves: where it is reached, what it serves, how much it answers."""

from pydantic import Field

from alpaca_operator.api.status import INPUTS_KEPT, Failure, ResolvedInput, ResourceStatus, Short, StatusPart, Text


class ServedModel(StatusPart):
    """The model that answers."""

    uri: Short | None = None
    """Where it lies; with `engine: External` the API's URL."""
    digest: Short | None = None
    """sha256 of the artifact, where a job made it."""
    display: Short | None = None
    """As kubectl shows it."""


class Newer(StatusPart):
    """A model that is there and not served yet."""

    digest: Short | None = None
    """sha256 of the artifact."""
    uri: Short | None = None
    """Where it lies."""
    update: Short | None = None
    """Its short name, for the annotation that accepts it."""
    failed: bool = False
    """It was tried, did not become ready, and made room for the one before."""
    message: Text = ""
    """Why it is not served, and what to do."""


class EngineStatus(StatusPart):
    """What answers."""

    name: Short
    """`Transformers`, `vLLM`, `LlamaCpp` or `External`."""
    message: Text = ""
    """Why, where the spec leaves it open."""


class Traffic(StatusPart):
    """What the pods that run answered, as their /metrics told it."""

    requests: int | None = None
    """Questions answered, since these pods started."""
    refused: int | None = None
    """Questions refused or failed, since these pods started."""
    running: int | None = None
    """Questions being answered."""
    queued: int | None = None
    """Questions that wait for their turn."""
    tokens_per_second: float | None = None
    """Tokens of answers a second, over the time between the last two looks."""
    display: Short | None = None
    """Tokens a second as kubectl shows them."""
    updated_at: str | None = Field(None, json_schema_extra={"format": "date-time"})
    """When it was read."""


class ServingStatus(ResourceStatus):
    """What the operator knows of a deployment."""

    url: Short | None = None
    """Where the page is reached; the API is at `apiUrl`."""
    api_url: Short | None = None
    """The base for OpenAI's clients."""
    replicas: int = 0
    """Pods that exist; what `kubectl scale` and autoscalers read."""
    ready_replicas: int = 0
    """Pods that answer."""
    updated_replicas: int = 0
    """Pods of the newest spec and model."""
    replicas_display: Short | None = None
    """Pods that answer, of those wanted, as kubectl shows them."""
    selector: Short | None = None
    """Label selector of the pods, for autoscalers."""
    engine: EngineStatus | None = None
    """What answers."""
    model: ServedModel | None = None
    """The model that the newest ready pods serve."""
    newer: Newer | None = None
    """A model that is there and not served yet."""
    traffic: Traffic | None = None
    """What the pods answered."""
    resolved_inputs: dict[str, ResolvedInput] | None = Field(None, max_length=INPUTS_KEPT)
    """What the newest pods load, by the name of its field."""
    served_inputs: dict[str, ResolvedInput] | None = Field(None, max_length=INPUTS_KEPT)
    """What the newest pods that answered have loaded."""
    failure: Failure | None = None
    """Why the newest pods do not become ready."""
