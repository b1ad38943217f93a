"""``s3://bucket/key``: inputs are brought into the cache by their ETags, outputs are uploaded with artifact.json last.

fsspec over pyarrow's S3 file system. Credentials, region and endpoint are read from the usual variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, and AWS_ENDPOINT_URL for other servers than Amazon's.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from alpaca_operator.api import contract
from workloads.errors import InputError, SpecError, WorkloadError
from workloads.storage import hashing
from workloads.storage.checkpoints import FENCE, Fence, Run, named_run
from workloads.storage.hashing import HashCache
from workloads.storage.listing import listing
from workloads.storage.pieces import CHUNK
from workloads.storage.uri import REJECTED
from workloads.system.environment import Environment

if TYPE_CHECKING:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import NativeFile

REFUSALS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_CLIENT_TOKEN_ID",
    "HTTP status 403",
)
"""What the AWS client says when credentials are the matter."""


class S3Unreachable(WorkloadError):
    """The server did not answer, or not sensibly. It may the next time, so the run is tried again."""


def split(uri: str, where: str) -> tuple[str, str]:
    """Bucket and key. Raises SpecError where one is missing: a whole bucket is no input and no output."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    key = key.strip("/")
    if not bucket or not key:
        raise SpecError(f"{where}: write s3://bucket/key")
    return bucket, key


INPUT_ATTEMPTS = 3
OUTPUT_ATTEMPTS = 7
"""How often a request is made before it counts as failed, with growing pauses: about a minute for the result of hours."""


def connect(attempts: int) -> ArrowFSWrapper:
    """A file system for the endpoint in the environment."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    endpoint = urlsplit(_endpoint())
    options: dict[str, Any] = {
        # A part is on its way when its write returns: otherwise the whole file is read into memory, and closing it is silent for minutes.
        "background_writes": False,
        "connect_timeout": 10,
        "request_timeout": 60,
        "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=attempts),
    }
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint.netloc:
        # Other servers than Amazon's take any region, but the client would ask Amazon for one.
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme, "region": region or "us-east-1"}
    elif region:
        options["region"] = region
    return ArrowFSWrapper(S3FileSystem(**options))


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@contextlib.contextmanager
def explained(where: str, refused: type[WorkloadError] = InputError) -> Iterator[None]:
    """Turn the client's errors into ours: what credentials can mend is the user's, what waiting can mend is tried again."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        text = " ".join(str(error).split())
        if error.errno is not None and error.filename is not None:
            raise  # a file of this machine
        server = _endpoint() or "Amazon S3"
        if any(sign in text for sign in REFUSALS):
            key = "AWS_ACCESS_KEY_ID is set" if os.environ.get("AWS_ACCESS_KEY_ID") else "AWS_ACCESS_KEY_ID is not set"
            raise refused(
                f"{where}: {server} refuses: {text}; {key}: check the credentials (in a pod: secretRef)"
            ) from error
        if "NO_SUCH_BUCKET" in text:
            raise refused(f"{where}: {server} has no such bucket: {text}") from error
        raise S3Unreachable(f"{where}: {server}: {text}") from error


def fetch(
    uri: str, where: str, cache: Path, keep: Callable[[list[str]], Iterable[str]], heartbeat: Callable[[], None]
) -> Path:
    """A local copy of an object, or of the objects below a key: a folder of links to copies that are never changed.

    Each object is downloaded once per ETag. Raises InputError when nothing lies there.
    """
    bucket, key = split(uri, where)
    root = f"{bucket}/{key}"
    with explained(where):
        store = connect(INPUT_ATTEMPTS)
        found = sizes(store, root)
        is_object = not found and _is_object(store, root)
        names = [""] if is_object else sorted(keep(list(found)))
        if not names:
            raise InputError(f"{where}: {_what_lies_there(store, bucket, key, bool(found))}")
        tags = {name: _etag(store, f"{root}/{name}" if name else root) for name in names}
        state = hashing.of_json({"endpoint": _endpoint(), "root": root, "tags": tags}).removeprefix("sha256:")
        snapshot = cache / "s3" / "snapshots" / state
        for name in names:
            target = snapshot / (name or key.rpartition("/")[2])
            if target.exists():
                continue
            path = f"{root}/{name}" if name else root
            blob = cache / "s3" / "objects" / hashing.of_json([_endpoint(), path, tags[name]]).removeprefix("sha256:")
            _download(store, path, tags[name], blob, heartbeat)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(os.path.relpath(blob, target.parent))
    return snapshot / key.rpartition("/")[2] if is_object else snapshot


def sizes(store: ArrowFSWrapper, root: str) -> dict[str, int]:
    """Sizes of the objects below a key, by their path from there."""
    found = store.find(root, detail=True)
    return {
        path.removeprefix(f"{root}/"): entry["size"]
        for path, entry in found.items()
        if path.startswith(f"{root}/") and entry["type"] == "file"
    }


def _is_object(store: ArrowFSWrapper, path: str) -> bool:
    try:
        return bool(store.info(path)["type"] == "file")
    except FileNotFoundError:
        return False


def _reading(store: ArrowFSWrapper, path: str) -> NativeFile:
    """The bytes of an object as they lie there. pyarrow would unpack them by the ending of the name, and pack what is written under such a name:
    ``a.jsonl.zst`` would be packed twice, and have another size than the artifact says."""
    return store.fs.open_input_stream(path, compression=None)


def _writing(store: ArrowFSWrapper, path: str) -> NativeFile:
    return store.fs.open_output_stream(path, compression=None)


def _etag(store: ArrowFSWrapper, path: str) -> str:
    with _reading(store, path) as stream:
        return _tag(stream)


def _tag(stream: NativeFile) -> str:
    return str(stream.metadata()["ETag"].decode()).strip('"')


def _download(store: ArrowFSWrapper, path: str, tag: str, target: Path, heartbeat: Callable[[], None]) -> None:
    """Raises S3Unreachable when the object was replaced since its ETag was read."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with _reading(store, path) as source, partial.open("wb") as copy:
            if _tag(source) != tag:
                raise S3Unreachable(f"s3://{path} was replaced while it was looked at: run again")
            _copy(source.read, copy.write, heartbeat)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], Any], heartbeat: Callable[[], None]) -> None:
    while chunk := read(CHUNK):
        write(chunk)
        heartbeat()


def _what_lies_there(store: ArrowFSWrapper, bucket: str, key: str, has_other_files: bool) -> str:
    if has_other_files:
        return f"below {key} are objects, but none that a model is loaded from"
    above, _, last = key.rpartition("/")
    try:
        names = sorted(Path(path).name for path in store.ls(f"{bucket}/{above}" if above else bucket, detail=False))
    except OSError:
        names = []
    if not names:
        return f"nothing lies at {key}, and bucket {bucket} has nothing beside it"
    close = difflib.get_close_matches(last, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return f"nothing lies at {key}; beside it are {listed}{hint}"


class Bucket:
    """An output on S3: written into the cache, then uploaded."""

    def __init__(self, uri: str, environment: Environment, heartbeat: Callable[[], None]) -> None:
        self.uri = uri.rstrip("/")
        self._where = f"spec.output.uri: {uri}"
        bucket, key = split(uri, self._where)
        self._root = f"{bucket}/{key}"
        self._heartbeat = heartbeat
        self._store = connect(OUTPUT_ATTEMPTS)
        own = hashing.of_text(f"{_endpoint()} {self._root}").removeprefix("sha256:")[:16]
        self.staging = environment.cache / "staging" / f"{own}-{environment.run_id}"
        self.checkpoints = environment.cache / "checkpoints" / own
        self.checkpoints_are_kept = environment.cache_is_kept

    def fence(self, run: Run) -> Fence:
        return _ObjectFence(self, run)

    def prepare(self, must_be_newer: Callable[[], None]) -> None:
        """Raises SpecError when nothing may be written there."""
        must_be_newer()
        self.staging.parent.mkdir(parents=True, exist_ok=True)

    def tidy(self) -> None:
        for leftover in self.staging.parent.glob(f"{self.staging.name.partition('-')[0]}-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def newest_run(self) -> Run | None:
        return named_run(self.read(self.fence_path))

    def artifact(self) -> contract.Artifact | None:
        try:
            text = self.read(f"{self._root}/{contract.ARTIFACT_FILE}")
            return contract.Artifact.model_validate_json(text) if text else None
        except (ValidationError, UnicodeDecodeError):
            return None

    def damage(self, artifact: contract.Artifact, hashes: HashCache) -> str | None:
        with explained(self._where):
            found = sizes(self._store, self._root)
        for file in artifact.files:
            size = found.get(file.path)
            if size is None:
                return f"{file.path} is missing"
            if size != file.size:
                return f"{file.path} has {size} bytes instead of {file.size}"
        return None

    def is_taken(self) -> bool:
        """An upload of ours that was cut short is nobody's: it is written over."""
        if self.read(self._upload_path):
            return False
        with explained(self._where, SpecError):
            return bool(sizes(self._store, self._root)) or _is_object(self._store, self._root)

    def holds_artifact_file(self) -> bool:
        with explained(self._where, SpecError):
            return contract.ARTIFACT_FILE in sizes(self._store, self._root)

    def publish(self, folder: Path) -> None:
        """An old artifact.json goes first and the new one comes last: in between, nothing there is taken for an artifact."""
        self.write(self._upload_path, f"an upload to s3://{self._root} is under way, or was cut short\n")
        with explained(self._where, SpecError):
            before = sizes(self._store, self._root)
            if contract.ARTIFACT_FILE in before:
                self._store.rm_file(f"{self._root}/{contract.ARTIFACT_FILE}")
            names = [name for name in listing(folder) if name != contract.ARTIFACT_FILE]
            self._upload(folder, [*names, contract.ARTIFACT_FILE], self._root)
            for stale in before.keys() - {*names, contract.ARTIFACT_FILE}:
                self._store.rm_file(f"{self._root}/{stale}")
            self._clear(self._rejected_root)
        self.remove(self._upload_path)
        shutil.rmtree(folder)

    def reject(self, folder: Path) -> str:
        with explained(self._where, SpecError):
            self._clear(self._rejected_root)
            self._upload(folder, listing(folder), self._rejected_root)
        shutil.rmtree(folder)
        return f"s3://{self._rejected_root}"

    def _upload(self, folder: Path, names: Iterable[str], root: str) -> None:
        for name in names:
            with (folder / name).open("rb") as source, _writing(self._store, f"{root}/{name}") as target:
                _copy(source.read, target.write, self._heartbeat)

    def _clear(self, root: str) -> None:
        for name in sizes(self._store, root):
            self._store.rm_file(f"{root}/{name}")

    def read(self, path: str) -> str:
        """The text of an object; empty where there is none. Read twice where it was replaced by a shorter one meanwhile."""
        with explained(self._where, SpecError):
            for attempt in (1, 2):
                try:
                    with _reading(self._store, path) as stream:
                        return bytes(stream.readall()).decode()
                except FileNotFoundError:
                    return ""
                except OSError:
                    if attempt == 2:
                        raise
        return ""

    def write(self, path: str, text: str) -> None:
        with explained(self._where, SpecError), _writing(self._store, path) as stream:
            stream.write(text.encode())

    def remove(self, path: str) -> None:
        with explained(self._where, SpecError), contextlib.suppress(FileNotFoundError):
            self._store.rm_file(path)

    @property
    def fence_path(self) -> str:
        return f"{self._root}.checkpoints/{FENCE}"

    @property
    def _rejected_root(self) -> str:
        return f"{self._root}.{REJECTED}"

    @property
    def _upload_path(self) -> str:
        return f"{self._root}.checkpoints/upload"


class _ObjectFence(Fence):
    """A fence in an object beside the output, as the runs of a job share no file system."""

    def __init__(self, bucket: Bucket, run: Run) -> None:
        super().__init__(run)
        self._bucket = bucket

    def release(self) -> None:
        self._bucket.remove(self._bucket.fence_path)

    def _newest(self) -> Run | None:
        return self._bucket.newest_run()

    def _write(self, text: str) -> None:
        self._bucket.write(self._bucket.fence_path, text)
