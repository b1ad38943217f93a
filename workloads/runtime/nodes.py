"""Several machines that train one model: their launching processes find each other, agree on the run, and end together.

The launching process of the first keeps a store, at a fixed port of its address; those of the others connect to it. Through it each
shows that it lives, and says how it ended: the pods of a run then end with one exit code and one message, whichever of them is asked.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from workloads.errors import InputError, Interrupted, Superseded, WorkloadError
from workloads.runtime import exits
from workloads.runtime.progress import ProgressTracker
from workloads.system.describe import first_line
from workloads.system.environment import Environment
from workloads.system.signals import Stop

BEAT_SECONDS = 1.0
"""Between two signs of life."""
SILENCE_SECONDS = 30.0
"""Without a sign of life a node is lost: its machine died, or the network between."""
LAST_WORD_SECONDS = 10.0
"""How long a node that cannot go on waits for the word of the one that failed, and the first for all to have read it."""
CONNECT_SECONDS = 2.0
"""Of one attempt to reach the first node."""
PROOF = ".shared-by-nodes"
"""A file of the first node that the others must see."""


def first_of(environment: Environment) -> Environment:
    """``environment``, as the first node names the run: what it was told is the same when a queue that had taken the places back gives them
    again, and a pod of before, on a machine that was given up, must not be taken for one of now. The same pod has the same name for it."""
    own = environment.pod.replace("-", "")[:8] or secrets.token_hex(4)
    return replace(environment, run_id=f"{environment.run_id}-{own}")


class Line:
    """A store as it is asked over the network. torch's calls wait for an answer for as long as the connection stands, and one to a machine that
    is gone stands for a quarter of an hour and more (tcp_retries2)."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._is_dead = False

    def ask(self, call: str, *arguments: Any) -> Any:
        """What the store's method of that name returns. Raises Interrupted where the connection is broken, or no answer comes in
        SILENCE_SECONDS, and from then on at once."""
        if self._is_dead:
            raise Interrupted(_gone(0))
        answer: Future[Any] = Future()
        threading.Thread(target=self._fetch, args=(answer, call, arguments), name="line", daemon=True).start()
        try:
            return answer.result(timeout=SILENCE_SECONDS)
        except (RuntimeError, TimeoutError) as error:  # torch's DistError is a RuntimeError
            self.hang_up()
            raise Interrupted(_gone(0)) from error

    def _fetch(self, answer: Future[Any], call: str, arguments: tuple[Any, ...]) -> None:
        try:
            answer.set_result(getattr(self._store, call)(*arguments))
        except RuntimeError as error:
            answer.set_exception(error)

    def hang_up(self) -> None:
        """Nothing is asked any more: whoever kept the store is gone."""
        self._is_dead = True


class NodeGroup:
    """The launching processes of a run, as that of one machine sees them."""

    def __init__(self, index: int, count: int, run_id: str, address: str, port: int, store: Any, watched: Any) -> None:
        self.index = index
        self.count = count
        self.run_id = run_id
        """The first node's, which is that of all."""
        self.address = address
        self.port = port
        """Of the store, as this node reaches it."""
        self.store = store
        """For torch's launcher; asked from here by the line."""
        self._line = Line(store)
        self._watched = watched
        """A connection of the watching thread alone: one that waits for an answer keeps others waiting."""
        self._lost: int | None = None
        now = time.monotonic()
        self._contact = now
        self._heard = {node: (b"", now) for node in range(count) if node != index}
        """The last sign of life of each other node, and when it was new."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)

    @classmethod
    def join(
        cls, environment: Environment, count: int, patience: float, tracker: ProgressTracker, stop: Stop
    ) -> NodeGroup:
        """Meet the others; returns once the first is reached and takes this node for one of the same run.

        ``patience``: seconds until the first has to be there. Raises WorkloadError when it is not, and Superseded when it belongs to
        another run.
        """
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, and not listed

        assert environment.coordinator is not None, "several nodes and no coordinator"
        host, port = environment.coordinator
        timeout = timedelta(seconds=SILENCE_SECONDS)
        if environment.node == 0:
            listener = socket.create_server(("", port))
            store = TCPStore(
                "127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=timeout,
                master_listen_fd=listener.detach(),
            )  # fmt: skip
            run_id = environment.run_id
            store.set("run", run_id)
            address = socket.gethostbyname(host)
        else:
            address = _reach(host, port, patience, tracker, stop)
            store = TCPStore(address, port, is_master=False, timeout=timeout)
            run_id = Line(store).ask("get", "run").decode()
            newest = run_id.rpartition("-")[0]
            if newest != environment.run_id:
                raise Superseded(
                    f"node 0 ({host}) is in run {newest}, and this node {environment.node} in run {environment.run_id}: it ends without "
                    "writing anything"
                )
        watched = TCPStore(address, port, is_master=False, timeout=timeout)
        group = cls(environment.node, count, run_id, address, port, store, watched)
        group._thread.start()
        return group

    # ---- before the first step ----

    def prove_shared(self, folder: Path, what: str, patience: float, heartbeat: Callable[[], None]) -> None:
        """Make sure that ``folder``, where checkpoints go, is one folder for all nodes. The first has made it before it calls this.

        ``patience``: seconds until all have to be there. Raises InputError, on every node, where one of them does not see what the first
        wrote, and WorkloadError where one does not come.
        """
        deadline = time.monotonic() + patience
        proof = folder / PROOF
        if self.index == 0:
            token = secrets.token_hex(16)
            proof.write_text(token, encoding="utf-8")
            self._line.ask("set", "proof", token)
            self._line.ask("set", "seen/0", "")
        else:
            self._await("proof", 0, deadline, heartbeat)
            token = self._line.ask("get", "proof").decode()
            self._line.ask("set", f"seen/{self.index}", _difference(proof, token))
        blind = {}
        for node in range(self.count):
            self._await(f"seen/{node}", node, deadline, heartbeat)
            if problem := self._line.ask("get", f"seen/{node}").decode():
                blind[node] = problem
        self._line.ask("add", "proved", 1)
        if self.index == 0:
            while int(self._line.ask("add", "proved", 0)) < self.count:
                self._must_go_on()
                heartbeat()
                time.sleep(0.05)
            proof.unlink(missing_ok=True)
        if blind:
            nodes = ", ".join(f"node {node} ({problem})" for node, problem in blind.items())
            raise InputError(
                f"{what} is not one folder for all {self.count} nodes: {nodes} does not see what node 0 wrote there; use a volume that all "
                "of them mount (ReadWriteMany), for an output on s3:// by cache.claimName"
            )

    def _await(self, key: str, node: int, deadline: float, heartbeat: Callable[[], None]) -> None:
        while not self._line.ask("check", [key]):
            self._must_go_on()
            if time.monotonic() > deadline:
                raise WorkloadError(
                    f"node {node} of {self.count} has not come in failurePolicy.hangTimeoutSeconds: see whether its pod runs"
                )
            heartbeat()
            time.sleep(0.05)

    def _must_go_on(self) -> None:
        if self.lost is not None:
            said = self._word_of(self.lost)
            raise Interrupted(_gone(self.lost) if said is None else _told_by(self.lost, said).message)

    # ---- while all work ----

    @property
    def lost(self) -> int | None:
        """A node that has failed or is not heard of any more; None while all go on."""
        silent = self.index != 0 and time.monotonic() - self._contact > SILENCE_SECONDS
        if self._lost is None and silent:
            self._lose_the_first()
        return self._lost

    def _lose_the_first(self) -> None:
        """And with it the store."""
        self._lost = 0
        self._line.hang_up()

    def _watch(self) -> None:
        beat = 0
        while True:
            beat += 1
            try:
                self._watched.set(f"beat/{self.index}", str(beat))
                for node, (last, at) in self._heard.items():
                    if self._watched.check([f"ending/{node}"]):
                        self._lost = node
                        return
                    now = self._watched.get(f"beat/{node}") if self._watched.check([f"beat/{node}"]) else b""
                    if now != last or not now:  # one that has not come yet is waited for
                        self._heard[node] = (now, time.monotonic())
                    elif time.monotonic() - at > SILENCE_SECONDS:
                        self._lost = node
                        return
                self._contact = time.monotonic()
            except RuntimeError:  # the connection is broken: torch's DistError
                self._lose_the_first()
                return
            if self._over.wait(BEAT_SECONDS):
                return

    # ---- at the end ----

    def conclude(self, ending: contract.Termination, *, is_collateral: bool) -> contract.Termination:
        """The ending of the run, as this node tells it: its own, or, where it only fell with another, what that one said. Where all agreed
        to stop, each tells it as its own, whichever was done first."""
        if is_collateral or self._lost is not None:
            ending = self._ending_of_others(ending)
        elif ending.exit_code != ExitCode.OK:
            self._say(ending)
        self._leave()
        return ending

    def _ending_of_others(self, ending: contract.Termination) -> contract.Termination:
        deadline = time.monotonic() + LAST_WORD_SECONDS
        while time.monotonic() < deadline:
            for node in range(self.count):
                if node != self.index and (said := self._word_of(node)) is not None:
                    return ending if said.message == ending.message else _told_by(node, said)
            if self._lost == 0:
                break  # it kept the store
            time.sleep(0.1)
        silent = min(self._heard, key=lambda node: self._heard[node][1])
        lost = Interrupted(_gone(silent if self._lost is None else self._lost))
        return exits.termination(lost.reason, int(lost.exit_code), str(lost), contract.Progress())

    def _say(self, ending: contract.Termination) -> None:
        try:
            self._line.ask("set", f"ending/{self.index}", ending.to_json())
        except Interrupted:
            self._lost = 0  # nobody is left to hear it

    def _word_of(self, node: int) -> contract.Termination | None:
        try:
            if not self._line.ask("check", [f"ending/{node}"]):
                return None
            return contract.Termination.model_validate(json.loads(self._line.ask("get", f"ending/{node}")))
        except Interrupted:
            return None

    def _leave(self) -> None:
        """The first goes last: with it goes the store."""
        self._over.set()
        try:
            left = int(self._line.ask("add", "left", 1))
            deadline = time.monotonic() + LAST_WORD_SECONDS
            while self.index == 0 and left < self.count and self._lost is None and time.monotonic() < deadline:
                time.sleep(0.1)
                left = int(self._line.ask("add", "left", 0))
        except Interrupted:
            return  # the first is gone already


def interface_to(host: str) -> str | None:
    """The network interface over which this machine reaches ``host``; None where none can be told."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, contract.NODES_PORT))  # sends nothing
        except OSError:
            return None
        ours = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(found[20:24]) == ours:
                return name
    return None


def _reach(host: str, port: int, patience: float, tracker: ProgressTracker, stop: Stop) -> str:
    """The address of the first node, once something listens there: its name is known to the DNS a moment after its pod began."""
    deadline = time.monotonic() + patience
    problem: OSError | None = None
    said = False
    while time.monotonic() < deadline:
        stop.check()
        tracker.heartbeat()
        try:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as reached:
                return str(reached.getpeername()[0])
        except OSError as error:
            problem = error
        if not said:
            said = True
            tracker.log(f"waits for node 0 at {host}:{port}")
        time.sleep(0.2)
    raise WorkloadError(
        f"node 0 was not reached at {host}:{port} in {patience:.0f} s ({first_line(problem or OSError())}): see whether its pod "
        "runs, and whether a NetworkPolicy keeps the pods of a run from each other"
    )


def _difference(proof: Path, token: str) -> str:
    try:
        return "" if proof.read_text(encoding="utf-8") == token else "the file there is another"
    except OSError as error:
        return f"{proof.parent}: {error.strerror}"


def _told_by(node: int, said: contract.Termination) -> contract.Termination:
    return said.model_copy(update={"message": f"node {node}: {said.message}"})


def _gone(node: int) -> str:
    return f"node {node} is gone without a word: its machine, its pod or the network to it was lost; the next run goes on from the newest checkpoint"
