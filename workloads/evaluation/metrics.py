"""The metrics of a report: their names, what each means, which value is better, and how people read it."""

from __future__ import annotations

import math
from collections.abc import Collection

from alpaca_operator.api.evaluation import EvaluationSpec

OF_ROWS = ("perplexity", "bitsPerByte", "tokenAccuracy", "evalLoss", "evalTokens")
"""Metrics of held-out conversations, the most telling first."""
OF_ANSWERS = (
    "stopRate",
    "repetitionRate",
    "chineseShare",
    "answerTokens",
    "answerCharacters",
    "emptyRate",
    "answerTokensPerSecond",
)
"""Metrics of answers to questions, the most telling first."""
OF_ORIGINAL = ("tokenAgreement", "meanDivergence")
"""Metrics of held-out conversations beside the original."""
OF_REFERENCES = ("exactMatch", "tokenF1", "chrF")
"""Metrics of answers beside references."""
OF_JUDGE = ("winRate", "tieRate", "lossRate")
"""Metrics of answers beside those of another model."""
OF_MODELS = ("peakMemoryBytes", "weightBytes")
"""Metrics of a model, whatever is measured."""
MEANINGS = {
    "perplexity": "e to the loss per token; compares models of one vocabulary",
    "bitsPerByte": "bits per byte of the answers; compares any two models; lower is better",
    "tokenAccuracy": "share of the answers' tokens that the model held for the likeliest",
    "evalLoss": "nats per token of the answers",
    "evalTokens": "tokens of the answers that were scored",
    "tokenAgreement": "share of the positions where the likeliest token is the original's",
    "meanDivergence": "mean Kullback-Leibler divergence from the original, in nats a token",
    "exactMatch": "share of the answers that are the reference, but for punctuation and capitals",
    "tokenF1": "words (characters in Chinese) that answer and reference share, as F1",
    "chrF": "stretches of up to six characters that answer and reference share (chrF2)",
    "winRate": "share of the questions where the judge prefers this model's answer in both orders",
    "tieRate": "share of the questions where the judge prefers none, or by their order",
    "lossRate": "share of the questions where the judge prefers the other's answer in both orders",
    "stopRate": "share of the answers that the model ended by itself",
    "repetitionRate": "share of stretches of four words that an answer has had before",
    "chineseShare": "share of the letters that are Chinese characters",
    "answerTokens": "tokens of an answer",
    "answerCharacters": "characters of an answer",
    "emptyRate": "share of the answers with nothing in them",
    "answerTokensPerSecond": "tokens written a second, over a batch",
    "peakMemoryBytes": "most memory that the process held with this model",
    "weightBytes": "bytes of the model's files",
}
BETTER = {
    "perplexity": min,
    "bitsPerByte": min,
    "tokenAccuracy": max,
    "evalLoss": min,
    "stopRate": max,
    "repetitionRate": min,
    "tokenAgreement": max,
    "meanDivergence": min,
    "exactMatch": max,
    "tokenF1": max,
    "chrF": max,
    "winRate": max,
    "lossRate": min,
}
"""Where one value is better than another whatever one is after."""
OF_ONE_VOCABULARY = {"perplexity", "evalLoss", "tokenAccuracy"}
"""Per token, so that values of different vocabularies do not compare."""
AS_SHARE = {
    "tokenAccuracy",
    "stopRate",
    "repetitionRate",
    "chineseShare",
    "emptyRate",
    "tokenAgreement",
    *OF_REFERENCES,
    *OF_JUDGE,
}
AS_BYTES = {"peakMemoryBytes", "weightBytes"}


def names_of(spec: EvaluationSpec, of_tasks: Collection[str] = ()) -> list[str]:
    """The metrics that the report will have, those of tasks by their own names."""
    return [
        *(OF_ROWS if spec.dataset is not None else ()),
        *(OF_ORIGINAL if spec.original is not None else ()),
        *(OF_ANSWERS if spec.prompts is not None else ()),
        *(OF_REFERENCES if spec.prompts is not None and spec.prompts.preset is None else ()),
        *(OF_JUDGE if spec.judge is not None else ()),
        *of_tasks,
        *OF_MODELS,
    ]


MEASURED_ON = {
    "rows": "rows",
    "rowTokens": "tokens of answers in them",
    "answers": "answers",
    "questionTokens": "tokens of questions",
    "answerTokens": "tokens written",
    "taskQuestions": "questions of tasks",
    "references": "references",
    "judgements": "judgements",
    "withoutVerdict": "of them without a verdict",
}
"""What figures rest on, in words."""


def format_interval(metric: str, low: float, high: float) -> str:
    """``61.0 % – 100.0 %``."""
    return f"{format_value(metric, low)} – {format_value(metric, high)}"


def is_share(metric: str) -> bool:
    """Whether it is read in percent, those of tasks among them."""
    return metric in AS_SHARE or metric.rpartition("/")[2].startswith(("acc", "exact_match"))


def format_value(metric: str, value: float | None) -> str:
    """As people read it: a share in percent, bytes in MiB or GiB, a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "—" if value is None else "∞" if value > 0 else "NaN"
    if metric in AS_BYTES:
        return f"{value / 2**20:,.1f} MiB" if value < 2**30 else f"{value / 2**30:,.2f} GiB"
    if is_share(metric):
        return f"{100 * value:.1f} %"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
