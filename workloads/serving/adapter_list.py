"""The file that lists the adapters which are served beside each other, as it changes."""

from __future__ import annotations

from pathlib import Path

from alpaca_operator.api.contract import AdapterList, ListedAdapter
from workloads.errors import InputError

LOOK_SECONDS = 1.0
"""Between two looks at the file."""
RETRY_SECONDS = 30.0
"""After which one that was refused is tried again: what was missing may be there by then."""


class ListFile:
    """The list as it stands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: str | None = None

    def read(self) -> list[ListedAdapter]:
        """Raises InputError for what is no list."""
        try:
            self._text = self._path.read_text(encoding="utf-8")
            return AdapterList.model_validate_json(self._text).adapters if self._text.strip() else []
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path}: the list of adapters cannot be read ({error})") from error

    def has_changed(self) -> bool:
        """Whether it says something else than when it was read last. Of one that is gone for a moment, as the kubelet exchanges it, it is
        not known yet."""
        try:
            return self._path.read_text(encoding="utf-8") != self._text
        except OSError:
            return False
