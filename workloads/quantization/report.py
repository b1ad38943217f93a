"""What a quantization cost, in figures: report.json, report.md, a page that needs nothing else, and the model's card."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alpaca_operator.api.quantize import QuantizeJob
from workloads.quantization.calibration import CalibrationRows
from workloads.quantization.fidelity import Fidelity, ModelScores
from workloads.quantization.gptq import QuantizedLayer
from workloads.storage.contents import REPORT_FILE
from workloads.storage.sources import Inputs
from workloads.system.describe import some
from workloads.training.model_card import hub_name, table

MARKDOWN, PAGE, PICTURE = "report.md", "report.html", "layer-error.svg"
WORST = 10
"""Layers listed by name, those with the largest error."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --faint: #6b7785; --line: #d9dfe6; --paper: #ffffff; --good: #1b7f4b; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --faint: #94a0ad; --line: #37414c; --paper: #161b21; --good: #5cc98f; --bad: #ff8a80 } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Noto Sans SC", "PingFang SC", sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .25rem } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem }
p { margin: .4rem 0 } .faint { color: var(--faint) } .good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top }
th { color: var(--faint); font-weight: 500 } code { font-size: .9em; overflow-wrap: anywhere }
figure { margin: 0; background: #fff; border-radius: 6px } figure svg { width: 100%; height: auto }
"""


@dataclass(frozen=True)
class Report:
    """The figures of one QuantizeJob."""

    job: QuantizeJob
    inputs: Inputs
    rows: CalibrationRows
    before: ModelScores
    after: ModelScores
    likeness: Fidelity
    layers: Sequence[QuantizedLayer]
    bytes_before: int
    bytes_after: int
    """Of the weights."""
    minutes: float
    """Of quantizing, without measuring."""
    peak_bytes: int
    peak_gpu_bytes: int | None

    @property
    def order(self) -> str:
        """In which order the columns of a layer are quantized."""
        spec = self.job.spec
        if spec.desc_act:
            return "by activation (descAct)"
        return "by activation within groups (actGroupAware)" if spec.orders_in_groups else "as they lie"

    @property
    def increase(self) -> float:
        """Of perplexity, as a share."""
        return self.after.score.perplexity / self.before.score.perplexity - 1

    @cached_property
    def broken(self) -> list[str]:
        """The gates that the result does not keep, each with value and bound. A value at its bound passes, what is no number never does."""
        spec, told = self.job.spec, []
        before, after = self.before.score.perplexity, self.after.score.perplexity
        allowed = spec.max_perplexity_increase
        if not math.isfinite(after):
            told.append(f"perplexity after quantization is {after} (before: {before:.4f})")
        elif allowed is not None:
            most = before * (1 + allowed)
            if after > most and not math.isclose(
                after, most, rel_tol=1e-9
            ):  # rounding of our own is no loss of the model's
                told.append(
                    f"perplexity rose by {self.increase:.2%}, from {before:.4f} to {after:.4f}, and maxPerplexityIncrease {allowed:g} allows "
                    f"{allowed:.2%}"
                )
        asked, stops = spec.min_stop_rate, self.after.stop_rate
        if asked is not None and (stops is None or stops < asked):
            ended = (
                "no question was short enough to be asked"
                if stops is None
                else f"{_share(stops)} of the answers ended by themselves"
            )
            told.append(
                f"{ended} (before: {_share(self.before.stop_rate)}), and minStopRate {asked:g} asks for {asked:.1%}"
            )
        return told

    def metrics(self) -> dict[str, float | None]:
        """For the status and artifact.json; None for what is no number."""
        found = {
            "perplexityBefore": self.before.score.perplexity,
            "perplexity": self.after.score.perplexity,
            "perplexityIncrease": self.increase,
            "evalLoss": self.after.score.loss,
            "tokenAccuracyBefore": self.before.score.accuracy,
            "tokenAccuracy": self.after.score.accuracy,
            "tokenAgreement": self.likeness.agreement,
            "meanDivergence": self.likeness.divergence,
            "stopRateBefore": self.before.stop_rate,
            "stopRate": self.after.stop_rate,
            "bytesBefore": float(self.bytes_before),
            "bytesAfter": float(self.bytes_after),
            "calibrationRows": float(len(self.rows.calibration)),
            "calibrationTokens": float(self.rows.tokens),
            "quantizeMinutes": round(self.minutes, 3),
            "peakMemoryBytes": float(self.peak_bytes),
        }
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in found.items()
            if value is not None
        }

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json. What is no number is null there, and told in ``broken``."""
        spec = self.job.spec
        return {
            "job": self.job.metadata.name,
            "model": {"uri": spec.model.uri, "digest": self.inputs["model"].digest},
            "method": spec.method,
            "bits": spec.bits,
            "groupSize": spec.group_size,
            "sym": spec.sym,
            "order": self.order,
            "descAct": spec.desc_act,
            "actGroupAware": spec.orders_in_groups,
            "dampPercent": spec.damp_percent,
            "calibration": {
                "digest": self.rows.digest,
                "rows": len(self.rows.calibration),
                "tokens": self.rows.tokens,
                "dropped": dict(self.rows.dropped),
                "reports": {part: self._named(report.as_dict()) for part, report in self.rows.reports.items()},
            },
            "evaluation": {
                "rows": len(self.rows.evaluation),
                "tokens": self.before.score.tokens,
                "answers": self.after.answers,
            },
            "metrics": self.metrics(),
            "peakGpuBytes": self.peak_gpu_bytes,
            "layers": [
                {"block": layer.block, "name": layer.name, "error": layer.error, "damping": layer.damping}
                for layer in self.layers
            ],
            "gates": {"maxPerplexityIncrease": spec.max_perplexity_increase, "minStopRate": spec.min_stop_rate},
            "broken": self.broken,
        }

    def _named(self, told: dict[str, Any]) -> dict[str, Any]:
        """Files as the job names them, not by where they lay here."""
        files = list(told["files"])
        for found in self.inputs.values():
            files = [line.replace(str(found.path), found.uri) for line in files]
        return told | {"files": files}

    def write(self, folder: Path) -> None:
        """The files of the report."""
        picture = draw(self.layers)
        (folder / PICTURE).write_text(picture, encoding="utf-8")
        text = json.dumps(self.as_dict(), ensure_ascii=False, indent=2, allow_nan=False)
        (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
        (folder / MARKDOWN).write_text(self.markdown(), encoding="utf-8")
        (folder / PAGE).write_text(self.page(picture), encoding="utf-8")

    # The same tables in each form

    def _loss_table(self) -> list[tuple[str, str, str]]:
        before, after = self.before.score, self.after.score
        rows = [
            ("perplexity", _number(before.perplexity), f"{_number(after.perplexity)} ({_signed(self.increase)})"),
            ("loss (nats a token)", _number(before.loss), _number(after.loss)),
            ("tokens foretold rightly", _share(before.accuracy), _share(after.accuracy)),
            ("the same likeliest token", "", _share(self.likeness.agreement)),
            ("mean divergence (nats a token)", "", _number(self.likeness.divergence)),
            ("answers that end by themselves", _share(self.before.stop_rate), _share(self.after.stop_rate)),
            (
                "weights",
                _size(self.bytes_before),
                f"{_size(self.bytes_after)} ({self.bytes_after / max(1, self.bytes_before):.0%})",
            ),
        ]
        return [row for row in rows if row[2] != "–"]

    def _settings_table(self) -> list[tuple[str, str]]:
        spec = self.job.spec
        rows = [
            ("bits", str(spec.bits)),
            ("group", "a whole row" if spec.group_size == -1 else f"{spec.group_size} weights"),
            ("zero point", "symmetric" if spec.sym else "of its own for each group"),
            ("order of columns", self.order),
            ("damping", f"{spec.damp_percent:g}"),
            ("calibration", f"{len(self.rows.calibration):,} rows, {self.rows.tokens:,} tokens"),
            ("calibration digest", self.rows.digest),
            (
                "rows left out",
                "; ".join(f"{count:,} {why}" for why, count in sorted(self.rows.dropped.items())) or "none",
            ),
            ("quantized in", f"{self.minutes:.1f} minutes"),
            ("most memory", _size(self.peak_bytes)),
        ]
        if self.peak_gpu_bytes is not None:
            rows.append(("most GPU memory", _size(self.peak_gpu_bytes)))
        return rows

    def _gates(self) -> list[str]:
        spec = self.job.spec
        if self.broken:
            return [*self.broken, "The result was not published."]
        kept = []
        if spec.max_perplexity_increase is not None:
            kept.append(
                f"perplexity: {_signed(self.increase)}, and an increase of {spec.max_perplexity_increase:.2%} is allowed"
            )
        if spec.min_stop_rate is not None:
            kept.append(
                f"{_share(self.after.stop_rate)} of the answers ended by themselves, and {spec.min_stop_rate:.1%} is asked for"
            )
        return kept or ["No gate was set."]

    def _worst(self) -> list[tuple[str, str]]:
        known = [(layer.error, layer) for layer in self.layers if layer.error is not None]
        known.sort(key=lambda entry: -entry[0])
        return [(f"{layer.block}.{layer.name}", f"{error:.3g}") for error, layer in known[:WORST]]

    def markdown(self, level: str = "#") -> str:
        spec = self.job.spec
        return "\n".join(
            [
                f"{level} {self.job.metadata.name}: {spec.bits} bits\n",
                f"`{spec.model.uri}`, quantized by GPTQ.\n",
                *(f"- {line}" for line in self._gates()),
                f"\n{level}# What was lost\n",
                table(("", "before", "after"), self._loss_table()),
                f"{level}# How\n",
                table(("setting", "value"), self._settings_table()),
                f"{level}# Error of each layer\n",
                f"![Error of each layer]({PICTURE})\n",
                table(("layer", "error"), self._worst()),
            ]
        )

    def page(self, picture: str) -> str:
        """HTML without any other file."""
        spec = self.job.spec
        kind = "bad" if self.broken else "good"
        inline = picture[picture.index("<svg") :]
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
                f"<title>{html.escape(self.job.metadata.name)}: {spec.bits} bits</title><style>{STYLE}</style></head><body>",
                f"<h1>{html.escape(self.job.metadata.name)}: {spec.bits} bits</h1>",
                f'<p class="faint"><code>{html.escape(str(spec.model.uri))}</code>, quantized by GPTQ</p>',
                *(f'<p class="{kind}">{html.escape(line)}</p>' for line in self._gates()),
                "<h2>What was lost</h2>",
                _html_table(("", "before", "after"), self._loss_table()),
                "<h2>How</h2>",
                _html_table(("setting", "value"), self._settings_table()),
                "<h2>Error of each layer</h2>",
                f"<figure>{inline}</figure>",
                _html_table(("layer", "error"), self._worst()),
                "</body></html>\n",
            ]
        )

    def card(self) -> str:
        """README.md, with the header that the Hugging Face hub reads."""
        spec = self.job.spec
        uri = str(spec.model.uri)
        header = {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["literary-alpaca", "gptq", f"{spec.bits}-bit"],
            **({"base_model": hub_name(uri), "base_model_relation": "quantized"} if uri.startswith("hf://") else {}),
        }
        return "\n".join(
            [
                "---\n"
                + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())
                + "---\n",
                self.markdown(),
                "## Use\n",
                "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer  # with gptqmodel and optimum installed\n\n"
                'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder", device_map="auto")\n'
                'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n',
                "## Lineage\n",
                table(
                    ("input", "uri", "digest"), [(name, found.uri, found.digest) for name, found in self.inputs.items()]
                ),
            ]
        )


def warnings(layers: Sequence[QuantizedLayer], damping: float) -> list[str]:
    """What the user should know of single layers; ``damping`` is what the spec asked for."""
    guessed = [f"{layer.block}.{layer.name}" for layer in layers if layer.error is None]
    damped = [
        f"{layer.block}.{layer.name} ({layer.damping:.2f})"
        for layer in layers
        if layer.error is not None and layer.damping > damping + 1e-6
    ]
    told = []
    if guessed:
        told.append(
            f"warning: {_layers(guessed)} {'was' if len(guessed) == 1 else 'were'} rounded without weighing, as the rows gave too little to weigh by ({some(guessed, 4)}): give "
            "more or longer rows"
        )
    if damped:
        told.append(f"{_layers(damped)} needed more damping than dampPercent ({some(damped, 4)})")
    return told


def draw(layers: Sequence[QuantizedLayer]) -> str:
    """An SVG of the errors: a column for each block, a line for each kind of layer, darker for more."""
    import matplotlib

    matplotlib.use("Agg")
    import io

    import numpy as np
    from matplotlib import colors, pyplot

    names = list(dict.fromkeys(layer.name for layer in layers)) or [""]
    blocks = max((layer.block for layer in layers), default=0) + 1
    grid = np.full((len(names), blocks), np.nan)
    for layer in layers:
        if layer.error is not None and layer.error > 0:
            grid[names.index(layer.name), layer.block] = layer.error
    with pyplot.rc_context({"svg.hashsalt": "layer-error", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(names) + 1.6))
        image = axes.imshow(
            np.ma.masked_invalid(grid),
            aspect="auto",
            cmap="YlOrRd",
            norm=colors.LogNorm() if np.isfinite(grid).any() else None,
            interpolation="nearest",
        )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("block")
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes, label="mean squared error, weighed by the rows")
        figure.tight_layout()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return drawn.getvalue()


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f'<div class="scroll"><table>{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table></div>'


def _layers(names: Sequence[str]) -> str:
    return f"{len(names)} layer{'' if len(names) == 1 else 's'}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}" if math.isfinite(value) else str(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _signed(value: float) -> str:
    return f"{value:+.2%}" if math.isfinite(value) else str(value)


def _size(count: int) -> str:
    value, units = float(count), iter(("B", "KiB", "MiB"))
    for unit in units:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
