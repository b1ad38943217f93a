"""Digests are the same for the same contents, and are not read twice."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workloads.storage import hashing
from workloads.storage.hashing import HashCache

OLD = time.time() - 3600


def written(path: Path, text: str, at: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests.json"


def learnt(memory: Path, path: Path) -> None:
    known = HashCache(memory)
    known.file(path)
    known.save()


def test_a_file_is_known_by_the_next_process(memory: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "model", "weights")
    learnt(memory, path)

    assert HashCache(memory).cached(path) == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(memory: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "model", "weights")
    learnt(memory, path)
    written(path, "WEIGHTS")

    assert HashCache(memory).cached(path) is None
    assert HashCache(memory).file(path) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_file_of_just_now_is_not_trusted_yet(memory: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "model", "weights", at=time.time())
    learnt(memory, path)

    assert HashCache(memory).cached(path) is None


def test_two_processes_do_not_forget_each_other_s_digests(memory: Path, tmp_path: Path) -> None:
    one, two = HashCache(memory), HashCache(memory)
    paths = [written(tmp_path / name, name) for name in ("a", "b")]
    one.file(paths[0])
    two.file(paths[1])
    one.save()
    two.save()

    assert all(HashCache(memory).cached(path) for path in paths)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_broken_memory_costs_time_only(memory: Path, tmp_path: Path, content: str) -> None:
    written(memory, content)
    path = written(tmp_path / "model", "weights")

    learnt(memory, path)

    assert HashCache(memory).cached(path) == hashlib.sha256(b"weights").hexdigest()


def test_a_hub_blob_is_named_by_its_digest(memory: Path, tmp_path: Path) -> None:
    name = hashlib.sha256(b"weights").hexdigest()
    written(tmp_path / "blobs" / name, "not read")
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(f"../blobs/{name}")

    assert HashCache(memory).file(link) == name


def test_the_digest_of_files_depends_on_names_and_contents_not_on_order() -> None:
    both = {"a": "1" * 64, "b": "2" * 64}

    assert hashing.of_files(both) == hashing.of_files(dict(reversed(both.items())))
    assert hashing.of_files(both) != hashing.of_files({"a": "2" * 64, "b": "1" * 64})
    assert hashing.of_files(both) != hashing.of_files({"a": "1" * 64, "c": "2" * 64})


def test_a_name_that_is_not_utf_8_is_digested_by_its_bytes(tmp_path: Path) -> None:
    name = "问答.jsonl".encode("gbk")
    assert hashing.of_files({os.fsdecode(name): "1" * 64}) == (
        "sha256:" + hashlib.sha256(b"1" * 64 + b"  " + name + b"\n").hexdigest()
    )


def test_the_digest_of_a_name_is_what_it_always_was() -> None:
    lines = f"{'1' * 64}  a.txt\n{'2' * 64}  诗/问答.jsonl\n"
    assert hashing.of_files({"诗/问答.jsonl": "2" * 64, "a.txt": "1" * 64}) == hashing.of_text(lines)


def test_the_digest_of_a_json_value_does_not_depend_on_the_order_of_its_keys() -> None:
    assert hashing.of_json({"a": 1, "b": ["诗"]}) == hashing.of_json({"b": ["诗"], "a": 1})


def test_an_error_ends_what_is_read_beside_it(memory: Path, tmp_path: Path) -> None:
    written(tmp_path / "endless", "x" * 64)
    (tmp_path / "gone").symlink_to("nowhere")
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        while not (tmp_path / "told").exists():
            time.sleep(0.01)

    hashes = HashCache(memory, beat)
    with ThreadPoolExecutor() as threads:
        found = threads.submit(hashes.files, tmp_path, ["gone", "endless"])
        while not (beats or found.done()):  # on a busy machine the error may come before the other file is begun
            time.sleep(0.01)
        written(tmp_path / "told", "")
        with pytest.raises(FileNotFoundError):
            found.result()
    assert str((tmp_path / "endless").resolve()) not in hashes._entries  # it was not read to its end
