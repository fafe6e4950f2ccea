"""A real browser for looking at pages: Chromium through Playwright, for tests and the benchmark of reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from policies.errors import MissingExtra

VARIABLE = "STEER_AGENTS_CHROMIUM"
"""Environment variable that names the program."""
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser: the program that `STEER_AGENTS_CHROMIUM` names, Playwright's own, or one on the path.

    Raises:
        MissingExtra: neither is there, or Playwright is not.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise MissingExtra("browser: Playwright is not installed; pip install playwright.") from None
    found = [os.environ.get(VARIABLE), None, *map(shutil.which, NAMES)]
    with sync_playwright() as playwright:
        tried = []
        for place, program in enumerate(found):
            if program is None and place != 1:
                continue
            try:
                made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            except Error as error:
                tried.append(f"{program or 'its own'}: {str(error).splitlines()[0]}")
                continue
            try:
                yield made
            finally:
                made.close()
            return
    raise MissingExtra(
        f"browser: no Chromium starts ({'; '.join(tried)}); install one, or set {VARIABLE} to its program."
    )
