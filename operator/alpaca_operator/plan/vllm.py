"""vLLM as the engine: its command line, and what it cannot do."""

from __future__ import annotations

import json

from alpaca_operator.api.chat import NO_PARSER, ChatDeployment, ChatSpec
from alpaca_operator.api.contract import MOUNT_ROOT, VLLM_PORT
from alpaca_operator.api.sources import Source, sources
from alpaca_operator.plan import tool_calls
from alpaca_operator.plan.volumes import claim_of

LARGEST_RANK = 256
"""Of an adapter; vLLM sets memory aside for it. The rank itself is in the adapter, which the operator does not read."""


def unable(spec: ChatSpec) -> str | None:
    """Why vLLM does not serve this spec, or None where it does."""
    if spec.compare_with or spec.load or len(spec.adapters) > 1:
        return "vLLM serves one model with at most one adapter, in the bits that it was saved in"
    if spec.adapter_selector is not None or any(adapter.name for adapter in spec.adapters):
        return "adapters with names are served by Transformers"
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
    words = ["vllm", "serve", place, "--host", "127.0.0.1", "--port", str(VLLM_PORT)]
    words += ["--revision", revision] if revision else []
    words += ["--served-model-name", f"{name}-base" if spec.adapters else name]
    words += ["--max-num-seqs", str(spec.limits.max_batch)]
    words += ["--tensor-parallel-size", str(gpus)] if (gpus := devices(spec)) > 1 else []
    for adapter in spec.adapters:
        words += [
            "--enable-lora",
            "--max-lora-rank",
            str(LARGEST_RANK),
            "--lora-modules",
            f"{name}={located(adapter)[0]}",
        ]
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
