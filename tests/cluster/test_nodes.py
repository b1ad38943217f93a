"""Several pods that train one model, as a JobSet on a real node: what they learn is what one pod would, and whatever becomes of one of them
ends and restarts all."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_INDEX, LABEL_SCOUT, ExitCode
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.configs import PAUSE_IMAGE
from tests.cluster.bed.node import Bed
from tests.cluster.installation import Installation
from tests.cluster.team import PATIENCE, Team, ended, progress, ready
from tests.cluster.test_disruption import begins_after, steps, weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

PAIR = {"nodes": 2, "processesPerNode": 1}
STEPS = 200
"""Enough that every pod is met in the middle."""
LONG = 3000
"""Steps of a run that still trains when a pod beside it has started and ended."""
SLOW = 3 * PATIENCE
"""Two pods import torch at once, and once more where they start again."""

STRIKES = (1, 0, 1, 0)
"""Which node is killed, one after the other."""
STRIKE_SECONDS = 120
"""That the run trains between two kills."""
SAVED = 10
"""Steps between two checkpoints."""


@pytest.fixture(scope="module")
def pairs(jobset: Bed, shared: Team) -> Team:
    """With `calm`, which one pod of two processes has trained."""
    start(shared, "calm", parallelism={"processesPerNode": 2})
    shared.state("calm", "Succeeded", seconds=SLOW)
    return shared


def start(team: Team, name: str, **spec: Any) -> None:
    training = {"maxSteps": STEPS, "saveSteps": SAVED}
    team.start(name, **{"training": training, "failurePolicy": {"maxRestarts": 0}, "parallelism": PAIR, **spec})


def of_node(team: Team, name: str, index: int) -> Manifest:
    """The newest pod of a node; where there is one node, of the job."""

    def is_it(labels: dict[str, str]) -> bool:
        return LABEL_SCOUT not in labels and labels.get(LABEL_INDEX, "0") == str(index)

    return [pod for pod in team.pods(name) if is_it(pod["metadata"]["labels"])][-1]


def says(job: Manifest, words: str) -> bool:
    """Whether MESSAGE does, once there is one."""
    return words in ready(job).get("message", "")


def name_of(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


IN_POD = 'for p in /proc/[0-9]*; do grep -qs "$1" "$p/cgroup" && grep -qs workloads "$p/cmdline" && '
"""A shell's loop over the processes of a pod's workload, as the node sees them."""


def kill(team: Team, pod: Manifest) -> None:
    """SIGKILL to every process of the pod, as when the kernel is short of memory; the kubelet hears of nothing before."""
    script = IN_POD + 'kill -9 "${p#/proc/}"; done; true'
    team.bed.node_exec("sh", "-c", script, "kill", pod["metadata"]["uid"].replace("-", "[-_]"))


def cut_off(team: Team, pod: Manifest, other: Manifest) -> None:
    """Nothing passes any more between two pods; everything else does."""
    address = other["status"]["podIP"]
    chain = "chain {hook} {{\ntype filter hook {hook} priority 0\nip {end} {address} drop\n}}\n"
    chains = [
        chain.format(hook=hook, end=end, address=address) for hook, end in (("input", "saddr"), ("output", "daddr"))
    ]
    rules = f"table inet cut {{\n{''.join(chains)}}}\n"
    script = IN_POD + 'nsenter --net="$p/ns/net" nft "$2" && exit 0; done; exit 1'
    team.bed.node_exec("sh", "-c", script, "cut", pod["metadata"]["uid"].replace("-", "[-_]"), rules)


def next_first_pod(team: Team, name: str, before: Manifest) -> str:
    """Of node 0, once it is another."""

    def there() -> str | None:
        found = of_node(team, name, 0)
        return name_of(found) if found["metadata"]["uid"] != before["metadata"]["uid"] else None

    return str(until(there, "the next pods", SLOW))


def test_two_pods_learn_what_two_processes_of_one_pod_do(pairs: Team) -> None:
    start(pairs, "pair")
    job = pairs.at_step("pair", 1, SLOW)
    assert job["status"]["nodes"] == {"ready": 2, "total": 2, "display": "2/2"}
    assert ready(job)["message"].endswith("runs on node node1, 1 more with it")
    assert pairs.table("-o", "wide")[-1]["NODES"] == "2/2"
    job = pairs.state("pair", "Succeeded", seconds=SLOW)
    assert weights(pairs, "pair", STEPS) == weights(pairs, "calm", STEPS)
    assert job["status"]["restarts"]["total"] == 0
    # However they are spread, it is the same job.
    start(pairs, "same", output={"uri": "pvc://models/pair"}, parallelism={"processesPerNode": 2})
    pairs.state("same", "Reused", seconds=SLOW)


def test_a_killed_pod_ends_the_other_within_seconds_and_both_go_on(pairs: Team) -> None:
    start(pairs, "killed", failurePolicy={"maxRestarts": 1})
    pairs.past_step("killed", 20, SLOW)
    first, victim = of_node(pairs, "killed", 0), of_node(pairs, "killed", 1)
    kill(pairs, victim)
    job = pairs.until("killed", lambda job: job["status"]["restarts"]["total"], "restarted", SLOW)
    [attempt] = job["status"]["attempts"]
    assert (attempt["pod"], attempt["exitCode"]) == (name_of(victim), 128 + signal.SIGKILL), (
        "the other only stopped with it"
    )
    assert job["status"]["restarts"]["user"] == 1
    assert begins_after(pairs, next_first_pod(pairs, "killed", first)) >= 10
    pairs.state("killed", "Succeeded", seconds=SLOW)
    assert weights(pairs, "killed", STEPS) == weights(pairs, "calm", STEPS)


def test_a_bad_row_ends_both_at_once_and_is_told_by_one_line(pairs: Team) -> None:
    rows = '[{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c"}]'
    (pairs.data / "bad.json").write_text(rows, encoding="utf-8")
    train = {"train": [{"uri": "pvc://data/bad.json"}]}
    start(pairs, "bad", dataset=train, failurePolicy={"maxRestarts": 3})
    job = pairs.state("bad", "InvalidData", seconds=SLOW)
    assert "bad.json" in ready(job)["message"]
    assert job["status"]["restarts"]["total"] == 0
    assert len(job["status"]["attempts"]) == 1
    until(lambda: set_of(pairs, "bad")["status"].get("terminalState") == "Failed", "the set to end", SLOW)


def set_of(team: Team, name: str) -> Manifest:
    return team.bed.get("jobset", f"{name}-sft", "-n", team.namespace)


@pytest.mark.drill
def test_an_evicted_pod_saves_for_both_and_counts_as_a_disruption(pairs: Team) -> None:
    start(pairs, "evicted")
    pairs.past_step("evicted", 20, SLOW)
    pairs.bed.evict(name_of(of_node(pairs, "evicted", 1)), pairs.namespace)
    job = pairs.until("evicted", lambda job: job["status"]["restarts"]["infra"], "told as evicted", SLOW)
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 20
    [attempt] = job["status"]["attempts"]
    assert attempt["message"].startswith("evicted from node node1, as when a node is drained; a checkpoint was saved")
    job = pairs.state("evicted", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"] == {"user": 0, "infra": 1, "total": 1}
    assert weights(pairs, "evicted", STEPS) == weights(pairs, "calm", STEPS)


@pytest.mark.drill
def test_held_and_resumed_they_go_on(pairs: Team) -> None:
    start(pairs, "held")
    pairs.past_step("held", 20, SLOW)
    pairs.set("held", suspend=True)
    job = pairs.state("held", "Suspended", seconds=SLOW)
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 20
    assert pairs.pods("held") == []
    pairs.set("held", suspend=False)
    until(lambda: len(pairs.pods("held")) == 2, "the next pods", SLOW)
    assert begins_after(pairs, name_of(of_node(pairs, "held", 0))) == saved
    job = pairs.state("held", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    assert weights(pairs, "held", STEPS) == weights(pairs, "calm", STEPS)


@pytest.mark.drill
def test_after_its_deadline_the_set_ends(pairs: Team) -> None:
    start(pairs, "late")
    pairs.past_step("late", 10, SLOW)
    pairs.set("late", activeDeadlineSeconds=1)
    job = pairs.state("late", "DeadlineExceeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    until(lambda: set_of(pairs, "late")["status"].get("terminalState") == "Failed", "the set to end", SLOW)


@pytest.mark.drill
def test_a_partition_ends_both_and_they_go_on_together(pairs: Team) -> None:
    start(pairs, "parted")
    pairs.past_step("parted", 20, SLOW)
    first, second = of_node(pairs, "parted", 0), of_node(pairs, "parted", 1)
    cut_off(pairs, second, first)
    assert begins_after(pairs, next_first_pod(pairs, "parted", first)) >= 10
    job = pairs.state("parted", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"] == {"user": 0, "infra": 1, "total": 1}, "nobody's failure, and one restart"
    assert weights(pairs, "parted", STEPS) == weights(pairs, "calm", STEPS)


@pytest.mark.drill
def test_whatever_is_killed_at_whatever_step_it_is_trained_once(operator: Installation, pairs: Team) -> None:
    """Pod 1, pod 0, both, the operator, JobSet's controller: each at some step, one after the other."""
    start(pairs, "hunted", training={"maxSteps": 3 * STEPS, "saveSteps": SAVED}, failurePolicy={"maxRestarts": 10})
    start(pairs, "quiet", training={"maxSteps": 3 * STEPS, "saveSteps": SAVED}, parallelism={"processesPerNode": 2})
    deeds: dict[str, Callable[[], object]] = {
        "pod 1": lambda: kill(pairs, of_node(pairs, "hunted", 1)),
        "pod 0": lambda: kill(pairs, of_node(pairs, "hunted", 0)),
        "both": lambda: [kill(pairs, of_node(pairs, "hunted", index)) for index in (0, 1)],
        "the operator": lambda: operator.kill_process(operator.leader()),
        "JobSet": lambda: pairs.bed.kubectl(
            "delete", "pod", "-n", "jobset-system", "--all", "--grace-period=0", "--force"
        ),
    }
    chance, goal = random.Random(7), 0
    for what, deed in chance.sample(sorted(deeds.items()), len(deeds)):
        goal = min(goal + chance.randint(30, 90), 3 * STEPS - 100)
        pairs.past_step("hunted", goal, SLOW)
        print(f"kills {what} past step {goal}")
        deed()
    job = pairs.until("hunted", ended, "at its end", SLOW)
    assert ready(job)["reason"] == "Succeeded"
    pairs.state("quiet", "Succeeded", seconds=SLOW)
    assert weights(pairs, "hunted", 3 * STEPS) == weights(pairs, "quiet", 3 * STEPS)
    told = [reason for reason, _ in pairs.events("hunted")]
    assert told.count("Succeeded") == 1
    assert job["status"]["restarts"]["user"] == 3


def process_of(pod: Manifest) -> Manifest:
    """A pod that nobody owns and no selector finds, whose process is told what that of ``pod`` was told: of a machine that was given up, where
    it starts again, or late."""
    metadata, spec = pod["metadata"], pod["spec"]

    def told(path: str) -> str:
        """What a fieldRef means in ``pod``."""
        mapping, _, key = path.removeprefix("metadata.").partition("[")
        return str(metadata[mapping][key.strip("[]'")] if key else metadata[mapping])

    (container,) = spec["containers"]
    env = [
        {"name": one["name"], "value": told(one["valueFrom"]["fieldRef"]["fieldPath"])} if "valueFrom" in one else one
        for one in container["env"]
    ]
    kept = (
        "securityContext",
        "volumes",
        "hostname",
        "subdomain",
        "terminationGracePeriodSeconds",
        "enableServiceLinks",
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{metadata['name']}-back", "annotations": metadata["annotations"]},
        "spec": {
            **{name: spec[name] for name in kept if name in spec},
            "nodeName": spec["nodeName"],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [{**container, "env": env}],
        },
    }


def comes_back(team: Team, name: str, pod: Manifest) -> str:
    """Starts what ``pod`` was once more beside the run that took over from it, sees that it writes nothing, and returns its last word."""
    folder = team.models / f"{name}.checkpoints"
    fence = (folder / "run-id").read_text()
    newest = f"run-{json.loads(fence)['runId']}"
    (own,) = (path for path in folder.glob("run-*") if path.is_dir() and path.name != newest)
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    manifest = process_of(pod)
    team.apply(manifest)
    back = manifest["metadata"]["name"]

    def over() -> dict[str, Any] | None:
        (status,) = team.bed.get("pod", back, "-n", team.namespace)["status"].get("containerStatuses", ({},))
        found: dict[str, Any] | None = status.get("state", {}).get("terminated")
        return found

    end = until(over, f"{back} to end", SLOW)
    assert end is not None
    assert not ended(team.job(name)), "it came back beside a run that trains"
    assert end["exitCode"] == ExitCode.INTERRUPTED, team.bed.logs(back, team.namespace)
    assert steps(team, back) == []
    after = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    assert after.items() <= before.items(), "what it had written is pruned by the next run, or as it was"
    assert (folder / "run-id").read_text() == fence
    assert [path.name for path in team.models.glob(f".{name}.*")] == []
    return str(json.loads(end["message"])["message"])


@pytest.mark.drill
@pytest.mark.parametrize("nodes", [1, 2])
def test_pods_that_come_back_after_they_were_given_up_write_nothing(pairs: Team, nodes: int) -> None:
    name, quiet = f"lost-{nodes}", f"quiet-{nodes}"
    training = {"maxSteps": LONG, "saveSteps": 50}
    spread = {"nodes": nodes, "processesPerNode": 1}
    start(pairs, name, training=training, parallelism=spread, failurePolicy={"maxRestarts": 1})
    pairs.past_step(name, 100, SLOW)
    first, *others = (of_node(pairs, name, index) for index in range(nodes))
    kill(pairs, first)
    next_first_pod(pairs, name, first)
    pairs.past_step(name, 150, SLOW)
    told = comes_back(pairs, name, first)
    print(f"{name_of(first)}, again: {told}")
    words = r"run \S+ is of before it, and ends without writing anything"
    assert re.match(rf"another run took over at \S+ \(run \S+ of SFTJob {name}\): {words}", told)
    for other in others:
        told = comes_back(pairs, name, other)
        print(f"{name_of(other)}, again: {told}")
        assert re.fullmatch(
            r"node 0 \(\S+\) is in run \S+, and this node 1 in run \S+: it ends without writing anything", told
        )
    job = pairs.state(name, "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"] == {"user": 1, "infra": 0, "total": 1}, "that of the kill"
    assert [reason for reason, _ in pairs.events(name)].count("Succeeded") == 1
    start(pairs, quiet, training=training, parallelism={"processesPerNode": nodes})
    pairs.state(quiet, "Succeeded", seconds=SLOW)
    assert weights(pairs, name, LONG) == weights(pairs, quiet, LONG)


@pytest.mark.drill
def test_of_a_run_that_is_killed_every_two_minutes_nine_steps_of_ten_count(pairs: Team) -> None:
    training, reached = {"maxSteps": 1_000_000, "saveSteps": SAVED}, 0
    start(pairs, "struck", training=training, failurePolicy={"maxRestarts": len(STRIKES)})
    for index in STRIKES:
        pairs.past_step("struck", reached + 1, SLOW)
        time.sleep(STRIKE_SECONDS)
        first = of_node(pairs, "struck", 0)
        reached = steps(pairs, name_of(first))[-1]
        kill(pairs, of_node(pairs, "struck", index))
        resumed = begins_after(pairs, next_first_pod(pairs, "struck", first))
        print(f"node {index} killed past step {reached}: on from {resumed}")
        assert resumed >= reached - SAVED, "no more is lost than was not saved"
    job = pairs.at_step("struck", reached + 1, SLOW)
    told = job["status"]["progress"]["goodput"]
    print(
        f"killed every {STRIKE_SECONDS} s: {told['steps']:.1%} of the steps count, and {told['time']:.1%} of the time"
    )
    assert told["steps"] >= 0.9
    pairs.set("struck", suspend=True)
    pairs.state("struck", "Suspended", seconds=SLOW)


@pytest.mark.drill
def test_without_room_for_two_one_goes_on(pairs: Team) -> None:
    """The node has room for one pod of this size, whatever the machine has."""
    cores = pairs.bed.items("nodes")[0]["status"]["allocatable"]["cpu"]
    start(
        pairs,
        "fewer",
        parallelism={**PAIR, "minNodes": 1, "rescaleAfterSeconds": 5},
        pod={"resources": {"requests": {"cpu": f"{int(cores) * 600}m"}}},
    )
    pairs.until("fewer", lambda job: says(job, "is made anew with 1"), "to be made anew", SLOW)
    job = pairs.until("fewer", lambda job: len(pairs.pods("fewer")) == 1, "with one pod", SLOW)
    assert job["status"]["nodes"]["total"] == 1
    job = pairs.state("fewer", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    # It is the same job, however many could take part.
    start(pairs, "all", output={"uri": "pvc://models/fewer"})
    pairs.state("all", "Reused", seconds=SLOW)


def takes_room(name: str, cpu: str) -> Manifest:
    """A pod that does nothing, and has its place."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "pause", "image": PAUSE_IMAGE, "resources": {"requests": {"cpu": cpu}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{**container, "securityContext": restricted}],
        },
    }


@pytest.mark.drill
def test_one_goes_on_and_grows_to_two_when_there_is_room(pairs: Team) -> None:
    """Beside what takes half of the node there is room for one pod of this size, and without it for two."""
    cores = int(pairs.bed.items("nodes")[0]["status"]["allocatable"]["cpu"])
    pairs.apply(takes_room("neighbour", f"{cores * 500}m"))
    training = {"maxSteps": 2 * STEPS, "saveSteps": 10}
    start(
        pairs,
        "grows",
        training=training,
        parallelism={**PAIR, "minNodes": 1, "rescaleAfterSeconds": 5},
        pod={"resources": {"requests": {"cpu": f"{cores * 300}m"}}},
    )
    pairs.until(
        "grows",
        lambda job: says(job, "1 of 2 nodes: waits for room for more"),
        "on its way with one",
        SLOW,
    )
    scout = ("get", "jobs", "grows-sft-scout", "--ignore-not-found", "-o", "name")
    until(lambda: pairs.kubectl(*scout), "one that looks for room", SLOW)
    pairs.at_step("grows", 20, SLOW)
    pairs.kubectl("delete", "pod", "neighbour")
    job = pairs.until("grows", lambda job: says(job, "there is room for 2 nodes"), "to grow", SLOW)
    print(f"grows: {ready(job)['message']}")
    job = pairs.until("grows", lambda job: ready(job)["message"].endswith("1 more with it"), "with two", SLOW)
    assert pairs.kubectl(*scout) == ""
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 20
    first, words = name_of(of_node(pairs, "grows", 0)), f"/checkpoint-{saved}, which 1 process(es) made"
    until(lambda: any(line.get("message", "").endswith(words) for line in pairs.lines(first)), words, SLOW)
    job = pairs.state("grows", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    assert progress(job) == 2 * STEPS
