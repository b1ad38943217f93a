"""A corpus that two pods make on a real node: one of them is killed, and nothing but its own part is made again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_INDEX
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.installation import Installation
from tests.cluster.team import PATIENCE, Team, rows_of
from tests.cluster.test_nodes import kill
from tests.workloads.curation.corpora import write_lines
from tests.workloads.literature import chinese
from tests.workloads.test_dataset import published
from tests.workloads.test_dataset_nodes import start as start_here

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NAME = "poems"
SLOW = 3 * PATIENCE
ENV = [{"name": "OMP_NUM_THREADS", "value": "1"}]


def job(**spec: Any) -> Manifest:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "DatasetJob",
        "metadata": {"name": NAME},
        "spec": {
            "sources": [{"uri": "pvc://data/web"}],
            "filters": {"minCharacters": 20},
            "deduplicate": {"near": {}},
            "split": {"validationDocuments": 20},
            "parallelism": {"nodes": 2, "processesPerNode": 1},
            "output": {"uri": "pvc://data/out"},
            "pod": {"env": ENV},
            **spec,
        },
    }


def write_raw(folder: Path) -> None:
    """Eight shares of pages, some of which come twice."""
    lines = chinese(20_000)
    pages = ["\n".join(lines[start : start + 40]) for start in range(0, len(lines), 40)]
    for number in range(8):
        write_lines(folder / f"{number}.jsonl", [page.replace("山", "水", number) for page in pages])
    assert all(path.stat().st_size > 1 << 20 for path in folder.iterdir())


def of_index(team: Team, index: int) -> list[Manifest]:
    return [pod for pod in team.pods(NAME) if pod["metadata"]["labels"][LABEL_INDEX] == str(index)]


def test_one_of_two_pods_is_killed_and_the_corpus_is_what_one_process_makes(
    mine: Team, operator: Installation, tmp_path: Path
) -> None:
    write_raw(mine.data / "web")
    manifest = job()
    mine.apply(manifest)
    stages = mine.data / "out.checkpoints" / "curation"
    until(lambda: any(stages.glob("reading-*/completions/*")), "the first share", SLOW, every=0.05)
    [victim] = of_index(mine, 1)
    kill(mine, victim)
    done = mine.wait(manifest, "Succeeded", seconds=SLOW)

    assert len(of_index(mine, 0)) == 1, "the other went on"
    assert next(pod["metadata"]["name"] for pod in of_index(mine, 1)) == victim["metadata"]["name"]
    [attempt] = done["status"]["attempts"]
    assert (attempt["pod"], attempt["exitCode"]) == (victim["metadata"]["name"], 128 + signal.SIGKILL)
    assert done["status"]["restarts"] == {"user": 1, "infra": 0, "total": 1}
    progress = done["status"]["progress"]
    assert progress["display"] == f"{progress['step']}/{progress['step']} 100%"
    assert done["status"]["metrics"]["documentsRead"] == 8 * 500
    [row] = rows_of(mine.kubectl("get", "datasetjobs"))
    assert (row["STATE"], row["PROGRESS"], row["RESTARTS"]) == ("Succeeded", progress["display"], "1")
    until(lambda: is_complete(mine), "the Job to end, too", PATIENCE)

    (tmp_path / "web").symlink_to(mine.data / "web")
    alone = start_here(tmp_path, None).end(900)
    assert alone.code == 0, alone.err
    assert published(mine.data / "out") == published(tmp_path / "out")
    assert not stages.exists()


def is_complete(team: Team) -> bool:
    child = team.bed.get("job", f"{NAME}-dataset", "-n", team.namespace)
    return any(one["type"] == "Complete" and one["status"] == "True" for one in child["status"]["conditions"])
