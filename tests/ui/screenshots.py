"""The pictures of the page in the documentation: `python -m tests.ui.screenshots` takes them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.e2e.test_serve import run_service
from tests.tool_environments import ROOT
from tests.ui.browser import open_page, running_browser
from tests.ui.conftest import YAML, ServedPage, open_client

IMAGES = ROOT / "docs" / "images"
DESKTOP = {"viewport": {"width": 1200, "height": 760}}
DARK = {**DESKTOP, "color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 760}}

CLOSE_MONTH = """\
name: close_month
version: "14"
input:
  month: {type: string, default: "2026-10"}
  rows: {type: array, default: [{sku: lamp, units: 40}, {sku: vase, units: 0}, {sku: rug, units: 12}]}
steps:
  - name: load_orders
    run: [{action: set, set: {cost: 1204.5}}]
    rule: [{case: default, run: [compute_margin, ask_controller]}]
  - name: compute_margin
    loop: {items: "{{ input.rows }}", as: row, on_error: continue}
    run: [{action: set, set: {margin: "{{ cost / row.units }}"}}]
    rule: [{case: default, run: [reconcile]}]
  - name: ask_controller
    run:
      - action: callback
        title: Write off 3 open items, 1,204.50 EUR?
        details: {customer: Alder Freight, items: 3}
        answer: {approve: {type: boolean}, note: {type: string, default: ""}}
        as: decision
    rule:
      - {case: "{{ decision.approve }}", run: [book_writeoffs]}
      - {case: default, run: [notify_refused]}
  - name: book_writeoffs
    run: [{action: log, message: booked}]
    rule: [{case: default, run: [reconcile]}]
  - name: notify_refused
    run: [{action: log, message: refused}]
    rule: [{case: default, run: [reconcile]}]
  - name: reconcile
    run: [{action: log, message: done}]
"""

MARGINS = """\
name: rank_products
version: "3"
steps:
  - name: load
    run: [{action: set, set: {rows: [{sku: lamp, units: 40}, {sku: vase, units: 0}]}}]
    rule: [{case: default, run: [compute_margin]}]
  - name: compute_margin
    loop: {items: "{{ rows }}", as: row}
    run: [{action: set, set: {margin: "{{ 1204.5 / row.units }}"}}]
    rule: [{case: default, run: [report]}]
  - name: report
    run: [{action: log, message: done}]
"""

REFRESH = """\
name: refresh_prices
version: "2"
steps: [{name: load, run: [{action: log, message: done}]}]
"""


def take_screenshots(browser: Browser, folder: Path) -> None:
    """Take each picture on a new service, and write it into a folder."""
    with _prepared_service() as (service, run_ids):
        for name, (path, options) in _views(run_ids).items():
            with open_page(browser, **options) as page:
                page.goto(f"{service.url}{path}")
                _settle(page, name)
                page.screenshot(path=folder / f"{name}.png", animations="disabled")


def _views(run_ids: Mapping[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    waiting, failed = f"/ui/runs/{run_ids['waiting']}", f"/ui/runs/{run_ids['failed']}"
    return {
        "page-runs": ("/ui/runs", DESKTOP),
        "page-run": (waiting, DESKTOP),
        "page-run-dark": (waiting, DARK),
        "page-drawer": (f"{failed}?step=compute_margin", DESKTOP),
        "page-editor": ("/ui/playbooks/rank_products/edit", DESKTOP),
        "page-start": ("/ui/playbooks/close_month/start", DESKTOP),
        "page-inbox": (f"/ui/inbox/{run_ids['waiting']}", DESKTOP),
        "page-phone": (waiting, PHONE),
    }


@contextmanager
def _prepared_service() -> Iterator[tuple[ServedPage, dict[str, str]]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        run_service(Path(folder)) as (_, url),
        open_client(url) as http,
    ):
        service = ServedPage(url, http)
        for text in (CLOSE_MONTH, MARGINS, REFRESH):
            assert http.post("/playbooks", content=text, headers=YAML).status_code == 201
        for _ in range(4):
            service.start(REFRESH, "succeeded")
        failed = service.start(MARGINS, "failed")
        yield service, {"failed": failed, "waiting": service.start(CLOSE_MONTH, "waiting")}


def _settle(page: Page, name: str) -> None:
    """Wait until a view shows what it has, and write a mistake into the editor."""
    if name == "page-editor":
        text = page.locator(".cm-content")
        text.click()
        page.keyboard.press("Control+End")
        page.keyboard.type("    rule: [{case: default, run: [reprot]}]")
        expect(page.get_by_text("unknown step").first).to_be_visible()
    else:
        expect(page.locator(".sign, .question h2, .start form, main form").first).to_be_visible()
    page.wait_for_timeout(1_500)  # fonts, and the times that change each second


def main() -> None:
    with running_browser() as browser:
        take_screenshots(browser, IMAGES)


if __name__ == "__main__":
    main()
