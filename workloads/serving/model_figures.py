"""What the operator's status reads of models that answer, and of adapters that do not."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from alpaca_operator.api.text import fitted

LONGEST_REASON = 240
"""Characters of why an adapter is refused."""


class ModelFigures:
    """The models of one pod, as Prometheus reads them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._models = Gauge(
            "alpaca_chat_model_info", "The models that answer", ["model", "kind", "digest"], registry=self._registry
        )
        self._refused_adapters = Gauge(
            "alpaca_chat_adapter_refused",
            "Listed adapters that are not served",
            ["model", "why"],
            registry=self._registry,
        )

    def loaded(self, model: str, kind: str, digest: str) -> None:
        """The operator's status names what is served by it."""
        self._models.labels(model, kind, digest).set(1)

    def unloaded(self, model: str, kind: str, digest: str) -> None:
        self._models.remove(model, kind, digest)

    def adapters_refused(self, refused: Mapping[str, str]) -> None:
        """All that are, by their names, and why: the operator's status tells it."""
        self._refused_adapters.clear()
        for name, why in refused.items():
            self._refused_adapters.labels(name, fitted(why, LONGEST_REASON)).set(1)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
