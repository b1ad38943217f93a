"""The folder that all runs read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.honoured.desk import Desk
from tests.workloads.conftest import sentencepiece_folder  # noqa: F401


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory, sentencepiece_folder: Path) -> Desk:  # noqa: F811
    return Desk.laid_out(tmp_path_factory.mktemp("desk"), sentencepiece_folder)
