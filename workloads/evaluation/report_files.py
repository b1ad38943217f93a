"""The files of a report: JSON for programs, CSV for spreadsheets, Markdown for a merge request, a page to read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads.evaluation import page
from workloads.evaluation.metrics import MEANINGS, MEASURED_ON, format_value
from workloads.evaluation.report import BY_CATEGORY, ENDINGS, Report, format_bounds, of_category
from workloads.system.markdown import Own, plain, table

JUDGED = {"win": "judged better", "tie": "judged equal", "loss": "judged worse"}
SAMPLES = "samples"
"""The folder of what models made of the questions of tasks."""
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet: what a model wrote must not be run."""


def write(report: Report, folder: Path) -> None:
    """report.json, report.csv, report.md and report.html."""
    text = json.dumps(report.content, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    _write_csv(folder / "report.csv", report.content)
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(page.render(report), encoding="utf-8")
    for model, lines in report.samples.items():
        (folder / SAMPLES).mkdir(exist_ok=True)
        (folder / SAMPLES / f"{model}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


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
    parts.append(_notes(content))
    parts.append(_categories(content))
    if report.samples:
        parts.append(f"Every question of the tasks, with what was made of it: `{SAMPLES}/`.\n")
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
                        (model, answer["text"], ", ".join(_facts(answer)), str(answer["tokens"]))
                        for model, answer in answers
                    ],
                )
            )
    return "\n".join(part for part in parts if part)


def _facts(answer: Mapping[str, Any]) -> list[str]:
    """How an answer ended, and how it does beside its reference and another's."""
    scores = [f"{name} {format_value(name, score)}" for name, score in answer.get("scores", {}).items()]
    judged = [JUDGED.get(answer["judgement"]["outcome"], "no verdict")] if "judgement" in answer else []
    return [ENDINGS[answer["ending"]], *judged, *scores]


def _notes(content: Mapping[str, Any]) -> str:
    """Who compared answers, and what could not be measured."""
    notes = []
    if judge := content.get("judge"):
        same = ", ".join(
            f"{name} {format_value('winRate', share)}" for name, share in judge["sameInBothOrders"].items()
        )
        notes.append(
            f"wins, ties and losses are against {judge['against']}, by {judge['uri']}, each pair in both orders; it said the same in both orders "
            f"of: {same}"
        )
    notes += [
        f"{model['name']}: not measured: {', '.join(gap['metrics'])}: {gap['why']}"
        for model in content["models"]
        for gap in model["notMeasured"]
    ]
    return "".join(f"- {plain(note)}\n" for note in notes)


def _categories(content: Mapping[str, Any]) -> str:
    """Figures of answers by category; nothing where there is one alone."""
    models = content["models"]
    categories = list(dict.fromkeys(question["category"] for question in content.get("questions", ())))
    if len(categories) < 2:
        return ""
    rows = []
    for category in categories:
        for name in BY_CATEGORY:
            if not any(name in model["categories"][category] for model in models):
                continue
            cells = (of_category(model, category, name) for model in models)
            rows.append((category, name, *(f"{value} ({edges})" if edges else value for value, edges in cells)))
    head = ("category", "metric", *(model["name"] for model in models))
    return f"## By category\n\n{table(head, rows)}"


def _figure(report: Report, name: str, model: str, value: float | None, is_best: bool) -> str:
    text = format_value(name, value)
    interval = report.interval(model, name)
    return Own((f"**{text}**" if is_best else text) + (f" ({interval})" if interval else ""))


def _decoding(content: Mapping[str, Any]) -> str:
    generation = content["generation"]
    how = "the likeliest token each time" if generation["temperature"] == 0 else f"drawn with seed {generation['seed']}"
    system = f" System prompt: {plain(content['systemPrompt'])}" if content["systemPrompt"] else ""
    return f"Answers of at most {generation['maxNewTokens']} tokens, {how}.{system}\n"
