"""A Docker engine in namespaces of its own, with the project's images in it, and Compose to speak to it.

    with Docker.temporary() as docker:
        docker.load(images.linked("chat"), "literary-alpaca/chat")
        docker.compose("up", "--detach", cwd=folder)

What a container publishes is on the loopback of these namespaces, which no one else sees: `inside` runs a command there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.cluster.bed import binaries, cache, cgroups, debian, images
from tests.cluster.bed.cache import BedError, say
from tests.cluster.bed.cluster import until
from tests.cluster.bed.node import demand_host

START = """\
tools=$1 folder=$2 tag=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$folder/scratch"
for name in var etc; do
  mkdir "$folder/scratch/$name" "$folder/scratch/$name.work"
  mount -t overlay -o "lowerdir=/$name,upperdir=$folder/scratch/$name,workdir=$folder/scratch/$name.work" overlay "/$name"
done
mount -t overlay -o "lowerdir=$tools/usr:/usr" overlay /usr
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
exec tini -- dockerd --host "unix://$folder/docker.sock" --data-root "$folder/scratch/docker" --exec-root /run/docker \
  --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$tag"
"""
"""PID 1 is Docker's own reaper: containers' minders are orphaned to it."""


class Docker:
    """A running engine; `temporary` makes one."""

    def __init__(self, name: str) -> None:
        self.folder = cache.root() / "docker" / name
        self.socket = self.folder / "docker.sock"
        self.tag = f"la-docker-{name}"
        self.init = 0
        self._bound: set[str] = set()
        [self._compose] = binaries.ensure([binaries.COMPOSE.name])

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Docker]:
        """An engine that goes with the block, and with this process, however that ends. Of one that was killed an empty cgroup stays, and a
        log."""
        demand_host()
        docker = cls(secrets.token_hex(4))
        tools = debian.engine()
        (docker.folder / "scratch").mkdir(parents=True)
        cgroups.make(docker.tag)
        unshare = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--uts", "--ipc", "--mount-proc"]
        start = ["sh", "-euc", START, "docker", str(tools), str(docker.folder), docker.tag]
        with (docker.folder / "dockerd.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *unshare, *start],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
            )  # fmt: skip
        try:
            docker._wait(process)
            yield docker
        finally:
            process.kill()  # and PID 1 with it, and all that runs there
            process.wait()
            cgroups.remove(docker.tag)
            shutil.rmtree(docker.folder)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"dockerd did not start: {(self.folder / 'dockerd.log').read_text()[-3000:]}")
            return self.socket.exists() and self._api("GET", "/_ping") == "OK"

        until(answers, "the engine to answer", 120)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        self.init = int(children.split()[0])

    def load(self, image: images.Image, name: str) -> None:
        """Brings an image into the engine as ``name``. Folders are put in the place of the layers that stand for them."""
        say(f"docker: loading {name}")
        said = self._api("POST", "/images/load", content=image.docker_archive(name))
        if "errorDetail" in said:
            raise BedError(f"the engine does not take {name}: {said}")
        script = """\
for layer in "$1"/*/diff; do
  if [ -e "$layer/$2" ]; then mount --bind "$3" "$layer"; mount -o remount,bind,ro "$layer"; echo bound; fi
done"""
        for marker, folder in image.bound.items():
            if marker in self._bound:
                continue  # a layer that another image has too
            layers = str(self.folder / "scratch" / "docker" / "overlay2")
            if "bound" not in self.inside("sh", "-euc", script, "bind", layers, marker, str(folder)):
                raise BedError(f"no layer of {name} in {layers} holds {marker}")
            self._bound.add(marker)

    def compose(self, *arguments: str, cwd: Path, seconds: float = 900, **variables: str) -> str:
        """`docker compose` in a folder, without an answer at its prompts; returns what it says on both outputs."""
        command = [str(self._compose / "docker-compose"), *arguments]
        env = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", **variables}
        done = subprocess.run(
            command, cwd=cwd, env=env, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=seconds,
        )  # fmt: skip
        if done.returncode:
            raise BedError(f"`docker compose {' '.join(arguments)}` exited {done.returncode}: {done.stdout[-6000:]}")
        return done.stdout

    @property
    def enter(self) -> list[str]:
        """What runs the command behind it in the engine's network."""
        return ["nsenter", "--target", str(self.init), "--net", "--"]

    def inside(self, *command: str) -> str:
        """Standard output of a command in the engine's namespaces."""
        return cache.run("nsenter", "--target", str(self.init), "--mount", "--net", "--pid", "--", *command)

    def _api(self, method: str, path: str, content: bytes | None = None) -> str:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=300) as client:
            try:
                answer = client.request(method, f"http://docker{path}", content=content)
            except httpx.TransportError as error:
                raise BedError(f"the engine does not answer to {method} {path}: {error}") from error
        if answer.is_error:
            raise BedError(f"the engine answers {answer.status_code} to {method} {path}: {answer.text}")
        return answer.text
