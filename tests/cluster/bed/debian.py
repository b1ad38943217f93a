"""Parts that Debian already builds, unpacked into the cache. Nothing is installed on the host, and nothing of it is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster.bed import cache
from tests.cluster.bed.cache import BedError, run, say

NODE_TOOLS = ("runc", "containernetworking-plugins", "nftables", "conntrack")
IMAGE_TOOLS = ("buildah",)
ENGINE = ("docker.io", "iptables")
BROWSER = ("chromium", "fonts-wqy-zenhei", "fonts-dejavu-core", "fonts-noto-color-emoji")
"""With the letters that pages show: Chinese, Latin, emoji."""
OWN_BROWSER = "ALPACA_TEST_BROWSER"
"""Names the program of a Chromium or Chrome to take in place of Debian's."""
BASE = (
    "python3", "python3-pip", "ca-certificates", "netbase", "tzdata", "libc-bin", "libstdc++6", "dash", "coreutils",
)  # fmt: skip
"""What python:3.11-slim has and the Containerfiles count on."""

MERGED = ("bin", "sbin", "lib", "lib64")
"""Debian's packages still carry some files under these names; all of them are links into /usr."""


def node_tools() -> Path:
    return cache.built(
        "debian/node", cache.digest(*NODE_TOOLS, _release()), lambda draft: _unpack_missing(draft, NODE_TOOLS)
    )


def image_tools() -> Path:
    return cache.built(
        "debian/images", cache.digest(*IMAGE_TOOLS, _release()), lambda draft: _unpack_missing(draft, IMAGE_TOOLS)
    )


def engine() -> Path:
    """Docker's daemon, and what it starts."""
    return cache.built("debian/docker", cache.digest(*ENGINE, _release()), _make_engine)


def browser() -> Path:
    """A file system with Chromium, as new as Debian's security updates have it: the mirrors keep no older one to pin."""
    return cache.built("debian/browser", cache.digest(*BROWSER, *LOADED, "whole", _release()), _make_browser)


def base() -> Path:
    """A file system with Debian's Python that can stand in for the images' public base, which no registry here serves."""
    return cache.built("debian/base", cache.digest(*BASE, *SETUP, _release()), _make_base)


LOADED = ("libc6",)
"""Left to the host: the program is started by the host's loader, which fits no other libc than its own."""


def _make_browser(draft: Path) -> None:
    """With everything that it depends on, whatever this host has: a program that runs in no root of its own looks for its data beside
    itself, and a library that the host has today it may not have tomorrow."""
    say(f"unpacking {', '.join(BROWSER)} from Debian, with all that they depend on")
    _unpack_whole(draft, BROWSER, without=LOADED)


def _make_engine(draft: Path) -> None:
    _unpack_missing(draft, ENGINE)
    for name in ("iptables", "ip6tables"):  # Debian's alternatives, made when a package is installed
        (draft / "usr" / "sbin" / name).symlink_to("xtables-nft-multi")


SETUP = {
    "usr/local/bin/python": "-> /usr/bin/python3",
    "usr/local/bin/python3": "-> /usr/bin/python3",
    "usr/local/bin/pip": "-> /usr/bin/pip3",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""What the packages' maintainer scripts would have left, as far as an image needs it; and the names of the public base."""


def _make_base(draft: Path) -> None:
    say(f"unpacking a base with {', '.join(BASE)}")
    _unpack_whole(draft, BASE)
    for name, content in SETUP.items():
        path = draft / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            path.symlink_to(content.removeprefix("-> "))
        else:
            path.write_text(content)
    for folder, mode in (
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("proc", 0o755),
        ("sys", 0o755),
        ("dev", 0o755),
    ):
        (draft / folder).mkdir(parents=True, exist_ok=True)
        (draft / folder).chmod(mode)
    # The mark that keeps pip off a Debian host has no place in an image, and the public base has none.
    for mark in draft.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        mark.unlink()
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(draft / folder, ignore_errors=True)


def _unpack_missing(draft: Path, packages: tuple[str, ...]) -> None:
    """With what the host lacks of what they depend on. For programs that see the result laid over the host's own /usr: what the host has
    is there too, at the path where it is looked for, and fits, for it is of the same release."""
    say(f"unpacking {', '.join(packages)} from Debian")
    _unpack(draft, packages)


def _unpack_whole(draft: Path, packages: tuple[str, ...], without: tuple[str, ...] = ()) -> None:
    """With everything that they depend on but for ``without``: no package that the host has counts."""
    nothing = draft / "nothing-installed"
    nothing.write_bytes(b"")
    _unpack(draft, packages, "-o", f"Dir::State::status={nothing}", without=without)
    nothing.unlink()


def _unpack(draft: Path, packages: tuple[str, ...], *options: str, without: tuple[str, ...] = ()) -> None:
    if not shutil.which("apt-get"):
        raise BedError(
            f"no apt-get on this host to take {', '.join(packages)} from: run the bed on Debian or Ubuntu,"
            " or set KUBECONFIG and ALPACA_TEST_CLUSTER=existing to use a cluster of your own"
        )
    debs = draft / "debs"
    (debs / "partial").mkdir(parents=True)
    settings = [
        "-o",
        "Debug::NoLocking=1",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        f"Dir::Cache::archives={debs}",
        *options,
    ]
    fetch = ["install", "--download-only", "--reinstall", "--yes", "--no-install-recommends", *packages]
    if subprocess.run(["apt-get", *settings, *fetch], check=False, capture_output=True).returncode:
        # No package lists, or ones so old that what they name is gone.
        lists = draft / "lists"
        (lists / "partial").mkdir(parents=True)
        settings += ["-o", f"Dir::State::lists={lists}"]
        subprocess.run(["apt-get", *settings, "update"], check=False, capture_output=True)
        run("apt-get", *settings, *fetch, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        shutil.rmtree(lists)
    for name in MERGED:
        (draft / "usr" / name).mkdir(parents=True, exist_ok=True)
        (draft / name).symlink_to(f"usr/{name}")
    for deb in sorted(debs.glob("*.deb")):
        if deb.name.partition("_")[0] in without:
            continue
        archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, capture_output=True).stdout
        run("tar", "--extract", "--keep-directory-symlink", "--directory", draft, input=archive)
    shutil.rmtree(debs)


def _release() -> str:
    return Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
