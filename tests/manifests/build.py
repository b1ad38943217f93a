"""Reading manifests as kustomize and kubectl do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MANIFESTS = Path(__file__).parents[2] / "manifests"

Object = dict[str, Any]


def read(path: Path) -> list[Object]:
    """The documents of a file; `apply` takes YAML 1.2 for what is not quoted."""
    return [document for document in YAML(typ="safe").load_all(path) if document]


def kustomized(folder: Path, kubectl: str = "kubectl") -> list[Object]:
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in YAML(typ="safe").load_all(done.stdout) if document]


def samples() -> list[Path]:
    return sorted(path for path in (MANIFESTS / "samples").rglob("*.yaml") if path.name != "kustomization.yaml")
