"""The encoding of a text file, told from its byte order mark or from a sample of it."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import IO
from unicodedata import category

from workloads.errors import DataError
from workloads.system.describe import shown

SAMPLE = 128 * 1024
"""Bytes that an encoding is told from, counted from the first that is not ASCII."""
REPLACEMENT = "\ufffd"
"""What stands in a text where bytes could not be decoded."""
MARK = "\ufeff"
"""A byte order mark, decoded: at the start of a file it is no part of the text, whatever encoding was named."""
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CANDIDATES = ("gb18030", "big5hkscs", "utf_16_le", "utf_16_be", "cp932", "euc_jp", "cp949", "cp1252")
"""What is weighed when a file is not UTF-8. GB18030 contains GBK and GB2312."""
UTF8_DAMAGE = 0.05
"""Below this share of undecodable bytes among the non-ASCII ones, a file is UTF-8 with damage rather than another encoding."""
NUL_SHARE = 0.1
"""Above this share of NUL, what decodes as UTF-8 is not: ASCII in UTF-16 is half NUL."""
ODD_SHARE = 0.01
"""Share of characters that may be undecodable, unassigned or controls in a text that is decoded rightly."""
COMMON = frozenset(
    "，。、！？：；“”「」《》的一是不了在人有我他这這中大来來上个個国國到说說们們为為子和你地出道也时時年得就那要下以生会會自着著去之过過家学學对對可"
    "她里裡后後小么麼心多天而能好都然没沒日于於起还還发發成事只作当當想看文无無开開手十用主行方又如前所本见見经經头頭面公同三已老从從动動两兩长長"
    "山风風花春月水云雲"
)
"""Commonest characters and marks of Chinese, of today and of verse: a tenth to a half of any text, and next to none of a text decoded
wrongly, however short it is."""
COMMON_SHARE = 0.05
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949"}
"""The superset that files labelled so are written in."""


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def encoding_of(
    path: Path,
    opened: Callable[[Path], IO[bytes]] = _open,
    remedy: str = "save the file as UTF-8, or remove it",
) -> str:
    """The encoding of a text file, as Python calls it: by its byte order mark, else told from a sample.

    ``opened`` gives its bytes, unpacked. Raises DataError, which ends in ``remedy``, for what is no text.
    """
    with opened(path) as stream:
        sample = _telling_sample(stream)
        whole = len(stream.read(1)) == 0
    for mark, name in BOMS:
        if sample.startswith(mark):
            return name
    if not whole and b"\n" in sample and b"\0" not in sample:
        sample = sample[: sample.rfind(b"\n") + 1]  # what follows may end within a character
    if _looks_like_utf8(sample):
        return "utf-8"
    guess = _by_common_characters(sample)
    if guess is None:
        raise DataError(f"{shown(path)}: its encoding cannot be told, or it is no text: {remedy}")
    return guess


def first_undecodable(stream: IO[bytes], encoding: str) -> tuple[int, str]:
    """Line (from 1) and bytes (in hex) of the first place that does not decode."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    while True:
        chunk = stream.read(1 << 20)
        try:
            line += decoder.decode(chunk, final=not chunk).count("\n")
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding)
            return line + before.count("\n"), error.object[error.start : error.end].hex(" ")
        if not chunk:
            return line, ""


def _telling_sample(stream: IO[bytes]) -> bytes:
    """The start of the file if that holds a byte order mark or anything but ASCII; else from the first such byte on."""
    block = stream.read(SAMPLE)
    while block.isascii() and b"\0" not in block and (following := stream.read(SAMPLE)):
        block = following
    if not block.isascii() and b"\0" not in block:
        start = next(index for index, byte in enumerate(block) if byte > 127)
        line = block.rfind(b"\n", 0, start) + 1
        block = block[line:] + stream.read(line)
    return block


def _looks_like_utf8(sample: bytes) -> bool:
    """Valid, or damaged here and there: text in another encoding has hardly a valid sequence."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(sample)
    if text.count("\0") > len(text) * NUL_SHARE:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(sample)
    except UnicodeDecodeError:
        wrong = text.count(REPLACEMENT)
    else:
        return True
    foreign = sum(not character.isascii() for character in text)
    return wrong <= max(1, foreign * UTF8_DAMAGE) and foreign > wrong


def _by_common_characters(sample: bytes) -> str | None:
    """The candidate under which the sample is text with the most of the COMMON characters; None if it is no text under any."""
    decoded = {name: codecs.getincrementaldecoder(name)("replace").decode(sample) for name in CANDIDATES}
    sound = {name: text for name, text in decoded.items() if _is_text(text)}
    common = {name: _common_share(text) for name, text in sound.items()}
    name = max(common, key=lambda name: common[name], default=None)
    if name is None or common[name] < COMMON_SHARE:
        name = _by_charset_normalizer(sample, sound)
    return name


def _common_share(text: str) -> float:
    """Of the characters that are not ASCII, the share of COMMON ones."""
    foreign = [character for character in text if character > "\x7f"]
    return sum(character in COMMON for character in foreign) / max(1, len(foreign))


def _is_text(text: str) -> bool:
    """Hardly any character is undecodable, unassigned, private or a control."""
    odd = sum(category(character) in ("Cc", "Cn", "Co", "Cs") for character in text) - sum(map(text.count, "\t\n\r\f"))
    return bool(text) and odd + text.count(REPLACEMENT) <= len(text) * ODD_SHARE


def _by_charset_normalizer(sample: bytes, sound: dict[str, str]) -> str | None:
    """For text that is not Chinese, and Chinese of rare characters only."""
    from charset_normalizer import from_bytes

    # One step over the whole sample and a high threshold: verse, with its rare characters, looks a mess by default.
    best = (
        from_bytes(sample, steps=1, chunk_size=16384, threshold=0.9, cp_isolation=list(sound)).best() if sound else None
    )
    return best.encoding if best is not None else next(iter(sound), None)
