"""vLLM as the engine: its command line, and what it cannot do."""

from __future__ import annotations

import json

from alpaca_operator.api.chat import NO_PARSER, ChatDeployment, ChatSpec
from alpaca_operator.api.contract import MOUNT_ROOT, VLLM_PORT
from alpaca_operator.api.sources import Source, sources
from alpaca_operator.plan import adapters, tool_calls
from alpaca_operator.plan.volumes import claim_of

LARGEST_RANK = 256
"""Of an adapter; vLLM sets memory aside for it. The rank itself is in the adapter, which the operator does not read."""
ADAPTERS_IN_A_BATCH = 2
"""Of those with names, whose questions are answered in one step; those of others wait. For each there is memory for LARGEST_RANK on the GPU,
1.3 GiB for a model of 8B, and with one place the first adapter that is asked without a pause would let no other answer."""
ADAPTERS_IN_MEMORY = 64
"""Of those with names, in the node's memory, each as large as it is: as many as the spec may name and its selector may take, and the one
before of each, which still answers while it is exchanged. One more would push out another, which vLLM then can no longer drop."""


def unable(spec: ChatSpec) -> str | None:
    """Why vLLM does not serve this spec, or None where it does."""
    if spec.compare_with or spec.load or sum(not adapter.name for adapter in spec.adapters) > 1:
        return "vLLM serves one model with at most one adapter that has no name, in the bits that it was saved in"
    if spec.template != "FromModel" or spec.template_file:
        return "vLLM takes the chat template that is saved with the model"
    if len(secrets := dict.fromkeys(source.secret_ref.name for _, source in sources(spec) if source.secret_ref)) > 1:
        return f"vLLM takes the credentials of one Secret, and its sources name {' and '.join(secrets)}"
    for field, source in sources(spec):
        uri = source.uri or ""
        if claim_of(uri) is None and not uri.startswith("hf://"):
            return f"vLLM reads pvc:// and hf:// alone, and {field} is {uri}"
        if field.startswith("adapters") and uri.startswith("hf://"):
            return f"vLLM reads adapters from pvc:// alone, and {field} is {uri}"
    return None


def command(chat: ChatDeployment) -> list[str]:
    """`vllm serve`, with everything that the spec says of it. It is asked by what stands before it alone, which wants the key."""
    spec = chat.spec
    assert spec.model is not None  # a rule of the spec
    place, revision = located(spec.model)
    name = chat.metadata.name
    is_listed = adapters.are_listed(spec)
    on_it = [] if is_listed else spec.adapters
    words = ["vllm", "serve", place, "--host", "127.0.0.1", "--port", str(VLLM_PORT)]
    words += ["--revision", revision] if revision else []
    words += ["--served-model-name", f"{name}-base" if on_it else name]
    words += ["--max-num-seqs", str(spec.limits.max_batch)]
    words += ["--tensor-parallel-size", str(gpus)] if (gpus := devices(spec)) > 1 else []
    words += ["--enable-lora", "--max-lora-rank", str(LARGEST_RANK)] if is_listed or on_it else []
    for adapter in on_it:
        words += ["--lora-modules", f"{name}={located(adapter)[0]}"]
    if is_listed:
        words += ["--max-loras", str(ADAPTERS_IN_A_BATCH), "--max-cpu-loras", str(ADAPTERS_IN_MEMORY)]
    if spec.limits.max_input_tokens is not None:
        longest = spec.generation.max_new_tokens or 512
        words += ["--max-model-len", str(spec.limits.max_input_tokens + longest)]
    if decoding := spec.generation.model_dump(exclude_none=True):
        words += ["--override-generation-config", json.dumps(decoding)]
    if (calls := tool_calls.parser(spec)) != NO_PARSER:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", calls]
    if scaling := spec.model.rope_scaling:
        stretched = {"rope_parameters": {"rope_type": scaling.type, "factor": scaling.factor}}
        words += ["--hf-overrides", json.dumps(stretched)]
    return words


def located(source: Source) -> tuple[str, str]:
    """Path in the pod, or name on the hub; and the revision there."""
    uri = source.uri or ""
    if uri.startswith("hf://"):
        name, _, revision = uri.removeprefix("hf://").partition("@")
        return name, revision
    return f"{MOUNT_ROOT}/{uri.removeprefix('pvc://')}", ""


def devices(spec: ChatSpec) -> int:
    """GPUs of a pod. Claims on devices name no number: each counts as one."""
    asked = {**spec.pod.resources.requests, **spec.pod.resources.limits}
    counted = [int(number) for name, number in asked.items() if is_device(name) and str(number).isdigit()]
    return sum(counted) + len(spec.pod.resource_claims)


def is_device(resource: str) -> bool:
    """`nvidia.com/gpu`, `amd.com/gpu`, `nvidia.com/mig-1g.5gb`: what a vendor's plugin hands out."""
    return "/" in resource and not resource.partition("/")[0].endswith("kubernetes.io")
