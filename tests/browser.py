"""A real browser without a window, for tests of pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest


# Chromium, or Google's build of it, by the names that systems give it
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@contextmanager
def started_browser() -> Iterator:
    """
    Start the Chromium of this machine, because playwright's own would be downloaded.

    It must end before other tests run: while it runs, this thread has a running event loop.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    program = next(filter(None, map(which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@contextmanager
def opened(browser, location: Path | str, scheme: str = "light", viewport: dict = WIDE, **options) -> Iterator:
    """
    Open a page, by its file or its address.

    Yields the page. What it wrote to its console, asked for or showed as a dialog is in `page.events`.
    """
    address = location.as_uri() if isinstance(location, Path) else location
    context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
    page = context.new_page()
    page.events = []
    page.on("console", lambda message: page.events.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: page.events.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (page.events.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: page.events.append(f"request: {request.url}"))
    page.goto(address)
    page.events = [e for e in page.events if e != f"request: {address}" and not e.startswith("request: data:")]
    yield page
    context.close()
