"""The model card: what was trained, on what, how, how well, with the loss curve as a picture and as text."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

from alpaca_operator.api import Resource
from alpaca_operator.api.base import JobSpec, RopeScaling, Source
from alpaca_operator.api.pretrain import PretrainSpec
from alpaca_operator.api.sft import SFTSpec
from alpaca_operator.api.training import LoRA
from workloads.storage.sources import Inputs

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
        ),
    }
)
"""Parts of a spec that the card shows as inputs, and those that leave the result as it is."""


@dataclass(frozen=True)
class About:
    """What only the kind of job knows of its result."""

    what: str
    """A noun phrase, before "of `<base>`"."""
    tags: tuple[str, ...]
    start: Source
    """What training started from."""
    how: str
    """A paragraph on the prompt format, before the code that loads the result."""
    unread: frozenset[str] = frozenset()
    """Parts of the spec that this method does not read."""
    resized: bool = False
    """The vocabulary is another one than the base's."""


@singledispatch
def about(spec: Any) -> About:
    """What the card of a job with this spec says."""
    raise TypeError(f"{type(spec).__name__} is no spec of a kind that trains")


@about.register
def _(spec: SFTSpec) -> About:
    unread = {"Full": {"lora", "load"}, "LoRA": {"load"}, "QLoRA": set()}[spec.method]
    merged = "A merged fine-tune (the adapter alone is in `adapter/`)"
    return About(
        what="A full fine-tune" if spec.method == "Full" else merged if spec.merge else _adapter(spec.lora),
        tags=("sft", spec.method.lower()),
        start=spec.model,
        how=f"The prompt format is `{spec.template}`; the tokenizer here carries it as its chat template.\n",
        unread=frozenset(unread),
    )


@about.register
def _(spec: PretrainSpec) -> About:
    whats = {
        "Embeddings": "A first stage of continued pretraining (embeddings only)",
        "LoRA": _adapter(spec.lora),
        "Full": "A continued pretraining" if spec.model else "A model from scratch in the shape",
    }
    start = spec.model or (spec.init.config if spec.init else None)
    assert start is not None, "a rule of the spec"
    return About(
        what=whats[spec.trainable],
        tags=("pretraining", spec.trainable.lower()),
        start=start,
        how="It continues text: pretraining teaches no conversation.\n",
        unread=frozenset() if spec.trainable == "LoRA" else frozenset({"lora", "load"}),
        resized=spec.tokenizer is not None,
    )


def _adapter(lora: LoRA) -> str:
    return "A DoRA adapter" if lora.use_dora else "An rsLoRA adapter" if lora.use_rslora else "A LoRA adapter"


@dataclass(frozen=True)
class Curves:
    """Losses by step."""

    train: list[tuple[int, float]]
    validation: list[tuple[int, float]]

    def write(self, path: Path) -> None:
        """As CSV with the columns step, loss and evalLoss."""
        by_step: dict[int, list[float | str]] = {}
        for at, points in enumerate((self.train, self.validation)):
            for step, loss in points:
                by_step.setdefault(step, ["", ""])[at] = loss
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["step", "loss", "evalLoss"])
            table.writerows([step, *losses] for step, losses in sorted(by_step.items()))

    @classmethod
    def read(cls, path: Path) -> Curves:
        """What `write` wrote."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(
            train=[(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]],
            validation=[(int(row["step"]), float(row["evalLoss"])) for row in rows if row["evalLoss"]],
        )

    @classmethod
    def of(cls, log_history: Sequence[Mapping[str, Any]]) -> Curves:
        """From the history that the Trainer keeps in its state."""
        return cls(
            train=[(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry],
            validation=[(entry["step"], entry["eval_loss"]) for entry in log_history if "eval_loss" in entry],
        )


def write(
    folder: Path,
    job: Resource,
    kind: str,
    inputs: Inputs,
    policy: Mapping[str, Any],
    report: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    curves: Curves,
) -> None:
    """README.md, the picture it shows, and the numbers behind the picture."""
    picture(curves, folder / PICTURE)
    curves.write(folder / TABLE)
    text = render(job, kind, inputs, policy, report, metrics, curves)
    (folder / "README.md").write_text(text, encoding="utf-8")


def render(
    job: Resource,
    kind: str,
    inputs: Inputs,
    policy: Mapping[str, Any],
    report: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    curves: Curves,
) -> str:
    """The card as Markdown, with the header that the Hugging Face hub reads."""
    spec: Any = job.spec
    said = about(spec)
    uri = said.start.uri
    adapter = kind == "LoRAAdapter"
    header = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["literary-alpaca", *said.tags],
        **({"base_model": hub_name(uri)} if uri.startswith("hf://") else {}),
    }
    parts = [
        "---\n"
        + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())
        + "---\n",
        f"# {job.metadata.name}\n",
        f"{said.what} of `{uri}`, trained by `{job.kind}` `{job.metadata.name}` of Literary Alpaca.\n",
        "## Use\n",
        _use(said, getattr(said.start, "rope_scaling", None), adapter),
        "## Result\n",
        table(("metric", "value"), [(name, _number(value)) for name, value in metrics.items()]),
        f"![Loss by step]({PICTURE})\n",
        "## Data\n",
        _counts(report, inputs),
        "## Settings\n",
        table(("setting", "value"), list(_flat(_settings(spec, said)))),
        "What `Auto` became:\n",
        table(("setting", "value"), list(_flat(policy))),
        "## Lineage\n",
        table(("input", "uri", "digest"), [(field, found.uri, found.digest) for field, found in inputs.items()]),
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


def chart(curves: Curves, width: int = 64, height: int = 10) -> str:
    """The training loss (`█`) over the steps in characters, validation loss as `o`, for terminals without pictures."""
    points = curves.train
    if not points:
        return ""
    first, last = points[0][0], max(step for step, _ in (*points, *curves.validation))

    def column(step: int) -> int:
        return min(width - 1, (step - first) * width // max(1, last - first + 1))

    groups: dict[int, list[float]] = {}
    for step, loss in points:
        groups.setdefault(column(step), []).append(loss)
    means = {at: sum(losses) / len(losses) for at, losses in groups.items()}
    low = min([*means.values(), *(loss for _, loss in curves.validation)])
    high = max([*means.values(), *(loss for _, loss in curves.validation)])

    def row(loss: float) -> int:
        return round((high - loss) / ((high - low) or 1.0) * (height - 1))

    canvas = [[" "] * width for _ in range(height)]
    level = next(iter(means.values()))
    for at in range(width):
        level = means.get(at, level)
        canvas[row(level)][at] = "█"
    for step, loss in curves.validation:
        canvas[row(loss)][column(step)] = "o"
    labels = {0: f"{high:.2f}", height - 1: f"{low:.2f}"}
    lines = [f"{labels.get(number, ''):>7} ┤{''.join(cells).rstrip()}" for number, cells in enumerate(canvas)]
    legend = "█ training loss" + (", o validation loss" if curves.validation else "")
    return "\n".join(
        [*lines, f"{'':7} └{'─' * width}", f"{'':9}{f'step {first}':<{width - 8}}{f'{last}':>8}", f"{'':9}{legend}"]
    )


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


def _use(said: About, scaling: RopeScaling | None, adapter: bool) -> str:
    if adapter:
        base = hub_name(said.start.uri) if said.start.uri.startswith("hf://") else "path/of/the/base"
        stretched = (
            f"The base was loaded with rope scaling `{scaling.type}` by {scaling.factor:g}: set the same when loading it.\n"
            if scaling
            else ""
        )
        grown = (
            "The vocabulary is not the base's: its embeddings need as many rows as the tokenizer here has tokens, before the adapter is put on.\n"
            if said.resized
            else ""
        )
        return (
            f"{said.how}{stretched}{grown}\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n'
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            + ("base.resize_token_embeddings(len(tokenizer))\n" if said.resized else "")
            + 'model = PeftModel.from_pretrained(base, "path/of/this/folder")\n```\n'
        )
    return (
        f"{said.how}\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n'
    )


def _settings(spec: JobSpec, said: About) -> dict[str, Any]:
    """The part of the spec that shaped the result."""
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in dumped.items() if name not in NOT_SETTINGS | said.unread}


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def hub_name(uri: str) -> str:
    """``hf://owner/name@revision`` → ``owner/name``."""
    return uri.removeprefix("hf://").partition("@")[0]
