"""MergeJob: adapters merged into their base."""

from typing import ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.model import ShardSize
from alpaca_operator.api.publication import PublishingSpec
from alpaca_operator.api.resource import JOB_COLUMNS, Job
from alpaca_operator.api.sources import AdapterSource, ModelSource


class WeightedAdapter(AdapterSource):
    """A LoRA adapter, and how much of it is taken."""

    weight: float = Field(1.0, ge=-10, le=10)
    """Factor on its update. 1 takes it as it was trained."""


class MergeSpec(PublishingSpec):
    """What to merge into what, and where the result goes."""

    model: ModelSource
    """The base that the adapters were trained on, not quantized."""
    adapters: list[WeightedAdapter] = Field(min_length=1, max_length=16)
    """Adapters, merged in this order. Where one brings a larger vocabulary, its tokenizer is taken and the embeddings grow first."""
    dtype: Literal["Auto", "float32", "bfloat16", "float16"] = "Auto"
    """Type of the saved weights; Auto is that of the base. The sum is made in float32."""
    max_shard_size: ShardSize = "5GB"
    """Largest file of weights. Merging goes tensor by tensor: a model may be larger than memory."""
    max_logit_difference: float = Field(0.5, gt=0, le=1000)
    """Largest difference between a logit of the merged model and one of base and adapters together, on the proof texts. Above it the
    step fails and publishes nothing. Differences come from rounding to `dtype`; a wrong merge is off by far more."""


class MergeJob(Job):
    """Merges LoRA adapters into their base, and proves that the merged model answers alike."""

    short_names: ClassVar = ("mergej",)
    columns: ClassVar = tuple(column for column in JOB_COLUMNS if column["name"] not in ("Loss", "Nodes"))
    workload: ClassVar = "merge"
    yields: ClassVar = "Model"
    name_limit: ClassVar = 48

    kind: Literal["MergeJob"] = "MergeJob"
    spec: MergeSpec
