"""The card of a merged model: what was merged, how far the result is from it, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api.merge import MergeJob
from workloads.models.inspect import Base
from workloads.storage.sources import Inputs
from workloads.storage.uri import hub_name
from workloads.system import markdown


@dataclass(frozen=True)
class MergedModel:
    """What the card is written from."""

    job: MergeJob
    inputs: Inputs
    dtype: str
    """Of the saved weights."""
    base: Base
    grown: Sequence[str]
    """What happened to the rows of the embeddings, in a sentence for each adapter that changed them."""
    metrics: Mapping[str, float | None]


def write(folder: Path, model: MergedModel) -> None:
    """README.md, with the header that the Hugging Face hub reads."""
    spec, name = model.job.spec, model.job.metadata.name
    uri = str(spec.model.uri)
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["literary-alpaca", "merge"],
        **({"base_model": hub_name(uri)} if uri.startswith("hf://") else {}),
    }
    scaling = model.base.rope_scaling
    measured = [(metric, f"{value:.6g}") for metric, value in model.metrics.items() if value is not None]
    parts = [
        markdown.front_matter(header),
        f"# {name}\n",
        f"`{uri}` with {len(spec.adapters)} LoRA adapter{'s' if len(spec.adapters) > 1 else ''} merged into it by `MergeJob` "
        f"`{name}` of Literary Alpaca, in float32, saved as {model.dtype}.\n",
        markdown.table(("adapter", "weight"), [(str(adapter.uri), f"{adapter.weight:g}") for adapter in spec.adapters]),
        *(f"The vocabulary is not the base's: {sentence}.\n" for sentence in model.grown),
        f"Rope scaling `{scaling.type}` by {scaling.factor:g} is part of its configuration.\n" if scaling else "",
        "## Use\n",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n',
        "## Proof\n",
        "The logits of this model beside those of base and adapters, on a few sentences in Chinese and English:\n",
        markdown.table(("metric", "value"), measured),
        "## Lineage\n",
        markdown.table(
            ("input", "uri", "digest"), [(field, found.uri, found.digest) for field, found in model.inputs.items()]
        ),
    ]
    (folder / "README.md").write_text("\n".join(part for part in parts if part), encoding="utf-8")
