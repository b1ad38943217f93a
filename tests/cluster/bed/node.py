"""A whole Kubernetes node in namespaces of its own: processes, mounts and network all hang on one PID 1, and go with it.

    with Bed.temporary() as bed:
        storage = bed.volume("default", "models")      # a PersistentVolumeClaim, and its folder on this host
        bed.fake_gpus(8)
        bed.kubectl("apply", "-f", "manifests/samples/sft-job.yaml")

The order in which it comes up is the order of `Bed.start`. On the host there is, while it runs: a veth pair, two routes
through it, a cgroup named like the pair, and the bed's folder in the cache. Nothing of the host's settings is changed.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.bed import binaries, cache, cgroups, configs, debian, images
from tests.cluster.bed.cache import CHECKOUT, BedError, run, say
from tests.cluster.bed.cluster import Cluster, Manifest, until
from tests.cluster.bed.controlplane import Plan
from tests.cluster.bed.network import Subnets, free_subnets
from tests.cluster.bed.pki import Pki

NODE = "node1"
API_PORT = 6443
SCRATCH_SIZE = "8G"
"""At most, of memory: containerd's and etcd's state and what pods write. On disk, removing it took 20 s of every teardown."""

REAPER = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"
"""PID 1 of the node. Ignoring SIGCHLD makes the kernel reap what is orphaned to it."""

KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What the kubelet sets where it finds another value. These are not of any namespace: it is shown a file with its own."""


@dataclass(frozen=True)
class State:
    """What a later process must know to find a bed, and to end it."""

    name: str
    index: int
    unshare: int
    init: int
    born: dict[str, float]
    """Start times of both, in clock ticks since boot: a PID that was given to another process since is not ours."""

    def save(self, folder: Path) -> None:
        draft = folder / "bed.json.new"
        draft.write_text(json.dumps(self.__dict__))
        draft.rename(folder / "bed.json")

    @staticmethod
    def load(folder: Path) -> State | None:
        try:
            return State(**json.loads((folder / "bed.json").read_text()))
        except FileNotFoundError:
            return None

    def alive(self) -> bool:
        return _born(self.init) == self.born["init"]


class Bed(Cluster):
    """A running node; `up`, `temporary` or `attach` makes one."""

    def __init__(self, name: str):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", name):
            raise BedError(
                f"a bed cannot be named {name!r}: use at most 12 of a-z, 0-9 and -, for it names a network interface"
            )
        self.name = name
        self.folder = cache.root() / "beds" / name
        self.tag = f"la-{name}"
        self.programs = binaries.ensure()
        self.tools = debian.node_tools()
        self.path = binaries.path(self.programs)
        super().__init__(self.folder / "pki" / "admin.kubeconfig", shutil.which("kubectl", path=self.path) or "kubectl")
        self.images: dict[str, str] = {}
        """The names of the project's images in the node, by role: `operator`, `train`, `base`."""
        self.subnets = Subnets(0)
        self.node_ip = ""
        self.state: State | None = None

    # -- coming and going ---------------------------------------------------------------------------------------------

    @classmethod
    def up(cls, name: str, roles: Sequence[str] = images.ROLES) -> Bed:
        """A bed that stays until it is taken down. What was left of an earlier one of the name is removed first."""
        demand_host()
        bed = cls(name)
        wanted = [images.make(role) for role in roles]
        with cache.lock(f"beds/{name}"):
            bed.down()
            try:
                bed.start(wanted)
            except BaseException:
                bed.keep_logs()
                bed.down()
                raise
        return bed

    @classmethod
    @contextmanager
    def temporary(cls, name: str | None = None, roles: Sequence[str] = images.ROLES) -> Iterator[Bed]:
        """A bed that goes with the block, and with this process, however that ends."""
        bed_name = name or f"t-{secrets.token_hex(4)}"
        with _keeper(bed_name):
            bed = cls.up(bed_name, roles)
            try:
                yield bed
            finally:
                bed.down()

    @classmethod
    def attach(cls, name: str) -> Bed:
        bed = cls(name)
        state = State.load(bed.folder)
        if not state or not state.alive():
            raise BedError(f"no bed named {name!r} is running: `make cluster-up` starts one")
        bed._take(state)
        bed.images = json.loads((bed.folder / "images.json").read_text())
        return bed

    @classmethod
    def of(cls, kubeconfig: Path) -> Bed | None:
        """The running bed that a kubeconfig leads to, if it leads to one."""
        beds = cache.root() / "beds"
        path = kubeconfig.absolute()
        return cls.attach(path.relative_to(beds).parts[0]) if path.is_relative_to(beds) else None

    def start(self, wanted: Sequence[images.Image] = ()) -> None:
        began = time.monotonic()
        for part in ("log", "pids", "layers", "volumes"):
            (self.folder / part).mkdir(parents=True)
        cgroups.make(self.tag)
        self._namespaces()
        self._mounts()
        self._network()
        pki = Pki.make(
            self.folder / "pki",
            f"https://{self.node_ip}:{API_PORT}",
            ["127.0.0.1", self.node_ip, self.subnets.first_service_ip],
            node=NODE,
            node_ip=self.node_ip,
        )
        plan = self._plan()
        configs.write(self.folder, self.tools, pki, self.tag, NODE, self.node_ip, self.subnets.pods)
        self.spawn("containerd", ["containerd", "--config", f"{self.folder}/containerd.toml"])
        self.spawn("etcd", plan.etcd())
        self.spawn("kube-apiserver", plan.apiserver())
        until(lambda: self.node_test("-S", configs.CONTAINERD_SOCKET), "containerd's socket")
        for image in [images.pause(), *wanted]:
            self.load(image)
        until(lambda: self.raw("/readyz"), "the API server's /readyz", 120)
        say(f"{self.name}: API server ready after {time.monotonic() - began:.1f} s")
        self.spawn("kube-controller-manager", plan.controller_manager())
        self.spawn("kube-scheduler", plan.scheduler())
        self.spawn("coredns", ["coredns", "-conf", f"{self.folder}/Corefile"])
        self.start_kubelet()
        # kube-proxy asks for its node once, when it starts.
        until(lambda: self.get("node", NODE), "the kubelet to register its node")
        self.spawn("kube-proxy", ["kube-proxy", f"--config={self.folder}/kube-proxy.yaml"])
        until(lambda: self.get("serviceaccount", "default", "-n", "default"), "the default ServiceAccount")
        self.wait_ready()
        say(f"{self.name}: node ready after {time.monotonic() - began:.1f} s")

    def down(self) -> None:
        """Ends everything and removes everything; does nothing where there is nothing."""
        state = State.load(self.folder) if self.folder.exists() else None
        if state:
            for pid, born in ((state.unshare, state.born["unshare"]), (state.init, state.born["init"])):
                if _born(pid) == born:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            until(lambda: not state.alive(), f"PID 1 of bed {self.name}, process {state.init}, to end")
        if self._unshare:
            self._unshare.wait()
            self._unshare = None
        # The kernel keeps a network namespace while a socket of it waits for an answer from a pod that is gone: the link
        # to the host is not left to it.
        until(
            lambda: not Path("/sys/class/net", self.tag).exists() or self._unlink(), f"the interface {self.tag} to go"
        )
        cgroups.remove(self.tag)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.state = None

    def _unlink(self) -> bool:
        with suppress(BedError):
            run("ip", "link", "delete", self.tag)
        return not Path("/sys/class/net", self.tag).exists()

    _unshare: subprocess.Popen[bytes] | None = None

    def _namespaces(self) -> None:
        command = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--uts", "--ipc", "--mount-proc"]
        with (self.folder / "log" / "init.log").open("wb") as log:
            self._unshare = subprocess.Popen(
                [*command, sys.executable, "-I", "-S", "-c", REAPER],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
            )  # fmt: skip
        unshare = self._unshare.pid
        children = Path(f"/proc/{unshare}/task/{unshare}/children")
        init = int(until(children.read_text, "PID 1 of the node").split()[0])
        # unshare's child mounts /proc and becomes the reaper last.
        until(lambda: REAPER in Path(f"/proc/{init}/cmdline").read_text(), "the node's /proc")
        subnets = free_subnets(self.name)
        self._take(State(self.name, subnets.index, unshare, init, {"unshare": _born(unshare), "init": _born(init)}))
        assert self.state
        self.state.save(self.folder)

    def _take(self, state: State) -> None:
        self.state = state
        self.subnets = Subnets(state.index)
        self.node_ip = self.subnets.node_ip

    def _mounts(self) -> None:
        """/var and /etc can be written without the host seeing it, /run is empty, /usr has Debian's node programs too."""
        scratch = self.folder / "scratch"
        scratch.mkdir()
        self.node_exec("mount", "--make-rshared", "/")
        self.node_exec("mount", "-t", "tmpfs", "-o", f"size={SCRATCH_SIZE},mode=755", "tmpfs", str(scratch))
        folders = [f"{scratch}/{name}" for name in ("var", "var.work", "etc", "etc.work", "etcd", "containerd")]
        self.node_exec("mkdir", "--mode=755", *folders)
        for name in ("var", "etc"):
            layers = f"lowerdir=/{name},upperdir={scratch}/{name},workdir={scratch}/{name}.work"
            self.node_exec("mount", "-t", "overlay", "-o", layers, "overlay", f"/{name}")
        self.node_exec("mount", "-t", "overlay", "-o", f"lowerdir={self.tools}/usr:/usr", "overlay", "/usr")
        self.node_exec("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        self.node_exec("hostname", NODE)
        shown = self.folder / "kernel"
        shown.mkdir()
        for setting, value in KERNEL_SETTINGS.items():
            if Path("/proc/sys", setting).exists():
                file = shown / setting.replace("/", ".")
                file.write_text(value + "\n")
                self.node_exec("mount", "--bind", str(file), f"/proc/sys/{setting}")

    def _network(self) -> None:
        assert self.state
        subnets = self.subnets
        run("ip", "link", "add", self.tag, "type", "veth", "peer", "name", "eth0", "netns", str(self.state.init))
        run("ip", "addr", "add", f"{subnets.host_ip}/24", "dev", self.tag)
        run("ip", "link", "set", self.tag, "up")
        for network in (subnets.pods, subnets.services):
            run("ip", "route", "add", network, "via", self.node_ip, "dev", self.tag)
        self.node_exec("ip", "link", "set", "lo", "up")
        self.node_exec("ip", "addr", "add", f"{self.node_ip}/24", "dev", "eth0")
        self.node_exec("ip", "link", "set", "eth0", "up")
        self.node_exec("ip", "route", "add", "default", "via", subnets.host_ip)
        for setting in ("ip_forward", "tcp_orphan_retries"):  # the latter, so that nothing outlives a teardown for long
            self.node_exec("sh", "-c", f"echo 1 > /proc/sys/net/ipv4/{setting}")

    # -- inside the node ----------------------------------------------------------------------------------------------

    def node_exec(self, *command: str, check: bool = True, seconds: float = 300) -> str:
        """Runs a command in the node's namespaces, with the node's programs on its PATH; returns its standard output."""
        done = self._enter(*command, seconds=seconds)
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise BedError(f"`{' '.join(command)}` in bed {self.name} exited {done.returncode}: {said}")
        return done.stdout

    def node_test(self, *expression: str) -> bool:
        return self._enter("test", *expression, seconds=60).returncode == 0

    def _enter(self, *command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        if not self.state:
            raise BedError(f"bed {self.name} is not up")
        enter = ["nsenter", "--target", str(self.state.init), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        return subprocess.run(
            [*enter, *command], check=False, capture_output=True, text=True, timeout=seconds, cwd="/",
            stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "PATH": self.path, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    def spawn(self, name: str, command: Sequence[str]) -> None:
        """Starts a daemon of the node; PID 1 becomes its parent. Its output is in `log(name)`."""
        start = '"$@" >>"$LOG" 2>&1 </dev/null & echo $! >"$PID"'
        log, pid = self.folder / "log" / f"{name}.log", self.folder / "pids" / name
        self.node_exec("env", f"LOG={log}", f"PID={pid}", "sh", "-c", start, name, *command)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends a daemon of the node and waits until it is gone. kubelet, kube-apiserver, containerd, …: the names in `log/`."""
        pid = (self.folder / "pids" / name).read_text().strip()
        self.node_exec("kill", "-s", how.name.removeprefix("SIG"), pid, check=False)
        until(lambda: not self.node_test("-d", f"/proc/{pid}"), f"{name} of bed {self.name} to end")

    def log(self, name: str) -> str:
        return (self.folder / "log" / f"{name}.log").read_text(errors="replace")

    def keep_logs(self) -> None:
        """Of a bed that did not come up: its folder goes, and without them nobody could tell why."""
        kept = cache.root() / "beds-failed" / self.name
        shutil.rmtree(kept, ignore_errors=True)
        with suppress(OSError):
            shutil.copytree(self.folder / "log", kept)
            say(f"{self.name} did not come up; its logs are in {kept}")

    # -- what tests do to it ------------------------------------------------------------------------------------------

    def start_kubelet(self) -> None:
        self.spawn(
            "kubelet",
            [
                "kubelet", f"--config={self.folder}/kubelet.yaml", f"--kubeconfig={self.folder}/pki/kubelet.kubeconfig",
                f"--hostname-override={NODE}", f"--node-ip={self.node_ip}", "--root-dir=/var/lib/kubelet",
                "--cert-dir=/var/lib/kubelet/pki",
            ],
        )  # fmt: skip

    def kill_kubelet(self) -> None:
        """The node's agent is gone; its pods run on, and nobody tells the API server about them."""
        self.kill("kubelet")

    def restart_kubelet(self) -> None:
        self.kill_kubelet()
        killed = time.time()
        self.start_kubelet()
        self.wait_ready(after=killed)

    def stop_apiserver(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.kill("kube-apiserver", how)

    def start_apiserver(self) -> None:
        self.spawn("kube-apiserver", self._plan().apiserver())
        until(lambda: self.raw("/readyz"), "the API server's /readyz", 120)

    def restart_apiserver(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.stop_apiserver(how)
        self.start_apiserver()

    def wait_ready(self, after: float = 0, seconds: float = 120) -> None:
        """The node is Ready, by a heartbeat later than the time `after`."""

        def ready() -> bool:
            conditions = self.get("node", NODE)["status"].get("conditions", [])
            # Heartbeats are told in whole seconds: one of the same second may still have come before.
            return any(
                condition["type"] == "Ready"
                and condition["status"] == "True"
                and datetime.datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp() > after
                for condition in conditions
            )

        until(ready, f"node {NODE} of bed {self.name} to be Ready", seconds)

    def volume(self, namespace: str, name: str, size: str = "100Gi") -> Path:
        """A ReadWriteMany PersistentVolumeClaim, bound, in a namespace that exists; returns its folder on this host."""
        folder = self.folder / "volumes" / namespace / name
        released = ["get", "pv", f"{namespace}-{name}", "--ignore-not-found", "-o", "jsonpath={.status.phase}"]
        if self.kubectl(*released) == "Released":
            # Of a namespace of this name that is gone: it would never bind again, and its files are not this test's.
            self.kubectl("delete", "pv", f"{namespace}-{name}")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # a hostPath is not given to the pod's fsGroup
        volume: Manifest = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{name}"},
            "spec": {
                "capacity": {"storage": size},
                "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": namespace, "name": name},
                "hostPath": {"path": str(folder)},
            },
        }
        claim: Manifest = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": f"{namespace}-{name}",
                "resources": {"requests": {"storage": size}},
            },
        }
        self.apply(volume, claim)
        self.wait(f"pvc/{name}", "jsonpath={.status.phase}=Bound", namespace)
        return folder

    def load(self, image: images.Image) -> str:
        """Brings an image into the node, under the name that pods use."""
        archive = self.folder / f"{image.role}.tar"
        image.write(archive)
        self.node_exec(
            "ctr", "--address", configs.CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import", str(archive)
        )
        archive.unlink()
        for marker, folder in image.bound.items():
            self._bind_layer(marker, folder)
        self.images[image.role] = image.name
        (self.folder / "images.json").write_text(json.dumps(self.images))
        return image.name

    def _bind_layer(self, marker: str, folder: Path) -> None:
        """Puts a folder in the place of an image layer that holds nothing but its marker. Containers see it as any other layer."""
        snapshots = f"{self.folder}/scratch/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
        script = f'for layer in {snapshots}/*/fs; do test -e "$layer/$1" && mount --bind "$2" "$layer" && mount -o remount,bind,ro "$layer"; done; true'
        self.node_exec("sh", "-c", script, "bind", marker, str(folder))

    def _plan(self) -> Plan:
        return Plan(
            self.folder / "scratch",
            Pki(self.folder / "pki"),
            bind="0.0.0.0",
            advertise=self.node_ip,
            port=API_PORT,
            services=self.subnets.services,
        )


def demand_host() -> None:
    hidden = [folder for folder in ("/etc", "/run", "/usr", "/var") if cache.root().resolve().is_relative_to(folder)]
    if hidden:
        raise BedError(
            f"the cache {cache.root()} is in {hidden[0]}, of which the node sees its own: set XDG_CACHE_HOME to another place"
        )
    if os.geteuid() != 0:
        raise BedError(
            f"a Kubernetes node needs root for its namespaces, and this is user {os.geteuid()}: run with sudo, or set KUBECONFIG"
            " and ALPACA_TEST_CLUSTER=existing to use a cluster of your own, or ALPACA_TEST_CLUSTER=none to leave these tests out"
        )


@contextmanager
def _keeper(name: str) -> Iterator[None]:
    """Takes the bed down if this process is killed: only it holds the pipe's other end, and the kernel closes that."""
    take_down = f"read _ || exec {sys.executable} -m tests.cluster.bed down --name {name}"
    keeper = subprocess.Popen(
        ["sh", "-c", take_down], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=CHECKOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        keeper.kill()
        keeper.communicate()


def _born(pid: int) -> float:
    """When a process started, in clock ticks since boot; -1 for one that is gone or waits for its parent to notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    fields = stat.rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else float(fields[19])
