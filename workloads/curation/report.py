"""The report on a corpus: report.json, whose numbers add up, a page that shows them, and a card of the data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alpaca_operator.api.dataset import DatasetJob
from workloads.curation import frequent, page, paragraphs
from workloads.curation.frequent import Tokens
from workloads.curation.ledger import KEPT, READ, REPEATED, VALIDATION, Amount, Ledger
from workloads.curation.result import Corpus
from workloads.storage.contents import REPORT_FILE
from workloads.system.markdown import front_matter, table

HELD = {
    "Text": "A row a document: `text`",
    "Conversations": "A row a conversation: `messages`, `tools` where there are, `row` with what else its row had",
}
"""What a row of the output has, by the content."""
CARD, PAGE = "README.md", "report.html"


def write(job: DatasetJob, corpus: Corpus, folder: Path, tokens: Tokens | None = None) -> None:
    """All three. None holds a time or a place of this machine: equal corpora have equal reports. ``tokens`` counts those of a text."""
    content = as_dict(corpus, tokens)
    (folder / REPORT_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page.render(job.metadata.name, content), encoding="utf-8")
    (folder / CARD).write_text(card(job, corpus, content), encoding="utf-8")


def as_dict(corpus: Corpus, tokens: Tokens | None = None) -> dict[str, Any]:
    """Of each source: read = train + validation + dropped by each reason, in documents; and in characters and bytes with what rules took out."""
    ledger = corpus.ledger
    return {
        "total": {"read": corpus.read.as_dict(), "kept": corpus.kept.as_dict()},
        "sources": {origin.name: _of_source(ledger, origin.name, tokens) for origin in corpus.work.origins},
        "mixture": _mixture(corpus),
        "dropped": {
            reason: {**amount.as_dict(), "examples": _examples(ledger, "dropped", reason)}
            for reason, amount in corpus.dropped().items()
        },
        "changed": {
            rule: {
                "sentence": _sentences(corpus, rule)[0],
                "chinese": _sentences(corpus, rule)[1],
                "documents": amount.documents,
                "charactersRemoved": amount.characters,
                "bytesRemoved": amount.bytes,
                "examples": _examples(ledger, "changed", rule),
            }
            for rule, amount in corpus.changed().items()
        },
        **({"clusters": corpus.clusters} if corpus.clusters is not None else {}),
        "notes": [
            {"what": sentence, "count": count, "first": _without_folder(where)}
            for sentence, (count, where) in ledger.notes.items()
        ],
    }


def _without_folder(where: str) -> str:
    """A place without the folder of its file, which is one of this machine's. What stands behind the name, of a file in an archive or
    of a row, may have slashes too."""
    file, comma, place = where.partition(", ")
    return f"{Path(file).name}{comma}{place}"


def _mixture(corpus: Corpus) -> dict[str, dict[str, float]]:
    """Of each source: how often its documents stand in the training part, and what share of its characters that makes."""
    ledger, found = corpus.ledger, {}
    amounts = {origin.name: Amount() for origin in corpus.work.origins}
    for (source, what, _), amount in ledger.amounts.items():
        if what in (KEPT, REPEATED) and source in amounts:
            amounts[source].add(amount.documents, amount.characters, amount.bytes)
    whole = sum(amount.characters for amount in amounts.values())
    for (name, amount), weight in zip(amounts.items(), corpus.weights, strict=True):
        share = round(amount.characters / whole, 6) if whole else 0.0
        found[name] = {"weight": weight, **amount.as_dict(), "share": share}
    return found


def _of_source(ledger: Ledger, name: str, tokens: Tokens | None) -> dict[str, Any]:
    read, kept = ([text for _, text in ledger.excerpts.get((name, what), [])] for what in (READ, KEPT))

    def amount(what: str) -> dict[str, int]:
        return ledger.amounts.get((name, what, ""), Amount()).as_dict()

    def reasons(what: str) -> dict[str, dict[str, int]]:
        return {
            reason: found.as_dict()
            for (source, happened, reason), found in sorted(ledger.amounts.items())
            if source == name and happened == what
        }

    return {
        "read": amount(READ),
        "train": amount(KEPT),
        "validation": amount(VALIDATION),
        "repeated": amount(REPEATED),
        "dropped": reasons("dropped"),
        "removedByRules": reasons("changed"),
        "charactersOfDocuments": {
            f"up to {2**bits - 1}": count for bits, count in spread_of(ledger, name, "length").items()
        },
        "chineseShareOfDocuments": {
            f"{tenth / 10:.1f}": count for tenth, count in spread_of(ledger, name, "chinese").items()
        },
        "frequentRuns": {
            part: {"documents": len(texts), "runs": [list(run) for run in frequent.runs(texts)]}
            for part, texts in (("read", read), ("kept", kept))
        },
        **({"charactersPerToken": frequent.characters_per_token(kept, tokens)} if tokens is not None else {}),
    }


def spread_of(ledger: Ledger, name: str, measure: str) -> dict[int, int]:
    """Documents that are kept by what was measured."""
    found = {
        value: count for (source, what, value), count in ledger.spread.items() if (source, what) == (name, measure)
    }
    return dict(sorted(found.items()))


def _examples(ledger: Ledger, what: str, reason: str) -> list[dict[str, str]]:
    return [example for _, example in ledger.samples.get((what, reason), [])]


def _sentences(corpus: Corpus, name: str) -> tuple[str, str]:
    """What a rule does, in English and in Chinese; empty where whoever wrote it does not say."""
    said = {rule.name: (rule.sentence, rule.chinese) for rule in corpus.work.rules}
    return said.get(name, (paragraphs.SENTENCE, paragraphs.CHINESE) if name == paragraphs.RULE else ("", ""))


def card(job: DatasetJob, corpus: Corpus, content: dict[str, Any]) -> str:
    """What is in the folder, for whoever finds it: on a hub, or on a volume years later."""
    ledger = corpus.ledger
    licences = [origin.spec.license for origin in corpus.work.origins]
    header = {
        "language": ["zh"],
        **({"license": sorted({licence or "unknown" for licence in licences})} if any(licences) else {}),
        "task_categories": ["text-generation"],
        "tags": ["literary-alpaca"],
    }
    rows = [
        [
            origin.name,
            origin.spec.license or "not given",
            f"{ledger.amounts[origin.name, READ, ''].documents:,}",
            f"{ledger.amounts[origin.name, KEPT, ''].documents:,}",
            f"{ledger.amounts[origin.name, VALIDATION, ''].documents:,}",
            f"{ledger.amounts[origin.name, KEPT, ''].characters:,}",
            f"{content['mixture'][origin.name]['weight']:g}",
            f"{100 * content['mixture'][origin.name]['share']:.1f} %",
        ]
        for origin in corpus.work.origins
    ]
    dropped = [
        [reason, f"{amount.documents:,}", f"{amount.characters:,}"] for reason, amount in corpus.dropped().items()
    ]
    changed = [
        [rule, f"{amount.documents:,}", f"{amount.characters:,}", _sentences(corpus, rule)[0]]
        for rule, amount in corpus.changed().items()
    ]
    head = ["source", "licence", "documents read", "for training", "for validation", "characters for training", "weight", "share of the mixture"]  # fmt: skip
    parts = [
        front_matter(header),
        f"# {job.metadata.name}\n",
        f"{corpus.kept.documents:,} documents of {corpus.read.documents:,} that were read, {corpus.kept.characters:,} characters. "
        f"{HELD[job.spec.content]}, `source`, `id` (where it stood). Made by Literary Alpaca's DatasetJob; report.json has all counts and examples.\n",
        "## Sources\n",
        table(head, rows),
    ]
    if dropped:
        parts += ["## Left out\n", table(["reason", "documents", "characters"], dropped)]
    if changed:
        parts += ["## Changed\n", table(["rule", "documents", "characters taken out", "what it does"], changed)]
    return "\n".join(parts)
