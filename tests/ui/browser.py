"""A real Chromium: each page of it fails its test on an error of its console or of its content policy."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 20_000
"""How long a test waits for what it expects, in milliseconds. An idle machine needs far less."""

expect.set_options(timeout=WAIT_MS)

_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
_FIND_VIOLATIONS = """
async (rules) => (await axe.run(document, { runOnly: rules, resultTypes: ["violations"] })).violations
"""
"""What fulfils the rules is neither described nor returned, which would take longer than to check them."""

_OBSERVE_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    const place = ({ x, y, width, height }) => [x, y, width, height].map(Math.round).join(",");
    const moved = entry.sources.map(({ node, previousRect, currentRect }) => {
      const words = (node?.outerHTML ?? node?.textContent ?? "").slice(0, 200);
      const parent = node?.parentElement?.outerHTML?.slice(0, 300);
      return `${words} from ${place(previousRect)} to ${place(currentRect)} in ${parent}`;
    });
    window.shifts.push(moved.join(" | "));
  }
}).observe({ type: "layout-shift", buffered: true });
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`));
"""


_FIND_OVERFLOWS = """
() => {
  const isCut = (part, cell) =>
    getComputedStyle(part).overflowX !== "visible" || (part !== cell && isCut(part.parentElement, cell));
  const range = document.createRange();
  const texts = [...document.querySelectorAll("td, th")].flatMap((cell) => {
    const edge = cell.getBoundingClientRect().right + 1;
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    const found = [];
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
      range.selectNodeContents(text);
      const reachesOver = range.getBoundingClientRect().right > edge;
      if (reachesOver && !isCut(text.parentElement, cell)) found.push(text.data);
    }
    return found;
  });
  const areas = [document.documentElement, ...document.querySelectorAll(".tab")];
  const wide = areas.filter((area) => area.scrollWidth > area.clientWidth);
  return [...texts, ...wide.map((area) => area.className || "page")];
}
"""
"""Texts with an ellipsis, and those for screen readers, are in a part that cuts them."""


@dataclass
class Watched:
    """A page of the browser with the errors of its console so far.

    Chromium reports each answer of the service that is an error. Those of the `statuses` are expected.
    """

    page: Page
    statuses: Collection[int] = ()
    errors: list[str] = field(default_factory=list)

    def note(self, message: ConsoleMessage) -> None:
        is_expected = any(f"with a status of {status} " in message.text for status in self.statuses)
        # The font is optional: a browser that gets it late does not use it.
        is_expected |= ".woff2 was preloaded using link preload but not used" in message.text
        if message.type in ("error", "warning") and not is_expected:
            self.errors.append(f"{message.type}: {message.text}")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Yield the Chromium of this system without a window.

    Raises:
        LookupError: it is not installed.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise LookupError("missing Chromium; install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """Yield a new page. At its end it must have no error in its console, and nothing may have moved.

    Answers of the service with one of `statuses`, an option of this function, are expected. The other options
    are those of a context of the browser.
    """
    statuses: Collection[int] = options.pop("statuses", ())
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 880}, **options})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.add_init_script(_OBSERVE_SHIFTS)
    watched = Watched(page, statuses)
    page.on("console", watched.note)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    try:
        yield page
        assert watched.errors == [], watched.errors
        shifts = page.evaluate("window.shifts")
        assert shifts == [], shifts
    finally:
        context.close()


@contextmanager
def hold_request(page: Page, pattern: str) -> Iterator[None]:
    """Keep the next request with this address from the service until the block ends."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(pattern, hold, times=1)
    try:
        yield
        while not held:
            page.wait_for_timeout(20)
    finally:
        # A browser does not close while a request is held.
        for route in held:
            route.continue_()


def width_of(locator: Locator) -> float:
    """Return the width of an element, in pixels."""
    box = locator.bounding_box()
    assert box is not None
    return box["width"]


def find_overflows(page: Page) -> list[str]:
    """Return the texts that reach over the edge of their cell of a table, and areas that are too wide."""
    overflows: list[str] = page.evaluate(_FIND_OVERFLOWS)
    return overflows


def find_barriers(page: Page, axe: str) -> list[str]:
    """Return what axe-core finds against WCAG 2.2 AA. `axe` is its script."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    violations = page.evaluate(_FIND_VIOLATIONS, list(_RULES))
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in violations
        for node in violation["nodes"]
    ]
