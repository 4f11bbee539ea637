"""A browser, and a service with runs of each kind, for the tests of the page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from noetl.api.auth.api_keys import create_api_key
from noetl.executor.stores import open_store
from noetl.infra.migrations import upgrade
from noetl.infra.npm_packages import install_packages
from noetl.infra.ui import UI
from tests.e2e.test_serve import run_service
from tests.postgres import empty_database
from tests.ui.browser import open_page, running_browser

YAML = {"Content-Type": "application/yaml"}

OF_TEXTS = ("test_editor.py", "test_long_names.py")
"""The tests of the editor and of long names. What they save is also tested without the page."""

CLOSE_MONTH = """\
name: close_month
version: "14"
input:
  rows: {type: array, default: [{sku: a, units: 2}, {sku: b, units: 0}, {sku: c, units: 1}]}
  on_error: {type: string, default: continue}
steps:
  - name: load
    run:
      - {action: set, set: {cost: 3}}
      - {action: log, message: "<script>alert(1)</script> \\e[31mred\\e[0m \\u202egnp"}
    rule: [{case: default, run: [compute, ask]}]
  - name: compute
    loop: {items: "{{ input.rows }}", as: p, on_error: continue}
    run: [{action: set, set: {margin: "{{ cost / p.units }}"}}]
    rule: [{case: default, run: [reconcile]}]
  - name: ask
    run:
      - action: callback
        title: Write off 3 open items?
        details: {customer: Alder}
        answer: {approve: {type: boolean}, note: {type: string, default: ""}}
        as: decision
    rule:
      - {case: "{{ decision.approve }}", run: [book]}
      - {case: default, run: [refuse]}
  - name: book
    run: [{action: log, message: book}]
    rule: [{case: default, run: [reconcile]}]
  - name: refuse
    run: [{action: log, message: refuse}]
    rule: [{case: default, run: [reconcile]}]
  - name: reconcile
    run: [{action: log, message: done}]
"""

FAILING = """\
name: margins
steps:
  - name: "a/b ü <b>"
    loop: {items: [{units: 2}, {units: 0}], as: p}
    run: [{action: set, set: {margin: "{{ 6 / p.units }}"}}]
"""


@dataclass(frozen=True)
class ServedPage:
    """A running service, and calls that prepare what its page shows."""

    url: str
    http: httpx.Client

    def start(self, playbook: str, status: str) -> str:
        """Start a run, wait until it has a status, and return its id."""
        answer = self.http.post("/workflows/run", content=playbook, headers=YAML)
        assert answer.status_code == 202, answer.text
        run_id = answer.json()["workflow_id"]
        self.wait_for(run_id, status)
        return str(run_id)

    def wait_for(self, run_id: str, status: str) -> dict[str, Any]:
        """Return the status of a run as soon as it is the expected one."""
        tag = ""
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, tag
            answer = self.http.get(
                f"/workflows/status/{run_id}", headers={"Prefer": "wait=10", "If-None-Match": tag}
            )
            if answer.status_code == 200 and answer.json()["status"] == status:
                return dict(answer.json())
            tag = answer.headers.get("etag", tag)


def open_client(url: str) -> httpx.Client:
    """Return a client of a service. It does not reuse a connection that the service may close meanwhile."""
    # The service closes a connection that is idle for 5 s. The default of httpx is to reuse it for 5 s.
    return httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(keepalive_expiry=2.0))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "page_only: it is about the page, whose requests others send to Postgres"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out on Postgres what does not depend on the store.

    These are other sizes and colours, OF_TEXTS, and tests with the mark `page_only`.
    """
    config.hook.pytest_deselected(items=[item for item in items if _repeats_a_view(item)])
    items[:] = [item for item in items if not _repeats_a_view(item)]


def _repeats_a_view(item: pytest.Item) -> bool:
    """Return whether a test shows on Postgres what does not depend on the store."""
    values: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    is_other_view = bool(values.get("options")) or "scheme" in values
    is_of_page = item.path.name in OF_TEXTS or item.get_closest_marker("page_only") is not None
    return values.get("service") == "postgres" and (is_other_view or is_of_page)


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    """A running service, on each store that one machine or many use."""
    with ExitStack() as stack:
        dsn = ""
        if request.param == "postgres":
            dsn = stack.enter_context(empty_database(request.getfixturevalue("postgres_server")))
            upgrade(dsn)
        _, url = stack.enter_context(run_service(tmp_path_factory.mktemp("service"), dsn))
        yield ServedPage(url, stack.enter_context(open_client(url)))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a service that needs a key, and a key."""
    folder = tmp_path_factory.mktemp("guarded")
    store = open_store(f"sqlite:///{folder / 'noetl.db'}")
    text, key = create_api_key("person", ["run"], "default", 1.0)
    store.keys.add(key)
    store.close()
    with run_service(folder) as (_, url):
        yield url, text


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with open_page(browser) as page:
        yield page


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the packages from which the page is made."""
    return install_packages(UI)


@pytest.fixture(scope="session")
def axe(packages: Path) -> str:
    """The script of axe-core."""
    return (packages / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
