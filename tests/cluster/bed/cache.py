"""Where slow things are kept between runs: outside the checkout, keyed by what they are made of, published whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


class BedError(Exception):
    """The bed cannot be had as asked. The message says what was found and what to do."""


class NotBuilt(BedError):
    """What the bed is made of is not in the cache, and is not built here."""


def root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "literary-alpaca"


def say(text: str) -> None:
    print(f"bed {time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]


@contextmanager
def lock(name: str) -> Iterator[None]:
    """One builder of a thing at a time, across processes; the kernel lets go of it when its holder dies."""
    path = root() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {name}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def made(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `name-key`, made by `make` in a sibling and renamed when complete. Others of the name go a week after their last use."""
    target = root() / f"{name}-{key}"
    if not target.exists():
        with lock(name):
            if not target.exists():
                _make(target, make)
                _forget(target.parent.glob(f"{target.name.removesuffix(key)}*"))
    os.utime(target)
    return target


def built(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """As `made`, for what takes minutes. Raises NotBuilt in a process that called `demand_all_built`."""
    must_be_built(root() / f"{name}-{key}")
    return made(name, key, make)


def must_be_built(*folders: Path) -> None:
    """Raises NotBuilt where one is missing, in a process that called `demand_all_built`."""
    missing = [folder.name for folder in folders if not folder.exists()]
    if missing and _all_built_by:
        raise NotBuilt(f"not in {root()} yet: {', '.join(missing)}; build it first, once: {_all_built_by}")


def demand_all_built(command: str) -> None:
    """From here on this process builds nothing that takes minutes, and names ``command`` instead.

    A test has a limit of time, and a build has none: it takes as long as the machine is busy.
    """
    global _all_built_by
    _all_built_by = command


_all_built_by = ""


def _make(target: Path, make: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    draft.chmod(0o755)
    try:
        make(draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


UNUSED_SECONDS = 7 * 24 * 3600
"""Long enough that no running bed has it bound, and that two branches of the checkout do not take turns in building."""


def _forget(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.stat().st_mtime < time.time() - UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def run(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, input: bytes | None = None
) -> str:
    """A step of a build: its standard output, or an error that shows the command and the end of what it said."""
    words = [str(word) for word in command]
    if not shutil.which(words[0]):
        raise BedError(f"no program {words[0]!r} on PATH, which the bed needs: install the package that has it")
    done = subprocess.run(
        words, cwd=cwd, env=None if env is None else dict(env), input=input, check=False, capture_output=True
    )
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-3000:]
        raise BedError(f"`{' '.join(words)[:400]}` exited {done.returncode}:\n{said}")
    return done.stdout.decode(errors="replace")


def uv() -> str:
    """The uv that runs us, or the newest that `make` put into the cache."""
    for found in (os.environ.get("UV"), shutil.which("uv"), *sorted(root().glob("uv*/bin/uv"), reverse=True)):
        if found and Path(found).exists():
            return str(found)
    raise BedError(f"no uv on PATH nor in {root()}: any make target that needs one, such as `make lint`, puts it there")
