"""How many processes train, by the GPUs that a pod asks for and those that it sees."""

from __future__ import annotations

from alpaca_operator.api import Resource
from alpaca_operator.api.resource import Parallelism
from workloads.errors import SpecError, WorkloadError
from workloads.system.environment import Environment

AMD = "amd.com/gpu"
GPUS = ("nvidia.com/gpu", AMD)
"""Resources of a pod that are one GPU each."""


class GpuMissing(WorkloadError):
    """The pod sees fewer GPUs than its limit says. The next one may find another node, so the run is tried again."""


def processes(job: Resource, environment: Environment) -> int:
    """How many train: as many as the spec says, or one for each GPU that the pod asks for, or, outside a pod, for each of those that this
    machine has."""
    parallelism = getattr(job.spec, "parallelism", None)
    if not isinstance(parallelism, Parallelism):
        return 1
    if parallelism.processes_per_node is not None:
        return int(parallelism.processes_per_node)
    limit = sum(_limits(job).values())
    return max(1, limit if limit < 2 or environment.in_pod else min(limit, visible()))


def must_have_gpus(job: Resource, environment: Environment, count: int) -> None:
    """Look, in a pod that asks for GPUs, whether they are there for ``count`` processes: else all would be done on the CPU, and for days.

    Raises SpecError for an image that can use none, and GpuMissing.
    """
    limits = _limits(job)
    if not environment.in_pod or not limits or environment.cpu_for_gpu:
        return
    import torch

    seen, wanted = visible(), min(sum(limits.values()), count)
    if seen >= wanted:
        return
    says = f"spec.pod.resources.limits asks for {' and '.join(f'{number} {name}' for name, number in limits.items())}, and torch"
    built_for, maker = (torch.version.hip, "ROCm") if AMD in limits else (torch.version.cuda, "CUDA")
    if built_for is None:
        raise SpecError(
            f"{says} {torch.__version__} in the image is not built for {maker}: name another one in pod.image, or remove the limit"
        )
    fewer = f", or set parallelism.processesPerNode to {seen}" if seen else ""
    raise GpuMissing(
        f"{says} sees {seen} in this pod: see whether the node's driver works and is new enough for the image's {maker} {built_for}, and whether "
        f"the device plugin gives containers their GPUs{fewer}; the next pod may find another node"
    )


def _limits(job: Resource) -> dict[str, int]:
    """GPUs that the pod asks for, by the name of the resource."""
    limits = job.spec.pod.resources.limits
    return {name: int(limits[name]) for name in GPUS if name in limits and int(limits[name]) > 0}


def visible() -> int:
    """GPUs that torch finds here."""
    import torch

    return int(torch.cuda.device_count())
