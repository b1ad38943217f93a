"""The typed resources, and everything else that the operator and the workloads both read.

Imports pydantic only, so that a workload's ``--help`` and the operator's pure layers stay light.
"""

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.evaluation import EvaluationJob
from alpaca_operator.api.merge import MergeJob
from alpaca_operator.api.pretrain import PretrainJob
from alpaca_operator.api.quantize import QuantizeJob
from alpaca_operator.api.resource import GROUP, PLURALS, VERSION, Resource
from alpaca_operator.api.sft import SFTJob
from alpaca_operator.api.tokenizer import TokenizerJob

KINDS: dict[str, type[Resource]] = {
    kind.__name__: kind
    for kind in (TokenizerJob, PretrainJob, SFTJob, MergeJob, QuantizeJob, EvaluationJob, ChatDeployment)
}
"""Every kind the operator serves, by name, in the order of a chain. A new kind is its files and one entry here."""

__all__ = [
    "GROUP",
    "KINDS",
    "PLURALS",
    "VERSION",
    "ChatDeployment",
    "EvaluationJob",
    "MergeJob",
    "PretrainJob",
    "QuantizeJob",
    "Resource",
    "SFTJob",
    "TokenizerJob",
]
