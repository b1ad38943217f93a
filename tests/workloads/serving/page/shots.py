"""Pictures of every state of the page, kept in build/screens/ for people to look at."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.cluster.bed import cache

FOLDER = cache.CHECKOUT / "build" / "screens"


def shot(page: Page, name: str) -> None:
    """The page as it is, once its fonts are there and nothing moves."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.fonts.ready")
    page.screenshot(path=FOLDER / f"{name}.png", animations="disabled", caret="hide")
