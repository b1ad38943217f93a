"""What the report of a corpus shows on its page: where documents went, what rules did, and examples with the changed part marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import zip_longest
from typing import Any

from workloads.curation import flow
from workloads.curation.chinese import REASONS, note
from workloads.system import report_page
from workloads.system.report_page import articles, both, table

ALIKE = "clusters"
"""The category of clusters among the examples."""

Content = Mapping[str, Any]


def render(name: str, content: Content) -> str:
    """The whole page, of what report.json holds."""
    parts = (_summary, _sources, _notes, _mixture, _spread, _frequent, _rules, _examples)
    body = "\n".join(part(content) for part in parts)
    return report_page.render(name, body, "")


def label(reason: str) -> str:
    """A reason in both languages, as markup. What a user named has one name."""
    return both(escape(reason), REASONS[reason]) if reason in REASONS else escape(reason)


def _summary(content: Content) -> str:
    read, kept = content["total"]["read"], content["total"]["kept"]
    share = f"{100 * kept['documents'] / max(1, read['documents']):.1f} %"
    heading = both(
        f"{kept['documents']:,} of {read['documents']:,} documents kept ({share}), {kept['characters']:,} characters",
        f"{read['documents']:,} 篇中留下 {kept['documents']:,} 篇（{share}），共 {kept['characters']:,} 字",
    )
    return f"<section><h2>{heading}</h2>{flow.picture(content['sources'], REASONS)}</section>"


def _sources(content: Content) -> str:
    rows = []
    for name, source in content["sources"].items():
        dropped = sum(amount["documents"] for amount in source["dropped"].values())
        why = " · ".join(f"{label(reason)} {amount['documents']:,}" for reason, amount in source["dropped"].items())
        figures = (source["read"], source["train"], source["validation"])
        cells = "".join(f"<td>{amount['documents']:,}</td>" for amount in figures)
        rows.append(
            f'<tr><th scope="row">{escape(name)}<small>{why}</small></th>{cells}<td>{dropped:,}</td>'
            f"<td>{source['read']['characters']:,}</td><td>{source['train']['characters'] + source['validation']['characters']:,}</td></tr>"
        )
    head = [
        both("source", "来源"), both("read", "读入"), both("for training", "训练"), both("for validation", "验证"), both("dropped", "去除"),
        both("characters read", "读入字数"), both("characters kept", "留下字数"),
    ]  # fmt: skip
    return f"<section><h2>{both('Sources, in documents', '各来源（篇）')}</h2>{table(head, rows)}</section>"


def _notes(content: Content) -> str:
    """What was mended or passed over in files, and where first."""
    if not content["notes"]:
        return ""
    rows = [
        f'<tr><th scope="row">{both(escape(told["what"]), escape(note(told["what"])))}<small>{escape(told["first"])}</small></th>'
        f"<td>{told['count']:,}</td></tr>"
        for told in content["notes"]
    ]
    head = [both("in the files, and where first", "文件中的情况，及首次出现之处"), both("times", "次数")]
    return (
        f"<section><h2>{both('What was mended or passed over', '修正或跳过的内容')}</h2>{table(head, rows)}</section>"
    )


def _mixture(content: Content) -> str:
    """What the training part is made of, and how a tokenizer cuts it."""
    told = any("charactersPerToken" in source for source in content["sources"].values())
    rows = []
    for name, part in content["mixture"].items():
        bar = f'<span class="bar" style="width: {100 * part["share"]:.1f}%"></span>'
        per_token = content["sources"][name].get("charactersPerToken")
        cells = f"<td>{per_token if per_token is not None else '–'}</td>" if told else ""
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td>{part["weight"]:g}</td><td>{part["documents"]:,}</td>'
            f"<td>{part['characters']:,}</td><td>{100 * part['share']:.1f} %{bar}</td>{cells}</tr>"
        )
    head = [both("source", "来源"), both("weight", "权重"), both("documents with copies", "篇数（含重复）"), both("characters", "字数"), both("share", "占比")]  # fmt: skip
    head += [both("characters per token", "每个词元的字数")] if told else []
    return (
        f"<section><h2>{both('What the training part is made of', '训练部分的配比')}</h2>{table(head, rows)}</section>"
    )


def _frequent(content: Content) -> str:
    """The runs of characters that most of the documents have that were drawn: what stands in many is seldom prose."""
    parts = []
    for name, source in content["sources"].items():
        runs = source["frequentRuns"]
        head = [
            cell
            for part, english, chinese in (("read", "as read", "读入时"), ("kept", "as kept", "留下的"))
            for cell in (
                both(english, chinese),
                both(f"of {runs[part]['documents']} documents", f"{runs[part]['documents']} 篇中"),
            )
        ]
        lines = zip_longest(runs["read"]["runs"], runs["kept"]["runs"], fillvalue=("", ""))
        rows = [
            f'<tr><th scope="row">{escape(read)}</th><td>{often}</td><th scope="row">{escape(kept)}</th><td>{still}</td></tr>'
            for (read, often), (kept, still) in lines
        ]
        parts.append(f"<details><summary>{escape(name)}</summary>{table(head, rows)}</details>")
    heading = both("Runs of four letters that most documents have", "最常见的四字片段")
    return f"<section><h2>{heading}</h2>{''.join(parts)}</section>"


def _spread(content: Content) -> str:
    """How long documents are that were kept, and how much of them is Chinese: a bar for each value, of all sources together."""
    parts = []
    for field, heading in (
        ("charactersOfDocuments", both("Characters of the documents kept", "留下的文章的字数")),
        ("chineseShareOfDocuments", both("Chinese characters among them", "其中汉字的比例")),
    ):
        counts: dict[str, int] = {}
        for source in content["sources"].values():
            for value, count in source[field].items():
                counts[value] = counts.get(value, 0) + count
        top = max(counts.values(), default=1)
        rows = [
            f'<tr><th scope="row">{_bound(value)}</th><td>{count:,}<span class="bar" style="width: {100 * count / top:.1f}%"></span></td></tr>'
            for value, count in sorted(counts.items(), key=lambda entry: float(entry[0].rpartition(" ")[2]))
        ]
        parts.append(f"<details><summary>{heading}</summary>{table(['', both('documents', '篇')], rows)}</details>")
    return "".join(parts)


def _bound(value: str) -> str:
    return both(escape(value), escape(value.replace("up to", "至多")))


def _rules(content: Content) -> str:
    if not content["changed"]:
        return ""
    rows = [
        f'<tr><th scope="row">{escape(name)}<small>{_sentence(rule)}</small></th><td>{rule["documents"]:,}</td>'
        f"<td>{rule['charactersRemoved']:,}</td></tr>"
        for name, rule in content["changed"].items()
    ]
    head = [both("rule", "规则"), both("documents changed", "改动的篇数"), both("characters taken out", "去掉的字数")]
    return f"<section><h2>{both('What rules did', '规则做了什么')}</h2>{table(head, rows)}</section>"


def _sentence(rule: Mapping[str, Any]) -> str:
    english, chinese = escape(rule["sentence"]), escape(rule["chinese"])
    return both(english or chinese, chinese or english)


def _examples(content: Content) -> str:
    entries = [*_dropped(content), *_changed(content), *_clusters(content)]
    if not entries:
        return ""
    reasons = [(reason, label(reason)) for reason, found in content["dropped"].items() if found["examples"]]
    rules = [(rule, escape(rule)) for rule in content["changed"]]
    clusters = [(ALIKE, both("clusters", "近似的组"))] if content.get("clusters", {}).get("largest") else []
    note = f'<p class="soft">{both("Drawn by the seed, up to 20 for each reason and rule.", "按种子抽取，每种原因和规则至多 20 例。")}</p>'
    return articles(both("Examples", "例子"), note, [*reasons, *rules, *clusters], entries)


def _dropped(content: Content) -> Iterator[str]:
    for reason, found in content["dropped"].items():
        for example in found["examples"]:
            yield _article(reason, label(reason), example["document"], escape(example["text"]) or "∅")


def _changed(content: Content) -> Iterator[str]:
    for rule, found in content["changed"].items():
        for example in found["examples"]:
            before, removed, added, after = (escape(example[part]) for part in ("before", "removed", "added", "after"))
            marked = f"{before}<del>{_visible(removed)}</del><ins>{_visible(added)}</ins>{after}"
            yield _article(rule, escape(rule), example["document"], marked)


def _clusters(content: Content) -> Iterator[str]:
    for cluster in content.get("clusters", {}).get("largest", ()):
        lines = [f"✓ {escape(cluster['kept'])}", *(f"{like:.3f} {escape(name)}" for name, like in cluster["dropped"])]
        size = both(f"{cluster['size']} alike", f"{cluster['size']} 篇近似")
        yield _article(ALIKE, size, "", "\n".join(lines))


def _visible(text: str) -> str:
    """Line ends and characters that have no shape are shown by signs."""
    shown = text.replace("\n", "⏎\n").replace("\t", "⇥").replace("\u3000", "□")
    return "".join(
        character if character.isprintable() or character == "\n" else f"‹{ord(character):04X}›" for character in shown
    )


def _article(category: str, heading: str, document: str, markup: str) -> str:
    return (
        f'<article data-category="{escape(category)}"><span class="soft">{heading} · {escape(document)}</span>'
        f'<div class="answer"><p>{markup}</p></div></article>'
    )
