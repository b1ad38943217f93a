"""The model card: what was trained, on what, how, how well, with the loss curve as a picture and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_operator.api.resource import Job, JobSpec
from alpaca_operator.api.sources import RopeScaling
from alpaca_operator.api.status import OutputKind
from workloads.storage.sources import Inputs
from workloads.storage.uri import hub_name
from workloads.system.markdown import front_matter, plain, table
from workloads.training.curves import Curves, picture
from workloads.training.model_card_kinds import About, about

PICTURE = "loss.png"
TABLE = "loss.csv"

NOT_SETTINGS = frozenset(
    {
        *("model", "init", "tokenizer", "adapter", "templateFile"),
        *(
            "output",
            "failurePolicy",
            "suspend",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
            "cache",
            "pod",
            "parallelism",
            "publish",
        ),
    }
)
"""Parts of a spec that the card shows as inputs, and those that leave the result as it is."""


@dataclass(frozen=True)
class TrainedModel:
    """What a card is written from."""

    job: Job
    kind: OutputKind
    inputs: Inputs
    policy: Mapping[str, Any]
    """What `Auto` became."""
    report: Mapping[str, Any]
    """Of the data; its ``lines`` are shown."""
    metrics: Mapping[str, float | None]
    curves: Curves


def write(folder: Path, model: TrainedModel) -> None:
    """README.md, the picture it shows, and the numbers behind the picture."""
    picture(model.curves, folder / PICTURE)
    model.curves.write(folder / TABLE)
    (folder / "README.md").write_text(render(model), encoding="utf-8")


def render(model: TrainedModel) -> str:
    """The card as Markdown, with the header that the Hugging Face hub reads."""
    job, inputs = model.job, model.inputs
    subject = about(job.spec)
    uri = str(subject.start.uri)
    adapter = model.kind == "LoRAAdapter"
    header = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["literary-alpaca", *subject.tags],
        **({"base_model": hub_name(uri)} if uri.startswith("hf://") else {}),
    }
    parts = [
        front_matter(header),
        f"# {job.metadata.name}\n",
        f"{subject.what} of `{uri}`, trained by `{job.kind}` `{job.metadata.name}` of Literary Alpaca.\n",
        "## Use\n",
        _use(subject, getattr(subject.start, "rope_scaling", None), adapter),
        "## Result\n",
        table(("metric", "value"), [(name, _number(value)) for name, value in model.metrics.items()]),
        f"![Loss by step]({PICTURE})\n",
        "## Data\n",
        _counts(model.report, inputs),
        "## Settings\n",
        table(("setting", "value"), list(_flat(_settings(job.spec, subject)))),
        "What `Auto` became:\n",
        table(("setting", "value"), list(_flat(model.policy))),
        "## Lineage\n",
        table(("input", "uri", "digest"), [(field, found.uri, found.digest) for field, found in inputs.items()]),
    ]
    return "\n".join(part for part in parts if part)


def _counts(report: Mapping[str, Any], inputs: Inputs) -> str:
    """What was read, repaired, dropped and packed; files are named as the job names them, not by where they lay here."""
    lines = list(report.get("lines", []))
    for found in inputs.values():
        lines = [line.replace(str(found.path), found.uri) for line in lines]
    return "".join(f"- {plain(line)}\n" for line in lines)


def _use(subject: About, scaling: RopeScaling | None, adapter: bool) -> str:
    if adapter:
        uri = str(subject.start.uri)
        base = hub_name(uri) if uri.startswith("hf://") else "path/of/the/base"
        stretched = (
            f"The base was loaded with rope scaling `{scaling.type}` by {scaling.factor:g}: set the same when loading it.\n"
            if scaling
            else ""
        )
        grown = (
            "The vocabulary is not the base's: its embeddings need as many rows as the tokenizer here has tokens, before the adapter is put on.\n"
            if subject.resized
            else ""
        )
        return (
            f"{subject.how}{stretched}{grown}\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n'
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            + ("base.resize_token_embeddings(1 + max(tokenizer.get_vocab().values()))\n" if subject.resized else "")
            + 'model = PeftModel.from_pretrained(base, "path/of/this/folder")\n```\n'
        )
    return (
        f"{subject.how}\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n'
    )


def _settings(spec: JobSpec, subject: About) -> dict[str, Any]:
    """The part of the spec that shaped the result."""
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in dumped.items() if name not in NOT_SETTINGS | subject.unread}


def _flat(part: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in part.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                rows += _flat(item, f"{prefix}{name}[{number}].") if isinstance(item, Mapping) else []
        elif value not in ([], {}):
            rows.append((f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else _number(value)))
    return rows


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.6g}" if math.isfinite(value) else str(value)
