"""What an evaluation's report shows on its page: everything that a model wrote is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from workloads.evaluation.gates import Verdict
from workloads.evaluation.metrics import AS_SHARE, MEANINGS, MEASURED_ON, format_value
from workloads.evaluation.report import BY_CATEGORY, ENDINGS, Report, format_bounds, of_category
from workloads.system import report_page
from workloads.system.report_page import articles, both, definitions, table

CHINESE = {
    "perplexity": "困惑度：每个词元损失的指数；只在词表相同的模型之间可比",
    "bitsPerByte": "回答中每个字节的比特数；任何模型之间都可比；越低越好",
    "tokenAccuracy": "模型认为最可能、且正是回答里的词元所占比例",
    "evalLoss": "回答中每个词元的损失（奈特）",
    "evalTokens": "参与计算的回答词元数",
    "tokenAgreement": "最可能的词元与原模型相同的位置所占比例",
    "meanDivergence": "与原模型分布的平均 KL 散度（每个词元的奈特数）",
    "exactMatch": "与参考答案相同的回答所占比例（不计标点和大小写）",
    "tokenF1": "回答与参考答案共有的词（中文按字）：F1",
    "chrF": "回答与参考答案共有的、最长六个字符的片段（chrF2）",
    "winRate": "评判模型在两种顺序下都更喜欢该模型回答的问题所占比例",
    "tieRate": "评判模型不分高下、或随顺序改变看法的问题所占比例",
    "lossRate": "评判模型在两种顺序下都更喜欢对方回答的问题所占比例",
    "stopRate": "模型自己结束的回答所占比例",
    "repetitionRate": "回答里重复出现的四词片段所占比例",
    "chineseShare": "文字中汉字所占比例",
    "answerTokens": "每个回答的词元数",
    "answerCharacters": "每个回答的字符数",
    "emptyRate": "空回答所占比例",
    "answerTokensPerSecond": "整批每秒写出的词元数",
    "peakMemoryBytes": "载入该模型时进程占用的最大内存",
    "weightBytes": "模型文件的大小",
}
ENDINGS_ZH = {"Stopped": "自己结束", "TookTheTurn": "接着替用户说话", "Cut": "到达长度上限", "Withheld": "被服务端拦下"}
OUTCOMES = {
    "win": ("judged better", "评判：更好"),
    "tie": ("judged equal", "评判：持平"),
    "loss": ("judged worse", "评判：更差"),
}
NO_VERDICT = ("no verdict", "评判：没有结论")


def render(report: Report) -> str:
    """The whole page."""
    body = "\n".join([_gates(report), _models(report), _categories(report), _questions(report)])
    return report_page.render(report.content["name"], body, _footer(report.content))


def _gates(report: Report) -> str:
    if not report.verdicts:
        return ""
    broken = sum(verdict.broken is not None for verdict in report.verdicts)
    items = []
    for verdict in report.verdicts:
        gate, passed = verdict.gate, verdict.broken is None
        word = both("passed", "通过") if passed else both("broken", "未通过")
        items.append(
            f'<li class="{"passed" if passed else "broken"}"><b>{word}</b> · {escape(gate.metric)} · {escape(gate.model)}: '
            f'{format_value(gate.metric, verdict.value)} <span class="soft">({escape(format_bounds(verdict))})</span>{_undecided(verdict)}</li>'
        )
    summary = (
        both(
            f"{broken} of {len(items)} gates broken: nothing was published",
            f"{len(items)} 道关卡中有 {broken} 道未通过：结果没有发布",
        )
        if broken
        else both(f"{len(items)} gates passed" if len(items) > 1 else "The gate passed", f"{len(items)} 道关卡全部通过")
    )
    return f'<section><h2>{summary}</h2><ul class="gates">{"".join(items)}</ul></section>'


def _undecided(verdict: Verdict) -> str:
    sentence, interval = verdict.undecided, verdict.interval
    if sentence is None or interval is None:
        return ""
    low, high = (format_value(verdict.gate.metric, edge) for edge in (interval.low, interval.high))
    chinese = (
        f"{interval.count} 个样本还不足以判定：总体可能在 {low} 到 {high} 之间（95 % 置信），界限也在其中；请多测一些"
    )
    return f'<br><span class="soft">{both(escape(sentence), chinese)}</span>'


def _models(report: Report) -> str:
    models = list(report.metrics)
    rows = []
    for name in report.names:
        values = {model: report.metrics[model][name] for model in models if name in report.metrics[model]}
        top = report.best(name)
        cells = "".join(
            _figure(name, values.get(model), values, model in top, report.interval(model, name)) for model in models
        )
        what = both(
            escape(MEANINGS.get(name, "lm-evaluation-harness")), CHINESE.get(name, "lm-evaluation-harness 任务")
        )
        rows.append(f'<tr><th scope="row">{escape(name)}<small>{what}</small></th>{cells}</tr>')
    figures = table([both("metric", "指标"), *map(escape, models)], rows)
    note = ""
    if report.intervals:
        english = "Small figures: where the figure of all such rows and answers lies, with 95 % confidence."
        note = f'<p class="soft">{both(english, "小字：同类数据总体的数值所在范围（95 % 置信区间）。")}</p>'
    return f"<section><h2>{both('Models side by side', '模型对比')}</h2>{figures}{note}{_judge(report.content)}{_gaps(report.content)}{_samples(report)}</section>"


def _samples(report: Report) -> str:
    if not report.samples:
        return ""
    files = ", ".join(f"<code>samples/{escape(model)}.jsonl</code>" for model in report.samples)
    words = both("Every question of the tasks, with what was made of it", "各项任务的每一道题和模型的作答")
    return f'<p class="soft">{words}: {files}</p>'


def _judge(content: Mapping[str, Any]) -> str:
    """Who compared answers, and how far its own word can be relied on."""
    judge = content.get("judge")
    if judge is None:
        return ""
    uri, against = escape(judge["uri"]), escape(judge["against"])
    same = ", ".join(
        f"{escape(name)} {format_value('winRate', share)}" for name, share in judge["sameInBothOrders"].items()
    )
    english = f"Wins, ties and losses are against {against}, by {uri}, each pair in both orders. It said the same in both orders of: {same}."
    chinese = (
        f"胜、平、负都是与 {against} 相比，由 {uri} 评判，每一对都按两种顺序评判。两种顺序下结论一致的比例：{same}。"
    )
    return f'<p class="soft">{both(english, chinese)}</p>'


def _gaps(content: Mapping[str, Any]) -> str:
    """What could not be measured of a model."""
    lines = []
    for model in content["models"]:
        for gap in model["notMeasured"]:
            names, model_name = escape(", ".join(gap["metrics"])), escape(model["name"])
            english = f"{model_name}: not measured: {names}: {escape(gap['why'])}"
            chinese = f"{model_name}：没有测量 {names}：{escape(gap['whyInChinese'])}"
            lines.append(f"<li>{both(english, chinese)}</li>")
    return f'<ul class="soft">{"".join(lines)}</ul>' if lines else ""


def _figure(name: str, value: float | None, values: Mapping[str, float], is_best: bool, interval: str) -> str:
    """A cell with a bar: of a share its part of the whole, else of the largest value."""
    bar = ""
    if value is not None and math.isfinite(value) and value >= 0:
        top = (
            1.0
            if name in AS_SHARE or "/acc" in name
            else max(other for other in values.values() if math.isfinite(other))
        )
        bar = f'<span class="bar" style="width: {100 * value / top if top else 0:.1f}%"></span>'
    around = f"<small>{interval}</small>" if interval else ""
    return f"<td{' class=best' if is_best else ''}>{format_value(name, value)}{around}{bar}</td>"


def _categories(report: Report) -> str:
    """A row a category and figure, a column a model."""
    content = report.content
    if "questions" not in content:
        return ""
    models = content["models"]
    rows = []
    for category in dict.fromkeys(question["category"] for question in content["questions"]):
        there = [name for name in BY_CATEGORY if any(name in model["categories"][category] for model in models)]
        for number, name in enumerate(there):
            first = escape(category) if number == 0 else ""
            cells = "".join(_of_category(model, category, name) for model in models)
            rows.append(f'<tr><th scope="row">{first}</th><td>{escape(name)}</td>{cells}</tr>')
    names = [escape(model["name"]) for model in models]
    figures = table([both("category", "类别"), both("metric", "指标"), *names], rows)
    return f"<details><summary>{both('Figures by category', '按类别的指标')}</summary>{figures}</details>"


def _of_category(model: Mapping[str, Any], category: str, name: str) -> str:
    value, edges = of_category(model, category, name)
    return f"<td>{value}{f'<small>{edges}</small>' if edges else ''}</td>"


def _questions(report: Report) -> str:
    content = report.content
    if "questions" not in content:
        return ""
    categories = list(dict.fromkeys(question["category"] for question in content["questions"]))
    entries = [_question(number, question) for number, question in enumerate(content["questions"], start=1)]
    labels = [(category, escape(category)) for category in categories]
    return articles(both("Questions", "问题"), _decoding(content), labels, entries)


def _decoding(content: Mapping[str, Any]) -> str:
    generation = content["generation"]
    limit = generation["maxNewTokens"]
    greedy = generation["temperature"] == 0
    english = f"At most {limit} tokens, " + (
        "the likeliest token each time."
        if greedy
        else f"drawn at temperature {generation['temperature']:g} with seed {generation['seed']}."
    )
    chinese = f"最多 {limit} 个词元，" + (
        "每次取最可能的词元。" if greedy else f"温度 {generation['temperature']:g}，随机种子 {generation['seed']}。"
    )
    system = content["systemPrompt"]
    prompt = f"<br>{both('System prompt', '系统提示')}: {escape(system)}" if system else ""
    return f'<p class="soft">{both(english, chinese)}{prompt}</p>'


def _question(number: int, question: Mapping[str, Any]) -> str:
    reference = ""
    if question["reference"]:
        reference = f"<details><summary>{both('What a good answer says', '参考答案')}</summary><p>{escape(question['reference'])}</p></details>"
    before = "".join(f"<p>{escape(one['role'])}: {escape(one['content'])}</p>" for one in question["before"])
    if before:
        reference = (
            f"<details><summary>{both('What was said before', '此前的对话')}</summary>{before}</details>{reference}"
        )
    answers = "".join(_answer(name, answer) for name, answer in question["answers"].items())
    return (
        f'<article data-category="{escape(question["category"])}"><span class="soft">{number} · {escape(question["category"])}</span>'
        f'<h3>{escape(question["question"])}</h3>{reference}<div class="answers">{answers}</div></article>'
    )


def _answer(name: str, answer: Mapping[str, Any]) -> str:
    text = (
        f"<p>{escape(answer['text'])}</p>" if answer["text"] else f'<p class="empty">{both("(nothing)", "（空）")}</p>'
    )
    ending = both(escape(ENDINGS[answer["ending"]]), ENDINGS_ZH[answer["ending"]])
    facts = [
        f'<span class="{"soft" if answer["ending"] == "Stopped" else "soft cut"}">{ending}</span>',
        _fact(both(f"{answer['tokens']} tokens", f"{answer['tokens']} 词元")),
    ]
    if answer["repetition"] >= 0.1:
        repeated = f"{100 * answer['repetition']:.0f} %"
        facts.append(_fact(both(f"{repeated} repeated", f"重复 {repeated}")))
    if "scores" in answer:
        facts.append(
            _fact(" · ".join(f"{name} {format_value(name, score)}" for name, score in answer["scores"].items()))
        )
    judged = ""
    if "judgement" in answer:
        found = answer["judgement"]
        facts.append(_fact(f"<b>{both(*OUTCOMES.get(found['outcome'], NO_VERDICT))}</b>"))
        said = "".join(f"<p>{escape(found[order])}</p>" for order in ("first", "second"))
        judged = f"<details><summary>{both('What the judge said', '评判模型的话')}</summary>{said}</details>"
    return f'<section class="answer"><header><h4>{escape(name)}</h4>{"".join(facts)}</header>{text}{judged}</section>'


def _fact(markup: str) -> str:
    return f'<span class="soft">{markup}</span>'


def _footer(content: Mapping[str, Any]) -> str:
    """What was measured on what, for whoever wants to measure it again."""
    rows: list[tuple[str, str]] = []
    for model in content["models"]:
        facts = [model["uri"], *(f"+ {uri}" for uri in model["adapters"]), model["kind"], model.get("weights", "")]
        facts += [f"template {model['template']}"] if model["template"] else []
        facts += [f"{count:,} {MEASURED_ON[what]}" for what, count in model["measuredOn"].items()]
        facts.append(model["digest"])
        rows.append((model["name"], " · ".join(fact for fact in facts if fact)))
    rows += [("", line) for line in content.get("heldOut", {}).get("lines", ())]
    return f"<footer><dl>{definitions(rows)}</dl></footer>"
