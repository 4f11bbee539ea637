"""The pages of the documentation: their policy, and that they load nothing from other hosts.

If Chromium is installed, it shows both pages of a real service with a key, and its network log is read.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.executor.stores import open_store

PAGES = {"/docs": "docs.html", "/redoc": "redoc.html"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FOREIGN_STYLE = re.compile(r"""url\((?!\s*["']?(?:data:|#))|@import""")
LOADER = re.compile(r"""(?:importScripts|import)\(\s*["'`]https?:|\.src\s*=\s*["'`]https?:""")
"""Code that would load a script or a picture of another host at once."""


class References(HTMLParser):
    """The addresses that a page loads, and what it has inline."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline_scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.addresses += [value for name in ("src", "href") if (value := attributes.get(name))]
        self.inline_scripts += tag == "script" and "src" not in attributes
        self.inline_scripts += any(name.startswith("on") for name in attributes)


def page_text(name: str) -> str:
    return (files("noetl.api.pages") / name).read_text("utf-8")


@pytest.mark.parametrize("name", PAGES.values())
def test_a_page_refers_only_to_files_of_the_service(name: str) -> None:
    references = References()
    references.feed(page_text(name))
    assets = [address for address in references.addresses if address != "data:,"]
    assert assets
    for address in assets:
        folder, _, asset = address.rpartition("/")
        assert folder == "docs/assets"
        assert (files("noetl.api.pages") / asset).is_file()
    assert references.inline_scripts == 0


def test_scripts_and_styles_load_nothing_of_other_hosts() -> None:
    names = [path.name for path in files("noetl.api.pages").iterdir()]
    styles = [name for name in names if name.endswith(".css")]
    scripts = [name for name in names if name.endswith(".js")]
    assert len(styles) == 1 and len(scripts) == 4
    for name in styles:
        assert not FOREIGN_STYLE.search(page_text(name))
    for name in scripts:
        assert not LOADER.search(page_text(name)), name
        assert "\n//# sourceMappingURL=" not in page_text(name)


def test_the_licences_are_shipped() -> None:
    names = {path.name for path in files("noetl.api.pages").iterdir()}
    assert {"swagger-ui.LICENSE.txt", "swagger-ui.NOTICE.txt", "redoc.LICENSE.txt"} <= names
    assert "Apache License" in page_text("swagger-ui.LICENSE.txt")
    assert "MIT License" in page_text("redoc.LICENSE.txt")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("path", PAGES)
async def test_the_policy_of_a_page_allows_only_its_own_scripts(tmp_path: Path, path: str) -> None:
    app = create_app({"NOETL_STORE": f"sqlite:///{tmp_path}/noetl.db"})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        response = await client.get(path)
    app.state.context.close()
    policy = dict(
        part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";")
    )
    assert response.headers["content-type"].startswith("text/html")
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", response.headers["content-security-policy"])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """The address of a service that requires keys."""
    url = f"sqlite:///{tmp_path}/noetl.db"
    store = open_store(url)
    store.keys.add(create_api_key("k", ["read"], "default", 1.0)[1])
    store.close()
    command = [sys.executable, "-c", "from noetl.api.cli import main; main()", "serve", "--port", "0"]
    process = subprocess.Popen([*command, "--store", url], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    yield process.stderr.readline().split()[1]
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(("path", "shown"), [("/docs", "opblock-summary"), ("/redoc", "api-content")])
def test_a_browser_shows_the_page_and_sends_requests_to_no_other_host(
    service: str, tmp_path: Path, path: str, shown: str
) -> None:
    assert CHROMIUM is not None
    log = tmp_path / "net.json"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={log}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"{service}{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert shown in done.stdout
    assert "/workflows/run" in done.stdout
    requests = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser itself sends requests, too. Those of the page have its origin as `initiator`.
    urls = {str(request["url"]) for request in requests if request.get("initiator") == service}
    assert f"{service}/openapi.json" in urls
    assert {url for url in urls if not url.startswith((f"{service}/", "data:", "blob:"))} == set()
