"""The typed resources, and everything else that the operator and the workloads both read.

Imports pydantic only, so that a workload's ``--help`` and the operator's pure layers stay light.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.resource import GROUP, PLURALS, VERSION, Resource

if TYPE_CHECKING:
    from alpaca_operator.api.chat import ChatDeployment
    from alpaca_operator.api.dataset import DatasetJob
    from alpaca_operator.api.evaluation import EvaluationJob
    from alpaca_operator.api.merge import MergeJob
    from alpaca_operator.api.pretrain import PretrainJob
    from alpaca_operator.api.quantize import QuantizeJob
    from alpaca_operator.api.sft import SFTJob
    from alpaca_operator.api.tokenizer import TokenizerJob


class Kinds(Mapping[str, type[Resource]]):
    """Kinds by name. Each is imported when it is asked for: what runs one kind builds no other's models."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def __getitem__(self, name: str) -> type[Resource]:
        found: type[Resource] = getattr(import_module(f"{__name__}.{self._modules[name]}"), name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


KINDS = Kinds(
    {
        "DatasetJob": "dataset",
        "TokenizerJob": "tokenizer",
        "PretrainJob": "pretrain",
        "SFTJob": "sft",
        "MergeJob": "merge",
        "QuantizeJob": "quantize",
        "EvaluationJob": "evaluation",
        "ChatDeployment": "chat",
    }
)
"""Every kind the operator serves, by name, in the order of a chain. A new kind is its files and one entry here."""

__all__ = [
    "GROUP",
    "KINDS",
    "PLURALS",
    "VERSION",
    "ChatDeployment",
    "DatasetJob",
    "EvaluationJob",
    "MergeJob",
    "PretrainJob",
    "QuantizeJob",
    "Resource",
    "SFTJob",
    "TokenizerJob",
]


def __getattr__(name: str) -> Any:
    if name in KINDS:
        return KINDS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
