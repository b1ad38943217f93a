"""A DatasetJob whose sources and output lie on S3, in a pod that has no cache."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import zstandard

from tests.workloads.buckets import Store
from tests.workloads.process import Ended, Process
from tests.workloads.test_dataset import environ_of

RAW = "s3://shelf/raw/poems.jsonl.gz"


def run(folder: Path, store: Store, *flags: str, **environ: str) -> Ended:
    manifest: dict[str, Any] = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "DatasetJob",
        "metadata": {"name": "poems"},
        "spec": {
            "sources": [{"uri": RAW}],
            "deduplicate": {"near": {}},
            "split": {"validationDocuments": 2},
            "parallelism": {"processesPerNode": 1},
            "output": {"uri": "s3://shelf/corpus"},
        },
    }
    (folder / "job.json").write_text(json.dumps(manifest), encoding="utf-8")
    pod = {
        "ALPACA_IN_POD": "1",
        "ALPACA_CACHE": "",
        "XDG_CACHE_HOME": str(folder / "pod"),
        "ALPACA_PROGRESS_PORT": "0",
    }
    environment = {**environ_of(folder), **store.environ, **pod, **environ}
    return Process([sys.executable, "-m", "workloads.dataset", "job.json", *flags], folder, environment).end(300)


def put(store: Store, texts: list[str]) -> None:
    """Rows as dumps have them: packed."""
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    store.put(RAW.removeprefix("s3://"), gzip.compress(rows.encode()))


def test_stages_lie_in_the_pod_until_the_corpus_is_in_the_bucket_as_it_was_made(tmp_path: Path, store: Store) -> None:
    put(store, [f"第{number}首，白日依山尽，黄河入海流。" for number in range(20)] * 2)
    ended = run(tmp_path, store)
    assert ended.code == 0, ended.err
    names = store.names("shelf/corpus")
    assert {"artifact.json", "report.json", "report.html", "README.md"} < set(names)
    assert [name for name in names if "/" in name] == [
        "train/00000-00000.jsonl.zst",
        "validation/00000-00000.jsonl.zst",
    ]
    report = json.loads(store.get("shelf/corpus/report.json"))
    assert report["total"]["kept"]["documents"] == 20
    assert any("cache.claimName" in message for message in ended.messages), "what an end of the pod would cost is told"
    assert not list((tmp_path / "pod").rglob("reading-*")), "nothing is left in the pod"
    with zstandard.ZstdDecompressor().stream_reader(store.get("shelf/corpus/train/00000-00000.jsonl.zst")) as rows:
        assert len(rows.read().decode().splitlines()) == 18, "files are packed once, as the artifact has them"

    again = run(tmp_path, store, XDG_CACHE_HOME=str(tmp_path / "another pod"))
    assert (again.code, again.last_word["reason"]) == (0, "Reused"), again.messages
    assert again.last_word["output"]["digest"] == ended.last_word["output"]["digest"]


def test_several_pods_have_to_meet_somewhere(tmp_path: Path, store: Store) -> None:
    put(store, ["白日依山尽"])
    ended = run(tmp_path, store, "--parallelism.nodes", "2", ALPACA_GROUP="uid", ALPACA_NODE="0")
    assert ended.code == 64
    assert ended.last_word["message"] == (
        "parallelism.nodes is 2, and output.uri is s3://shelf/corpus: nodes meet on a volume that all of them mount: set cache.claimName to one "
        "(ReadWriteMany), or parallelism.nodes to 1"
    )
