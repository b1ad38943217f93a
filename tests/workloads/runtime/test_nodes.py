"""Two machines that train one model, here two launching processes that only the network and a folder connect: they start, stop and
fail as one."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workloads.process import Place, Process

TRAIN = """
import torch.distributed as dist
dist.init_process_group("gloo")
where = runtime.distributed
for step in range(1, job.spec.training.max_steps + 1):
    runtime.progress.update(step=step, total_steps=job.spec.training.max_steps, log=True)
    ranks = where.all_reduce_sum(where.rank, 1)
    if where.any(runtime.stop.requested):
        raise Interrupted(f"stopped after step {step}")
    WHAT
    time.sleep(0.02)
if not where.is_main:
    where.barrier()
    return {}
with runtime.output("LoRAAdapter", {}) as folder:
    (folder / "adapter.safetensors").write_text(f"ranks sum to {ranks[0]:.0f}, {ranks[1]:.0f} of them")
where.barrier()
return {}
"""
BAD_ROW = 'if where.rank == 1 and step == 2: raise DataError("rows.jsonl, row 7: no answer")'
ENDS_LATE = "if where.any(runtime.stop.requested): where.rank == {} and time.sleep(1.5); raise Interrupted(f'stopped after step {{step}}')"
FOREVER = "1000000"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


class Nodes:
    """Both, started."""

    def __init__(
        self,
        place: Place,
        what: str = "pass",
        steps: str = "3",
        run: tuple[str, str] = ("a", "a"),
        asked: str = "{nodes: 2}",
        tag: str = "node",
        **environ: str,
    ) -> None:
        self.tag = tag
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.first, self.second = (
            self._start(place, node, what, steps, f"127.0.0.1:{port}", run[node], asked, environ) for node in range(2)
        )

    def _start(
        self,
        place: Place,
        node: int,
        what: str,
        steps: str,
        coordinator: str,
        run: str,
        asked: str,
        environ: dict[str, str],
    ) -> Process:
        output = "elsewhere" if what == "a folder of its own" and node else "out"
        return place.start(
            TRAIN.replace("WHAT", "pass" if what == "a folder of its own" else what),
            *("--training.maxSteps", steps, "--parallelism", asked, "--output.uri", output),
            tag=f"{self.tag}-{node}-",
            ALPACA_NODE=str(node),
            ALPACA_COORDINATOR=coordinator,
            ALPACA_RUN_ID=run,
            ALPACA_CACHE=str(place.folder / f"cache-{node}"),
            ALPACA_START_METHOD="fork",
            **environ,
        )


def test_they_are_one_run_with_one_result(place: Place) -> None:
    nodes = Nodes(place)
    first, second = nodes.first.end(), nodes.second.end()
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (place.output / "adapter.safetensors").read_text() == "ranks sum to 1, 2 of them"
    assert first.last_word["output"]["uri"] == "out"
    assert "output" not in second.last_word, "one of them publishes"
    assert "how far they are is told by node 0" in second.out + second.err
    assert not list(place.folder.glob("out.checkpoints/*")), "the proof that the folder is shared is gone, too"


def test_two_of_four_that_were_asked_for_make_the_job_of_four(place: Place) -> None:
    nodes = Nodes(place, asked="{nodes: 4, minNodes: 2}", ALPACA_NODES="2")
    first, second = nodes.first.end(), nodes.second.end()
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (place.output / "adapter.safetensors").read_text() == "ranks sum to 1, 2 of them"
    assert json.loads((place.output / "artifact.json").read_text())["processes"] == 4
    on_one = place.run(
        "raise SystemExit", "--parallelism.processesPerNode", "4", "--training.maxSteps", "3", "--output.uri", "out"
    )
    assert (on_one.code, on_one.last_word["reason"]) == (0, "Reused"), on_one.err
    of_two = place.run(
        "raise SystemExit", "--parallelism.processesPerNode", "2", "--training.maxSteps", "3", "--output.uri", "out"
    )
    assert (of_two.code, of_two.last_word["reason"]) == (64, "OutputExists"), "its steps are others"


@pytest.mark.parametrize("slower", [0, 1])
def test_a_stop_of_one_stops_both_and_each_tells_it_as_its_own(place: Place, slower: int) -> None:
    nodes = Nodes(place, ENDS_LATE.format(slower), steps=FOREVER)
    nodes.first.until_step(2)
    nodes.second.send(signal.SIGTERM)
    first, second = nodes.first.end(), nodes.second.end()
    assert (first.code, second.code) == (75, 75)
    assert re.fullmatch(r"stopped after step \d+", first.last_word["message"])
    assert second.last_word["message"] == first.last_word["message"]


def test_a_failure_of_one_is_told_by_both(place: Place) -> None:
    nodes = Nodes(place, BAD_ROW, steps=FOREVER)
    first, second = nodes.first.end(), nodes.second.end()
    assert (first.code, second.code) == (65, 65), first.err + second.err
    assert second.last_word["message"] == "rows.jsonl, row 7: no answer"
    assert first.last_word["message"] == "node 1: rows.jsonl, row 7: no answer"
    assert first.last_word["rank"] == second.last_word["rank"] == 1


@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_gone_without_a_word_is_named_and_is_nobody_s_error(place: Place, killed: int) -> None:
    nodes = Nodes(place, steps=FOREVER)
    nodes.first.until_step(2)
    lost, left = (nodes.first, nodes.second) if killed == 0 else (nodes.second, nodes.first)
    lost.send(signal.SIGKILL)
    lost.end()
    ended = left.end()
    assert ended.code == 75, ended.err
    assert ended.last_word["message"].startswith(f"node {killed} is gone without a word: ")


def test_a_first_node_that_falls_silent_keeps_the_other_no_longer_than_its_silence(place: Place) -> None:
    """As behind a network that was cut: the connections to its store stand, and bring no answer."""
    nodes = Nodes(place, steps=FOREVER)
    nodes.first.until_step(2)
    nodes.first.send(signal.SIGSTOP)
    ended = nodes.second.end()
    nodes.first.send(signal.SIGKILL)
    nodes.first.end()
    assert ended.code == 75, ended.err
    assert ended.last_word["message"].startswith("node 0 is gone without a word: ")


def test_a_folder_that_is_not_the_same_for_both_is_found_before_the_first_step(place: Place) -> None:
    nodes = Nodes(place, "a folder of its own")
    for ended in (nodes.first.end(), nodes.second.end()):
        assert ended.code == 66, ended.err
        assert "node 1 (" in ended.last_word["message"]
        assert "does not see what node 0 wrote there" in ended.last_word["message"]
        assert '"step"' not in ended.out


def test_a_node_of_an_older_run_writes_nothing(place: Place) -> None:
    nodes = Nodes(place, run=("new", "old"))
    ended = nodes.second.end()
    assert ended.code == 75
    assert "node 0 (127.0.0.1) is in run new, and this node 1 in run old" in ended.last_word["message"]


def test_a_pod_of_before_a_pause_writes_nothing_though_it_was_told_the_same_run(place: Place) -> None:
    """A queue takes the places back and gives them again: neither the set nor its attempt is another."""
    go = place.folder / "go"
    before = Nodes(place, f"while step == 2 and not os.path.exists({str(go)!r}): time.sleep(0.05)")
    before.first.until_step(2)
    now = Nodes(place, steps=FOREVER, tag="now")
    now.first.until_step(2)
    go.touch()
    ended = before.first.end()
    assert ended.code == 75, ended.err
    assert ended.last_word["message"].startswith("another run took over at ")
    assert not place.output.exists(), "it published nothing"
    before.second.end()
    now.first.send(signal.SIGTERM)
    assert (now.first.end().code, now.second.end().code) == (75, 75), "those of now were not disturbed"


def test_a_first_node_of_an_older_attempt_that_starts_late_writes_nothing(place: Place) -> None:
    """As when its image was still being pulled while its machine was given up: it had not shown itself before."""
    now = Nodes(place, steps=FOREVER, run=("s-1", "s-1"), tag="now", ALPACA_JOBSET="s", ALPACA_ATTEMPT="1")
    now.first.until_step(2)
    late = Nodes(
        place, steps=FOREVER, run=("s-0", "s-0"), tag="late", ALPACA_JOBSET="s", ALPACA_ATTEMPT="0"
    ).first.end()
    assert late.code == 75, late.err
    assert re.fullmatch(
        r"another run took over at \S+ \(run s-1-[0-9a-f]{8} of SFTJob sft\), in attempt 1 of the JobSet: a pod of attempt 0 ends without "
        r"writing anything",
        late.last_word["message"],
    )
    now.first.until_step(5)
    now.first.send(signal.SIGTERM)
    assert (now.first.end().code, now.second.end().code) == (75, 75)
    assert now.first.end().last_word["message"].startswith("stopped after step "), "those of now were not disturbed"


def test_a_machine_that_was_not_told_which_it_is_refuses(place: Place) -> None:
    ended = place.run("raise SystemExit", "--parallelism.nodes", "2")
    assert ended.code == 64
    assert "spec.parallelism.nodes is 2" in ended.last_word["message"]
    assert "ALPACA_COORDINATOR" in ended.last_word["message"]
