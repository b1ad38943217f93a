"""What a new vocabulary gains and what was checked: report.json, and a README.md with a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_operator.api.tokenizer import TokenizerJob
from workloads.system.markdown import plain
from workloads.vocabulary.checks import Agreement, RoundTrip
from workloads.vocabulary.extend import Merged
from workloads.vocabulary.train import META_PIECES, Trained

PICTURE = "characters-per-token.png"
REPORT = "report.json"
EXAMPLES = 5
"""Sentences shown cut by the base and by the new vocabulary."""
SHOWN = 200
"""Most characters of such a sentence, and most entries of a list of differences."""
LEFT_OUT = {
    "inBase": "the base has them already",
    "spaceBeforeChinese": "a space in front of Chinese, which is written without",
    "latin": "Latin text, which the base's own pieces go on cutting as before",
    "unreachable": "no text is ever cut into them",
    "aboveMaxSize": "the lowest ranked, beyond merge.maxSize or the last multiple of 64",
}
"""Why trained pieces were not taken."""


@dataclass(frozen=True)
class Report:
    """The figures of one TokenizerJob."""

    job: TokenizerJob
    base_uri: str
    base_pieces: int
    trained: Trained
    merged: Merged
    characters_per_token: Mapping[str, float]
    """By tokenizer: ``base``, ``ours``, then the names of compareWith."""
    agreement: Agreement
    """Of sentencepiece and `tokenizers` on the new vocabulary."""
    latin: Agreement
    """Of the base and the new vocabulary on English."""
    round_trips: Mapping[str, RoundTrip]
    """By reader of the new vocabulary."""
    base_round_trip: RoundTrip
    examples: Sequence[tuple[str, list[str], list[str]]]
    """A sentence, its pieces by the base, its pieces now."""

    @property
    def pieces(self) -> int:
        return len(self.merged.proto.pieces)

    @property
    def gain(self) -> float:
        """How many times shorter a text gets."""
        return self.characters_per_token["ours"] / self.characters_per_token["base"]

    def metrics(self) -> dict[str, float | None]:
        """For the status and artifact.json."""
        return {
            "pieces": float(self.pieces),
            "piecesAdded": float(len(self.merged.added)),
            "charactersPerToken": round(self.characters_per_token["ours"], 4),
            "charactersPerTokenBase": round(self.characters_per_token["base"], 4),
            "huggingFaceAgreement": round(self.agreement.share, 6),
            "englishUnchanged": round(self.latin.share, 6),
            "charactersLost": float(max(len(trip.lost) for trip in self.round_trips.values())),
        }

    def lines(self) -> list[str]:
        """For the log."""
        ours, base = self.characters_per_token["ours"], self.characters_per_token["base"]
        others = [
            f"{name} {value:.3f}" for name, value in self.characters_per_token.items() if name not in ("base", "ours")
        ]
        left_out = ", ".join(f"{count:,} {LEFT_OUT[reason]}" for reason, count in self.merged.left_out.items())
        lines = [
            f"{len(self.merged.added):,} pieces added to {self.base_pieces:,}: {self.pieces:,} in all"
            + (f"; left out: {left_out}" if left_out else ""),
            f"characters per token: {base:.3f} before, {ours:.3f} after ({self.gain:.2f} times)"
            + (f"; {', '.join(others)}" if others else ""),
            f"sentencepiece and tokenizers give the same ids for {_of(self.agreement)} lines; English is cut as before in {_of(self.latin)} lines",
        ]
        for reader, trip in self.round_trips.items():
            lost = f"all but {len(trip.lost):,}" if trip.lost else "all"
            lines.append(f"{lost} of Unicode's {trip.characters:,} characters come back unchanged ({reader})")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        trained, tally = self.trained, self.trained.tally
        return {
            "pieces": {
                "base": self.base_pieces,
                "added": len(self.merged.added),
                "addedCharacters": sum(len(piece) == 1 for piece in self.merged.added),
                "total": self.pieces,
                "leftOut": self.merged.left_out,
            },
            "charactersPerToken": {name: round(value, 4) for name, value in self.characters_per_token.items()},
            "measuredOn": {
                "sentences": len(trained.held_out),
                "characters": sum(map(len, trained.held_out)),
            },
            "huggingFaceAgreement": _agreement(self.agreement),
            "englishUnchanged": _agreement(self.latin),
            "roundTrip": {
                reader: {"characters": trip.characters, "lost": [f"U+{code:04X}" for code in trip.lost[:SHOWN]], "lostCount": len(trip.lost)}
                for reader, trip in {"base": self.base_round_trip, **self.round_trips}.items()
            },
            "training": {
                "vocabSize": self.job.spec.train.vocab_size,
                "characterCoverage": trained.character_coverage,
                "sentences": trained.sentences,
                "notes": trained.notes,
            },
            "corpus": {
                "files": tally.files,
                "bytes": tally.bytes,
                "characters": tally.characters,
                "rows": tally.rows,
                "encodings": dict(tally.encodings),
                "problems": {
                    problem: {"count": count, "first": tally.examples[problem]}
                    for problem, count in tally.problems.items()
                },
                "badRows": dict(tally.bad.counted),
                "leftOut": tally.left_out,
            },
            "examples": [
                {"text": text[:SHOWN], "base": before[:SHOWN], "ours": after[:SHOWN]}
                for text, before, after in self.examples
            ],
        }  # fmt: skip


def write(report: Report, folder: Path) -> None:
    """report.json, README.md and the picture it shows."""
    (folder / REPORT).write_text(json.dumps(report.as_dict(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    picture(report.characters_per_token, folder / PICTURE)
    (folder / "README.md").write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The page, as Markdown with the header that the Hugging Face hub reads."""
    name = report.job.metadata.name
    trained, merged = report.trained, report.merged
    named = {"base": f"the base, `{report.base_uri}`", "ours": "this one"}
    parts = [
        "---\nlibrary_name: transformers\ntags: [literary-alpaca, tokenizer]\n---\n",
        f"# {name}\n",
        f"The tokenizer `{report.base_uri}` with {len(merged.added):,} new pieces behind its {report.base_pieces:,}, made by `TokenizerJob` "
        f"`{name}` of Literary Alpaca. Text takes {report.gain:.2f} times fewer tokens. A model needs {report.pieces:,} embedding rows for it.\n",
        "## Use\n",
        '```python\nfrom transformers import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("<this folder>")\n```\n',
        "`tokenizer.model` is the same vocabulary for sentencepiece, `tokenizer.json` for the `tokenizers` library.\n",
        "## Characters per token\n",
        f"![Characters per token]({PICTURE})\n",
        _table(
            ("tokenizer", "characters per token"),
            [(named.get(who, who), f"{value:.3f}") for who, value in report.characters_per_token.items()],
        ),
        f"Measured on {len(trained.held_out):,} sentences of the text"
        + (" that were set aside.\n" if trained.sentences > len(trained.held_out) else ".\n"),
        "## Checks\n",
        _table(
            ("check", "result"),
            [
                ("sentencepiece and `tokenizers` give the same ids", f"{_of(report.agreement)} lines"),
                ("English is cut as by the base", f"{_of(report.latin)} lines"),
                *(
                    (f"characters of Unicode that come back unchanged ({who})", f"{trip.characters - len(trip.lost):,} of {trip.characters:,}")
                    for who, trip in report.round_trips.items()
                ),
            ],
        ),
        "## Pieces\n",
        _table(
            ("trained pieces", "count"),
            [
                ("added", f"{len(merged.added):,}"),
                *((LEFT_OUT[reason], f"{count:,}") for reason, count in merged.left_out.items()),
                ("bytes and control tokens, which are the base's", f"{META_PIECES}"),
            ],
        ),
        "## Examples\n",
        *(_example(*example) for example in report.examples),
        "## Text\n",
        "".join(f"- {plain(line)}\n" for line in trained.tally.lines() + trained.notes),
        f"The figures behind this page are in `{REPORT}`, inputs with digests in `artifact.json`.\n",
    ]  # fmt: skip
    return "\n".join(parts)


def picture(characters_per_token: Mapping[str, float], path: Path) -> None:
    """A bar for each tokenizer, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(characters_per_token)
    figure = Figure(figsize=(8, 1 + 0.5 * len(names)), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = ["#1f4e8c" if name == "ours" else "#b0c4de" for name in names]
    bars = axes.barh(names, list(characters_per_token.values()), color=colors)
    axes.bar_label(bars, fmt="%.3f", padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("characters per token")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})  # the same figures are the same file


def _of(agreement: Agreement) -> str:
    return f"{agreement.compared - len(agreement.differing):,} of {agreement.compared:,}"


def _agreement(agreement: Agreement) -> dict[str, Any]:
    return {
        "lines": agreement.compared,
        "differing": len(agreement.differing),
        "examples": [line[:SHOWN] for line in agreement.differing[:EXAMPLES]],
    }


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [head, ("---", "---:"), *rows]
    return "".join(f"| {plain(left)} | {right} |\n" for left, right in lines)


def _example(text: str, before: list[str], after: list[str]) -> str:
    def cut(pieces: list[str]) -> str:
        return " ".join(f"`{piece.replace('`', chr(0x2CB))}`" for piece in pieces[:SHOWN])

    return f"{plain(text[:SHOWN])}\n\n- base, {len(before)} tokens: {cut(before)}\n- now, {len(after)} tokens: {cut(after)}\n"
