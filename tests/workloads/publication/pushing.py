"""A push, as tests of every kind of place make it: what it must leave behind, and its death at any request."""

from __future__ import annotations

import json
from pathlib import Path

from alpaca_operator.api.contract import PushedTo
from tests.workloads.publication.made import job, sha256
from workloads.publication.push import push
from workloads.storage.hashing import HashCache
from workloads.system.environment import Environment


def pushed_to_all(folder: Path, *places: str, **publication: object) -> list[PushedTo]:
    """What ``folder`` became at each of the places. What the push keeps lies beside it."""
    environment = Environment.read({"ALPACA_CACHE": str(folder.parent / "cache"), "ALPACA_RUN_ID": "r"})
    digests = HashCache(folder.parent / "digests.json")
    return push(job(folder, *places, **publication), range(len(places)), environment, digests, print)


def pushed(folder: Path, place: str, **publication: object) -> PushedTo:
    (done,) = pushed_to_all(folder, place, **publication)
    return done


def must_be_whole(files: dict[str, bytes]) -> None:
    """Every file that artifact.json names is there, with that content, and no other; the README is among them."""
    listed = {one["path"]: one["sha256"] for one in json.loads(files["artifact.json"])["files"]}
    assert {path: sha256(files[path]) for path in listed} == listed
    assert {path for path in files if path not in (".gitattributes", "artifact.json")} == set(listed)
    assert "README.md" in listed


class Killed(BaseException):
    """Nothing of the program runs any more: no `except Exception`, and no second try, hears of it."""


class Death:
    """Comes at the request with a number: before it is `sent`, or once it was `answered`."""

    def __init__(self) -> None:
        self.number, self.side, self.count = 0, "", 0

    def at(self, number: int, side: str) -> None:
        self.number, self.side, self.count = number, side, 0

    def never(self) -> None:
        self.at(0, "")

    def passes(self, side: str) -> None:
        if side == self.side:
            self.count += 1
            if self.count == self.number:
                raise Killed
