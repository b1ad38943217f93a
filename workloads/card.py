"""The model card: what was trained, on what, how, how well, with the loss curve as a picture and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_operator.api.sft import SFTJob, SFTSpec
from workloads.storage import Inputs

PICTURE = "loss.png"
BARS = "▁▂▃▄▅▆▇█"

USED_ONLY_WITH = {"lora": ("LoRA", "QLoRA"), "load": ("QLoRA",)}
"""Parts of the spec that other methods do not read, and that the table of settings therefore leaves out."""


@dataclass(frozen=True)
class Curves:
    """Losses by step."""

    train: list[tuple[int, float]]
    validation: list[tuple[int, float]]

    @classmethod
    def of(cls, log_history: Sequence[Mapping[str, Any]]) -> Curves:
        """From the history that the Trainer keeps in its state."""
        return cls(
            train=[(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry],
            validation=[(entry["step"], entry["eval_loss"]) for entry in log_history if "eval_loss" in entry],
        )


def write(
    folder: Path,
    job: SFTJob,
    kind: str,
    inputs: Inputs,
    policy: Mapping[str, Any],
    report: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    curves: Curves,
) -> None:
    """README.md and the picture it shows."""
    picture(curves, folder / PICTURE)
    text = render(job, kind, inputs, policy, report, metrics, curves)
    (folder / "README.md").write_text(text, encoding="utf-8")


def render(
    job: SFTJob,
    kind: str,
    inputs: Inputs,
    policy: Mapping[str, Any],
    report: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    curves: Curves,
) -> str:
    """The card as Markdown, with the header that the Hugging Face hub reads."""
    spec = job.spec
    adapter = kind == "LoRAAdapter"
    header = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["literary-alpaca", "sft", spec.method.lower()],
        **({"base_model": _hub_name(spec.model.uri)} if spec.model.uri.startswith("hf://") else {}),
    }
    parts = [
        "---\n"
        + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())
        + "---\n",
        f"# {job.metadata.name}\n",
        f"{_what(kind, spec)} of `{spec.model.uri}`, trained by `{job.kind}` `{job.metadata.name}` of Literary Alpaca.\n",
        "## Use\n",
        _use(spec, adapter),
        "## Result\n",
        _table(("metric", "value"), [(name, _number(value)) for name, value in metrics.items()]),
        f"![Loss by step]({PICTURE})\n",
        "```\n" + sparkline(curves) + "\n```\n",
        "## Data\n",
        _counts(report, inputs),
        "## Settings\n",
        _table(("setting", "value"), list(_flat(_settings(spec)))),
        "What `Auto` became:\n",
        _table(("setting", "value"), list(_flat(policy))),
        "## Lineage\n",
        _table(("input", "uri", "digest"), [(field, found.uri, found.digest) for field, found in inputs.items()]),
    ]
    return "\n".join(part for part in parts if part)


def picture(curves: Curves, path: Path) -> None:
    """Training and validation loss over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), dpi=110)
    axes.plot(*zip(*curves.train, strict=True), color="#b0c4de", linewidth=1, label="training loss")
    if len(curves.train) >= 10:
        axes.plot(*zip(*_smooth(curves.train), strict=True), color="#1f4e8c", linewidth=1.8, label="smoothed")
    if curves.validation:
        axes.plot(*zip(*curves.validation, strict=True), "o-", color="#c0392b", markersize=4, label="validation loss")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    # Without the software's version in it, the same curve is the same file.
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def sparkline(curves: Curves, width: int = 60) -> str:
    """The training loss in one line of block characters, its first and last value beside it."""
    if not curves.train:
        return ""
    losses = [loss for _, loss in curves.train]
    count = min(width, len(losses))
    groups = [losses[len(losses) * n // count : len(losses) * (n + 1) // count] for n in range(count)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    bars = "".join(BARS[min(len(BARS) - 1, int((mean - low) / span * len(BARS)))] for mean in means)
    line = f"training loss   {losses[0]:.3f} {bars} {losses[-1]:.3f}"
    if curves.validation:
        best_step, best = min(curves.validation, key=lambda point: point[1])
        line += f"\nvalidation loss {curves.validation[0][1]:.3f} → {curves.validation[-1][1]:.3f} (best {best:.3f} at step {best_step})"
    return line


def _smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running mean over a twentieth of the curve."""
    half = max(1, len(points) // 40)
    return [
        (step, sum(loss for _, loss in window) / len(window))
        for number, (step, _) in enumerate(points)
        for window in [points[max(0, number - half) : number + half + 1]]
    ]


def _counts(report: Mapping[str, Any], inputs: Inputs) -> str:
    """What was read, repaired, dropped and packed; files are named as the job names them, not by where they lay here."""
    text = "".join(f"- {line}\n" for line in report.get("lines", []))
    for found in inputs.values():
        text = text.replace(str(found.path), found.uri)
    return text


def _what(kind: str, spec: SFTSpec) -> str:
    if kind == "LoRAAdapter":
        variant = "DoRA" if spec.lora.use_dora else "rsLoRA" if spec.lora.use_rslora else "LoRA"
        return f"A {variant} adapter"
    if spec.merge:
        return "A merged fine-tune (the adapter alone is in `adapter/`)"
    return "A full fine-tune"


def _use(spec: SFTSpec, adapter: bool) -> str:
    template = f"The prompt format is `{spec.template}`; the tokenizer here carries it as its chat template.\n"
    if adapter:
        base = _hub_name(spec.model.uri) if spec.model.uri.startswith("hf://") else "path/of/the/base"
        stretched = (
            f"The base was loaded with rope scaling `{spec.model.rope_scaling.type}` by {spec.model.rope_scaling.factor:g}: set the same "
            "when loading it.\n"
            if spec.model.rope_scaling
            else ""
        )
        return (
            f"{template}{stretched}\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            'model = PeftModel.from_pretrained(base, "path/of/this/folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n'
        )
    return (
        f"{template}\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n'
    )


def _settings(spec: SFTSpec) -> dict[str, Any]:
    """The part of the spec that shaped the result."""
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    names = ("template", "method", "lora", "load", "training", "dataset", "deepspeed", "merge")
    kept = {name: dumped[name] for name in names if name in dumped}
    for name, methods in USED_ONLY_WITH.items():
        if spec.method not in methods:
            kept.pop(name, None)
    return kept


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def _hub_name(uri: str) -> str:
    return uri.removeprefix("hf://").partition("@")[0]
