"""The project's images in the bed's node.

The operator's is built from its Containerfile by buildah, once per set of dependencies. The layers of the others are what their
Containerfiles would make, but their gigabytes of dependencies are a folder each that uv links together from its cache in seconds; what
two of them have in common is on the disk once. In all, the checkout's source as it is now lies on top as a layer of its own; what is big
is never in an archive: a layer that holds only a marker is imported, and the node binds the folder over it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import tarfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.bed import binaries, cache, debian
from tests.cluster.bed.cache import CHECKOUT, BedError, run, say
from tests.cluster.bed.configs import PAUSE_IMAGE

HOST_PYTHON = "/usr/bin/python3"
"""Where the base has its Python too: an environment made with another could not find it in a pod."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EXTRAS = {"train": ("train", "corpus"), "quantize": ("quantize", "serve"), "chat": ("chat",)}
"""What of pyproject.toml is in a linked environment; its Containerfile's last `uv sync` says the same, but for what only a GPU wants.
GPTQModel is where it is needed: peft imports it wherever it is installed, which costs every training 9 s and 500 MB."""

PACKAGES = {"alpaca_operator": CHECKOUT / "operator" / "alpaca_operator", "workloads": CHECKOUT / "workloads"}
OPAQUE = ".wh..wh..opq"
"""An OCI layer's word for: of this folder, nothing from the layers below."""


@dataclass(frozen=True)
class Layer:
    """Files by path, or a folder of this host in their stead."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    bound: Path | None = None

    @property
    def marker(self) -> str:
        """The only file of a bound layer, by which the node finds the layer whose place the folder takes."""
        return f".bed-layer-{hashlib.sha256(str(self.bound).encode()).hexdigest()[:16]}"

    def tar(self) -> bytes:
        buffer = io.BytesIO()
        files = {self.marker: b""} if self.bound else self.files
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in sorted(files.items()):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o755
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


@dataclass(frozen=True)
class Image:
    role: str
    name: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]

    @property
    def bound(self) -> dict[str, Path]:
        return {layer.marker: layer.bound for layer in self.layers if layer.bound}

    def write(self, path: Path) -> None:
        """An OCI image layout in a tar file, as `ctr images import` takes it."""
        blobs: dict[str, bytes] = {}

        def add(content: bytes, kind: str) -> dict[str, Any]:
            digest = hashlib.sha256(content).hexdigest()
            blobs[digest] = content
            return {
                "mediaType": f"application/vnd.oci.image.{kind}",
                "digest": f"sha256:{digest}",
                "size": len(content),
            }

        layers = [layer.tar() for layer in self.layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": add(self._settings(layers), "config.v1+json"),
            "layers": [add(layer, "layer.v1.tar") for layer in layers],
        }
        entry = add(_json(manifest), "manifest.v1+json") | {"annotations": {"io.containerd.image.name": self.name}}
        files = {f"blobs/sha256/{digest}": blob for digest, blob in blobs.items()}
        files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
        files["index.json"] = _json({"schemaVersion": 2, "manifests": [entry]})
        path.write_bytes(Layer(files).tar())

    def docker_archive(self, name: str) -> bytes:
        """The same as `docker save` writes it, under another name: Docker of Debian 12 reads no OCI layout."""
        layers = [layer.tar() for layer in self.layers]
        files = {f"{number}/layer.tar": layer for number, layer in enumerate(layers)}
        entry = {"Config": "config.json", "RepoTags": [f"{name}:latest"], "Layers": list(files)}
        files["config.json"] = self._settings(layers)
        files["manifest.json"] = _json([entry])
        return Layer(files).tar()

    def _settings(self, layers: Sequence[bytes]) -> bytes:
        """The image's configuration, which names its layers, archives as they are, by their digests."""
        digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        rootfs = {"type": "layers", "diff_ids": digests}
        return _json({"architecture": "amd64", "os": "linux", "config": self.config, "rootfs": rootfs})


def pause() -> Image:
    program = shutil.which("pause", path=binaries.path(binaries.ensure(["pause"])))
    assert program, "binaries.ensure built it"
    layer = Layer({"pause": Path(program).read_bytes()})
    return Image("pause", PAUSE_IMAGE, (layer,), {"Entrypoint": ["/pause"], "User": "65534:65534"})


def base() -> Image:
    """Python and a shell: what a test's own pods run on."""
    config = {"Env": [f"PATH={SEARCH_PATH}"], "Cmd": ["python3"]}
    return Image("base", "bed.local/base:1", (Layer(bound=debian.base()),), config)


def operator() -> Image:
    built = operator_file_system()
    config = json.loads((built / "config.json").read_text())
    return Image("operator", published("operator"), (Layer(bound=built / "root"), source()), config)


def linked(role: str) -> Image:
    layers = (Layer(bound=debian.base()), Layer(bound=environment(role)), source())
    config = last_stage(containerfile(role).read_text())
    return Image(role, published(role), layers, config)


def published(role: str) -> str:
    """The name that manifests/ gives the image: what a user applies runs on the bed as it is."""
    return f"registry.invalid/literary-alpaca/{role}:{project()['project']['version']}"


MAKERS: Mapping[str, Callable[[], Image]] = {
    "base": base,
    "operator": operator,
    **{role: partial(linked, role) for role in EXTRAS},
}
ROLES = tuple(MAKERS)


def make(role: str) -> Image:
    return MAKERS[role]()


def containerfile(role: str) -> Path:
    return CHECKOUT / "images" / role / "Containerfile"


def source() -> Layer:
    """The checkout's packages as they are now, in the place where the images have them, instead of those they were built with."""
    site = f"opt/venv/lib/{_python()}/site-packages"
    files = {}
    for package, folder in PACKAGES.items():
        files[f"{site}/{package}/{OPAQUE}"] = b""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{site}/{package}/{path.relative_to(folder)}"] = path.read_bytes()
    name, version = project()["project"]["name"], project()["project"]["version"]
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{site}/{name.replace('-', '_')}-{version}.dist-info/METADATA"] = metadata.encode()
    return Layer(files)


# -- the dependencies of what is linked ---------------------------------------------------------------------------------


def environment(role: str) -> Path:
    """A folder with /opt/venv, as the Containerfile's build stage leaves it but for the source."""
    extras = EXTRAS[role]
    own = [path for path in sorted((CHECKOUT / "packages").rglob("*.*")) if "__pycache__" not in path.parts]
    key = cache.digest(locked(*extras), *(path.read_bytes() for path in own), _python(), "compiled")

    def fill(draft: Path) -> None:
        say(f"linking the environment of {', '.join(extras)}")
        venv = draft / "opt" / "venv"
        uv = cache.uv()
        # Relocatable, for it is used at another path than it is made at.
        run(uv, "venv", "--relocatable", "--python", HOST_PYTHON, venv)
        # No GPU here: without triton it is 1 GB less, and all else works.
        without = ["--no-dev", "--no-install-project", "--no-install-package", "triton", "--compile-bytecode"]
        settings = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv)}
        settings.pop("VIRTUAL_ENV", None)
        chosen = _flags(extras)
        run("nice", uv, "sync", "--frozen", *without, *chosen, "--python", HOST_PYTHON, cwd=CHECKOUT, env=settings)

    return cache.built(f"environments/{role}", key, fill)


def locked(*extras: str) -> str:
    """What the lock has for these extras. A tool of the tests that changes it too is no reason to make gigabytes anew."""
    plain = ["--quiet", "--no-header", "--no-annotate", "--no-dev", "--no-emit-project"]
    return run(cache.uv(), "export", "--frozen", *plain, *_flags(extras), cwd=CHECKOUT)


def _flags(extras: Sequence[str]) -> list[str]:
    return [word for extra in extras for word in ("--extra", extra)]


def _python() -> str:
    """The folder's name in lib/: that of the host's Python, which is the base's too, for both come from one Debian release."""
    if not Path(HOST_PYTHON).exists():
        raise BedError(
            f"no {HOST_PYTHON} on this host: install Debian's python3, which the images' environments are made with"
        )
    return run(HOST_PYTHON, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()


def last_stage(text: str) -> dict[str, Any]:
    """The image configuration that a Containerfile's last stage sets."""
    config: dict[str, Any] = {"Env": []}
    instructions = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    for line in instructions:
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            config = {"Env": []}
        elif word == "ENV":
            config["Env"] += shlex.split(rest)
        elif word == "USER":
            config["User"] = rest
        elif word == "WORKDIR":
            config["WorkingDir"] = rest
        elif word in ("ENTRYPOINT", "CMD"):
            config[word.capitalize()] = json.loads(rest)
    return config


# -- the operator's image, by buildah -----------------------------------------------------------------------------------


def operator_file_system() -> Path:
    """`root`, all files of the image, and `config.json`. What is copied of the source is replaced by `source()` anyhow."""
    settings = project()
    builder = [settings["project"]["version"], settings["build-system"], settings["tool"]["hatch"]]
    recipe = containerfile("operator").read_bytes()
    key = cache.digest(recipe, locked("operator"), _json(builder), debian.base().name, BUILD)
    return cache.built("images/operator", key, partial(_build, "operator"))


CONTEXT = ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "operator/alpaca_operator", "workloads")


def _build(role: str, draft: Path) -> None:
    say(f"building the {role} image from {containerfile(role).relative_to(CHECKOUT)}")
    context = draft / "context"
    for name in CONTEXT:
        origin, copy = CHECKOUT / name, context / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(origin, copy)
    script = draft / "build.sh"
    script.write_text(BUILD)
    # In a mount namespace of its own buildah finds its libraries and its policy where Debian puts them: it starts itself
    # anew without the environment that would tell it another place.
    run(
        "nice", "unshare", "--mount", "--propagation", "private", "sh", "-eu", script,
        debian.image_tools(), debian.base(), containerfile(role), draft,
    )  # fmt: skip
    found = json.loads((draft / "inspect.json").read_text())["OCIv1"]["config"]
    (draft / "config.json").write_text(json.dumps(found))
    for name in ("context", "storage", "run"):
        shutil.rmtree(draft / name)


BUILD = """\
tools=$1 base=$2 containerfile=$3 draft=$4
for name in usr etc; do
  mount -t overlay overlay -o "lowerdir=$tools/$name:/$name" "/$name"
done
mkdir -p "$draft/storage" "$draft/run" "$draft/root"
buildah() { command buildah --root "$draft/storage" --runroot "$draft/run" --storage-driver overlay "$@"; }
scratch=$(buildah from scratch)
buildah add --quiet "$scratch" "$base" /
buildah commit --quiet "$scratch" bed.local/base
buildah rm "$scratch"
buildah bud --isolation chroot --build-arg BASE=bed.local/base --volume /etc/ssl/certs:/etc/ssl/certs:ro \
  --file "$containerfile" --tag bed.local/result "$draft/context"
result=$(buildah from bed.local/result)
cp -a "$(buildah mount "$result")/." "$draft/root"
buildah inspect --type image bed.local/result > "$draft/inspect.json"
buildah umount "$result"
"""


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
