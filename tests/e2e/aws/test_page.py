"""The page of the deployed service, in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.aws.service import DeployedService
from tests.e2e.aws.stack import DeployedStack
from tests.ui.browser import open_page, running_browser
from tests.ui.conftest import CLOSE_MONTH, FAILING


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@contextmanager
def open_list(browser: Browser, stack: DeployedStack) -> Iterator[Page]:
    """Yield the list of runs, after a person has given a key."""
    # Browsers resolve each name below `localhost` to this machine (RFC 6761, section 6.3).
    address = f"http://{stack.outputs['ApiId']}.execute-api.localhost:{urlsplit(stack.server).port}"
    # 401 asks for the key, and 501 says that a gateway has no event streams.
    with open_page(browser, statuses=(401, 501), base_url=address) as page:
        page.goto("/ui")
        dialog = page.get_by_role("dialog", name="Key")
        dialog.get_by_label("Key").fill(stack.create_key())
        dialog.get_by_role("button", name="Use the key").click()
        yield page


def test_two_clicks_lead_from_a_failed_run_to_its_cause(
    browser: Browser, stack: DeployedStack, service: DeployedService
) -> None:
    run_id = service.start(FAILING)
    service.result(run_id)
    with open_list(browser, stack) as page:
        row = page.get_by_role("row").filter(has_text=run_id[:8])
        expect(row).to_contain_text("division by zero")
        expect(page.get_by_text("Every few seconds")).to_be_visible()
        row.get_by_role("link").click()
        page.get_by_role("button", name="a/b ü <b> set margin").click()
        cause = page.get_by_role("complementary").locator("section.error")
        for words in ("2 of 2", '{"units": 0}', "set.margin", "p.units = 0"):
            expect(cause).to_contain_text(words)


def test_a_person_answers_and_sees_the_run_go_on(
    browser: Browser, stack: DeployedStack, service: DeployedService
) -> None:
    run_id = service.start(CLOSE_MONTH)
    service.wait_for_step(run_id, "ask", "waiting")
    with open_list(browser, stack) as page:
        page.get_by_role("row").filter(has_text=run_id[:8]).get_by_role("link").click()
        expect(page.get_by_role("button", name=re.compile("reconcile .*waits, 1 of 3 here"))).to_be_visible()
        page.get_by_role("button", name="Answer").click()
        page.get_by_label("Yes").check()
        page.get_by_role("button", name="Send answer").click()
        service.result(run_id)
        page.go_back()
        expect(page.get_by_role("button", name=re.compile("reconcile .*succeeded"))).to_be_visible()
