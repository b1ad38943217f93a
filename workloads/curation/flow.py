"""A picture of where documents went: from each source, as a band, to training, to validation, and to each reason for being dropped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, BOX = 900, 190, 640, 14
"""Of the picture, and where the boxes of sources and of ends stand."""
HEIGHT, GAP, LEAST = 320, 10, 2
"""Of all bands together, between boxes, and of a band at least."""

Source = Mapping[str, Any]


def picture(sources: Mapping[str, Source], chinese: Mapping[str, str]) -> str:
    """An SVG, which needs nothing but itself. ``chinese`` has the Chinese words for ends."""
    bands = {(name, end): count for name, source in sources.items() for end, count in _ends(source).items() if count}
    whole = sum(bands.values())
    if not whole:
        return ""
    heights = {band: max(LEAST, HEIGHT * count / whole) for band, count in bands.items()}
    ends = list(
        dict.fromkeys(
            end for _, end in sorted(bands, key=lambda band: (band[1] not in ("train", "validation"), band[1]))
        )
    )
    from_tops, left_boxes = _stacked([[band for band in bands if band[0] == name] for name in sources], heights)
    to_tops, right_boxes = _stacked([[band for band in bands if band[1] == end] for end in ends], heights)
    parts = [_band(band, from_tops[band], to_tops[band], heights[band], bands[band]) for band in bands]
    for (top, height), name in zip(left_boxes, sources, strict=True):
        if height:
            total = sum(count for (source, _), count in bands.items() if source == name)
            parts.append(
                _box(LEFT, top, height, "source") + _label(LEFT - 8, top + height / 2, f"{name} {total:,}", "end")
            )
    for (top, height), end in zip(right_boxes, ends, strict=True):
        total = sum(count for (_, other), count in bands.items() if other == end)
        kind = "kept" if end in ("train", "validation") else "dropped"
        parts.append(_box(RIGHT, top, height, kind))
        for language, word in (("en", end), ("zh", chinese.get(end, end))):
            parts.append(_label(RIGHT + BOX + 8, top + height / 2, f"{word} {total:,}", "start", language))
    bottom = max(top + height for top, height in (*left_boxes, *right_boxes)) + GAP
    return f'<svg class="flow" viewBox="0 0 {WIDTH} {bottom:.0f}" role="img" aria-label="Documents by source and end">{"".join(parts)}</svg>'


def _ends(source: Source) -> dict[str, int]:
    kept = {part: int(source[part]["documents"]) for part in ("train", "validation")}
    return kept | {reason: int(amount["documents"]) for reason, amount in source["dropped"].items()}


Band = tuple[str, str]


def _stacked(
    boxes: list[list[Band]], heights: Mapping[Band, float]
) -> tuple[dict[Band, float], list[tuple[float, float]]]:
    """Where each band begins in its box, and top and height of each box; a box has room for its label."""
    tops: dict[Band, float] = {}
    found = []
    top = float(GAP)
    for box in boxes:
        inner = top
        for band in box:
            tops[band] = inner
            inner += heights[band]
        found.append((top, inner - top))
        top += max(inner - top, 16 if box else 0) + GAP
    return tops, found


def _band(band: Band, start: float, end: float, height: float, count: int) -> str:
    x, y = LEFT + BOX, RIGHT
    middle = (x + y) / 2
    path = (
        f"M{x},{start:.1f} C{middle},{start:.1f} {middle},{end:.1f} {y},{end:.1f} "
        f"L{y},{end + height:.1f} C{middle},{end + height:.1f} {middle},{start + height:.1f} {x},{start + height:.1f} Z"
    )
    kept = ' class="kept"' if band[1] in ("train", "validation") else ""
    return f'<path{kept} d="{path}"><title>{escape(band[0])} → {escape(band[1])}: {count:,}</title></path>'


def _box(x: int, top: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x}" y="{top:.1f}" width="{BOX}" height="{height:.1f}"/>'


def _label(x: int, y: float, text: str, anchor: str, language: str = "") -> str:
    return f'<text class="{language}" x="{x}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central">{escape(text)}</text>'
