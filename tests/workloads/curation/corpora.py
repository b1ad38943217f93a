"""A corpus made in this process of texts that a test gives."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alpaca_operator.api import DatasetJob
from alpaca_operator.api.sources import sources
from workloads import dataset
from workloads.data import files
from workloads.storage.sources import Input, Inputs


@dataclass
class Made:
    """What became of the texts."""

    folder: Path
    report: dict[str, Any]
    metrics: dict[str, float | None]
    said: list[str]

    def rows(self, part: str = "train") -> list[dict[str, str]]:
        return [record for path in sorted((self.folder / part).glob("*")) for _, record in files.records(path)]

    def texts(self, part: str = "train") -> list[str]:
        return [row["text"] for row in self.rows(part)]

    def dropped(self, reason: str) -> int:
        return int(self.report["dropped"].get(reason, {"documents": 0})["documents"])


def write_lines(path: Path, texts: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")


def make(folder: Path, texts: Mapping[str, Sequence[str]], name: str = "out", **spec: Any) -> Made:
    """A DatasetJob over a file for each source, whose spec is ``spec`` besides."""
    for source, lines in texts.items():
        write_lines(folder / f"{source}.jsonl", lines)
    named = [{"name": source, "uri": str(folder / f"{source}.jsonl")} for source in texts]
    return run(folder, name, sources=[*named, *spec.pop("sources", [])], **spec)


class Lost(Exception):
    """The machine died."""


def run(folder: Path, name: str = "out", *, node: int | None = None, dies: bool = False, **spec: Any) -> Made:
    """``node``: one of the machines of `parallelism.nodes`, of which the first gives what was made. With ``dies`` it is lost while it publishes."""
    job = DatasetJob.model_validate(
        {
            "kind": "DatasetJob",
            "metadata": {"name": "poems"},
            "spec": {"output": {"uri": name}, "parallelism": {"processesPerNode": 1}, **spec},
        }
    )
    found = Inputs()
    for field, source in sources(job.spec):
        path = Path(str(source.uri))
        content = b"".join(file.read_bytes() for file in ([path] if path.is_file() else sorted(path.rglob("*.*"))))
        found[field] = Input(str(source.uri), path, f"sha256:{hashlib.sha256(content).hexdigest()}")
    said: list[str] = []

    @contextmanager
    def output(kind: str, metrics: Any) -> Iterator[Path]:
        assert kind == "Dataset"
        (folder / name).mkdir()
        yield folder / name
        if dies:
            shutil.rmtree(folder / name)
            raise Lost

    def nothing(*_: Any, **__: Any) -> None:
        return None

    runtime: Any = SimpleNamespace(
        job=job,
        inputs=found,
        group=None if node is None else "group",
        distributed=SimpleNamespace(rank=node or 0),
        cache=folder / "cache",
        cache_is_kept=True,
        stop=SimpleNamespace(interruptible=lambda *_: nullcontext(), check=nothing),
        progress=SimpleNamespace(log=said.append, update=nothing, heartbeat=nothing),
        output=output,
    )
    metrics = dataset.run(job, runtime)
    if node:
        return Made(folder / name, {}, metrics, said)
    report = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
    return Made(folder / name, report, metrics, said)
