"""Fixtures: an S3 server on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem


@dataclass
class Store:
    """A real S3 server of moto's on loopback."""

    endpoint: str

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def files(self) -> S3FileSystem:
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            access_key="key",
            secret_key="secret",
            endpoint_override=self.endpoint.removeprefix("http://"),
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def put(self, path: str, content: bytes) -> None:
        with self.files.open_output_stream(path, compression=None) as stream:
            stream.write(content)

    def get(self, path: str) -> bytes:
        with self.files.open_input_stream(path, compression=None) as stream:
            return bytes(stream.readall())

    def names(self, path: str) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        found = self.files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        return sorted(entry.path.removeprefix(f"{path}/") for entry in found if entry.type == FileType.File)


SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as popen:
        assert popen.stdin is not None
        assert popen.stdout is not None
        yield Store(f"http://127.0.0.1:{int(popen.stdout.readline())}")
        popen.stdin.close()


@pytest.fixture
def store(server: Store) -> Iterator[Store]:
    server.files.create_dir("shelf")
    yield server
    server.files.delete_dir_contents("shelf")
