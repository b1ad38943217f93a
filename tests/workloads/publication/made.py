"""What a job has made, as it lies at its output: written by hand, not by what is tested."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from alpaca_operator.api.sft import SFTJob

BASE = "hf://meta-llama/Llama-2-7b-hf@main"
ROWS = "sha256:" + "d" * 64
CARD = """---
library_name: "peft"
tags: ["literary-alpaca", "sft"]
---
# poet

## Use

```python
model = PeftModel.from_pretrained(base, "path/of/this/folder")
```

## Result

| metric | value |
| --- | --- |
| evalLoss | 1.25 |
"""
FILES = {
    "adapter_model.safetensors": b"weights of the poet",
    "adapter_config.json": b'{"r": 8}',
    "tokenizer.json": b'{"version": "1.0"}',
    "loss.png": b"a picture",
    "README.md": CARD.encode(),
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make(folder: Path, files: dict[str, bytes] | None = None, **changes: Any) -> str:
    """A folder with its artifact.json; returns the digest of the artifact."""
    files = FILES if files is None else files
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    digest = "sha256:" + sha256(repr(sorted(files.items())).encode())
    artifact = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "LoRAAdapter",
        "job": {"kind": "SFTJob", "name": "poet"},
        "digest": digest,
        "specDigest": "sha256:" + "5" * 64,
        "inputs": {
            "model": {"uri": BASE, "digest": "sha256:" + "b" * 64},
            "dataset.train[0]": {"uri": "pvc://data/poems.jsonl", "digest": ROWS},
        },
        "files": [
            {"path": path, "size": len(content), "sha256": sha256(content)} for path, content in sorted(files.items())
        ],
        "metrics": {"evalLoss": 1.25},
        "createdAt": "2026-11-30T10:00:00Z",
        **changes,
    }
    (folder / "artifact.json").write_text(json.dumps(artifact))
    return digest


def job(folder: Path, *places: str, **publication: Any) -> SFTJob:
    """The job that made it."""
    return SFTJob.model_validate(
        {
            "kind": "SFTJob",
            "metadata": {"name": "poet"},
            "spec": {
                "model": {"uri": BASE},
                "dataset": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
                "output": {"uri": str(folder)},
                "publish": [{"uri": place, **publication} for place in places],
            },
        }
    )
