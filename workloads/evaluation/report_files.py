"""The files of a report: JSON for programs, CSV for spreadsheets, Markdown for a merge request, a page to read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads.evaluation import page
from workloads.evaluation.metrics import MEANINGS, MEASURED_ON, format_value
from workloads.evaluation.report import ENDINGS, Report, format_bounds
from workloads.system.markdown import Own, plain, table

FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet: what a model wrote must not be run."""


def write(report: Report, folder: Path) -> None:
    """report.json, report.csv, report.md and report.html."""
    text = json.dumps(report.content, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    _write_csv(folder / "report.csv", report.content)
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(page.render(report), encoding="utf-8")


def _write_csv(path: Path, content: Mapping[str, Any]) -> None:
    """A row a question, the models side by side; without questions, a row a metric. The byte order mark is for Excel."""
    models = [model["name"] for model in content["models"]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        if "questions" not in content:
            table.writerow(["metric", *models])
            names = dict.fromkeys(name for model in content["models"] for name in model["metrics"])
            table.writerows([name, *(model["metrics"].get(name) for model in content["models"])] for name in names)
            return
        table.writerow(
            [
                "category",
                "question",
                "reference",
                *models,
                *(f"{name}: {what}" for name in models for what in ("ending", "tokens")),
            ]
        )
        for question in content["questions"]:
            answers = [question["answers"][name] for name in models]
            table.writerow(
                [
                    *map(_cell, (question["category"], question["question"], question["reference"] or "")),
                    *(_cell(answer["text"]) for answer in answers),
                    *(value for answer in answers for value in (ENDINGS[answer["ending"]], answer["tokens"])),
                ]
            )


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_PREFIXES) else text


def _markdown(report: Report) -> str:
    content, models = report.content, [model["name"] for model in report.content["models"]]
    parts = [f"# {plain(content['name'])}\n"]
    if report.verdicts:
        parts.append("## Gates\n")
        parts.append(
            table(
                ("gate", "model", "value", "bound", ""),
                [
                    (
                        verdict.gate.metric,
                        verdict.gate.model,
                        format_value(verdict.gate.metric, verdict.value),
                        format_bounds(verdict),
                        "broken" if verdict.broken else "passed",
                    )
                    for verdict in report.verdicts
                ],
            )
        )
        parts.append("".join(f"- {plain(sentence)}\n" for sentence in report.undecided))
    parts.append("## Models\n")
    rows = []
    for name in report.names:
        values = {model: report.metrics[model][name] for model in models if name in report.metrics[model]}
        bold = report.best(name)
        cells = (_figure(report, name, model, values.get(model), model in bold) for model in models)
        rows.append((name, *cells, MEANINGS.get(name, "lm-evaluation-harness")))
    parts.append(table(("metric", *models, "what it is"), rows))
    if report.intervals:
        parts.append("In brackets: where the figure of all such rows and answers lies, with 95 % confidence.\n")
    parts.append(
        table(
            ("model", "uri", "kind", "weights", "template", "measured on"),
            [
                (
                    model["name"],
                    model["uri"],
                    model["kind"],
                    model.get("weights", ""),
                    model["template"] or "",
                    ", ".join(f"{count:,} {MEASURED_ON[what]}" for what, count in model["measuredOn"].items()),
                )
                for model in content["models"]
            ],
        )
    )
    if "heldOut" in content:
        parts.append("## Held-out conversations\n")
        parts.append("".join(f"- {plain(line)}\n" for line in content["heldOut"]["lines"]))
    if "questions" in content:
        parts.append("## Questions\n")
        parts.append(_decoding(content))
        for number, question in enumerate(content["questions"], start=1):
            parts.append(f"### {number}. {plain(question['question'])}\n")
            description = plain(question["category"])
            description += f" · reference: {plain(question['reference'])}" if question["reference"] else ""
            parts.append(f"{description}\n")
            answers = [(model, question["answers"][model]) for model in models]
            parts.append(
                table(
                    ("model", "answer", "", "tokens"),
                    [
                        (model, answer["text"], ENDINGS[answer["ending"]], str(answer["tokens"]))
                        for model, answer in answers
                    ],
                )
            )
    return "\n".join(part for part in parts if part)


def _figure(report: Report, name: str, model: str, value: float | None, is_best: bool) -> str:
    text = format_value(name, value)
    interval = report.interval(model, name)
    return Own((f"**{text}**" if is_best else text) + (f" ({interval})" if interval else ""))


def _decoding(content: Mapping[str, Any]) -> str:
    generation = content["generation"]
    how = "the likeliest token each time" if generation["temperature"] == 0 else f"drawn with seed {generation['seed']}"
    system = f" System prompt: {plain(content['systemPrompt'])}" if content["systemPrompt"] else ""
    return f"Answers of at most {generation['maxNewTokens']} tokens, {how}.{system}\n"
