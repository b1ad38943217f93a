"""The files of a report: report.json, report.md, a page that needs nothing else, the picture of the errors, and the model's card."""

from __future__ import annotations

import html
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from workloads.errors import GateFailed
from workloads.quantization import error_heatmap, layers
from workloads.quantization.report import Report, figure, percent
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.contents import REPORT_FILE
from workloads.storage.uri import hub_name
from workloads.system.markdown import front_matter, plain, table

MARKDOWN, PAGE, PICTURE = "report.md", "report.html", "layer-error.svg"
SURE = "Where the figures of all such rows and answers lie, with 95 % confidence"
WORST = 10
"""Layers listed by name, those with the largest error."""
USE = {
    "GPTQ": "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer  # with gptqmodel and optimum installed\n\n"
    'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder", device_map="auto")\n'
    'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n```\n',
    "GGUF": "```console\n$ llama-server -m model.gguf --jinja\n$ ollama create NAME -f Modelfile && ollama run NAME\n```\n",
    "FP8": "```console\n$ vllm serve path/of/this/folder\n```\n",
}
"""How a model is run, by its format."""
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


def publish(report: Report, folder: Path, runtime: Runtime, metrics: Metrics) -> None:
    """The report goes beside the model. Raises GateFailed where a gate is broken: then the report alone is kept."""
    for line in report.undecided:
        runtime.progress.log(f"gate: {line}")
    if report.broken:
        rejected = runtime.checkpoints.own / "rejected"
        rejected.mkdir()
        write(report, rejected)
        where = runtime.reject(rejected)
        _keep_only_layers(runtime.checkpoints.own)
        raise GateFailed(f"{'; '.join(report.broken)}: nothing is published, the report is at {where}", metrics)
    write(report, folder)
    write_card(report, folder)
    runtime.progress.update(stage="Saving")


def _keep_only_layers(own: Path) -> None:
    """After a broken gate: finished layers stay for a run with other gates, the working files, as large as the model once more, go."""
    for path in [*own.iterdir(), *(own / layers.STORE).glob("attempt-*")]:
        if path.name == layers.STORE:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write(report: Report, folder: Path) -> None:
    """All but the card, which only a published model has."""
    picture = error_heatmap.draw(report.layers) if report.layers else ""
    if picture:
        (folder / PICTURE).write_text(picture, encoding="utf-8")
    text = json.dumps(report.as_dict(), ensure_ascii=False, indent=2, allow_nan=False)
    (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / MARKDOWN).write_text(_markdown(report), encoding="utf-8")
    (folder / PAGE).write_text(_page(report, picture), encoding="utf-8")


def _markdown(report: Report) -> str:
    of_layers = [
        "## Error of each layer\n",
        f"![Error of each layer]({PICTURE})\n",
        table(("layer", "error"), _worst(report)),
    ]
    return "\n".join(
        [
            f"# {report.job.metadata.name}: {report.title}\n",
            f"`{report.job.spec.model.uri}`, {report.made}.\n",
            *(f"- {plain(line)}" for line in [*_gates(report), *report.undecided]),
            "\n## What was lost\n",
            table(("", "before", "after"), _loss_table(report)),
            f"{SURE}:\n",
            table(("metric", "measured on", "of all"), _sureness(report)),
            "## How\n",
            table(("setting", "value"), _settings_table(report)),
            *(of_layers if report.layers else []),
        ]
    )


def _page(report: Report, picture: str) -> str:
    """HTML without any other file."""
    spec = report.job.spec
    kind = "bad" if report.broken else "good"
    of_layers = [
        "<h2>Error of each layer</h2>",
        f"<figure>{picture[picture.find('<svg') :]}</figure>",
        _html_table(("layer", "error"), _worst(report)),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(report.job.metadata.name)}: {report.title}</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(report.job.metadata.name)}: {report.title}</h1>",
            f'<p class="faint"><code>{html.escape(str(spec.model.uri))}</code>, {report.made}</p>',
            *(f'<p class="{kind}">{html.escape(line)}</p>' for line in _gates(report)),
            *(f'<p class="faint">{html.escape(line)}</p>' for line in report.undecided),
            "<h2>What was lost</h2>",
            _html_table(("", "before", "after"), _loss_table(report)),
            f'<p class="faint">{SURE}:</p>',
            _html_table(("metric", "measured on", "of all"), _sureness(report)),
            "<h2>How</h2>",
            _html_table(("setting", "value"), _settings_table(report)),
            *(of_layers if report.layers else []),
            "</body></html>\n",
        ]
    )


def write_card(report: Report, folder: Path) -> None:
    """README.md, with the header that the Hugging Face hub reads."""
    (folder / "README.md").write_text(_card(report), encoding="utf-8")


def _card(report: Report) -> str:
    spec = report.job.spec
    uri = str(spec.model.uri)
    header = {
        "library_name": "gguf" if spec.format == "GGUF" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["literary-alpaca", *report.tags],
        **({"base_model": hub_name(uri), "base_model_relation": "quantized"} if uri.startswith("hf://") else {}),
    }
    return "\n".join(
        [
            front_matter(header),
            _markdown(report),
            "## Use\n",
            USE[spec.format],
            "## Lineage\n",
            table(
                ("input", "uri", "digest"), [(name, found.uri, found.digest) for name, found in report.inputs.items()]
            ),
        ]
    )


def _loss_table(report: Report) -> list[tuple[str, str, str]]:
    before, after = report.before.score, report.after.score
    rows = [
        ("perplexity", _number(before.perplexity), f"{_number(after.perplexity)} ({_signed(report.increase)})"),
        ("loss (nats a token)", _number(before.loss), _number(after.loss)),
        ("tokens foretold rightly", percent(before.accuracy), percent(after.accuracy)),
        ("the same likeliest token", "", percent(report.fidelity.agreement)),
        ("mean divergence (nats a token)", "", _number(report.fidelity.divergence)),
        ("answers that end by themselves", percent(report.before.stop_rate), percent(report.after.stop_rate)),
        (
            "weights",
            _size(report.bytes_before),
            f"{_size(report.bytes_after)} ({report.bytes_after / max(1, report.bytes_before):.0%})",
        ),
    ]
    return [row for row in rows if row[2] != "–"]


def _sureness(report: Report) -> list[tuple[str, str, str]]:
    return [
        (name, f"{found.count:,} {found.unit}", f"{figure(name, found.low)} – {figure(name, found.high)}")
        for name, found in report.intervals.items()
    ]


def _settings_table(report: Report) -> list[tuple[str, str]]:
    rows = [
        *(
            _gptq_settings(report)
            if report.tokens is None
            else [("type", report.job.spec.gguf.type), ("tokens", str(report.tokens))]
        ),
        ("calibration", f"{len(report.rows.calibration):,} rows, {report.rows.tokens:,} tokens"),
        ("calibration digest", report.rows.digest),
        (
            "rows left out",
            "; ".join(f"{count:,} {why}" for why, count in sorted(report.rows.dropped.items())) or "none",
        ),
        ("quantized in", f"{report.minutes:.1f} minutes"),
        ("most memory", _size(report.peak_bytes)),
    ]
    if report.peak_gpu_bytes is not None:
        rows.append(("most GPU memory", _size(report.peak_gpu_bytes)))
    return rows


def _gptq_settings(report: Report) -> list[tuple[str, str]]:
    spec = report.job.spec
    return [
        ("bits", str(spec.bits)),
        ("group", "a whole row" if spec.group_size == -1 else f"{spec.group_size} weights"),
        ("zero point", "symmetric" if spec.sym else "of its own for each group"),
        ("order of columns", report.order),
        ("damping", f"{spec.damp_percent:g}"),
    ]


def _gates(report: Report) -> list[str]:
    spec = report.job.spec
    if report.broken:
        return [*report.broken, "The result was not published."]
    kept = []
    if spec.max_perplexity_increase is not None:
        kept.append(
            f"perplexity: {_signed(report.increase)}, and an increase of {spec.max_perplexity_increase:.2%} is allowed"
        )
    if spec.min_stop_rate is not None:
        kept.append(
            f"{percent(report.after.stop_rate)} of the answers ended by themselves, and {spec.min_stop_rate:.1%} is asked for"
        )
    if spec.min_token_agreement is not None:
        kept.append(
            f"the likeliest token is the original's at {report.fidelity.agreement:.2%} of the positions, and {spec.min_token_agreement:.2%} is "
            "asked for"
        )
    if spec.max_mean_divergence is not None:
        kept.append(
            f"the mean divergence is {report.fidelity.divergence:.6g} nats a token, and {spec.max_mean_divergence:g} is allowed"
        )
    return kept or ["No gate was set."]


def _worst(report: Report) -> list[tuple[str, str]]:
    known = [(layer.error, layer) for layer in report.layers if layer.error is not None]
    known.sort(key=lambda entry: -entry[0])
    return [(f"{layer.block}.{layer.name}", f"{error:.3g}") for error, layer in known[:WORST]]


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f'<div class="scroll"><table>{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table></div>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}" if math.isfinite(value) else str(value)


def _signed(value: float) -> str:
    return f"{value:+.2%}" if math.isfinite(value) else str(value)


def _size(count: int) -> str:
    value, units = float(count), iter(("B", "KiB", "MiB"))
    for unit in units:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
