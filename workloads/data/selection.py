"""Which files of a data set are read for what, and why the others are not: one choice for every reader."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca_operator.api import contract
from workloads.data.opening import REPACK, UNPACK, ending, foreign
from workloads.errors import DataError, InputError
from workloads.storage.contents import REPORT_FILE
from workloads.storage.listing import listed
from workloads.system.describe import shown, some
from workloads.system.os_errors import unreadable

SPLITS = re.compile(r"(?<![a-z])(train|training|validation|valid|val|dev|eval|test)(?![a-z])", re.IGNORECASE)
"""Names of splits in file names, as the Hugging Face hub reads them."""
SPLITS_FOR = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "eval", "test")}
"""The names of the splits that are read for training and for validation, those that are preferred first."""
SPLITS_OF_SAVED, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
"""What the library `datasets` writes beside the rows that it saves."""
DESCRIPTIONS = frozenset((INFO, "dataset_infos.json", STATE, SPLITS_OF_SAVED, contract.ARTIFACT_FILE))
"""JSON that describes a data set, and holds none of its rows."""

OTHER_SPLIT = "other splits not read"
DESCRIBES = "not read, as they describe the data"
STALE = "not read, as the saved data set does not consist of them"


@dataclass
class Selection:
    """The files of a source that are read, in order, and all others with the reason."""

    source: Path
    files: list[Path]
    left_out: dict[str, str] = field(default_factory=dict)
    """By relative path."""

    def by_reason(self) -> dict[str, list[str]]:
        """What is not read: for each reason the relative paths."""
        found: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            found.setdefault(reason, []).append(shown(name))
        return found

    def lines(self) -> Iterator[str]:
        """What is not read, a line a reason."""
        for reason, names in self.by_reason().items():
            yield f"{shown(self.source)}: {reason}: {some(names)}"

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out[path.relative_to(self.source).as_posix()] = reason


def select(path: Path, endings: Collection[str] | None, part: str | None) -> Selection:
    """The files of ``path`` that end in one of ``endings`` (None: in anything) and are for ``part``, sorted by their names.

    ``part`` is train or validation; None takes the files of all splits. A file stands for itself, whatever its name. ``files`` is empty where
    a folder has none. Raises InputError for a path that cannot be looked at, DataError for a saved data set that is damaged.
    """
    if path.is_file():
        return Selection(path.parent, [path])
    if not path.is_dir():
        raise InputError(f"dataset: nothing at {shown(path)}: check the uri")
    try:
        below = listed(path)
    except OSError as error:
        raise unreadable(error, path) from error
    chosen = Selection(path, [], {name: f"not read, {why}" for name, why in below.left_out.items()})
    files = _without_stale([path / name for name in below.files], chosen, part)
    reasons: dict[str, str] = {}
    reports = {file.with_name(REPORT_FILE) for file in files if file.name == contract.ARTIFACT_FILE}
    for file in files:
        if file.name in DESCRIPTIONS or file in reports:
            chosen.leave_out(file, DESCRIBES)
        elif endings is None or ending(file) in endings:
            chosen.files.append(file)
        else:
            kind = file.suffix.lower()
            if kind not in reasons:  # one of a kind is looked at: a folder may hold a million pictures
                reasons[kind] = _not_read(file, endings)
            chosen.leave_out(file, reasons[kind])
    if part is not None:
        fitting = of_part(chosen.files, path, part)
        for file in sorted(set(chosen.files).difference(fitting)):
            chosen.leave_out(file, OTHER_SPLIT)
        chosen.files = fitting
    return chosen


def archives(selection: Selection) -> str:
    """What could be unpacked among the files that are not read, to end an error with."""
    named = {name: why for name, why in selection.left_out.items() if why.startswith(BY_CONTENT)}
    return "".join(f"; {shown(name)} is {why.removeprefix(BY_CONTENT)}" for name, why in list(named.items())[:3])


BY_CONTENT = "not read, each is "


def _not_read(file: Path, endings: Collection[str]) -> str:
    found = foreign(file)
    if found is None:
        return f"not read, as they end in none of {', '.join(sorted(endings))}"
    return f"{BY_CONTENT}{found[0]}" + (f": {found[1]}" if found[1] in (UNPACK, REPACK) else "")


def of_part(files: Sequence[Path], folder: Path, part: str) -> list[Path]:
    """The files of a folder that are for ``part``: all where none says what it is for; else those that say so.

    A file that says nothing is for training where others name another split. Raises DataError where several splits lie there and none
    is for ``part``, and for validation where they are for training.
    """
    named = {
        file: match[1].lower()
        for file in files
        if file != folder and (match := SPLITS.search(str(file.relative_to(folder))))
    }
    if not named:
        return list(files)
    names = [named.get(file, "train") for file in files]
    wanted = _wanted(names, part)
    if not wanted:
        there = ", ".join(sorted(set(names)))
        raise DataError(
            f"{shown(folder)}: its files are of the splits {there}, and none of them is for {part}: name the file in uri, such as {files[0]}"
        )
    return [file for file, name in zip(files, names, strict=True) if name in wanted]


def saved_split(path: Path, names: Sequence[str], part: str) -> str:
    """Which split of a data set that was saved with several is for ``part``. Raises DataError where none says that it is."""
    wanted = _wanted(names, part)
    chosen = next((name for name in (*SPLITS_FOR[part], *names) if name in wanted), None)
    if chosen is None:
        raise DataError(
            f"{shown(path)}: saved with the splits {', '.join(names)}: name one of them in uri, such as {path / names[0]}"
        )
    return chosen


def _wanted(names: Sequence[str], part: str) -> set[str]:
    """Those of the names of splits that are read for ``part``: its own, or the only one there is, if that is not for training alone."""
    found = {name for name in names if name in SPLITS_FOR[part]}
    if not found:
        alone = len(set(names)) == 1 and (part == "train" or names[0] not in SPLITS_FOR["train"])
        return set(names) if alone else set()
    # Where there are both, the rows for validation are not those of the test.
    return found if part == "train" else found - {"test"} or found


# What the library `datasets` saved


def _without_stale(files: Sequence[Path], chosen: Selection, part: str | None) -> list[Path]:
    """``files`` without those in the folders of saved data sets that are no part of these, or of another split."""
    kept = set(files)

    def leave_out(reason: str, stale: Collection[Path]) -> None:
        for file in stale:
            chosen.leave_out(file, reason)
        kept.difference_update(stale)

    for description in [file for file in files if file.name == SPLITS_OF_SAVED]:
        names = _field(description, "splits")
        if part is not None and names:
            home = description.parent
            others = [home / name for name in names if name != saved_split(home, names, part)]
            leave_out(OTHER_SPLIT, [file for file in kept if any(other in file.parents for other in others)])
    for state in [file for file in files if file.name == STATE and file.with_name(INFO) in kept]:
        members = {state.with_name(str(entry["filename"])) for entry in _field(state, "_data_files")}
        missing = sorted(members - set(files))
        if missing:
            raise InputError(f"{shown(missing[0])} is missing, which {shown(state)} names: copy the data set again")
        beside = [file for file in kept if file.parent == state.parent and file.name not in DESCRIPTIONS]
        leave_out(STALE, [file for file in beside if file not in members])
    return [file for file in files if file in kept]


def _field(description: Path, name: str) -> list[Any]:
    try:
        return list(json.loads(description.read_text(encoding="utf-8"))[name])
    except OSError as error:
        raise unreadable(error, description) from error
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{shown(description)}: no description of a saved data set: copy the data set again") from error
