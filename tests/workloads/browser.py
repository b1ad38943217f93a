"""A real Chromium for tests of pages: Debian's, unpacked whole into the cache, driven by Playwright.

    with chromium() as browser:
        page = browser.new_page()
        page.goto(file.as_uri())

Playwright's own download of a browser is not needed. Where there is no Debian to take one from, ALPACA_TEST_BROWSER names a
Chromium or Chrome.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from playwright.sync_api import Browser, expect, sync_playwright

from tests.cluster.bed import cache, debian

PATIENCE = 120.0
"""Seconds until a test of a page gives up waiting: a busy machine is no failure."""

expect.set_options(timeout=PATIENCE * 1000)

FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


@contextmanager
def chromium(within: Sequence[str] = ()) -> Iterator[Browser]:
    """A headless browser; each of its contexts is a user of their own. Raises BedError where there is none to be had.

    ``within``: a command that runs the one behind it, such as `nsenter`, in another network.

    Playwright's event loop counts as running in this thread until the block ends: tests that use asyncio come after it.
    """
    program, environment = _found()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if within:
            starts, program = program, Path(folder, "chromium")
            program.write_text(f'#!/bin/sh\nexec {shlex.join([*within, str(starts)])} "$@"\n')
            program.chmod(0o755)
        browser = playwright.chromium.launch(
            executable_path=program,
            env={**os.environ, **environment},
            # A user namespace within a container, or as root, is what Chromium's sandbox may not have; /dev/shm is 64 MiB there.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        try:
            yield browser
        finally:
            browser.close()


def _found() -> tuple[Path, dict[str, str]]:
    """The program, and the environment in which it finds its libraries and fonts."""
    if named := os.environ.get(debian.OWN_BROWSER):
        if not Path(named).exists():
            raise cache.BedError(
                f"{debian.OWN_BROWSER} is {named}, which does not exist: name the program of a Chromium"
            )
        return Path(named), {}
    root = debian.browser()
    program = root / "usr/lib/chromium/chromium"
    libraries = sorted({path.parent for path in (root / "usr/lib").glob("*-linux-gnu*/**/*.so*")})
    if not program.exists():
        raise cache.BedError(
            f"the package chromium of this release has no {program.relative_to(root)} (Ubuntu's is a snap): "
            f"set {debian.OWN_BROWSER} to a Chromium or Chrome"
        )
    environment = {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "FONTCONFIG_FILE": str(_fonts(root)),
    }
    started = subprocess.run(
        [program, "--version"], env={**os.environ, **environment}, check=False, capture_output=True, text=True
    )
    if started.returncode:
        raise cache.BedError(
            f"{program} does not start here: {started.stderr.strip()[-500:]}. Set {debian.OWN_BROWSER} to a Chromium or Chrome"
        )
    return program, environment


def _fonts(root: Path) -> Path:
    """Only the fonts beside the browser: a page looks the same on every machine."""

    def write(draft: Path) -> None:
        text = FONTS.format(fonts=escape(str(root / "usr/share/fonts")), cache=escape(str(cache.root() / "fontconfig")))
        (draft / "fonts.conf").write_text(text)

    return cache.made("debian/fonts", cache.digest(FONTS, str(root)), write) / "fonts.conf"


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the browser cannot see."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "this never came to hold"
        time.sleep(0.05)
